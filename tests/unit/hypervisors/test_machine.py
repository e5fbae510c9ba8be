"""What a machine remembers of its end, without a QEMU: a monitor that agrees to everything."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import random
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar, cast

import msgspec
import pytest

from gureum.env import Env
from gureum.errors import HypervisorError
from gureum.hostspec import MachineState
from gureum.hypervisors import messages
from gureum.hypervisors.base import Disk, MachineConfig
from gureum.hypervisors.qemu import guest_agent, plugging
from gureum.hypervisors.qemu.cgroup import Cgroups
from gureum.hypervisors.qemu.command import AGENT
from gureum.hypervisors.qemu.machine import QUIT_SECONDS, QUIT_SECONDS_HURRIED, Machine
from gureum.hypervisors.qemu.monitor import Monitor
from gureum.hypervisors.qemu.process import Process
from gureum.hypervisors.qemu.record import MachineFiles, Saved, boot_id
from gureum.san.base import FileDisk

CONFIG = MachineConfig(id="i-1", generation=1, vcpus=1, memory_bytes=2**29)


class AgreeingMonitor:
    """A QEMU whose guest runs, whatever it is told."""

    id = "i-1"

    async def execute(self, command: str, _arguments: object = None, seconds: float = 0.0) -> object:
        return {"status": "running"} if command == "query-status" else {}

    def close(self) -> None:
        """There is nothing to let go of."""


class HeldProcess:
    has_network = False

    def __init__(self) -> None:
        self.finished = asyncio.Event()
        self.finished.set()

    def close(self) -> None:
        """There is nothing to let go of."""


def running(tmp_path: Path, ended: MachineState | None = None, volumes: tuple[str, ...] = ()) -> Machine:
    files = MachineFiles(tmp_path, "i-1")
    files.create()
    saved = Saved(
        generation=1,
        machine_type="pc-q35-7.2",
        boot_id=boot_id(),
        uid=1,
        vmgenid="",
        volumes=volumes,
        ended=ended,
        message=messages.GUEST_SHUT_DOWN if ended else "",
    )
    files.save(saved)
    env = Env(time.time, random.Random(1), lambda _: None)
    machine = Machine(env, files, saved, Cgroups(tmp_path / "no-cgroups"), "tcg", lambda: None)
    machine._process = cast(Process, HeldProcess())
    machine._monitor = cast(Monitor, AgreeingMonitor())
    return machine


async def test_a_machine_reset_just_when_its_guest_shut_down_has_not_ended(tmp_path: Path) -> None:
    """Else its next crash would count as a shutdown by its guest, which may terminate an instance."""
    machine = running(tmp_path)
    machine.show(MachineState.running)
    machine._guest_shut_down()
    await machine.reset(1)
    await machine.close()
    kept = machine.files.load()
    assert kept is not None
    assert (machine.state, kept.ended, kept.reboots) == (MachineState.running, None, 1)


async def test_a_machine_found_running_has_not_ended_whatever_was_noted(tmp_path: Path) -> None:
    """An agent that was killed within a reset left the note."""
    machine = running(tmp_path, ended=MachineState.shutdown)
    await machine.refresh()
    await machine.close()
    kept = machine.files.load()
    assert kept is not None
    assert (machine.state, kept.ended, kept.message) == (MachineState.running, None, "")


class Reconnected(AgreeingMonitor):
    """Its list of disks comes when ``answers`` is set."""

    def __init__(self) -> None:
        self.answers = asyncio.Event()

    async def execute(self, command: str, arguments: object = None, seconds: float = 0.0) -> object:
        await self.answers.wait()
        return await super().execute(command, arguments, seconds)


def disk(volume: str, index: int) -> Disk:
    return Disk(volume=volume, index=index, source=FileDisk(layers=()))


async def test_while_its_disks_are_asked_for_a_machine_has_those_it_had(tmp_path: Path) -> None:
    """None would mean that all of them may be given to others."""
    machine = running(tmp_path, volumes=("vol-1",))
    assert machine.status().disks == ()
    machine.show(MachineState.running)
    assert machine.status().disks == ("vol-1",)
    disks = machine.take_disks()
    disks.devices = {"vol-1": "vol-1.1", "vol-2": "vol-2.1"}
    monitor = Reconnected()
    machine._monitor = cast(Monitor, monitor)
    loading = asyncio.create_task(machine.load_devices())
    await asyncio.sleep(0)
    assert machine.status().disks == ("vol-1", "vol-2")
    monitor.answers.set()
    await loading
    assert machine.status().disks == ()  # what its QEMU says
    await machine.close()


async def test_another_agent_knows_the_disks_before_it_has_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = running(tmp_path, volumes=("vol-1",))
    machine.show(MachineState.running)
    disks = machine.take_disks()
    disks.devices = {"vol-1": "vol-1.1"}

    def found() -> tuple[str, ...]:
        """By an agent that starts now."""
        saved = machine.files.load()
        assert saved is not None
        env = Env(time.time, random.Random(1), lambda _: None)
        again = Machine(env, machine.files, saved, Cgroups(tmp_path / "no-cgroups"), "tcg", lambda: None)
        again._process = cast(Process, HeldProcess())
        again.show(MachineState.running)
        return again.status().disks

    async def plug(disk: Disk, pauses: bool) -> None:
        assert not pauses  # its process has no way to a cluster
        # Kept before QEMU has it: an agent that is killed here must not think less.
        assert found() == ("vol-1", "vol-2")
        if disk.iops:
            raise HypervisorError("no room")
        disks.devices[disk.volume] = "vol-2.1"
        disks._changed()

    monkeypatch.setattr(disks, "attach", plug)
    with pytest.raises(HypervisorError):
        await plugging.attach_disk(machine, msgspec.structs.replace(disk("vol-2", 1), iops=1))
    await asyncio.gather(*machine._writes)
    assert found() == ("vol-1",)
    await plugging.attach_disk(machine, disk("vol-2", 1))
    await asyncio.gather(*machine._writes)
    assert found() == machine.status().disks == ("vol-1", "vol-2")
    del disks.devices["vol-1"]
    disks._changed()
    await machine.close()
    assert found() == ("vol-2",)


async def test_a_disk_that_cannot_be_recorded_is_not_attached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = running(tmp_path)
    machine.show(MachineState.running)
    machine.take_disks()

    def full(_saved: Saved, _durable: bool = False) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(machine.files, "save", full)
    with pytest.raises(HypervisorError, match="No space left"):
        await plugging.attach_disk(machine, disk("vol-2", 1))
    await machine.close()


class UnfedMonitor(AgreeingMonitor):
    """A QEMU whose watchdog ran out; it goes on when it is told to."""

    def __init__(self) -> None:
        self.status = "watchdog"

    async def execute(self, command: str, _arguments: object = None, seconds: float = 0.0) -> object:
        if command == "cont":
            self.status = "running"
        return {"status": self.status}


def unfed(tmp_path: Path) -> tuple[Machine, UnfedMonitor]:
    machine, monitor = running(tmp_path), UnfedMonitor()
    machine._monitor = cast(Monitor, monitor)
    machine.show(MachineState.running)
    return machine, monitor


async def test_a_guest_that_does_not_feed_its_watchdog_is_hung_until_it_is_reset(tmp_path: Path) -> None:
    machine, monitor = unfed(tmp_path)
    await machine.refresh()
    seen = machine.status()
    assert (seen.state, seen.message, seen.hung) == (MachineState.paused, messages.GUEST_HUNG, True)
    assert monitor.status == "watchdog"
    await machine.reset(1)
    assert (machine.status().state, machine.status().hung) == (MachineState.running, False)
    await machine.close()


async def test_a_guest_that_could_not_run_is_not_hung(tmp_path: Path) -> None:
    """The watchdog's clock goes on while the process is stopped, or its storage does not answer."""
    machine, monitor = unfed(tmp_path)
    machine._held_at = asyncio.get_running_loop().time()
    await machine.refresh()
    await machine._background.ended()
    assert (monitor.status, machine.status().hung) == ("running", False)
    await machine.close()
    machine, monitor = unfed(tmp_path)
    machine.show(MachineState.running, messages.storage_waits("vol-1"))
    await machine.refresh()
    await machine._background.ended()
    assert (monitor.status, machine.status().hung) == ("running", False)
    await machine.close()


async def test_a_machine_can_be_ended_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = running(tmp_path)
    machine.show(MachineState.running)

    def full(_saved: Saved, _durable: bool = False) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(machine.files, "save", full)
    await machine.end(MachineState.off, messages.STOPPED)
    await machine.close()
    assert machine.state is MachineState.off


class Stuck(AgreeingMonitor):
    """Its QEMU waits for a disk that is not reached, also when it is to quit."""

    asked: ClassVar[list[float]] = []

    async def execute(self, command: str, arguments: object = None, seconds: float = 0.0) -> object:
        if command != "quit":
            return await super().execute(command, arguments, seconds)
        self.asked.append(seconds)
        raise HypervisorError("no answer")


@pytest.mark.parametrize(("hurried", "seconds"), [(False, QUIT_SECONDS), (True, QUIT_SECONDS_HURRIED)])
async def test_one_whose_disks_are_hardly_reached_gets_little_time(
    hurried: bool, seconds: float, tmp_path: Path
) -> None:
    machine = running(tmp_path)
    machine.show(MachineState.running)
    machine._monitor = cast(Monitor, Stuck())
    Stuck.asked.clear()
    await machine.end(MachineState.off, messages.STOPPED, hurried)
    await machine.close()
    assert (machine.state, Stuck.asked) == (MachineState.off, [seconds])


class Thawing(AgreeingMonitor):
    """Its guest has the port of an agent open."""

    async def execute(self, command: str, arguments: object = None, seconds: float = 0.0) -> object:
        if command == "query-chardev":
            return [{"label": AGENT, "frontend-open": True}]
        return await super().execute(command, arguments, seconds)


async def test_a_guest_that_came_frozen_is_thawed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a snapshot at the host that it has just left."""
    asked = asyncio.Queue[str]()

    @contextlib.asynccontextmanager
    async def conversation(*_: object) -> AsyncIterator[object]:
        async def ask(command: str) -> None:
            await asked.put(command)

        yield SimpleNamespace(ask=ask)

    monkeypatch.setattr(guest_agent, "conversation", conversation)
    machine = running(tmp_path)
    machine._monitor = cast(Monitor, Thawing())
    machine.saved = msgspec.structs.replace(machine.saved, incoming=True, migration="mig-1")
    await machine.refresh()
    assert machine.saved.frozen
    async with asyncio.timeout(60):
        assert await asked.get() == "guest-fsfreeze-thaw"
        await machine.freezer.settled()
    assert not machine.saved.frozen
    await machine.close()


async def test_nobody_knows_whether_a_guest_listens_that_is_held(tmp_path: Path) -> None:
    """Thawed it is when it goes on, if it does so here."""
    machine = running(tmp_path)
    machine._monitor = cast(Monitor, Thawing())
    machine.show(MachineState.paused, messages.MIGRATED)
    with pytest.raises(HypervisorError, match="is held"):
        await machine.agent_listens()
    machine.show(MachineState.running)
    assert await machine.agent_listens()
    await machine.close()


async def test_an_agent_that_does_not_answer_is_not_asked_for_ever(tmp_path: Path) -> None:
    machine = running(tmp_path)
    machine._monitor = cast(Monitor, Thawing())
    machine.show(MachineState.running)
    await machine.save(frozen=True)
    machine.freezer.thaw_later(0.1)
    await machine.freezer.settled()
    assert not machine.saved.frozen
    await machine.close()
