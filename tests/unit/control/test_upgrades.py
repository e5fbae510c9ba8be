"""Upgrades, step by step. How they fare among faults is in tests/sim/scenarios/upgrade-*."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from msgspec.structs import replace

from gureum.control.balancer import CALM_SECONDS
from gureum.control.upgrades import END_AGENT, Upgrades, cancel
from gureum.errors import Conflict, TransportError
from gureum.fencespec import WardenReport
from gureum.hostspec import HostReport
from gureum.resources import (
    Event,
    Host,
    HostState,
    HostUpgrade,
    Instance,
    InstanceState,
    Upgrade,
    UpgradeState,
    UpgradeStep,
)
from gureum.store.base import Change


class Fleet:
    """Hosts that are told to end their agents, and the operator's command."""

    def __init__(self, bench: Any) -> None:
        self.bench = bench
        self.asked: list[tuple[str, bytes]] = []
        self.called: list[tuple[str, str]] = []
        self.error = self.absent = ""
        self.deaf = False
        self.gate: asyncio.Event | None = None
        """What the command waits for."""
        self.upgrades = Upgrades(bench.env, bench.store, bench.observed, self, self)  # type: ignore[arg-type]

    async def call(self, host: str, method: str, **values: Any) -> bytes:
        assert method == END_AGENT
        if self.deaf:
            raise TransportError("not connected")
        self.asked.append((host, values["data"]))
        return b""

    def missing(self) -> str:
        return self.absent

    async def run(self, host: str, address: str) -> str:
        self.called.append((host, address))
        if self.gate is not None:
            await self.gate.wait()
        return self.error

    def report(self, host: str, started: float, **said: Any) -> None:
        values = {"revision": 1, "network_revision": 1, "boot_id": "b", "version": "0.6.0", **said}
        self.bench.observed.take(HostReport(cloud="test", host=host, started=started, **values))

    async def begin(self, *hosts: str, **values: Any) -> None:
        upgrade = Upgrade(
            id="upg-1",
            hosts=tuple(HostUpgrade(host=host) for host in hosts),
            began=self.bench.time,
            **{"wait_seconds": 60.0, **values},
        )
        await self.bench.put(upgrade)
        async with self.bench.store.read() as reader:
            await self.upgrades.load(reader)

    async def step(self) -> list[UpgradeStep]:
        """And do what follows from it."""
        async with asyncio.TaskGroup() as group:
            await self.upgrades.step(group)
        return [each.step for each in (await self.now()).hosts]

    async def now(self) -> Upgrade:
        return await self.bench.get(Upgrade, "upg-1")  # type: ignore[no-any-return]


@pytest.fixture
async def fleet(bench: Any, make: Any) -> Fleet:
    fleet = Fleet(bench)
    for n in range(3):
        await bench.put(make.host(f"host-{n}", boot_id="b", address=f"192.0.2.{n}"))
        fleet.report(f"host-{n}", started=float(n + 1))
    return fleet


WAITING, LEAVING, CHANGING = UpgradeStep.waiting, UpgradeStep.leaving, UpgradeStep.changing
RETURNING, DONE, FAILED = UpgradeStep.returning, UpgradeStep.done, UpgradeStep.failed


async def test_one_host_after_the_other(fleet: Fleet) -> None:
    await fleet.begin("host-1", "host-0")
    assert await fleet.step() == [RETURNING, WAITING]
    assert await fleet.step() == [RETURNING, WAITING]
    assert fleet.asked == [("host-1", b"2.0")] * 2
    fleet.report("host-1", started=9.0, network_revision=0)
    assert await fleet.step() == [RETURNING, WAITING]
    assert (await fleet.now()).hosts[0].message == "its network is not in effect"
    fleet.report("host-1", started=9.0)
    assert await fleet.step() == [DONE, RETURNING]
    fleet.report("host-0", started=9.0)
    assert await fleet.step() == [DONE, DONE]
    ended = await fleet.now()
    assert (ended.state, ended.ended) == (UpgradeState.completed, fleet.bench.time)
    assert fleet.asked[2:] == [("host-0", b"1.0")]
    assert not fleet.called
    async with fleet.bench.store.read() as reader:
        told = {(event.name, event.message) for event in await reader.find(Event)}
    assert told == {
        ("HostUpgrade", "host host-1 is being upgraded"),
        ("HostUpgraded", "host host-1 is back from its upgrade"),
        ("HostUpgrade", "host host-0 is being upgraded"),
        ("HostUpgraded", "host host-0 is back from its upgrade"),
        ("UpgradeCompleted", "the upgrade of 2 hosts has ended well"),
    }


async def test_none_is_begun_while_another_host_is_being_lost(fleet: Fleet) -> None:
    await fleet.begin("host-0", "host-1", evacuate=True)
    lost = await fleet.bench.get(Host, "host-2")
    await fleet.bench.put(replace(lost, state=HostState.down, silent=fleet.bench.time))
    assert await fleet.step() == [WAITING, WAITING]
    assert "host host-2 was lost a moment ago" in (await fleet.now()).hosts[0].message
    fleet.bench.time += CALM_SECONDS
    assert await fleet.step() == [LEAVING, WAITING]
    assert (await fleet.now()).hosts[0].message == ""


async def test_a_host_that_is_being_upgraded_keeps_no_other_one_waiting(fleet: Fleet) -> None:
    await fleet.begin("host-0", "host-1", at_once=1)
    assert await fleet.step() == [RETURNING, WAITING]
    restarts = await fleet.bench.get(Host, "host-0")
    await fleet.bench.put(replace(restarts, state=HostState.down, silent=fleet.bench.time))
    await fleet.bench.put(replace(await fleet.now(), at_once=2))
    assert await fleet.step() == [RETURNING, RETURNING]


async def test_a_host_that_is_activated_meanwhile_is_not_changed(fleet: Fleet, make: Any) -> None:
    """What was placed there since would go down with it."""
    await fleet.bench.put(make.instance(state=InstanceState.running))
    await fleet.begin("host-0", evacuate=True)
    assert await fleet.step() == [LEAVING]
    await fleet.bench.put(replace(await fleet.bench.get(Host, "host-0"), draining=False))
    assert await fleet.step() == [FAILED]
    assert "somebody activated host host-0" in (await fleet.now()).message
    assert not fleet.called


async def test_some_at_once(fleet: Fleet) -> None:
    await fleet.begin("host-0", "host-1", "host-2", at_once=2)
    assert await fleet.step() == [RETURNING, RETURNING, WAITING]
    fleet.report("host-1", started=9.0)
    assert await fleet.step() == [RETURNING, DONE, RETURNING]


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"started": 1.0}, "its agent has not ended yet"),
        ({"revision": 0}, "has not taken in"),
        ({"uplink_down": True}, "its uplink is down"),
        ({"problems": ("its disk is broken",)}, "its disk is broken"),
        ({"warden": WardenReport(permitted=False, message="given up")}, "given up"),
    ],
)
async def test_it_stops_at_a_host_that_does_not_come_back(
    fleet: Fleet, said: dict[str, Any], why: str
) -> None:
    fleet.deaf = True
    await fleet.begin("host-0", "host-1")
    await fleet.step()
    fleet.report("host-0", **{"started": 9.0, **said})
    assert await fleet.step() == [RETURNING, WAITING]
    fleet.bench.time += 61
    assert await fleet.step() == [FAILED, WAITING]
    ended = await fleet.now()
    assert ended.state is UpgradeState.failed
    assert why in ended.message
    assert await fleet.step() == [FAILED, WAITING]


async def test_what_was_amiss_before_is_no_reason(fleet: Fleet) -> None:
    fleet.report("host-0", started=1.0, problems=("its disk is old",))
    await fleet.begin("host-0")
    await fleet.step()
    fleet.report("host-0", started=9.0, problems=("its disk is old",))
    assert await fleet.step() == [DONE]


async def test_hosts_that_can_not_be_begun(fleet: Fleet, make: Any) -> None:
    await fleet.bench.put(make.host("host-9"))
    fleet.report("host-9", started=0.0, version="")
    await fleet.begin("host-9", "host-0")
    assert await fleet.step() == [FAILED, WAITING]
    assert "gureum down --keep-guests" in (await fleet.now()).message


async def test_a_host_is_emptied_changed_and_used_again(fleet: Fleet, make: Any) -> None:
    bench = fleet.bench
    await bench.put(make.instance(state=InstanceState.running, host="host-0"))
    await fleet.begin("host-0", "host-1", evacuate=True, reboots=True)
    for _ in range(2):
        assert await fleet.step() == [LEAVING, WAITING]
    assert (await bench.get(Host, "host-0")).draining
    assert (await fleet.now()).hosts[0].message == "i-1 has not left host host-0"
    await bench.put(replace(await bench.get(Instance, "i-1"), host="host-1"))
    assert await fleet.step() == [CHANGING, WAITING]
    assert fleet.called == [("host-0", "192.0.2.0")]
    assert await fleet.step() == [RETURNING, WAITING]
    assert await fleet.step() == [RETURNING, WAITING]
    assert (await fleet.now()).hosts[0].message == "it was not restarted yet"
    await bench.put(replace(await bench.get(Host, "host-0"), boot_id="c"))
    assert await fleet.step() == [RETURNING, WAITING]
    fleet.report("host-0", started=9.0, boot_id="c")
    assert await fleet.step() == [DONE, LEAVING]
    assert not (await bench.get(Host, "host-0")).draining
    assert not fleet.asked, "the restart has ended its agent"
    assert fleet.called == [("host-0", "192.0.2.0")]


async def test_one_that_was_drained_before_stays_so(fleet: Fleet) -> None:
    bench = fleet.bench
    await bench.put(replace(await bench.get(Host, "host-0"), draining=True))
    await fleet.begin("host-0", evacuate=True)
    for started in (1.0, 1.0, 1.0, 9.0):
        fleet.report("host-0", started=started)
        await fleet.step()
    assert (await fleet.now()).state is UpgradeState.completed
    assert fleet.asked, "what is new on the host is for a new agent"
    assert (await bench.get(Host, "host-0")).draining


async def test_what_does_not_leave_is_named(fleet: Fleet, make: Any) -> None:
    await fleet.bench.put(
        make.instance(state=InstanceState.running, host="host-0"), make.attached(multi_attach=True)
    )
    await fleet.begin("host-0", evacuate=True)
    await fleet.step()
    fleet.bench.time += 61
    assert await fleet.step() == [FAILED]
    message = (await fleet.now()).message
    assert "i-1 has not left host host-0: vol-1 can be attached to several" in message
    assert (await fleet.bench.get(Host, "host-0")).draining, "for a person to look at"


async def test_the_command_fails(fleet: Fleet) -> None:
    fleet.error = "no network"
    await fleet.begin("host-0", "host-1", evacuate=True)
    for _ in range(2):
        await fleet.step()
    assert await fleet.step() == [FAILED, WAITING]
    assert "the command for host host-0 failed: no network" in (await fleet.now()).message


async def test_without_a_command_nothing_is_drained(fleet: Fleet) -> None:
    fleet.absent = "there is no command"
    await fleet.begin("host-0", evacuate=True)
    assert await fleet.step() == [FAILED]
    assert not (await fleet.bench.get(Host, "host-0")).draining


async def test_another_manager_goes_on_and_calls_the_command_again(fleet: Fleet) -> None:
    await fleet.begin("host-0", evacuate=True)
    await fleet.step()
    await fleet.step()
    assert len(fleet.called) == 1
    next_one = Fleet(fleet.bench)
    async with fleet.bench.store.read() as reader:
        await next_one.upgrades.load(reader)
    assert await next_one.step() == [CHANGING]
    assert len(next_one.called) == 1
    assert await next_one.step() == [RETURNING]


async def test_cancelled(fleet: Fleet) -> None:
    bench = fleet.bench
    await fleet.begin("host-0", "host-1", evacuate=True)
    await fleet.step()
    await bench.store.transact(lambda tx: _cancel(tx, bench))
    assert not (await bench.get(Host, "host-0")).draining
    assert await fleet.step() == [LEAVING, WAITING]
    assert (await fleet.now()).state is UpgradeState.cancelled


@pytest.mark.parametrize(
    ("step", "reboots", "stays"),
    [
        (CHANGING, False, "activate host host-0 when its command has ended (gureum host activate host-0)"),
        (RETURNING, True, "activate host host-0 when it has restarted (gureum host activate host-0)"),
        (RETURNING, False, ""),
    ],
)
async def test_cancelled_with_the_command_on_its_way(
    fleet: Fleet, step: UpgradeStep, reboots: bool, stays: str
) -> None:
    bench = fleet.bench
    await fleet.begin("host-0", evacuate=True, reboots=reboots)
    while await fleet.step() != [step]:
        pass
    await bench.store.transact(lambda tx: _cancel(tx, bench))
    assert (await bench.get(Host, "host-0")).draining == bool(stays)
    [each] = (await fleet.now()).hosts
    assert stays in each.message
    assert bool(each.message) == bool(stays)


async def test_cancelled_what_was_drained_before_is_not_spoken_of(fleet: Fleet) -> None:
    bench = fleet.bench
    await bench.put(replace(await bench.get(Host, "host-0"), draining=True))
    await fleet.begin("host-0", evacuate=True)
    while await fleet.step() != [CHANGING]:
        pass
    await bench.store.transact(lambda tx: _cancel(tx, bench))
    assert (await bench.get(Host, "host-0")).draining
    assert (await fleet.now()).hosts[0].message == ""


async def test_a_cancelled_upgrade_s_command_has_its_host_to_itself(fleet: Fleet) -> None:
    """The next upgrade calls it when it has ended."""
    bench, fleet.gate = fleet.bench, asyncio.Event()
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        await fleet.begin("host-0", evacuate=True)
        while not fleet.called:
            await fleet.upgrades.step(group)
            await asyncio.sleep(0)
        await bench.store.transact(lambda tx: _cancel(tx, bench))
        fleet.upgrades.changed(Change(0, Upgrade.kind, "upg-1", None))
        hosts = (HostUpgrade(host="host-0"),)
        await bench.put(Upgrade(id="upg-2", hosts=hosts, evacuate=True, began=0.0, wait_seconds=60.0))
        async with bench.store.read() as reader:
            await fleet.upgrades.load(reader)
        while (await bench.get(Upgrade, "upg-2")).hosts[0].step is not CHANGING:
            await fleet.upgrades.step(group)
        for _ in range(10):
            await asyncio.sleep(0)
        assert len(fleet.called) == 1
        fleet.gate.set()
        while len(fleet.called) == 1:
            await fleet.upgrades.step(group)
            await asyncio.sleep(0)


async def test_a_conflict_does_not_call_the_command_again(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The transaction that takes in how it ended is done once more."""
    await fleet.begin("host-0", evacuate=True)
    while await fleet.step() != [CHANGING]:
        pass
    transact, tried = fleet.bench.store.transact, []

    async def conflicts(work: Any, **values: Any) -> Any:
        async def once_more(tx: Any) -> Any:
            done = await work(tx)
            tried.append(done)
            if len(tried) == 1:
                raise Conflict("somebody else was first")
            return done

        return await transact(once_more, **values)

    monkeypatch.setattr(fleet.bench.store, "transact", conflicts)
    assert await fleet.step() == [RETURNING]
    assert len(tried) == 2
    assert len(fleet.called) == 1


async def _cancel(tx: Any, bench: Any) -> None:
    await cancel(tx, bench.env, await tx.get(Upgrade, "upg-1"))


async def test_a_host_that_is_down_is_waited_for(fleet: Fleet) -> None:
    bench = fleet.bench
    await fleet.begin("host-0")
    await fleet.step()
    fleet.report("host-0", started=9.0)
    await bench.put(replace(await bench.get(Host, "host-0"), state=HostState.down))
    assert await fleet.step() == [RETURNING]
    await bench.put(replace(await bench.get(Host, "host-0"), state=HostState.up))
    assert await fleet.step() == [DONE]
