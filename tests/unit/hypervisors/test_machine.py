"""What a machine remembers of its end, without a QEMU: a monitor that agrees to everything."""

from __future__ import annotations

import asyncio
import errno
import random
import time
from pathlib import Path
from typing import cast

import pytest

from gureum.env import Env
from gureum.hostspec import MachineState
from gureum.hypervisors import messages
from gureum.hypervisors.base import MachineConfig
from gureum.hypervisors.qemu.cgroup import Cgroups
from gureum.hypervisors.qemu.machine import Machine
from gureum.hypervisors.qemu.monitor import Monitor
from gureum.hypervisors.qemu.process import Process
from gureum.hypervisors.qemu.record import MachineFiles, Saved, boot_id

CONFIG = MachineConfig(id="i-1", generation=1, vcpus=1, memory_bytes=2**29)


class AgreeingMonitor:
    """A QEMU whose guest runs, whatever it is told."""

    async def execute(self, command: str, _arguments: object = None, seconds: float = 0.0) -> object:
        return {"status": "running"} if command == "query-status" else {}

    def close(self) -> None:
        """There is nothing to let go of."""


class HeldProcess:
    def __init__(self) -> None:
        self.finished = asyncio.Event()
        self.finished.set()

    def close(self) -> None:
        """There is nothing to let go of."""


def running(tmp_path: Path, ended: MachineState | None = None) -> Machine:
    files = MachineFiles(tmp_path, "i-1")
    files.create()
    saved = Saved(
        generation=1,
        config=CONFIG,
        machine_type="pc-q35-7.2",
        boot_id=boot_id(),
        uid=1,
        vmgenid="",
        ended=ended,
        message=messages.GUEST_SHUT_DOWN if ended else "",
    )
    files.save(saved)
    env = Env(time.time, random.Random(1), lambda _: None)
    machine = Machine(env, files, saved, Cgroups(tmp_path / "no-cgroups"), lambda: None)
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
    await machine._refresh()
    await machine.close()
    kept = machine.files.load()
    assert kept is not None
    assert (machine.state, kept.ended, kept.message) == (MachineState.running, None, "")


async def test_a_machine_can_be_ended_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = running(tmp_path)
    machine.show(MachineState.running)

    def full(_saved: Saved, _durable: bool = False) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(machine.files, "save", full)
    await machine.end(MachineState.off, messages.STOPPED)
    await machine.close()
    assert machine.state is MachineState.off
