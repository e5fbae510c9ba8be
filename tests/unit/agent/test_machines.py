from __future__ import annotations

import asyncio
from typing import Any

import pytest
from msgspec.structs import replace

from gureum.errors import HypervisorError, NetworkError, PoolError
from gureum.hostspec import MachineState, NetworkSpec, NicSpec
from gureum.hypervisors.base import MachineConfig, Migration
from gureum.hypervisors.fake import FakeHypervisor
from gureum.migrationspec import IncomingSpec, MachineLayout, MigrationPhase
from gureum.network.base import PortsMade, ignore
from gureum.network.fake import FakeNetwork
from gureum.san.fake import FakePool


def test_a_machine_starts_once_its_disks_and_ports_are_there(parts: Any) -> None:
    async def test(lab: Any) -> None:
        await lab.take(parts.machine(), network=NetworkSpec())
        assert lab.seen().state is MachineState.starting
        assert not lab.machines.running()
        await lab.take(parts.machine(), parts.volume(source="ami-1"))
        assert lab.machines.running() == {"i-1": 1}
        seen = lab.seen()
        assert (seen.state, seen.disks, seen.revision) == (MachineState.running, ("vol-1",), lab.revision)

    parts.on_lab(test)


def test_a_polite_stop_waits_for_the_guest_and_not_for_ever(parts: Any) -> None:
    async def test(lab: Any) -> None:
        await lab.take(parts.machine(), parts.volume())
        lab.machines.ignore_power_button("i-1")
        off = parts.machine(run=False, shutdown_seconds=20.0)
        await lab.take(off, parts.volume(), seconds=15)
        assert lab.machines.running()
        assert lab.seen().revision < lab.revision
        lab.skew = -3600.0
        await asyncio.sleep(10)
        assert not lab.machines.running()
        assert (lab.seen().state, lab.seen().revision) == (MachineState.off, lab.revision)

    parts.on_lab(test)


def test_a_stop_ends_what_is_on_its_way_though_its_hypervisor_does_not_answer(
    parts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def silent(self: FakeHypervisor, id: str) -> None:
        await asyncio.sleep(10)
        raise HypervisorError(f"{id}: no answer in 10 s")

    monkeypatch.setattr(FakeHypervisor, "cancel_migration", silent)
    monkeypatch.setattr(FakeHypervisor, "press_power_button", silent)

    async def test(lab: Any) -> None:
        await lab.take(parts.machine(), parts.volume())
        lab.machines.machines["i-1"].migration = Migration(
            migration="mig-1", incoming=False, phase=MigrationPhase.copying
        )
        off = parts.machine(run=False, shutdown_seconds=20.0)
        await lab.take(off, parts.volume(), seconds=15)
        assert lab.machines.running()
        await asyncio.sleep(60)
        assert not lab.machines.running()
        assert (lab.seen().state, lab.seen().revision) == (MachineState.off, lab.revision)

    parts.on_lab(test)


def test_an_older_generation_is_ended_before_a_newer_starts(parts: Any) -> None:
    async def test(lab: Any) -> None:
        await lab.take(parts.machine(), parts.volume())
        await lab.take(parts.machine(generation=2), parts.volume())
        assert lab.machines.running() == {"i-1": 2}

    parts.on_lab(test)


def test_what_no_spec_mentions_is_removed_by_a_fresh_spec_only(parts: Any) -> None:
    async def test(lab: Any) -> None:
        await lab.take(parts.machine(), parts.volume())
        await lab.stop()
        lab.start()
        await asyncio.sleep(30)
        assert lab.machines.running() == {"i-1": 1}
        assert lab.agent.report().machines == ()
        await lab.take(parts.volume())
        assert not lab.machines.running()
        assert "vol-1" in lab.disk.volumes()

    parts.on_lab(test)


def test_a_start_that_fails_is_reported_and_not_repeated(parts: Any) -> None:
    async def test(lab: Any) -> None:
        lab.machines.fail_start("i-1", "no memory")
        await lab.take(parts.machine(), parts.volume())
        seen = lab.seen()
        assert (seen.state, seen.generation, seen.revision) == (MachineState.crashed, 1, lab.revision)
        assert "no memory" in seen.message
        lab.machines.fail_start("i-1", "")
        await asyncio.sleep(30)
        assert not lab.machines.running()
        await lab.take(parts.machine(generation=2), parts.volume())
        assert lab.machines.running() == {"i-1": 2}

    parts.on_lab(test)


def test_after_a_power_cut_the_same_generation_starts_again(parts: Any) -> None:
    async def test(lab: Any) -> None:
        await lab.take(parts.machine(), parts.volume())
        lab.machines.reboot_host()
        await asyncio.sleep(3)
        assert lab.machines.running() == {"i-1": 1}

    parts.on_lab(test)


def test_a_guest_that_shut_down_or_died_stays_so(parts: Any) -> None:
    async def test(lab: Any) -> None:
        await lab.take(parts.machine(), parts.volume())
        lab.machines.guest_shutdown("i-1")
        await asyncio.sleep(10)
        assert lab.seen().state is MachineState.shutdown
        lab.machines.crash("i-1")
        await asyncio.sleep(10)
        assert not lab.machines.running()

    parts.on_lab(test)


def test_reboots_are_done_once_each(parts: Any) -> None:
    async def test(lab: Any) -> None:
        await lab.take(parts.machine(), parts.volume())
        await lab.take(parts.machine(reboots=1), parts.volume(), seconds=40)
        assert lab.machines.machines["i-1"].console.count(b"reset") == 1
        assert (lab.seen().state, lab.seen().reboots) == (MachineState.running, 1)

    parts.on_lab(test)


def test_disks_come_and_go_while_it_runs(parts: Any) -> None:
    async def test(lab: Any) -> None:
        volumes = (parts.volume(), parts.volume("vol-2"))
        await lab.take(parts.machine(), *volumes)
        await lab.take(parts.machine(volumes=("vol-1", "vol-2")), *volumes)
        assert lab.seen().disks == ("vol-1", "vol-2")
        lab.machines.ignore_detach("i-1")
        await lab.take(parts.machine(), *volumes, seconds=20)
        assert lab.seen().disks == ("vol-1", "vol-2")
        assert lab.seen().revision < lab.revision
        await lab.take(parts.machine(force_detach=("vol-2",)), *volumes)
        assert (lab.seen().disks, lab.seen().revision) == (("vol-1",), lab.revision)

    parts.on_lab(test)


def test_interfaces_come_and_go_while_it_runs(parts: Any) -> None:
    async def test(lab: Any) -> None:
        first, second = (
            NicSpec(interface=f"eni-{n}", mac=f"02:00:00:00:00:0{n}", index=n - 1) for n in (1, 2)
        )
        both = parts.port()
        further = replace(both.ports[0], id="eni-2", mac=second.mac, private_ip="172.31.0.5")
        both = replace(both, ports=(*both.ports, further))
        await lab.take(parts.machine(), parts.volume())
        assert lab.seen().nics == ("eni-1",)
        # Its port is not there yet.
        await lab.take(parts.machine(nics=(first, second)), parts.volume())
        assert (lab.seen().nics, lab.seen().revision < lab.revision) == (("eni-1",), True)
        await lab.take(parts.machine(nics=(first, second)), parts.volume(), network=both)
        assert (lab.seen().nics, lab.seen().revision) == (("eni-1", "eni-2"), lab.revision)
        lab.machines.ignore_detach("i-1")
        await lab.take(parts.machine(), parts.volume(), seconds=20, network=both)
        assert (lab.seen().nics, lab.seen().revision < lab.revision) == (("eni-1", "eni-2"), True)
        gone = parts.machine(force_detach_nics=("eni-2",))
        await lab.take(gone, parts.volume(), network=both)
        assert (lab.seen().nics, lab.seen().revision) == (("eni-1",), lab.revision)

    parts.on_lab(test)


def test_a_guest_that_did_not_listen_is_asked_again(parts: Any) -> None:
    async def test(lab: Any) -> None:
        await lab.take(parts.machine(), parts.volume())
        lab.machines.ignore_detach("i-1")
        await lab.take(parts.machine(nics=()), parts.volume())
        lab.machines.ignore_detach("i-1", False)
        await asyncio.sleep(6)
        assert (lab.seen().nics, lab.seen().revision) == ((), lab.revision)

    parts.on_lab(test)


def test_machines_held_for_space_go_on_when_there_is_some(parts: Any) -> None:
    async def test(lab: Any) -> None:
        await lab.take(parts.machine(), parts.volume())
        lab.machines.fill_storage()
        await asyncio.sleep(1)
        assert lab.seen().state is MachineState.paused
        lab.machines.fill_storage(False)
        await asyncio.sleep(30)
        assert lab.seen().state is MachineState.running

    parts.on_lab(test)


def test_a_machine_does_not_start_over_lost_data(parts: Any) -> None:
    async def test(lab: Any) -> None:
        await lab.take(parts.machine(), parts.volume(made=True))
        assert lab.seen().state is MachineState.crashed
        assert "lost" in lab.seen().message
        assert "vol-1" not in lab.disk.volumes()

    parts.on_lab(test)


def test_it_is_not_started_when_it_is_not_wanted_any_more(parts: Any) -> None:
    started: list[MachineConfig] = []

    async def test(lab: Any) -> None:
        await lab.take(parts.volume())
        right = lab.agent.hypervisor.start

        async def start(config: MachineConfig) -> None:
            started.append(config)
            await right(config)

        lab.agent.hypervisor.start = start
        async with lab.agent.disks.opened("i-1", ["vol-1"]):
            await lab.take(parts.machine(), parts.volume())
            await lab.take(parts.machine(run=False), parts.volume(), seconds=0.1)
        await asyncio.sleep(3)
        assert lab.seen().state is MachineState.off

    parts.on_lab(test)
    assert started == []


@pytest.mark.parametrize(
    ("where", "what", "error"),
    [
        (FakePool, "open_volume", PoolError("input/output error")),
        (FakeNetwork, "open_port", NetworkError("no tap just now")),
    ],
)
def test_a_start_waits_for_a_pool_or_network_that_fails_for_a_moment(
    parts: Any, monkeypatch: Any, where: type, what: str, error: Exception
) -> None:
    right = getattr(where, what)
    failures = 3

    async def failing(*arguments: Any) -> Any:
        nonlocal failures
        failures -= 1
        if failures >= 0:
            raise error
        return await right(*arguments)

    async def test(lab: Any) -> None:
        monkeypatch.setattr(where, what, failing)
        await lab.take(parts.machine(), parts.volume(), seconds=1)
        assert lab.seen().state is MachineState.starting
        await asyncio.sleep(5)
        assert lab.seen().state is MachineState.running

    parts.on_lab(test)


def test_a_start_over_a_broken_pool_fails_in_the_end(parts: Any, monkeypatch: Any) -> None:
    async def broken(*_: Any) -> Any:
        raise PoolError("input/output error")

    async def test(lab: Any) -> None:
        monkeypatch.setattr(FakePool, "open_volume", broken)
        await lab.take(parts.machine(), parts.volume(), seconds=10)
        assert lab.seen().state is MachineState.starting
        await asyncio.sleep(20)
        assert lab.seen().state is MachineState.crashed
        assert "input/output error" in lab.seen().message
        monkeypatch.undo()
        await lab.take(parts.machine(generation=2), parts.volume())
        assert lab.machines.running() == {"i-1": 2}

    parts.on_lab(test)


def test_a_deaf_guest_that_is_being_stopped_is_terminated_soon(parts: Any) -> None:
    async def test(lab: Any) -> None:
        await lab.take(parts.machine(), parts.volume())
        lab.machines.ignore_power_button("i-1")
        await lab.take(parts.machine(run=False, shutdown_seconds=90.0), parts.volume(), seconds=30)
        assert lab.machines.running()
        await lab.take(parts.machine(run=False, shutdown_seconds=20.0), parts.volume(), seconds=1)
        assert not lab.machines.running()

    parts.on_lab(test)


ROOM = {"vcpus_max": 4, "memory_max_bytes": 4 << 30}


def test_a_machine_grows_and_shrinks_while_it_runs(parts: Any) -> None:
    async def test(lab: Any) -> None:
        await lab.take(parts.machine(**ROOM), parts.volume())
        assert (lab.seen().size.vcpus, lab.seen().size.vcpus_max) == (1, 4)
        for vcpus, gib in ((3, 2), (2, 1), (9, 9)):
            await lab.take(parts.machine(vcpus=vcpus, memory_bytes=gib << 30, **ROOM), parts.volume())
            await asyncio.sleep(5)
            size = lab.seen().size
            assert (size.vcpus, size.memory_bytes) == (min(vcpus, 4), min(gib, 4) << 30)
            assert lab.seen().revision == lab.revision
        assert lab.machines.running() == {"i-1": 1}

    parts.on_lab(test)


def test_a_guest_that_takes_nothing_keeps_nothing_else_from_being_done(parts: Any) -> None:
    async def test(lab: Any) -> None:
        await lab.take(parts.machine(**ROOM), parts.volume())
        lab.machines.ignore_detach("i-1")
        larger = {**ROOM, "memory_bytes": 2 << 30}
        await lab.take(parts.machine(**larger), parts.volume(), seconds=30)
        assert lab.seen().revision == lab.revision
        assert lab.seen().size.memory_bytes == 1 << 30
        both = parts.volume(), parts.volume("vol-2")
        await lab.take(parts.machine(volumes=("vol-1", "vol-2"), **larger), *both)
        assert lab.seen().disks == ("vol-1", "vol-2")
        lab.machines.ignore_detach("i-1", False)
        await asyncio.sleep(10)
        assert lab.seen().size.memory_bytes == 2 << 30

    parts.on_lab(test)


def test_an_agent_that_died_goes_on_with_it(parts: Any) -> None:
    async def test(lab: Any) -> None:
        await lab.take(parts.machine(**ROOM), parts.volume())
        lab.machines.ignore_detach("i-1")
        larger = parts.machine(memory_bytes=2 << 30, **ROOM)
        await lab.take(larger, parts.volume())
        await lab.stop()
        lab.machines.ignore_detach("i-1", False)
        lab.start()
        await lab.take(larger, parts.volume(), seconds=10)
        assert lab.seen().size.memory_bytes == 2 << 30

    parts.on_lab(test)


def test_a_machine_that_comes_starts_with_its_port_and_is_sent_once_all_of_the_network_is_there(
    parts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest of the network takes its time, and does not come about at first."""
    done = [False]

    async def apply(self: FakeNetwork, spec: NetworkSpec, made: PortsMade = ignore) -> None:
        await applied(self, spec, made)
        if not done[0]:
            await asyncio.sleep(5)
            raise NetworkError("the kernel is busy")

    async def test(lab: Any) -> None:
        network = parts.port()
        stands_by = replace(network, ports=(), standby=network.ports)
        cpu = lab.agent.hypervisor.cpu
        slots: dict[str, Any] = {"disks": {"vol-1": ("", 0)}, "nics": {"eni-1": ("", 0)}}
        layout = MachineLayout(type="", version="1", cpu=cpu, host_cpu=cpu, **slots)
        comes = parts.machine(incoming=IncomingSpec(migration="mig-1", secret=bytes(32), layout=layout))
        await lab.take(comes, parts.volume(), network=stands_by)
        told = lab.seen().migration
        assert lab.agent.hypervisor.machines()["i-1"].migration.address
        assert (told.phase, told.address) == (MigrationPhase.waiting, "")
        done[0] = True
        await asyncio.sleep(30)
        assert lab.seen().migration.address
        # One that does not come waits for all of it.
        done[0] = False
        await lab.take(parts.machine(id="i-2", volumes=("vol-2",)), parts.volume("vol-2"), network=network)
        assert "i-2" not in lab.agent.hypervisor.machines()

    applied = FakeNetwork.apply
    monkeypatch.setattr(FakeNetwork, "apply", apply)
    parts.on_lab(test)
