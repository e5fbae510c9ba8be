"""Machines on their way with disks that each host has for itself: the fake's and QEMU's."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from gureum.env import Env
from gureum.errors import HypervisorError
from gureum.hostspec import MachineState
from gureum.hypervisors import messages
from gureum.hypervisors.base import Disk, MachineConfig
from gureum.hypervisors.qemu.hypervisor import QemuHypervisor
from gureum.migrationspec import MigrationPhase
from gureum.san.base import FileDisk, Layer
from gureum.san.luks import LUKS_HEADER_BYTES, luks_header

from .guest import ID, MIB, bare, disk, qcow2, raw_disk, until, volume
from .pair import Pair
from .test_crash import agent_dies

SLOW = 1 << 20
"""Bytes a second: the copy takes some seconds."""
KEY = bytes(range(64))
BOTH = (volume(0), volume(1))
Make = Callable[[str], MachineConfig]


def noise(path: Path, size_bytes: int, offset: int = 0) -> None:
    with open(path, "r+b") as file, open("/dev/urandom", "rb") as source:
        file.seek(offset)
        file.write(source.read(size_bytes))


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A machine with a disk of layers and an encrypted one, in the files of the host of this name."""

    def make(host: str) -> MachineConfig:
        directory = tmp_path / f"disks-{host}"
        directory.mkdir()
        layers: tuple[Layer, ...] = (qcow2(directory / "top.qcow2", 8 * MIB),)
        if host == "source":
            below = raw_disk(directory / "below.raw", 8 * MIB)
            noise(directory / "below.raw", 2 * MIB, MIB)
            layers += below.layers
        second = raw_disk(directory / "second.raw", 4 * MIB + LUKS_HEADER_BYTES)
        with open(directory / "second.raw", "r+b") as file:
            file.write(luks_header(KEY))
        if host == "source":
            noise(directory / "second.raw", MIB, LUKS_HEADER_BYTES)
        secret: Disk = replace(disk(1, second), key=KEY)
        return bare(ID, disk(0, FileDisk(layers=layers)), secret)

    return make


def content(config: MachineConfig, index: int) -> bytes:
    """What a disk contains, of a machine that is off."""
    source = config.disks[index].source
    assert isinstance(source, FileDisk)
    if index:
        return Path(source.layers[0].path).read_bytes()
    if len(source.layers) > 1:
        top, below = source.layers
        command = ["qemu-img", "rebase", "-u", "-f", "qcow2", "-b", below.path, "-F", below.format, top.path]
        subprocess.run(command, check=True)
    flat = Path(source.layers[0].path).with_suffix(".flat")
    subprocess.run(["qemu-img", "convert", "-O", "raw", source.layers[0].path, flat], check=True)
    return flat.read_bytes()


async def test_there_with_its_disks(pair: Pair, make: Make) -> None:
    source, destination = make("source"), make("destination")
    await pair.source.start(source)
    done = await pair.move(replace(destination, generation=2), copies=BOTH)
    assert done.disk_done_bytes == done.disk_total_bytes > 0
    status = pair.source.machines()[ID]
    assert (status.state, status.disks, status.migration) == (MachineState.running, BOTH, None)
    await pair.source.resize_disk(ID, volume(0), 9 * MIB)
    await pair.restart()
    assert pair.source.machines()[ID].state is MachineState.running
    await pair.source.power_off(ID)
    if pair.source.accelerator != "fake":
        assert content(source, 1) == content(destination, 1)
        assert content(source, 0) == content(destination, 0)[: 8 * MIB]


async def test_found_again_at_every_step(pair: Pair, make: Make) -> None:
    source, destination = make("source"), make("destination")
    await pair.source.start(source)
    outgoing = await pair.prepare(replace(destination, generation=2), copies=BOTH)
    await pair.restart()
    waiting = pair.migration(pair.destination)
    assert (waiting.address, waiting.disks_address) == (outgoing.address, outgoing.disks_address)
    await pair.source.migrate(ID, replace(outgoing, bytes_per_second=SLOW))
    await pair.restart()
    assert pair.migration(pair.source).phase is MigrationPhase.copying
    await pair.source.migrate(ID, outgoing)
    assert (await pair.ended(pair.source)).phase is MigrationPhase.completed
    assert (await pair.ended(pair.destination)).phase is MigrationPhase.completed
    await pair.restart()
    ended = pair.migration(pair.source)
    assert (ended.phase, ended.copied) == (MigrationPhase.completed, BOTH)
    await pair.destination.go_on(ID)
    await pair.restart()
    assert pair.destination.machines()[ID].state is MachineState.running
    assert pair.source.machines()[ID].state is MachineState.paused


async def test_cancelled_while_disks_are_copied(pair: Pair, make: Make) -> None:
    source, destination = make("source"), make("destination")
    await pair.source.start(source)
    outgoing = await pair.prepare(replace(destination, generation=2), copies=BOTH)
    await pair.source.migrate(ID, replace(outgoing, bytes_per_second=SLOW))
    with pytest.raises(HypervisorError, match=r"on its way|between"):
        await pair.source.detach_disk(ID, volume(1))
    await pair.source.cancel_migration(ID)
    migration = pair.migration(pair.source)
    assert (migration.phase, migration.error, migration.copied) == (
        MigrationPhase.failed,
        messages.CANCELLED,
        (),
    )
    assert pair.source.machines()[ID].state is MachineState.running
    await pair.destination.remove(ID)
    await pair.source.migrate(ID, outgoing)  # that attempt is over
    assert pair.migration(pair.source).phase is MigrationPhase.failed
    await pair.move(replace(destination, generation=3), copies=BOTH)


async def test_destination_is_removed_while_disks_are_copied(pair: Pair, make: Make) -> None:
    await pair.source.start(make("source"))
    config = replace(make("destination"), generation=2)
    outgoing = await pair.prepare(config, copies=BOTH)
    await pair.source.migrate(ID, replace(outgoing, bytes_per_second=SLOW))
    await asyncio.sleep(0.1)
    await pair.destination.remove(ID)
    ended = await pair.ended(pair.source)
    assert (ended.phase, ended.copied) == (MigrationPhase.failed, ())
    assert pair.source.machines()[ID].state is MachineState.running
    await pair.move(replace(config, generation=3), copies=BOTH)


async def test_stays_after_all(pair: Pair, make: Make) -> None:
    """All of it is there, and the manager decides otherwise."""
    await pair.source.start(make("source"))
    config = replace(make("destination"), generation=2)
    await pair.source.migrate(ID, await pair.prepare(config, copies=BOTH))
    assert (await pair.ended(pair.source)).copied == BOTH
    await pair.destination.remove(ID)
    await pair.source.go_on(ID)
    assert pair.source.machines()[ID].state is MachineState.running
    await pair.restart()
    await pair.move(replace(config, generation=3), copies=BOTH)


async def test_nobody_takes_the_disks(pair: Pair, make: Make) -> None:
    await pair.source.start(make("source"))
    outgoing = await pair.prepare(replace(make("destination"), generation=2), copies=BOTH)
    with pytest.raises(HypervisorError, match="connection"):
        await pair.source.migrate(ID, replace(outgoing, disks_address="127.0.0.1:1"))
    assert pair.source.machines()[ID].state is MachineState.running
    with pytest.raises(HypervisorError):
        await pair.source.migrate(ID, replace(outgoing, secret=bytes(32)))
    assert pair.source.machines()[ID].state is MachineState.running
    await until(lambda: pair.source.machines()[ID].mirrors == {})
    await pair.source.migrate(ID, outgoing)
    assert (await pair.ended(pair.source)).copied == BOTH


@pytest.fixture
async def qemus(run_dir: Path, other_run_dir: Path) -> AsyncIterator[Pair]:
    pair = Pair((lambda: QemuHypervisor(Env(), run_dir), lambda: QemuHypervisor(Env(), other_run_dir)))
    await pair.recover()
    yield pair
    await pair.close()


@pytest.mark.qemu
@pytest.mark.root
@pytest.mark.parametrize("point", ["qemu.copies.begun", "qemu.copies.ended"])
async def test_the_sources_agent_is_killed(qemus: Pair, run_dir: Path, make: Make, point: str) -> None:
    """Where disks are on their way, and where the guest is held and all of them are there."""
    source, destination = make("source"), make("destination")
    await qemus.source.start(source)
    outgoing = await qemus.prepare(replace(destination, generation=2), copies=BOTH)
    await qemus.source.close()
    await asyncio.to_thread(agent_dies, run_dir, point, ("migrate", [ID, outgoing]))
    await qemus.restart(0)
    assert qemus.migration(qemus.source).phase is MigrationPhase.copying
    assert qemus.destination.machines()[ID].state is MachineState.starting
    await qemus.source.migrate(ID, outgoing)
    ended = await qemus.ended(qemus.source)
    assert (ended.phase, ended.copied) == (MigrationPhase.completed, BOTH)
    await qemus.ended(qemus.destination)
    await qemus.destination.go_on(ID)
    assert qemus.destination.machines()[ID].state is MachineState.running
    for host in (qemus.source, qemus.destination):
        await host.power_off(ID)
    assert content(source, 1) == content(destination, 1)
    assert content(source, 0) == content(destination, 0)


@pytest.mark.qemu
@pytest.mark.root
async def test_a_destination_that_hangs_does_not_keep_the_guest(qemus: Pair, make: Make) -> None:
    await qemus.source.start(make("source"))
    config = replace(make("destination"), generation=2)
    outgoing = await qemus.prepare(config, copies=BOTH)
    await qemus.source.migrate(ID, replace(outgoing, bytes_per_second=SLOW))
    assert isinstance(qemus.destination, QemuHypervisor)
    pid = qemus.destination.process_id(ID)
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    await asyncio.sleep(2)
    await qemus.source.cancel_migration(ID)
    assert qemus.migration(qemus.source).phase is MigrationPhase.failed
    assert qemus.source.machines()[ID].state is MachineState.running
    await qemus.source.resize_disk(ID, volume(0), 9 * MIB)
    os.kill(pid, signal.SIGCONT)
    await qemus.destination.remove(ID)
