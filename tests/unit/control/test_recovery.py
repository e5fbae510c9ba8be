from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from msgspec.structs import replace

from gureum.control import recovery
from gureum.control.recovery import CRASHES_MAX, CRASHES_SECONDS, backoff_seconds
from gureum.hostspec import MachineState
from gureum.resources import (
    Event,
    Fence,
    Host,
    HostState,
    Instance,
    InstanceMigration,
    InstanceState,
    MigrationState,
    NetworkInterface,
    Recovery,
    RecoveryPolicy,
    Severity,
    Volume,
    VolumeState,
)

LOST = Fence(number=7, reason="not heard of for 4 s", began=1.0)


@pytest.fixture
async def lost(bench: Any, make: Any) -> Any:
    """A fenced host with an instance whose volume is in a shared pool, and another host."""
    await bench.put(
        make.host("host-0", state=HostState.fenced, fence=LOST),
        make.host("host-1"),
        make.instance(state=InstanceState.running, generation=3, private_ip="172.31.0.4"),
        make.attached(pool="san"),
        make.interface(host="host-0"),
    )

    async def leave() -> Instance:
        async def work(tx: Any) -> None:
            instance, host = await tx.get(Instance, "i-1"), await tx.get(Host, "host-0")
            assert not await recovery.waits(tx, instance)
            await recovery.leave(tx, bench.env, instance, host)

        await bench.store.transact(work)
        return await bench.get(Instance, "i-1")  # type: ignore[no-any-return]

    return leave


async def place(bench: Any, id: str = "i-1") -> Instance:
    await bench.store.transact(lambda tx: recovery.place(tx, bench.env, id))
    return await bench.get(Instance, id)  # type: ignore[no-any-return]


async def step(bench: Any) -> Instance:
    return await bench._step(recovery.reconcile, Instance, "i-1")  # type: ignore[no-any-return]


async def names(bench: Any) -> list[str]:
    async with bench.store.read() as reader:
        return [event.name for event in await reader.find(Event)]


async def test_it_starts_elsewhere_under_another_generation(bench: Any, lost: Any) -> None:
    left = await lost()
    assert (left.state, left.host, left.generation) == (InstanceState.pending, None, 4)
    assert left.state_reason.code == "Server.HostFailure"
    assert "host-0 was lost (not heard of for 4 s)" in left.state_reason.message
    volume = await bench.get(Volume, "vol-1")
    assert (volume.host, volume.lost) == (None, ("host-0",))
    assert (await bench.get(NetworkInterface, "eni-1")).host is None
    placed = await place(bench)
    assert placed.host == "host-1"
    assert (await bench.get(Volume, "vol-1")).host == "host-1"
    assert (await bench.get(NetworkInterface, "eni-1")).host == "host-1"
    assert await names(bench) == ["InstanceRestarting", "InstancePlaced"]


async def test_it_keeps_its_reason_until_it_runs(bench: Any, lost: Any) -> None:
    await lost()
    placed = await place(bench)
    bench.time += 2.5
    bench._said["machines"].clear()
    bench.observed.hosts.clear()
    assert (await step(bench)).state is InstanceState.pending
    bench.machine(generation=4)
    bench.observed.hosts["host-1"] = bench.observed.hosts.pop("host-0")
    runs = await step(bench)
    assert (runs.state, runs.host, runs.recovers) == (InstanceState.running, placed.host, 0.0)
    async with bench.store.read() as reader:
        told = next(event for event in await reader.find(Event) if event.name == "InstanceRecovered")
    assert "runs again, on host host-1, after 2.5 s" in told.message


async def test_without_room_it_waits_and_says_so_once(bench: Any, lost: Any) -> None:
    await lost()
    await bench.put(replace(await bench.get(Host, "host-1"), memory_bytes=0))
    for _ in range(3):
        waits = await place(bench)
    assert (waits.state, waits.host) == (InstanceState.pending, None)
    assert "no host of zone us-east-1a has" in waits.impaired
    assert (await names(bench)).count("InstanceWaits") == 1
    # What places other instances leaves this one alone.
    assert (await step(bench)).host is None
    await bench.put(replace(await bench.get(Host, "host-1"), memory_bytes=8 << 30))
    assert (await place(bench)).impaired == ""


@pytest.mark.parametrize("state", [InstanceState.stopping, InstanceState.shutting_down])
async def test_one_that_was_to_end_has_ended(bench: Any, lost: Any, state: InstanceState) -> None:
    await bench.put(replace(await bench.get(Instance, "i-1"), state=state))
    left = await lost()
    assert (left.state, left.host, left.generation) == (state, None, 3)
    ends = {InstanceState.stopping: InstanceState.stopped, InstanceState.shutting_down: "terminated"}
    assert (await step(bench)).state == ends[state]


async def test_it_is_terminated_if_that_is_wanted(bench: Any, lost: Any) -> None:
    policy = Recovery(policy=RecoveryPolicy.terminate)
    await bench.put(replace(await bench.get(Instance, "i-1"), recovery=policy))
    left = await lost()
    assert (left.state, left.host) == (InstanceState.shutting_down, None)
    assert (await step(bench)).state is InstanceState.terminated


async def test_it_is_stopped_if_that_is_wanted(bench: Any, lost: Any) -> None:
    policy = Recovery(policy=RecoveryPolicy.stop)
    await bench.put(replace(await bench.get(Instance, "i-1"), recovery=policy))
    left = await lost()
    assert (left.state, left.host, left.generation) == (InstanceState.stopping, None, 3)
    assert (await step(bench)).state is InstanceState.stopped


@pytest.mark.parametrize(
    ("changes", "volume", "why"),
    [
        ({}, {"pool": "local"}, "vol-1 is on that host's own disk"),
        ({}, {"pool": "san", "leaves": ("local",)}, "vol-1 is on that host's own disk"),
        ({"recovery": Recovery(policy=RecoveryPolicy.none)}, {}, "its recovery is switched off"),
        ({}, {"attachments": ()}, "it has no volume that another host could open"),
    ],
)
async def test_what_waits_for_its_host(
    bench: Any, lost: Any, changes: dict[str, Any], volume: dict[str, Any], why: str
) -> None:
    await bench.put(
        replace(await bench.get(Instance, "i-1"), **changes),
        replace(await bench.get(Volume, "vol-1"), **volume),
    )
    async with bench.store.read() as reader:
        assert await recovery.waits(reader, await bench.get(Instance, "i-1")) == why


async def test_a_volume_that_was_being_made_may_still_be(bench: Any, lost: Any, make: Any) -> None:
    await bench.put(replace(make.attached("vol-2", pool="san"), state=VolumeState.creating))
    await lost()
    made, making = await bench.get(Volume, "vol-1"), await bench.get(Volume, "vol-2")
    assert (made.former, made.lost) == ((), ("host-0",))
    assert (making.former, making.lost) == (("host-0",), ("host-0",))


async def test_nothing_is_believed_of_a_host_that_is_given_up(bench: Any, lost: Any) -> None:
    bench.machine(state=MachineState.crashed, generation=3)
    assert (await step(bench)).state is InstanceState.running


class TestCrashes:
    @pytest.fixture
    async def dies(self, bench: Any, make: Any) -> Any:
        await bench.put(make.host(), make.instance(state=InstanceState.running), make.attached())

        async def dies() -> Instance:
            now = await bench.get(Instance, "i-1")
            bench.machine(state=MachineState.crashed, generation=now.generation, message="it died")
            return await step(bench)

        return dies

    async def runs(self, bench: Any, instance: Instance) -> Instance:
        """Its time comes, and it runs."""
        bench.time = max(bench.time, instance.restart_at)
        held = {instance.id: instance.restart_at}
        await bench.store.transact(lambda tx: recovery.due(tx, bench.env, held))
        assert (await bench.get(Instance, "i-1")).restart_at == 0
        bench.machine(generation=instance.generation)
        return await step(bench)

    async def test_it_starts_again_where_it_was(self, bench: Any, dies: Any) -> None:
        again = await dies()
        assert (again.state, again.host, again.generation) == (InstanceState.pending, "host-0", 2)
        assert again.restart_at == bench.time + 1
        assert (await self.runs(bench, again)).state is InstanceState.running

    async def test_but_not_for_ever(self, bench: Any, dies: Any) -> None:
        pauses = []
        for _ in range(CRASHES_MAX):
            again = await dies()
            pauses.append(again.restart_at - bench.time)
            await self.runs(bench, again)
        assert pauses == [1, 2, 4, 8, 16]
        given_up = await dies()
        assert given_up.state is InstanceState.stopping
        assert "it died" in given_up.state_reason.message
        assert "InstanceGivenUp" in await names(bench)

    async def test_what_was_long_ago_does_not_count(self, bench: Any, dies: Any) -> None:
        for _ in range(2 * CRASHES_MAX):
            again = await dies()
            assert again.restart_at - bench.time == 1
            await self.runs(bench, again)
            bench.time += CRASHES_SECONDS

    async def test_not_if_that_is_not_wanted(self, bench: Any, dies: Any) -> None:
        policy = Recovery(policy=RecoveryPolicy.none)
        await bench.put(replace(await bench.get(Instance, "i-1"), recovery=policy))
        assert (await dies()).state is InstanceState.stopping

    async def test_a_first_launch_that_fails_has_failed(self, bench: Any, dies: Any, make: Any) -> None:
        await bench.store.transact(_delete)
        await bench.put(make.instance())
        assert (await dies()).state is InstanceState.shutting_down

    async def test_its_time_comes_also_when_the_clock_is_put_back(self, bench: Any, dies: Any) -> None:
        again = await dies()
        assert not recovery.is_due(bench.env, again.restart_at)
        bench.time -= 1000
        assert recovery.is_due(bench.env, again.restart_at)


class TestHungGuests:
    @pytest.fixture
    async def hangs(self, bench: Any, make: Any) -> Any:
        await bench.put(make.host(), make.attached())

        async def hangs(policy: RecoveryPolicy, **more: Any) -> Instance:
            recovers = Recovery(policy=policy)
            await bench.put(make.instance(state=InstanceState.running, recovery=recovers, **more))
            self.hang(bench)
            return await step(bench)

        return hangs

    def hang(self, bench: Any) -> None:
        bench.machine(state=MachineState.paused, hung=True, message="it hangs")

    async def test_it_is_started_again_after_a_pause(self, bench: Any, hangs: Any) -> None:
        again = await hangs(RecoveryPolicy.restart)
        assert (again.state, again.host, again.generation) == (InstanceState.pending, "host-0", 2)
        assert again.restart_at == bench.time + 1
        assert await names(bench) == ["InstanceHung"]
        async with bench.store.read() as reader:
            [told] = await reader.find(Event)
        assert told.message == "i-1: it hangs; it is started again in 1 s"

    async def test_it_counts_as_its_crashes_do(self, bench: Any, hangs: Any) -> None:
        lately = tuple(bench.time - each for each in range(CRASHES_MAX))
        given_up = await hangs(RecoveryPolicy.restart, crashes=lately)
        assert (given_up.state, await names(bench)) == (InstanceState.stopping, ["InstanceGivenUp"])

    @pytest.mark.parametrize(
        ("policy", "protected", "state", "event"),
        [
            (RecoveryPolicy.stop, False, InstanceState.stopping, "InstanceStopped"),
            (RecoveryPolicy.terminate, False, InstanceState.shutting_down, "InstanceTerminated"),
            (RecoveryPolicy.terminate, True, InstanceState.stopping, "InstanceStopped"),
        ],
    )
    async def test_it_ends_as_its_policy_says(
        self, bench: Any, hangs: Any, policy: RecoveryPolicy, protected: bool, state: str, event: str
    ) -> None:
        ends = await hangs(policy, disable_api_termination=protected)
        assert (ends.state, ends.generation, await names(bench)) == (state, 1, [event])
        assert "it hangs" in ends.state_reason.message

    async def test_it_stays_as_it_is_and_says_so_once(self, bench: Any, hangs: Any) -> None:
        stays = await hangs(RecoveryPolicy.none)
        assert (stays.state, stays.impaired) == (InstanceState.running, "it hangs")
        await step(bench)
        assert await names(bench) == ["InstanceHung"]
        bench.machine(reboots=1)
        assert (await step(bench)).impaired == ""

    async def test_without_other_hosts_it_ends_as_a_machine_that_died(self, bench: Any, make: Any) -> None:
        await bench.put(make.host(), make.instance(state=InstanceState.running), make.attached())
        self.hang(bench)
        assert (await bench.step_instance()).state is InstanceState.stopping


async def _delete(tx: Any) -> None:
    await tx.delete(await tx.get(Instance, "i-1"))


def test_pauses_grow() -> None:
    assert [backoff_seconds(count) for count in (0, 1, 5, 6, 50)] == [1, 2, 32, 60, 60]


def test_who_is_first(make: Any) -> None:
    late = datetime(2030, 1, 1, tzinfo=UTC)
    instances = [
        make.instance("i-1", launched=late),
        make.instance("i-2"),
        make.instance("i-3", recovery=Recovery(priority=51), launched=late),
        make.instance("i-4", recovery=Recovery(priority=0)),
    ]
    assert [each.id for each in sorted(instances, key=recovery.order)] == ["i-3", "i-2", "i-1", "i-4"]


async def test_a_volume_that_failed_ends_its_launch(bench: Any, lost: Any) -> None:
    await bench.put(replace(await bench.get(Volume, "vol-1"), state=VolumeState.error, message="no room"))
    await lost()
    assert (await place(bench)).state is InstanceState.shutting_down


async def test_one_leaves_a_host_that_works_when_it_has_ended_there(bench: Any, make: Any) -> None:
    await bench.put(
        make.host("host-0", uplink_down=True),
        make.host("host-1"),
        make.instance(state=InstanceState.running),
        make.attached(pool="san"),
        make.interface(host="host-0"),
        make.instance("i-2", state=InstanceState.running),
        make.attached("vol-2", instances=("i-2",)),
    )
    since = bench.env.now() - 5
    work = lambda tx: recovery.end_there(tx, bench.env, "host-0", "whose uplink is down", since)  # noqa: E731
    await bench.store.transact(work)
    assert not (await bench.get(Instance, "i-2")).leaving, "its volume is there"
    bench.machine()
    ending = await step(bench)
    assert (ending.state, ending.leaving, ending.host) == (InstanceState.pending, True, "host-0")
    bench.machine(state=MachineState.off, revision=ending.version - 1)
    assert (await step(bench)).host == "host-0", "that was said before"
    bench.machine(state=MachineState.off)
    left = await step(bench)
    assert (left.host, left.generation, left.leaving) == (None, 2, False)
    assert (await bench.get(NetworkInterface, "eni-1")).host is None
    volume = await bench.get(Volume, "vol-1")
    assert (volume.host, volume.former, volume.lost) == (None, ("host-0",), ())
    assert (await place(bench)).host == "host-1"


@pytest.mark.parametrize("cut", [{"unfit": "does not reach the storage cluster"}, {"uplink_down": True}])
async def test_one_leaves_a_host_that_cannot_let_go_of_its_volumes(
    cut: dict[str, Any], bench: Any, make: Any
) -> None:
    await bench.put(
        make.host("host-0", **cut),
        make.host("host-1"),
        make.instance(state=InstanceState.running),
        make.attached(pool="san"),
        make.interface(host="host-0"),
    )
    since, why = bench.env.now() - 60, "which does not reach the storage cluster"
    await bench.store.transact(lambda tx: recovery.end_there(tx, bench.env, "host-0", why, since))
    ending = await step(bench)
    bench.machine(state=MachineState.off, revision=0)
    assert (await step(bench)).host == "host-0", "that it has ended was not said of this spec"
    bench.machine(state=MachineState.off, revision=0, ended=ending.version - 1)
    assert (await step(bench)).host == "host-0"
    bench.machine(state=MachineState.off, revision=0, ended=ending.version)
    left = await step(bench)
    assert (left.host, left.generation, left.recovers) == (None, 2, since)
    assert (await bench.get(NetworkInterface, "eni-1")).host is None
    volume = await bench.get(Volume, "vol-1")
    assert (volume.host, volume.lost) == (None, ("host-0",)), "whoever opens it next takes it from that host"


@pytest.mark.parametrize("keeper", ["host-0", "host-1"])
@pytest.mark.parametrize("state", [InstanceState.pending, InstanceState.running, InstanceState.stopping])
async def test_a_host_that_lives_is_not_shut_out_of_what_another_instance_there_has(
    state: InstanceState, keeper: str, bench: Any, make: Any
) -> None:
    await bench.put(
        make.host("host-0", uplink_down=True),
        make.host("host-1"),
        make.instance(state=InstanceState.running, leaving=True),
        make.instance("i-2", state=state),
        make.attached(pool="san"),
        make.attached("vol-2", pool="san", multi_attach=True, instances=("i-1", "i-2"), host=keeper),
    )
    ending = await bench.get(Instance, "i-1")
    bench.machine(state=MachineState.off, revision=0, ended=ending.version)
    assert (await step(bench)).host is None
    assert (await bench.get(Volume, "vol-1")).lost == ("host-0",)
    both = await bench.get(Volume, "vol-2")
    assert (both.host, both.lost) == (keeper, ()), "i-2 has it open there"
    if state is InstanceState.stopping:
        return
    # The last one that has it there takes it away.
    await bench.put(replace(await bench.get(Instance, "i-2"), leaving=True))
    ending = await bench.get(Instance, "i-2")
    bench.machine("i-2", state=MachineState.off, revision=0, ended=ending.version)
    await bench._step(recovery.reconcile, Instance, "i-2")
    assert (await bench.get(Volume, "vol-2")).lost == ("host-0",)


async def test_one_whose_hosts_uplink_is_back_stays(bench: Any, make: Any) -> None:
    """What was seen before the transaction may be over."""
    await bench.put(
        make.host("host-0"),
        make.host("host-1"),
        make.instance(state=InstanceState.running),
        make.attached(pool="san"),
    )
    why, since = "whose uplink is down", bench.env.now() - 5
    work = lambda tx: recovery.end_there(tx, bench.env, "host-0", why, since, uplink=True)  # noqa: E731
    await bench.store.transact(work)
    assert not (await bench.get(Instance, "i-1")).leaving
    await bench.put(replace(await bench.get(Host, "host-0"), uplink_down=True))
    await bench.store.transact(work)
    assert (await bench.get(Instance, "i-1")).leaving


async def test_only_what_finds_room_elsewhere_is_ended(bench: Any, make: Any) -> None:
    big = {"state": InstanceState.running, "type": "t3.medium"}
    await bench.put(
        make.host("host-0", uplink_down=True),
        make.host("host-1"),
        make.instance(**big),
        make.attached(pool="san"),
        make.instance("i-2", recovery=Recovery(priority=90), **big),
        make.attached("vol-2", pool="san", instances=("i-2",)),
    )
    why, since = "whose uplink is down", bench.env.now() - 5
    work = lambda tx: recovery.end_there(tx, bench.env, "host-0", why, since, uplink=True)  # noqa: E731

    async def leaving() -> list[str]:
        return [id for id in ("i-1", "i-2") if (await bench.get(Instance, id)).leaving]

    for _ in range(2):  # what was told to leave takes its room also when it is asked again
        assert await bench.store.transact(work) == (False, {"i-1"})
        assert await leaving() == ["i-2"], "host-1 has room for one of them, and this one is first"
    await bench.put(make.host("host-2"))
    assert await bench.store.transact(work) == (True, frozenset())
    assert await leaving() == ["i-1", "i-2"]


@pytest.mark.parametrize("elsewhere", [True, False])
async def test_what_finds_no_room_elsewhere_is_told_so_once(elsewhere: bool, bench: Any, make: Any) -> None:
    await bench.put(
        make.host("host-0", uplink_down=True),
        make.instance(state=InstanceState.running, type="t3.2xlarge"),
        make.attached(pool="san"),
        *([make.host("host-1")] if elsewhere else []),
    )

    async def end_there(*told: str) -> Any:
        why, since = "whose uplink is down", bench.env.now() - 5
        work = lambda tx: recovery.end_there(  # noqa: E731
            tx, bench.env, "host-0", why, since, uplink=True, told=told
        )
        return await bench.store.transact(work)

    assert await end_there() == (False, {"i-1"})
    assert await end_there("i-1") == (False, {"i-1"})
    async with bench.store.read() as reader:
        (event,) = await reader.find(Event)
    assert (event.name, event.severity, event.host) == ("InstanceStays", Severity.warning, "host-0")
    room = "no other host of zone us-east-1a has 8 vCPUs and 32 GiB of memory left"
    why = room if elsewhere else "zone us-east-1a has no other host"
    assert event.message == f"i-1 stays on host host-0, whose uplink is down: {why}"


async def test_what_ended_on_a_host_that_reaches_its_pool_is_let_go_of_first(bench: Any, make: Any) -> None:
    await bench.put(make.host("host-0"), make.instance(state=InstanceState.running, leaving=True))
    bench.machine(state=MachineState.off, revision=0, ended=10**6)
    assert (await step(bench)).host == "host-0"


@pytest.mark.parametrize(
    ("policy", "pool"), [(RecoveryPolicy.none, "san"), (RecoveryPolicy.restart, "local")]
)
async def test_the_migration_of_one_that_waits_for_its_host_ends(
    policy: RecoveryPolicy, pool: str, bench: Any, make: Any, lost: Any
) -> None:
    await bench.put(replace(await bench.get(Volume, "vol-1"), pool=pool))
    migration = InstanceMigration(
        id="mig-1",
        instance="i-1",
        type="t3.micro",
        zone="us-east-1a",
        source="host-0",
        destination="host-1",
        source_generation=3,
        generation=4,
        state=MigrationState.copying,
        started=datetime(2026, 1, 1, tzinfo=UTC),
        secret=b"s",
    )
    stays = Recovery(policy=policy)
    instance = replace(await bench.get(Instance, "i-1"), migration="mig-1", recovery=stays)
    await bench.put(instance, migration)
    await step(bench)
    after = await bench.get(InstanceMigration, "mig-1")
    assert (after.state, after.outcome) == (MigrationState.aborting, "failed")
    assert after.message == "host host-0 is given up"
    assert (await bench.get(Instance, "i-1")).host == "host-0"


async def test_how_long_it_took_counts_from_the_loss(bench: Any, make: Any, lost: Any) -> None:
    heard = bench.env.now() - 6
    host = await bench.get(Host, "host-0")
    await bench.put(replace(host, silent=heard))
    await lost()
    assert (await bench.get(Instance, "i-1")).recovers == heard
