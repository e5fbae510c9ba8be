"""What passes between the two hosts of a migration, and what happens if it does not pass."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from msgspec.structs import replace

from gureum.env import Env
from gureum.hostspec import MachineState
from gureum.hypervisors.qemu import migrating
from gureum.hypervisors.qemu.channel import CHALLENGE_BYTES, PROOF_BYTES, connect, parse_address
from gureum.hypervisors.qemu.hypervisor import QemuHypervisor
from gureum.migrationspec import MigrationPhase

from .guest import ID, MIB, GuestFiles, bare, booted, linux, shell, until
from .pair import SECRET, Pair

pytestmark = [pytest.mark.qemu, pytest.mark.root]

TLS_HANDSHAKE = b"\x16\x03"


@pytest.fixture
async def pair(run_dir: Path, other_run_dir: Path) -> AsyncIterator[Pair]:
    pair = Pair((lambda: QemuHypervisor(Env(), run_dir), lambda: QemuHypervisor(Env(), other_run_dir)))
    await pair.recover()
    yield pair
    await pair.close()


class Wire:
    """Between the hosts: keeps what the source sends, and can be cut."""

    def __init__(self) -> None:
        self.address = ""
        self.sent = b""
        self.writers: list[asyncio.StreamWriter] = []

    def cut(self) -> None:
        for writer in self.writers:
            writer.transport.abort()


@asynccontextmanager
async def wire_to(address: str) -> AsyncIterator[Wire]:
    wire = Wire()
    tasks: set[asyncio.Task[None]] = set()

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, keeps: bool) -> None:
        try:
            while data := await reader.read(1 << 16):
                wire.sent += data if keeps else b""
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def come(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(*parse_address(address))
        wire.writers += [writer, back]
        for way in (pass_on(reader, back, True), pass_on(there, writer, False)):
            tasks.add(asyncio.create_task(way))

    server = await asyncio.start_server(come, "127.0.0.1", 0)
    wire.address = "127.0.0.1:" + str(server.sockets[0].getsockname()[1])
    yield wire
    server.close()
    wire.cut()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_nobody_can_read_it(pair: Pair) -> None:
    await pair.source.start(bare(ID))
    outgoing = await pair.prepare(bare(ID, generation=2))
    async with wire_to(outgoing.address) as wire:
        await pair.source.migrate(ID, replace(outgoing, address=wire.address))
        assert (await pair.ended(pair.source)).phase is MigrationPhase.completed
        assert (await pair.ended(pair.destination)).phase is MigrationPhase.completed
        data = wire.sent[CHALLENGE_BYTES + PROOF_BYTES :]
    assert data.startswith(TLS_HANDSHAKE)
    assert len(data) > 100_000
    for text in (b"SeaBIOS", b"pc.ram", SECRET):
        assert text not in wire.sent


async def test_the_wire_is_cut(pair: Pair) -> None:
    await pair.source.start(bare(ID))
    outgoing = replace(await pair.prepare(bare(ID, generation=2)), bytes_per_second=1)
    async with wire_to(outgoing.address) as wire:
        await pair.source.migrate(ID, replace(outgoing, address=wire.address))
        await asyncio.sleep(0.3)
        wire.cut()
        assert (await pair.ended(pair.source)).phase is MigrationPhase.failed
    assert pair.migration(pair.source).error not in ("", "QEMU does not say why")
    assert pair.source.machines()[ID].state is MachineState.running
    await until(lambda: pair.destination.machines()[ID].state is MachineState.crashed)


async def test_who_connects_and_does_not_begin(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """The source's agent died just then. The destination is not there for another try of this attempt."""
    monkeypatch.setattr(migrating, "BEGIN_SECONDS", 1.0)
    await pair.source.start(bare(ID))
    outgoing = await pair.prepare(bare(ID, generation=2))
    (await connect(outgoing.address, SECRET, outgoing.migration)).close()
    await until(lambda: pair.destination.machines()[ID].state is MachineState.crashed)
    assert pair.migration(pair.destination).phase is MigrationPhase.failed
    monkeypatch.undo()
    await pair.move(bare(ID, generation=3))


async def test_a_destination_that_hangs_is_given_up(pair: Pair) -> None:
    assert isinstance(pair.destination, QemuHypervisor)
    await pair.source.start(bare(ID))
    outgoing = replace(await pair.prepare(bare(ID, generation=2)), bytes_per_second=1 << 17)
    await pair.source.migrate(ID, outgoing)
    pid = pair.destination.process_id(ID)
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    await asyncio.sleep(2)
    assert pair.migration(pair.source).phase is MigrationPhase.copying
    await pair.source.cancel_migration(ID)
    assert pair.migration(pair.source).phase is MigrationPhase.failed
    assert pair.source.machines()[ID].state is MachineState.running
    os.kill(pid, signal.SIGCONT)
    await until(lambda: pair.destination.machines()[ID].state is MachineState.crashed)


async def test_a_guest_that_writes_faster_than_is_copied(pair: Pair, guest_files: GuestFiles) -> None:
    config = linux(guest_files, ID)
    await pair.source.start(config)
    await booted(pair.source, ID)
    async with shell(pair.source, ID) as console:
        await console.run("mount -t tmpfs none /sys/fs/cgroup; cd /sys/fs/cgroup; ( while :; do"
            " dd if=/dev/zero of=x bs=1M count=48 conv=notrunc 2>/dev/null; done ) &")  # fmt: skip
    await pair.move(replace(config, generation=2), bytes_per_second=24 * MIB)
    async with shell(pair.source, ID) as console:
        await console.run("echo here")


async def test_what_once_came_has_not_gone(pair: Pair) -> None:
    """The agent died when it was about to begin: QEMU says "completed", of how the machine has come."""
    assert isinstance(pair.source, QemuHypervisor)
    await pair.source.start(bare(ID))
    await pair.move(bare(ID, generation=2))
    machine = pair.source._machines[ID]
    await machine.save(migration="mig-9")
    await machine.monitor().execute("stop")
    await pair.restart(0)
    assert pair.migration(pair.source).phase is MigrationPhase.failed
    await pair.source.resume(ID)
    await until(lambda: pair.source.machines()[ID].state is MachineState.running)
