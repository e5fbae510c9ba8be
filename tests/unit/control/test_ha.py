from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from msgspec.structs import replace

from gureum.agent.warden.custody import SILENCE_SECONDS_MIN
from gureum.control import events, recovery
from gureum.control.cuts import STORAGE_SECONDS
from gureum.control.fences import BRAKE_SECONDS, begun
from gureum.control.ha import ALIVE_SECONDS, FENCE_SECONDS_MAX, LISTEN_SECONDS, Ha
from gureum.control.hosts import WARDED_LEASE_SECONDS, Hosts
from gureum.control.observed import Observed
from gureum.control.specs import host_spec
from gureum.env import Env
from gureum.fencespec import FenceReport, FenceSpec, WardenReport
from gureum.hostspec import HostReport, MachineReport, MachineState, PoolReport
from gureum.resources import (
    Attachment,
    AttachmentState,
    Event,
    Host,
    HostState,
    Instance,
    InstanceState,
    Park,
    ParkState,
    Recovery,
    Volume,
    VolumeState,
)
from gureum.resources.record import Record
from gureum.services.operation import Cloud
from gureum.sim.loop import run
from gureum.store.base import Transaction
from gureum.store.sqlite import SqliteStore

GIB = 1 << 30
CLOUD = Cloud(
    name="c",
    account="1",
    region="us-east-1",
    zones=("us-east-1a",),
    public_cidr="198.18.0.0/24",
    pool="san",
    recovers=True,
)
MADE = datetime(2026, 1, 1, tzinfo=UTC)


class Rig:
    """Hosts a, b, c that report when they are told to, and an instance i-1 on a with a shared volume."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.store = SqliteStore.open(":memory:", threaded=False)
        self.env = Env(clock=lambda: 1_750_000_000 + loop.time(), rng=random.Random(1))
        self.hosts = Hosts(self.store, "1", self.env)
        self.observed = Observed()
        self.kicked: list[tuple[str, str]] = []
        self.ha = Ha(
            self.env, self.store, self.hosts, self.observed, lambda kind, id: self.kicked.append((kind, id))
        )
        self.said: dict[str, dict[str, Any]] = {name: {} for name in "abc"}
        self._seen = 0

    async def put(self, *records: Record) -> None:
        async def work(tx: Transaction) -> None:
            for record in records:
                await tx.put(record)

        await self.store.transact(work)

    async def get(self, kind: type[Any], id: str) -> Any:
        async with self.store.read() as reader:
            return await reader.get(kind, id)

    async def begin(self) -> None:
        await self.put(
            Instance(
                id="i-1",
                account="1",
                state=InstanceState.running,
                reservation="r-1",
                type="t3.micro",
                image="ami-1",
                zone="us-east-1a",
                host="a",
                launched=MADE,
                vpc="vpc-1",
                subnet="subnet-1",
            ),
            Volume(
                id="vol-1",
                size_bytes=GIB,
                zone="us-east-1a",
                pool="san",
                host="a",
                state=VolumeState.in_use,
                created=MADE,
                attachments=(
                    Attachment(
                        instance="i-1", device="/dev/xvda", state=AttachmentState.attached, attached=MADE
                    ),
                ),
            ),
        )
        await self.report("a", "b", "c")
        async with self.store.read() as reader:
            await self.hosts.load(reader)
            await self.ha.load(reader)

    async def report(self, *names: str) -> None:
        for name in names:
            report = HostReport(
                cloud="c",
                host=name,
                boot_id="1",
                revision=self.store.revision,
                cpus=8,
                memory_bytes=16 * GIB,
                **{
                    "pools": (PoolReport(name="san", size_bytes=GIB, free_bytes=GIB),),
                    "warden": WardenReport(),
                    **self.said[name],
                },
            )
            self.observed.take(report)
            await self.hosts.note(report)

    async def step(self, *names: str, seconds: float = 0.0) -> None:
        """Time goes on, a step each second, while only these hosts report."""
        for _ in range(max(1, int(seconds))):
            await asyncio.sleep(1 if seconds else 0)
            await self.report(*names)
            await self.ha.step()
            await self.look()

    async def look(self) -> None:
        """What changed in the store is learnt."""
        for change in await self.store.changes(self._seen):
            self.ha.changed(change)
        self._seen = self.store.revision

    async def state(self, name: str = "a") -> HostState:
        return (await self.get(Host, name)).state  # type: ignore[no-any-return]

    async def fences(self, by: str) -> tuple[FenceSpec, ...]:
        async with self.store.read() as reader:
            return (await host_spec(reader, CLOUD, by)).fences

    async def down(self, name: str) -> Host:
        await self.put(replace(await self.get(Host, name), state=HostState.down, silent=self.env.now()))
        host: Host = await self.get(Host, name)
        return host

    async def fencing(self) -> Host:
        """Until a is given up."""
        await self.step("b", "c", seconds=6)
        self.said["b"]["fences"] = (FenceReport(host="a", number=0, done=True),)
        await self.step("b", "c", seconds=2)
        host: Host = await self.get(Host, "a")
        assert host.state is HostState.fencing
        return host

    async def fenced(self) -> Host:
        fence = (await self.fencing()).fence
        assert fence is not None
        self.said["b"]["fences"] = (FenceReport(host="a", number=fence.number, done=True, message="gone"),)
        await self.step("b", "c", seconds=2)
        host: Host = await self.get(Host, "a")
        assert host.state is HostState.fenced
        return host

    async def names(self) -> list[str]:
        async with self.store.read() as reader:
            return [event.name for event in await reader.find(Event)]


def with_rig(test: Callable[[Rig], Awaitable[None]]) -> None:
    async def main() -> None:
        rig = Rig()
        await rig.begin()
        await test(rig)
        await rig.store.close()

    run(main())


def test_a_host_is_looked_at_then_given_up_then_its_instances_leave() -> None:
    async def test(rig: Rig) -> None:
        await rig.step("a", "b", "c", seconds=10)
        assert await rig.state() is HostState.up
        await rig.step("b", "c", seconds=WARDED_LEASE_SECONDS)
        assert await rig.state() is HostState.up
        await rig.step("b", "c", seconds=2)
        assert await rig.state() is HostState.down
        assert await rig.fences("b") == (FenceSpec(host="a", number=0),)
        rig.said["b"]["fences"] = (FenceReport(host="a", number=0, done=True),)
        await rig.step("b", "c", seconds=1)
        fence = (await rig.get(Host, "a")).fence
        assert await rig.fences("b") == (FenceSpec(host="a", number=fence.number),)
        assert await rig.fences("c") == ()
        await rig.step("b", "c", seconds=5)
        assert (await rig.get(Instance, "i-1")).host == "a", "there is no proof yet"
        rig.said["b"]["fences"] = (FenceReport(host="a", number=fence.number, done=True),)
        await rig.step("b", "c", seconds=1)
        assert await rig.state() is HostState.fenced
        instance = await rig.get(Instance, "i-1")
        assert (instance.host in ("b", "c"), instance.generation) == (True, 2)
        assert (await rig.get(Volume, "vol-1")).lost == ("a",)

    with_rig(test)


def test_a_host_that_renews_its_lease_is_given_time() -> None:
    async def test(rig: Rig) -> None:
        await rig.step("b", "c", seconds=6)
        rig.said["b"]["fences"] = (FenceReport(host="a", number=0, alive=True),)
        await rig.step("b", "c", seconds=ALIVE_SECONDS - 5)
        assert await rig.state() is HostState.down
        await rig.step("b", "c", seconds=8)
        assert await rig.state() is HostState.fencing

    with_rig(test)


def test_a_new_manager_gives_it_time_of_its_own() -> None:
    """It may be this manager's first second, and the host on its way to it."""

    async def test(rig: Rig) -> None:
        await rig.step("b", "c", seconds=6)
        rig.said["b"]["fences"] = (FenceReport(host="a", number=0, alive=True),)
        await asyncio.sleep(2 * ALIVE_SECONDS)
        rig.hosts = Hosts(rig.store, "1", rig.env)
        rig.ha = Ha(rig.env, rig.store, rig.hosts, rig.observed, lambda *_: None)
        async with rig.store.read() as reader:
            await rig.hosts.load(reader)
            await rig.ha.load(reader)
        await rig.step("b", "c", seconds=ALIVE_SECONDS - 2)
        assert await rig.state() is HostState.down
        await rig.step("b", "c", seconds=6)
        assert await rig.state() is HostState.fencing

    with_rig(test)


def test_one_that_cannot_leave_keeps_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    leave = recovery.leave

    async def leave_but_one(tx: Transaction, env: Env, instance: Instance, host: Host) -> None:
        if instance.id == "i-0":
            raise ValueError("a broken record")
        await leave(tx, env, instance, host)

    monkeypatch.setattr(recovery, "leave", leave_but_one)

    async def test(rig: Rig) -> None:
        present, volume = await rig.get(Instance, "i-1"), await rig.get(Volume, "vol-1")
        attachment = replace(volume.attachments[0], instance="i-0")
        await rig.put(
            replace(present, id="i-0", version=0),
            replace(volume, id="vol-0", version=0, attachments=(attachment,)),
        )
        await rig.look()
        await rig.fenced()
        assert (await rig.get(Instance, "i-1")).host in ("b", "c")
        assert (await rig.get(Instance, "i-0")).host == "a"
        monkeypatch.setattr(recovery, "leave", leave)
        await rig.step("b", "c", seconds=2)
        assert (await rig.get(Instance, "i-0")).host in ("b", "c")

    with_rig(test)


def test_a_fence_that_was_just_given_to_another_host_is_carried_out_nonetheless() -> None:
    async def test(rig: Rig) -> None:
        host = await rig.fencing()
        assert host.fence is not None
        await rig.put(replace(host, fence=replace(host.fence, by="c")))  # and not learnt yet
        done = FenceReport(host="a", number=host.fence.number, done=True)
        rig.said["b"]["fences"] = (done,)
        await rig.report("b", "c")
        await rig.ha.step()
        assert await rig.state() is HostState.fenced
        assert (await rig.get(Instance, "i-1")).host in ("b", "c")

    with_rig(test)


def test_what_was_seen_of_an_earlier_silence_is_no_evidence() -> None:
    async def test(rig: Rig) -> None:
        rig.said["b"]["fences"] = (FenceReport(host="a", number=0, done=True),)
        revision = rig.store.revision
        await rig.step("b", "c", seconds=5)

        # Its reports are of a spec of before the host was silent.
        rig.said["b"]["revision"] = revision
        assert await rig.state() is not HostState.fencing

    with_rig(test)


def test_with_most_hosts_silent_nothing_is_done() -> None:
    async def test(rig: Rig) -> None:
        await rig.step("c", seconds=20)
        assert [await rig.state(name) for name in "abc"] == ["down", "down", "up"]
        assert "MostHostsSilent" in await rig.names()
        await rig.put(begun(await rig.get(Host, "a"), rig.env, "somebody asked for it"))
        await rig.step("c", seconds=2)
        fence = (await rig.get(Host, "a")).fence
        assert fence.by == "c"
        assert fence.reason == "somebody asked for it"

    with_rig(test)


def test_one_after_the_other_is_given_up() -> None:
    async def test(rig: Rig) -> None:
        await rig.fenced()
        await rig.step("b", "c", seconds=10)
        instance = await rig.get(Instance, "i-1")
        other = "c" if instance.host == "b" else "b"
        await rig.step(other, seconds=30)
        assert await rig.state(instance.host) is HostState.down
        host = await rig.get(Host, instance.host)
        assert host.watcher == other

    with_rig(test)


def test_nobody_fences_who_does_not_reach_the_pool() -> None:
    async def test(rig: Rig) -> None:
        for name in "bc":
            rig.said[name]["pools"] = (PoolReport(name="san", error="away"),)
        await rig.step("b", "c", seconds=10)
        assert await rig.state() is HostState.down
        assert (await rig.names()).count("CannotFence") == 1
        rig.said["c"].clear()
        await rig.step("b", "c", seconds=2)
        assert (await rig.get(Host, "a")).watcher == "c"

    with_rig(test)


@pytest.mark.parametrize("dies", [True, False])
def test_another_host_takes_a_fence_over(dies: bool) -> None:
    async def test(rig: Rig) -> None:
        assert (await rig.fencing()).fence.by == "b"  # type: ignore[union-attr]
        if dies:
            await rig.step("c", seconds=4)
        else:
            await rig.step("b", "c", seconds=FENCE_SECONDS_MAX + 3)
        fence = (await rig.get(Host, "a")).fence
        assert fence.by == "c"
        assert await rig.fences("c") == (FenceSpec(host="a", number=fence.number),)

    with_rig(test)


def test_nothing_is_wanted_of_a_host_with_nothing_to_restart() -> None:
    async def test(rig: Rig) -> None:
        await rig.put(replace(await rig.get(Volume, "vol-1"), pool="local"))
        await rig.step("b", "c", seconds=20)
        assert await rig.state() is HostState.down
        assert (await rig.names()).count("InstancesWait") == 1
        # It is moved to the shared pool, say, by somebody who knows how.
        await rig.put(replace(await rig.get(Volume, "vol-1"), pool="san"))
        await rig.put(replace(await rig.get(Instance, "i-1"), recovery=Recovery(priority=3)))
        await rig.step("b", "c", seconds=3)
        assert (await rig.get(Host, "a")).watcher == "b"

    with_rig(test)


def test_a_host_that_nobody_can_fence() -> None:
    async def test(rig: Rig) -> None:
        rig.said["a"]["warden"] = None
        await rig.step("a", "b", "c", seconds=1)
        await rig.step("b", "c", seconds=WARDED_LEASE_SECONDS + 1)
        assert await rig.state() is HostState.up, "it reports less often"
        await rig.step("b", "c", seconds=10)
        assert await rig.state() is HostState.down
        assert "CannotFence" in await rig.names()

    with_rig(test)


def test_a_host_is_back_when_its_warden_says_so() -> None:
    async def test(rig: Rig) -> None:
        fence = (await rig.fenced()).fence
        assert fence is not None
        await rig.step("a", "b", "c", seconds=3)
        assert await rig.state() is HostState.fenced, "its report does not bring it back"
        assert not rig.hosts.is_up("a"), "no word to it"
        rig.said["a"]["warden"] = WardenReport(permitted=False, fence=fence.number)
        rig.said["a"]["machines"] = (MachineReport(id="i-9", generation=1, state=MachineState.running),)
        await rig.step("a", "b", "c", seconds=3)
        assert await rig.state() is HostState.fenced, "something runs there"
        rig.said["a"]["machines"] = ()
        await rig.step("a", "b", "c", seconds=2)
        host = await rig.get(Host, "a")
        assert (host.state, host.fence, host.lifted) == (HostState.up, None, fence.number)
        async with rig.store.read() as reader:
            assert (await host_spec(reader, CLOUD, "a")).lifted == fence.number
        await rig.step("a", "b", "c", seconds=2)
        assert rig.hosts.is_up("a")

    with_rig(test)


@pytest.mark.parametrize("park", [None, *ParkState])
def test_one_that_is_perhaps_about_to_be_switched_off_is_not_back_before_that_is_over(
    park: ParkState | None,
) -> None:
    """To wake it, too: what is not sure to be off is switched off before it is switched on."""

    async def test(rig: Rig) -> None:
        host = await rig.fenced()
        assert host.fence is not None
        if park is not None:
            parked = Park(state=park, reason="a test", since=rig.env.now(), unsure=True)
            await rig.put(replace(host, park=parked))
        rig.said["a"]["warden"] = WardenReport(permitted=False, fence=host.fence.number)
        await rig.step("a", "b", "c", seconds=3)
        now = await rig.get(Host, "a")
        if park is None:
            assert (now.state, now.park) == (HostState.up, None)
            return
        assert (now.state, now.park and now.park.state) == (HostState.fenced, park)
        await rig.put(replace(now, park=None))
        await rig.step("a", "b", "c", seconds=3)
        assert (await rig.get(Host, "a")).state is HostState.up

    with_rig(test)


def test_hosts_that_are_all_given_up_fence_each_other_and_in_the_end_themselves() -> None:
    async def test(rig: Rig) -> None:
        for name in "abc":
            await rig.put(begun(await rig.down(name), rig.env, "a person asked for it"))
        await rig.look()
        rig.said["b"]["pools"] = (PoolReport(name="san", size_bytes=0, free_bytes=0, error="away"),)
        await rig.step("b", seconds=LISTEN_SECONDS + 2)
        assert not any([(await rig.get(Host, name)).fence.by for name in "abc"]), "none reaches the storage"
        await rig.step("a", "b", seconds=2)
        assert [(await rig.get(Host, name)).fence.by for name in "abc"] == ["a", "a", "a"]
        rig.said["b"].clear()
        await rig.step("a", "b", seconds=FENCE_SECONDS_MAX - 4)
        assert [(await rig.get(Host, name)).fence.by for name in "abc"] == ["a", "a", "a"]
        await rig.step("a", "b", seconds=8)
        assert [(await rig.get(Host, name)).fence.by for name in "abc"] == ["b", "b", "b"], "a is too slow"
        rig.said["b"]["fences"] = (
            FenceReport(host="b", number=(await rig.get(Host, "b")).fence.number, done=True),
        )
        await rig.step("a", "b", seconds=1)
        assert await rig.state("b") is HostState.fenced

    with_rig(test)


def test_what_is_on_a_host_that_is_given_up_is_not_to_run() -> None:
    async def test(rig: Rig) -> None:
        await rig.fencing()
        async with rig.store.read() as reader:
            [machine] = (await host_spec(reader, CLOUD, "a")).machines
        assert (machine.run, machine.shutdown_seconds) == (False, 0.0)

    with_rig(test)


def test_a_fence_that_only_the_host_knows_of_is_over() -> None:
    """The store was put back to a time before it."""

    async def test(rig: Rig) -> None:
        rig.said["a"]["warden"] = WardenReport(permitted=False, fence=77)
        await rig.report("a")
        assert (await rig.get(Host, "a")).lifted == 77

    with_rig(test)


def test_numbers_grow() -> None:
    env = Env(clock=lambda: 5.0)
    first = begun(Host(id="a", zone="", state=HostState.down), env, "r")
    assert first.fence is not None
    assert first.fence.number == 5000
    later = begun(Host(id="a", zone="", state=HostState.down, lifted=9000), env, "r")
    assert later.fence is not None
    assert later.fence.number == 9001


def test_old_events_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "EVENTS_MAX", 3)

    async def test(rig: Rig) -> None:
        for number in range(5):

            async def work(tx: Transaction, number: int = number) -> None:
                await events.record(tx, rig.env, "Test", f"{number}", host="a")

            await rig.store.transact(work)
        await rig.store.transact(events.sweep)
        async with rig.store.read() as reader:
            assert [event.message for event in await reader.find(Event)] == ["2", "3", "4"]

    with_rig(test)


def test_a_lease_that_ended_is_no_proof_while_a_word_counts() -> None:
    """A host that is revoked and given up is heard, and told that it may run machines, up to that moment."""

    async def test(rig: Rig) -> None:
        await rig.step("a", "b", "c", seconds=10)
        rig.ha.spoke("a")
        down = replace(await rig.get(Host, "a"), state=HostState.down, silent=rig.env.now())
        await rig.put(down)
        given_up = begun(await rig.get(Host, "a"), rig.env, "somebody asked for it", "b")
        await rig.put(given_up)
        await rig.look()
        assert given_up.fence is not None
        done = FenceReport(host="a", number=given_up.fence.number, done=True)
        rig.said["b"]["fences"] = (done,)
        await rig.step("b", "c", seconds=SILENCE_SECONDS_MIN - 1)
        assert await rig.state() is HostState.fencing
        await rig.step("b", "c", seconds=2)
        assert await rig.state() is HostState.fenced

    with_rig(test)


def test_a_new_manager_does_not_know_what_the_last_one_said() -> None:
    async def test(rig: Rig) -> None:
        fence = (await rig.fencing()).fence
        assert fence is not None
        rig.ha = Ha(rig.env, rig.store, rig.hosts, rig.observed, lambda *_: None)
        async with rig.store.read() as reader:
            await rig.ha.load(reader)
        rig.said["b"]["fences"] = (FenceReport(host="a", number=fence.number, done=True),)
        await rig.step("b", "c", seconds=SILENCE_SECONDS_MIN - 1)
        assert await rig.state() is HostState.fencing
        await rig.step("b", "c", seconds=3)
        assert await rig.state() is HostState.fenced

    with_rig(test)


def test_a_manager_that_has_just_begun_does_not_say_that_nobody_can_help() -> None:
    async def test(rig: Rig) -> None:
        await rig.step("b", "c", seconds=6)
        for number in (1, 2):
            rig.observed.hosts.clear()
            rig.ha = Ha(rig.env, rig.store, rig.hosts, rig.observed, lambda *_: None)
            async with rig.store.read() as reader:
                await rig.ha.load(reader)
            await rig.ha.step()  # none has reported to it
            await asyncio.sleep(LISTEN_SECONDS - 1)
            await rig.ha.step()
            assert "CannotFence" not in await rig.names()
            if number == 1:
                host = begun(await rig.get(Host, "a"), rig.env, "r")
                await rig.put(host)
        await asyncio.sleep(2)
        await rig.ha.step()
        assert "CannotFence" in await rig.names()

    with_rig(test)


async def lives(rig: Rig, *names: str) -> None:
    """The agents of these hosts alone are away, which host d sees."""
    away = [name for name in rig.said if name not in names]
    await rig.step(*away, seconds=6)
    rig.said["d"]["fences"] = tuple(FenceReport(host=name, number=0, alive=True) for name in names)
    await rig.step(*away, seconds=ALIVE_SECONDS + 5)


def test_hosts_that_live_are_given_up_one_after_the_other() -> None:
    async def test(rig: Rig) -> None:
        for name in "defgh":
            rig.said[name] = {}
        await rig.report(*rig.said)
        for name in "ab":
            present, volume = await rig.get(Instance, "i-1"), await rig.get(Volume, "vol-1")
            attachment = replace(volume.attachments[0], instance=f"i-{name}")
            await rig.put(
                replace(present, id=f"i-{name}", host=name, version=0),
                replace(volume, id=f"vol-{name}", host=name, version=0, attachments=(attachment,)),
            )
        for name in "cd":
            rig.said[name]["pools"] = (PoolReport(name="san", size_bytes=GIB, free_bytes=GIB),)
        for name in "cefgh":
            rig.said[name]["pools"] = ()  # so that it is d that looks
        await lives(rig, "a", "b")
        states = [await rig.state(name) for name in "ab"]
        assert sorted(states) == [HostState.down, HostState.fencing]
        assert (await rig.names()).count("FenceWaits") == 1
        waits = "ab"[states.index(HostState.down)]
        away = [name for name in rig.said if name not in "ab"]
        await rig.step(*away, seconds=BRAKE_SECONDS - 60)
        assert await rig.state(waits) is HostState.down
        # One whose lease ends is not one that lives.
        await rig.step(*away, seconds=90)
        assert await rig.state(waits) is HostState.fencing

    with_rig(test)


def test_a_host_whose_lease_ended_waits_for_no_other() -> None:
    async def test(rig: Rig) -> None:
        rig.ha._brake.used("c")
        await rig.fencing()

    with_rig(test)


def test_a_broken_volume_keeps_no_host_fenced() -> None:
    async def test(rig: Rig) -> None:
        volume = await rig.get(Volume, "vol-1")
        broken = replace(volume, id="vol-2", version=0, attachments=(), multi_attach=True, host="b")
        await rig.put(replace(broken, state=VolumeState.error, lost=("a",)))
        fence = (await rig.fenced()).fence
        assert fence is not None
        rig.said["a"]["warden"] = WardenReport(permitted=False, fence=fence.number)
        await rig.step("a", "b", "c", seconds=3)
        assert await rig.state() is HostState.up

    with_rig(test)


AWAY = (PoolReport(name="san", error="the cluster does not answer"),)


def test_a_host_that_lost_the_storage_alone_gets_nothing_new_then_its_instances_leave() -> None:
    async def test(rig: Rig) -> None:
        rig.said["a"]["pools"] = AWAY
        await rig.step("a", "b", "c", seconds=4)
        assert (await rig.get(Host, "a")).schedulable
        await rig.step("a", "b", "c", seconds=4)
        host = await rig.get(Host, "a")
        assert (host.schedulable, host.unfit) == (False, "does not reach the storage cluster")
        assert (await rig.names()).count("HostUnfit") == 1
        await rig.step("a", "b", "c", seconds=STORAGE_SECONDS - 12)
        assert not (await rig.get(Instance, "i-1")).leaving
        await rig.step("a", "b", "c", seconds=10)
        assert (await rig.get(Instance, "i-1")).leaving
        rig.said["a"].clear()
        await rig.step("a", "b", "c", seconds=2)
        assert (await rig.get(Host, "a")).schedulable
        assert (await rig.names()).count("HostFit") == 1

    with_rig(test)


def test_without_storage_elsewhere_all_stay_where_they_are() -> None:
    async def test(rig: Rig) -> None:
        for name in "abc":
            rig.said[name]["pools"] = AWAY
        await rig.step("a", "b", "c", seconds=STORAGE_SECONDS + 20)
        assert not (await rig.get(Instance, "i-1")).leaving
        assert (await rig.get(Host, "a")).schedulable
        rig.said["b"].clear()
        rig.said["c"].clear()
        await rig.step("a", "b", "c", seconds=2)
        assert not (await rig.get(Host, "a")).schedulable

    with_rig(test)


def test_a_host_that_has_no_warden_any_more_is_as_any() -> None:
    async def test(rig: Rig) -> None:
        rig.said["a"]["pools"] = AWAY
        await rig.step("a", "b", "c", seconds=8)
        assert not (await rig.get(Host, "a")).schedulable
        rig.said["a"]["warden"] = None  # the cluster is not the cloud's any more
        await rig.step("a", "b", "c", seconds=2)
        assert (await rig.get(Host, "a")).schedulable

    with_rig(test)


def test_a_host_whose_warden_is_gone_gets_nothing_new_and_loses_what_it_has() -> None:
    """Its guests may be stopped, or not be heard: nothing but its warden lets them go on."""

    async def test(rig: Rig) -> None:
        rig.said["a"]["warden"] = WardenReport(permitted=False)
        await rig.step("a", "b", "c", seconds=STORAGE_SECONDS - 12)
        host = await rig.get(Host, "a")
        assert "warden" in host.unfit
        assert not (await rig.get(Instance, "i-1")).leaving
        await rig.step("a", "b", "c", seconds=20)
        assert (await rig.get(Instance, "i-1")).leaving

    with_rig(test)


@pytest.mark.parametrize(("pool", "leaves"), [("san", True), ("bulk", False)])
def test_what_has_nothing_in_the_pool_that_is_away_stays(pool: str, leaves: bool) -> None:
    async def test(rig: Rig) -> None:
        for name in "bc":
            rig.said[name]["pools"] = pools(san="", bulk="", other="")
        rig.said["a"]["pools"] = (PoolReport(name=pool, error="no answer"), PoolReport(name="other"))
        await rig.step("a", "b", "c", seconds=STORAGE_SECONDS + 20)
        assert not (await rig.get(Host, "a")).schedulable
        assert (await rig.get(Instance, "i-1")).leaving is leaves

    with_rig(test)


def pools(**errors: str) -> tuple[PoolReport, ...]:
    return tuple(PoolReport(name=name, error=error) for name, error in errors.items())


async def say(rig: Rig, names: str, **errors: str) -> None:
    for name in names:
        rig.said[name]["pools"] = pools(**errors)
    await rig.step("a", "b", "c", seconds=1)


def test_a_pool_that_no_host_reaches_counts_against_none() -> None:
    async def test(rig: Rig) -> None:
        disk = await rig.get(Volume, "vol-1")
        there = replace(disk.attachments[0], instance="i-2")
        other = replace(await rig.get(Instance, "i-1"), version=0, id="i-2")
        await rig.put(other, replace(disk, version=0, id="vol-2", pool="bulk", attachments=(there,)))
        await say(rig, "abc", san="", bulk="away")
        await rig.step("a", "b", "c", seconds=8)
        await say(rig, "a", san="away", bulk="away")
        await rig.step("a", "b", "c", seconds=8)
        assert (await rig.get(Host, "a")).unfit == "does not reach the storage cluster"
        assert not (await rig.get(Host, "b")).unfit
        await rig.step("a", "b", "c", seconds=STORAGE_SECONDS)
        assert await leaving(rig)
        assert not await leaving(rig, "i-2"), "its pool is away elsewhere as well"
        await say(rig, "bc", san="", bulk="")
        await say(rig, "a", san="", bulk="")
        assert not (await rig.get(Host, "a")).unfit

    with_rig(test)


async def disk_in_bulk(rig: Rig) -> None:
    """The instance has its volume in another pool."""
    await rig.put(replace(await rig.get(Volume, "vol-1"), pool="bulk"))
    await rig.look()


async def some_have_bulk(rig: Rig, a: str, b: str) -> None:
    """Hosts a and b have a second pool, which c to e were not told of."""
    for name in "de":
        rig.said[name] = {}
    for name in "cde":
        rig.said[name]["pools"] = pools(san="")
    rig.said["a"]["pools"], rig.said["b"]["pools"] = pools(san="", bulk=a), pools(san="", bulk=b)
    await rig.report(*rig.said)
    await rig.look()


@pytest.mark.parametrize(("there", "leaves"), [("away", False), ("", True)])
def test_a_pool_that_some_hosts_do_not_have_counts_against_none_either(there: str, leaves: bool) -> None:
    async def test(rig: Rig) -> None:
        await disk_in_bulk(rig)
        await some_have_bulk(rig, "away", there)
        await rig.step(*"abcde", seconds=STORAGE_SECONDS + 20)
        assert bool((await rig.get(Host, "a")).unfit) is leaves
        assert not (await rig.get(Host, "b")).unfit
        assert await leaving(rig) is leaves

    with_rig(test)


@pytest.mark.parametrize(("there", "leaves"), [("away", False), ("", True)])
def test_hosts_that_do_not_have_a_pool_say_nothing_of_it(there: str, leaves: bool) -> None:
    async def test(rig: Rig) -> None:
        await disk_in_bulk(rig)
        await some_have_bulk(rig, "", there)
        rig.said["a"]["uplink_down"] = True
        await rig.step(*"abcde", seconds=8)
        assert await leaving(rig) is leaves

    with_rig(test)


@pytest.mark.parametrize("others", ["b", "bc"])
def test_a_host_that_lives_is_not_given_up_while_no_other_could_open_its_disks(others: str) -> None:
    async def test(rig: Rig) -> None:
        await disk_in_bulk(rig)
        for name in {"b", "c"} - set(others):
            await rig.put(replace(await rig.get(Host, name), state=HostState.down))
            del rig.said[name]
        await rig.look()
        for name in others:
            rig.said[name]["pools"] = pools(san="", bulk="away")
        await rig.step(*others, seconds=6)
        rig.said["b"]["fences"] = (FenceReport(host="a", number=0, alive=True),)
        await rig.step(*others, seconds=2 * ALIVE_SECONDS)
        assert await rig.state() is HostState.down, "its guests are well"
        async with rig.store.read() as reader:
            [why] = [event for event in await reader.find(Event) if event.name == "FenceWaits"]
        assert "no other host reaches pool bulk" in why.message
        for name in others:
            rig.said[name]["pools"] = pools(san="", bulk="")
        await rig.step(*others, seconds=2)
        assert await rig.state() is HostState.fencing

    with_rig(test)


@pytest.mark.parametrize("done", [True, False])
def test_one_that_is_dead_or_needs_another_pool_is_given_up(done: bool) -> None:
    async def test(rig: Rig) -> None:
        if done:
            await disk_in_bulk(rig)
        await say(rig, "abc", san="", bulk="away")
        await rig.step("b", "c", seconds=6)
        rig.said["b"]["fences"] = (FenceReport(host="a", number=0, done=done, alive=not done),)
        await rig.step("b", "c", seconds=2 if done else ALIVE_SECONDS + 5)
        assert await rig.state() is HostState.fencing

    with_rig(test)


def test_hosts_that_are_all_given_up_fence_each_other_without_a_pool_that_nobody_reaches() -> None:
    async def test(rig: Rig) -> None:
        for name in "abc":
            await rig.put(begun(await rig.down(name), rig.env, "a person asked for it"))
            rig.said[name]["pools"] = pools(san="", bulk="away")
        await rig.look()
        rig.said["a"]["warden"] = WardenReport(permitted=False, away=True)  # leases are in bulk, to this one
        await rig.step("a", "b", "c", seconds=LISTEN_SECONDS + 2)
        assert [(await rig.get(Host, name)).fence.by for name in "abc"] == ["b", "c", "b"]

    with_rig(test)


def test_who_reaches_all_but_a_pool_that_nobody_does_fences() -> None:
    async def test(rig: Rig) -> None:
        await say(rig, "abc", san="", bulk="away")
        rig.said["b"]["warden"] = WardenReport(away=True)  # it is the one that leases are in, to this host
        await rig.step("b", "c", seconds=8)
        assert (await rig.get(Host, "a")).watcher == "c"

    with_rig(test)


async def unplugged(rig: Rig) -> None:
    """The cable of a is out since a moment, as it says."""
    await rig.step("a", "b", "c", seconds=3)
    rig.said["a"]["uplink_down"] = True
    await rig.step("a", "b", "c", seconds=1)
    await rig.ha.step()  # it has learnt of that


async def leaving(rig: Rig, id: str = "i-1") -> bool:
    return (await rig.get(Instance, id)).leaving  # type: ignore[no-any-return]


def test_what_is_on_a_host_without_an_uplink_is_ended_there() -> None:
    async def test(rig: Rig) -> None:
        await unplugged(rig)
        await rig.step("a", "b", "c", seconds=3)
        assert not await leaving(rig)
        await rig.step("a", "b", "c", seconds=1)
        assert await leaving(rig)

    with_rig(test)


@pytest.mark.parametrize("stall", [3, 5, 60])
def test_a_cable_that_was_out_before_the_manager_stalled_counts_anew(stall: int) -> None:
    async def test(rig: Rig) -> None:
        await unplugged(rig)
        await asyncio.sleep(stall)
        await rig.ha.step()  # before it hears anybody
        await rig.look()
        assert not await leaving(rig), "perhaps it was out for a second"
        await rig.step("a", "b", "c", seconds=3)
        assert not await leaving(rig)
        await rig.step("a", "b", "c", seconds=1)
        assert await leaving(rig)

    with_rig(test)


def test_a_cable_that_was_out_for_a_second_when_the_manager_stalled_ends_nothing() -> None:
    async def test(rig: Rig) -> None:
        await unplugged(rig)
        await asyncio.sleep(5)
        await rig.ha.step()
        rig.said["a"].clear()
        await rig.step("a", "b", "c", seconds=10)
        assert not await leaving(rig)
        assert "InstanceLeaving" not in await rig.names()

    with_rig(test)


def test_what_a_host_said_before_it_fell_silent_ends_nothing() -> None:
    async def test(rig: Rig) -> None:
        await unplugged(rig)
        await rig.step("b", "c", seconds=4)
        assert await rig.state() is HostState.up
        assert not await leaving(rig)
        assert rig.ha._cuts.wait(1.0) == 1.0, "it is not asked again and again"
        await rig.step("a", "b", "c", seconds=1)
        assert await leaving(rig), "it says so still"

    with_rig(test)


def test_what_a_host_said_last_counts_not_what_is_noted_of_it() -> None:
    async def test(rig: Rig) -> None:
        await unplugged(rig)
        await rig.step("a", "b", "c", seconds=2)
        for _ in range(2):
            await asyncio.sleep(1)
            await rig.report("b", "c")
            rig.observed.take(HostReport(cloud="c", host="a", boot_id="1", revision=rig.store.revision))
            await rig.ha.step()
            await rig.look()
        assert (await rig.get(Host, "a")).uplink_down
        assert not await leaving(rig)

    with_rig(test)


@pytest.mark.parametrize("where", ["abc", "bc", "b"])
def test_only_what_needs_a_pool_that_most_others_do_not_reach_stays_without_an_uplink(where: str) -> None:
    async def test(rig: Rig) -> None:
        disk = await rig.get(Volume, "vol-1")
        there = replace(disk.attachments[0], instance="i-2")
        other = replace(await rig.get(Instance, "i-1"), version=0, id="i-2")
        await rig.put(other, replace(disk, version=0, id="vol-2", pool="bulk", attachments=(there,)))
        await say(rig, "abc", san="", bulk="")
        await say(rig, where, san="", bulk="away")
        await unplugged(rig)
        await rig.step("a", "b", "c", seconds=5)
        assert await leaving(rig)
        assert await leaving(rig, "i-2") is (where == "b"), "c may be as good as a"
        assert ("InstanceStays" in await rig.names()) is (where != "b")
        await say(rig, "bc", san="", bulk="")
        await rig.step("a", "b", "c", seconds=6)
        assert await leaving(rig, "i-2")

    with_rig(test)


@pytest.mark.parametrize("away", [{"san": "away", "bulk": ""}, {"san": "away", "bulk": "away"}])
def test_where_its_own_pool_is_away_from_the_others_it_stays_without_an_uplink(away: dict[str, str]) -> None:
    async def test(rig: Rig) -> None:
        await say(rig, "abc", **away)
        await unplugged(rig)
        await rig.step("a", "b", "c", seconds=10)
        assert not await leaving(rig)
        await say(rig, "bc", san="", bulk="away")
        await rig.step("a", "b", "c", seconds=6)
        assert await leaving(rig)

    with_rig(test)


def test_where_no_other_host_takes_anything_all_stay() -> None:
    """They would be ended, and start where they were when the cable is in again."""

    async def test(rig: Rig) -> None:
        others = [await rig.get(Host, name) for name in "bc"]
        await rig.put(*(replace(host, draining=True) for host in others))
        await rig.look()
        await unplugged(rig)
        await rig.step("a", "b", "c", seconds=10)
        assert not await leaving(rig)
        await rig.put(replace(await rig.get(Host, "b"), draining=False))
        await rig.look()
        await rig.step("a", "b", "c", seconds=2)
        assert await leaving(rig), "one that does is enough"

    with_rig(test)


async def fill(rig: Rig, hosts: str) -> None:
    """So that nothing more finds room there."""
    big = replace(await rig.get(Instance, "i-1"), version=0, type="t3.xlarge")
    await rig.put(*(replace(big, id=f"i-{name}", host=name) for name in hosts))
    await rig.look()


def test_room_that_is_made_elsewhere_later_is_found() -> None:
    async def test(rig: Rig) -> None:
        await fill(rig, "bc")
        await unplugged(rig)
        await rig.step("a", "b", "c", seconds=20)
        assert not await leaving(rig), "the others are full"
        assert (await rig.names()).count("InstanceStays") == 1
        await rig.put(replace(await rig.get(Instance, "i-b"), state=InstanceState.shutting_down, host=None))
        await rig.step("a", "b", "c", seconds=6)
        assert await leaving(rig)

    with_rig(test)


def test_that_one_stays_is_told_anew_when_the_uplink_is_down_again() -> None:
    async def test(rig: Rig) -> None:
        await fill(rig, "bc")
        for times in (1, 2):
            await unplugged(rig)
            await rig.step("a", "b", "c", seconds=12)
            assert (await rig.names()).count("InstanceStays") == times
            rig.said["a"].clear()
            await rig.step("a", "b", "c", seconds=3)

    with_rig(test)
