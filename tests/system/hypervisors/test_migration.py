"""Machines on their way from one host to another: the fake's and QEMU's."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from msgspec.structs import replace

from gureum.errors import HypervisorError
from gureum.hostspec import MachineState
from gureum.hypervisors import messages
from gureum.hypervisors.base import MachineConfig
from gureum.hypervisors.fake import FakeHypervisor
from gureum.hypervisors.fake_migration import FakeRoads
from gureum.hypervisors.qemu.hypervisor import QemuHypervisor
from gureum.hypervisors.qemu.migrating import Migrating
from gureum.migrationspec import MigrationPhase

from .guest import ID, MIB, bare, disk, raw_disk, volume
from .pair import Pair


@pytest.fixture
def config(tmp_path: Path) -> MachineConfig:
    return bare(ID, disk(0, raw_disk(tmp_path / "root.raw", MIB)))


async def test_with_a_model_it_goes_to_another_cpu(pair: Pair, config: MachineConfig) -> None:
    _let_cpus_differ(pair)
    await pair.source.start(config)
    with pytest.raises(HypervisorError, match="runs on a CPU"):
        await pair.prepare(replace(config, generation=2))
    await pair.source.remove(ID)
    with pytest.raises(HypervisorError, match="not offered"):
        await pair.source.start(replace(config, cpu="EPYC-Genoa"))
    config = replace(config, cpu="Nehalem", generation=2)
    await pair.source.start(config)
    layout = await pair.source.layout(ID)
    assert layout.model == "Nehalem"
    newer = replace(layout, model="EPYC-Genoa", cpu="EPYC-Genoa")
    with pytest.raises(HypervisorError, match="not offered"):
        await pair.prepare(replace(config, generation=3), newer)
    await pair.move(replace(config, generation=4))
    assert (await pair.source.layout(ID)).cpu == layout.cpu


def _let_cpus_differ(pair: Pair) -> None:
    for number, host in enumerate((pair.source, pair.destination)):
        if isinstance(host, QemuHypervisor):
            host._host_cpu = f"tcg {number}"
        elif isinstance(host, FakeHypervisor):
            host.host.cpu, host.host.cpu_models = f"fake {number}", ("Nehalem",)


async def test_there_and_back(pair: Pair, config: MachineConfig) -> None:
    await pair.source.start(replace(config, reboots=2))
    for generation in (2, 3):
        outgoing = await pair.prepare(replace(config, generation=generation, reboots=2))
        assert pair.destination.machines()[ID].state is MachineState.starting
        with pytest.raises(HypervisorError, match="not all of it"):
            await pair.destination.go_on(ID)
        await pair.destination.resume(ID)
        assert pair.destination.machines()[ID].state is MachineState.starting
        await pair.source.migrate(ID, outgoing)
        await pair.source.migrate(ID, outgoing)
        assert (await pair.ended(pair.source)).phase is MigrationPhase.completed
        assert (await pair.ended(pair.destination)).phase is MigrationPhase.completed
        held, comes = pair.source.machines()[ID], pair.destination.machines()[ID]
        assert (held.state, held.message) == (MachineState.paused, messages.MIGRATED)
        assert (comes.state, comes.generation) == (MachineState.starting, generation)
        await pair.source.resume(ID)
        with pytest.raises(HypervisorError, match="another host"):
            await pair.source.reset(ID, 3)
        assert pair.source.machines()[ID].state is MachineState.paused
        await pair.destination.go_on(ID)
        await pair.destination.go_on(ID)
        await pair.source.remove(ID)
        here = pair.destination.machines()[ID]
        assert (here.state, here.message, here.reboots) == (MachineState.running, "", 2)
        assert (here.migration, here.disks) == (None, (volume(0),))
        await pair.destination.resize_disk(ID, volume(0), (generation + 1) * MIB)
        pair.turn()


async def test_what_was_started_and_does_not_listen_yet_when_the_agent_ends_is_ended(
    pair: Pair, config: MachineConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no way that its guest could come by: nothing else would end it."""

    def dies(*_: object) -> None:
        raise asyncio.CancelledError

    await pair.source.start(config)
    with monkeypatch.context() as dying:
        dying.setattr(Migrating, "receive", dies)
        dying.setattr(FakeRoads, "wait", dies)
        with pytest.raises(asyncio.CancelledError):
            await pair.prepare(replace(config, generation=2))
    await pair.restart(1)
    ended = pair.destination.machines()[ID]
    assert (ended.state, ended.message) == (
        MachineState.crashed,
        messages.migration_failed(messages.NOT_TOLD),
    )
    await pair.destination.remove(ID)
    await pair.move(replace(config, generation=3))


async def test_found_again_at_every_step(pair: Pair, config: MachineConfig) -> None:
    await pair.source.start(config)
    outgoing = await pair.prepare(replace(config, generation=2))
    await pair.restart()
    waiting = pair.migration(pair.destination)
    assert (waiting.phase, waiting.address) == (MigrationPhase.waiting, outgoing.address)
    assert pair.destination.machines()[ID].state is MachineState.starting
    await pair.source.migrate(ID, outgoing)
    await pair.restart()
    for host in (pair.source, pair.destination):
        assert pair.migration(host).migration == outgoing.migration
    assert (await pair.ended(pair.source)).phase is MigrationPhase.completed
    assert (await pair.ended(pair.destination)).phase is MigrationPhase.completed
    before = pair.source.machines(), pair.destination.machines()
    states = [(host[ID].state, host[ID].message) for host in before]
    await pair.restart()
    after = pair.source.machines(), pair.destination.machines()
    assert [(host[ID].state, host[ID].message) for host in after] == states
    for host in (pair.source, pair.destination):
        assert pair.migration(host).phase is MigrationPhase.completed
    await pair.destination.go_on(ID)
    await pair.restart()
    assert pair.destination.machines()[ID].state is MachineState.running
    assert pair.destination.machines()[ID].migration is None
    await pair.source.power_off(ID)
    assert pair.source.machines()[ID].state is MachineState.off


async def test_cancelled(pair: Pair, config: MachineConfig) -> None:
    await pair.source.start(config)
    await pair.source.cancel_migration(ID)
    slow = replace(await pair.prepare(replace(config, generation=2)), bytes_per_second=1)
    await pair.source.migrate(ID, slow)
    with pytest.raises(HypervisorError, match="on its way"):
        await pair.source.detach_disk(ID, volume(0))
    with pytest.raises(HypervisorError, match="still being copied"):
        await pair.source.go_on(ID)
    await pair.source.cancel_migration(ID)
    await pair.source.cancel_migration(ID)
    migration = pair.migration(pair.source)
    assert (migration.phase, migration.error) == (MigrationPhase.failed, messages.CANCELLED)
    assert pair.source.machines()[ID].state is MachineState.running
    assert (await pair.ended(pair.destination)).phase is MigrationPhase.failed
    assert pair.destination.machines()[ID].state is MachineState.crashed
    await pair.source.migrate(ID, slow)  # that attempt is over
    assert pair.migration(pair.source).phase is MigrationPhase.failed
    done = await pair.move(replace(config, generation=2))
    assert done.migration != slow.migration


@pytest.mark.qemu
@pytest.mark.root
@pytest.mark.parametrize("pair", ["qemu"], indirect=True)
async def test_progress_counts_the_memory_that_there_is(pair: Pair, config: MachineConfig) -> None:
    """And not to what the machine could grow, which QEMU counts, too."""
    config = replace(config, memory_max_bytes=1024 * MIB, vcpus_max=1)
    await pair.source.start(config)
    slow = replace(await pair.prepare(replace(config, generation=2)), bytes_per_second=1 << 16)
    await pair.source.migrate(ID, slow)
    async with asyncio.timeout(60):
        while not (seen := pair.migration(pair.source)).passed_bytes_per_second:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    assert 64 * MIB <= seen.total_bytes < 128 * MIB
    assert 0 < seen.remaining_bytes <= seen.total_bytes
    await pair.source.cancel_migration(ID)


async def test_stays_after_all(pair: Pair, config: MachineConfig) -> None:
    await pair.source.start(config)
    await pair.source.migrate(ID, await pair.prepare(replace(config, generation=2)))
    assert (await pair.ended(pair.source)).phase is MigrationPhase.completed
    await pair.destination.remove(ID)
    await pair.source.go_on(ID)
    assert pair.source.machines()[ID].state is MachineState.running
    await pair.restart()
    status = pair.source.machines()[ID]
    assert (status.state, pair.migration(pair.source).phase) == (MachineState.running, MigrationPhase.failed)
    await pair.move(replace(config, generation=3))


async def test_nobody_listens(pair: Pair, config: MachineConfig) -> None:
    await pair.source.start(config)
    outgoing = await pair.prepare(replace(config, generation=2))
    with pytest.raises(HypervisorError, match=r"connection|secret"):
        await pair.source.migrate(ID, replace(outgoing, secret=bytes(32)))
    assert pair.source.machines()[ID].state is MachineState.running
    await pair.source.migrate(ID, outgoing)
    assert (await pair.ended(pair.source)).phase is MigrationPhase.completed
    await pair.source.go_on(ID)
    await pair.destination.remove(ID)
    with pytest.raises(HypervisorError, match="connection"):
        await pair.source.migrate(ID, replace(outgoing, migration="mig-9"))
    assert pair.source.machines()[ID].state is MachineState.running


async def test_another_machine_than_told(pair: Pair, config: MachineConfig, tmp_path: Path) -> None:
    await pair.source.start(config)
    second = disk(1, raw_disk(tmp_path / "second.raw", MIB))
    with pytest.raises(HypervisorError, match=f"only one of the two hosts knows of {volume(1)}"):
        await pair.prepare(replace(config, generation=2, disks=(*config.disks, second)))


async def test_destination_is_removed(pair: Pair, config: MachineConfig) -> None:
    await pair.source.start(config)
    outgoing = replace(await pair.prepare(replace(config, generation=2)), bytes_per_second=1)
    await pair.source.migrate(ID, outgoing)
    await asyncio.sleep(0.1)
    await pair.destination.remove(ID)
    assert (await pair.ended(pair.source)).phase is MigrationPhase.failed
    assert pair.source.machines()[ID].state is MachineState.running


async def test_console_follows(pair: Pair, config: MachineConfig) -> None:
    await pair.source.start(config)
    await pair.move(replace(config, generation=2))
    for _ in range(2):
        await pair.source.prepend_console(ID, b"before\n")
    assert (await pair.source.console(ID, 1 << 16)).startswith(b"before\n")
    assert (await pair.source.console(ID, 1 << 16)).count(b"before") == 1
