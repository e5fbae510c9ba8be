"""A guest on a storage cluster that moves, and what kills either end of it at any moment."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from gureum.env import Env
from gureum.hostspec import MachineState
from gureum.hypervisors.base import Hypervisor, MachineConfig
from gureum.hypervisors.qemu.hypervisor import QemuHypervisor
from gureum.migrationspec import MigrationPhase

from .guest import ID, MIB, GuestFiles, booted, disk, linux, shell, until
from .images import Images
from .pair import Pair, check_writes, start_writes

pytestmark = [pytest.mark.qemu, pytest.mark.root, pytest.mark.ceph]

KEY = bytes(range(64))


@pytest.fixture
async def pair(run_dir: Path, other_run_dir: Path) -> AsyncIterator[Pair]:
    pair = Pair((lambda: QemuHypervisor(Env(), run_dir), lambda: QemuHypervisor(Env(), other_run_dir)))
    await pair.recover()
    yield pair
    await pair.close()


@pytest.fixture
async def config(pair: Pair, images: Images, guest_files: GuestFiles) -> MachineConfig:
    """Of a guest that runs at the source and writes all the time; with an encrypted disk that came later."""
    config = linux(guest_files, ID, disk(0, images.create(16 * MIB)))
    await pair.source.start(config)
    await booted(pair.source, ID)
    encrypted = replace(disk(1, images.create(16 * MIB, KEY)), key=KEY)
    await pair.source.attach_disk(ID, encrypted)
    async with shell(pair.source, ID) as console:
        await console.run("while [ ! -e /dev/vdb ]; do sleep 0.1; done; dd if=/init of=/dev/vdb conv=fsync")
    await start_writes(pair)
    return replace(config, disks=(*config.disks, encrypted))


async def test_there_and_back(pair: Pair, config: MachineConfig) -> None:
    for generation in (2, 3, 4):
        await pair.move(replace(config, generation=generation))
        async with shell(pair.source, ID) as console:
            await console.run("echo 3 >/proc/sys/vm/drop_caches; n=$(wc -c </init)")
            await console.run('[ "$(head -c $n /dev/vdb | md5sum)" = "$(md5sum </init)" ]')
    await check_writes(pair)


def kill(host: Hypervisor) -> None:
    assert isinstance(host, QemuHypervisor)
    pid = host.process_id(ID)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


SLOW = 4 * MIB
Moment = Callable[[Pair, MachineConfig], Awaitable[None]]


async def waiting(pair: Pair, config: MachineConfig) -> None:
    await pair.prepare(config)


async def copying(pair: Pair, config: MachineConfig) -> None:
    await pair.source.migrate(ID, replace(await pair.prepare(config), bytes_per_second=SLOW))
    await asyncio.sleep(2)
    assert pair.migration(pair.source).phase is MigrationPhase.copying
    assert pair.migration(pair.source).remaining_bytes > 0


async def ending(pair: Pair, config: MachineConfig) -> None:
    """When the guest is just being held."""
    await pair.source.migrate(ID, replace(await pair.prepare(config), bytes_per_second=64 * MIB))
    held = MachineState.paused
    async with asyncio.timeout(60):
        while pair.source.machines()[ID].state is not held:  # noqa: ASYNC110
            await asyncio.sleep(0)


async def completed(pair: Pair, config: MachineConfig) -> None:
    await pair.source.migrate(ID, await pair.prepare(config))
    for host in (pair.source, pair.destination):
        assert (await pair.ended(host)).phase is MigrationPhase.completed


@pytest.mark.parametrize("moment", [waiting, copying, ending, completed])
async def test_destination_dies(pair: Pair, config: MachineConfig, moment: Moment) -> None:
    """The guest goes on at the source, by itself or as it is told."""
    await moment(pair, replace(config, generation=2))
    kill(pair.destination)
    await until(lambda: pair.destination.machines()[ID].state is MachineState.crashed)
    assert pair.migration(pair.destination).phase is MigrationPhase.failed
    if moment is not waiting and (await pair.ended(pair.source)).phase is MigrationPhase.completed:
        assert moment in (ending, completed)
        await pair.source.go_on(ID)
    await until(lambda: pair.source.machines()[ID].state is MachineState.running)
    await check_writes(pair)


@pytest.mark.parametrize("moment", [waiting, copying, ending, completed])
async def test_source_dies(pair: Pair, config: MachineConfig, moment: Moment) -> None:
    """What is not completed never goes on at the destination."""
    await moment(pair, replace(config, generation=2))
    kill(pair.source)
    await until(lambda: pair.source.machines()[ID].state is MachineState.crashed)
    phase = pair.migration(pair.destination).phase
    if phase is MigrationPhase.waiting:
        assert moment is waiting
        return
    phase = (await pair.ended(pair.destination)).phase
    if phase is MigrationPhase.completed:
        assert moment in (ending, completed)
        await pair.destination.go_on(ID)
        pair.turn()
        # The cluster waits for the other's librbd for half a minute, which holds its lock.
        async with shell(pair.source, ID) as console:
            await console.run("n=$(cat /count); while [ $(cat /count) -lt $((n + 3)) ]; do sleep 1; done")
        await check_writes(pair)
    else:
        await until(lambda: pair.destination.machines()[ID].state is MachineState.crashed)


async def test_cancelled_while_it_writes(pair: Pair, config: MachineConfig) -> None:
    for generation in (2, 3, 4):
        outgoing = await pair.prepare(replace(config, generation=generation))
        await pair.source.migrate(ID, replace(outgoing, bytes_per_second=SLOW))
        await asyncio.sleep(generation - 1.8)
        await pair.source.cancel_migration(ID)
        assert pair.migration(pair.source).phase is MigrationPhase.failed
        assert pair.source.machines()[ID].state is MachineState.running
        await until(lambda: pair.destination.machines()[ID].state is MachineState.crashed)
    await pair.move(replace(config, generation=5))
    await check_writes(pair)


async def test_agents_restart_while_it_copies(pair: Pair, config: MachineConfig) -> None:
    outgoing = await pair.prepare(replace(config, generation=2))
    await pair.source.migrate(ID, replace(outgoing, bytes_per_second=SLOW))
    for _ in range(3):
        await asyncio.sleep(0.5)
        await pair.restart()
        for host in (pair.source, pair.destination):
            assert pair.migration(host).phase is MigrationPhase.copying
    await pair.source.migrate(ID, outgoing)  # with no bound now
    assert (await pair.ended(pair.source)).phase is MigrationPhase.completed
    await pair.restart()
    await pair.destination.go_on(ID)
    await pair.source.remove(ID)
    pair.turn()
    await check_writes(pair)
