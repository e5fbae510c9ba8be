from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator

import pytest
from msgspec.structs import replace

from gureum.env import Env
from gureum.errors import HypervisorError
from gureum.hostspec import MachineState
from gureum.hypervisors import messages
from gureum.hypervisors.base import Disk, MachineConfig, Nic
from gureum.hypervisors.fake import FakeHypervisor, FakeMachines
from gureum.san.base import FileDisk, Layer

ID = "i-0123456789abcdef0"
ROOT = Disk(volume="vol-0", index=0, source=FileDisk(layers=(Layer(path="/root.raw", format="raw"),)))
CONFIG = MachineConfig(id=ID, generation=1, vcpus=1, memory_bytes=1 << 28, disks=(ROOT,))


@pytest.fixture
async def host() -> AsyncIterator[FakeMachines]:
    host = FakeMachines(Env(rng=random.Random(1)))
    yield host
    await host.close()


@pytest.fixture
async def hypervisor(host: FakeMachines) -> FakeHypervisor:
    hypervisor = FakeHypervisor(host.env, host)
    await hypervisor.recover()
    return hypervisor


def state(hypervisor: FakeHypervisor) -> tuple[MachineState, str]:
    status = hypervisor.machines()[ID]
    return status.state, status.message


async def test_deaf_guest_goes_on(host: FakeMachines, hypervisor: FakeHypervisor) -> None:
    await hypervisor.start(CONFIG)
    host.ignore_power_button(ID)
    await hypervisor.press_power_button(ID)
    assert host._tasks == set()
    assert state(hypervisor) == (MachineState.running, "")


async def test_failing_start(host: FakeMachines, hypervisor: FakeHypervisor) -> None:
    host.fail_start(ID, "no memory")
    with pytest.raises(HypervisorError, match="no memory"):
        await hypervisor.start(CONFIG)
    assert state(hypervisor) == (MachineState.crashed, messages.start_failed("no memory"))
    assert host.running() == {}
    host.fail_start(ID, "")
    await hypervisor.start(CONFIG)
    assert host.running() == {ID: 1}


async def test_crash_and_panic(host: FakeMachines, hypervisor: FakeHypervisor) -> None:
    await hypervisor.start(CONFIG)
    host.crash(ID)
    assert state(hypervisor) == (MachineState.crashed, messages.PROCESS_ENDED)
    assert hypervisor.machines()[ID].disks == ()
    await hypervisor.start(CONFIG)
    host.panic(ID)
    assert state(hypervisor) == (MachineState.crashed, messages.GUEST_PANICKED)


async def test_power_loss_and_restart_of_the_host(host: FakeMachines, hypervisor: FakeHypervisor) -> None:
    await hypervisor.start(CONFIG)
    host.lose_power()
    assert host.running() == {}
    with pytest.raises(HypervisorError, match="power"):
        await hypervisor.start(CONFIG)
    host.reboot_host()
    await hypervisor.start(CONFIG)
    host.reboot_host()
    assert state(hypervisor) == (MachineState.off, messages.HOST_RESTARTED)


async def test_full_storage_pauses_until_there_is_room(
    host: FakeMachines, hypervisor: FakeHypervisor
) -> None:
    await hypervisor.start(CONFIG)
    host.fill_storage()
    assert state(hypervisor) == (MachineState.paused, messages.STORAGE_FULL)
    await hypervisor.resume(ID)
    assert state(hypervisor)[0] is MachineState.paused
    host.fill_storage(False)
    await hypervisor.resume(ID)
    assert state(hypervisor) == (MachineState.running, "")


async def test_guest_that_keeps_its_disk(host: FakeMachines, hypervisor: FakeHypervisor) -> None:
    await hypervisor.start(CONFIG)
    host.ignore_detach(ID)
    await hypervisor.detach_disk(ID, "vol-0")
    status = hypervisor.machines()[ID]
    assert (status.disks, status.detaching) == (("vol-0",), ("vol-0",))
    await hypervisor.detach_disk(ID, "vol-0", force=True)
    assert hypervisor.machines()[ID].disks == ()


async def test_interfaces(host: FakeMachines, hypervisor: FakeHypervisor) -> None:
    first = Nic(interface="eni-1", mac="02:00:00:00:00:01", index=0, fd=-1)
    await hypervisor.start(replace(CONFIG, nics=(first,)))
    assert hypervisor.machines()[ID].nics == ("eni-1",)
    fd = os.open(os.devnull, os.O_RDONLY)
    await hypervisor.attach_nic(ID, replace(first, interface="eni-2", index=1, fd=fd))
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)  # taken over
    assert hypervisor.machines()[ID].nics == ("eni-1", "eni-2")
    host.ignore_detach(ID)
    await hypervisor.detach_nic(ID, "eni-2")
    status = hypervisor.machines()[ID]
    assert (status.nics, status.detaching) == (("eni-1", "eni-2"), ("eni-2",))
    await hypervisor.detach_nic(ID, "eni-2", force=True)
    assert hypervisor.machines()[ID].nics == ("eni-1",)
    await hypervisor.detach_nic(ID, "eni-2")
    await hypervisor.power_off(ID)
    assert hypervisor.machines()[ID].nics == ()
    with pytest.raises(HypervisorError, match="off"):
        await hypervisor.attach_nic(ID, first)


async def test_start_outlives_its_agent(host: FakeMachines, hypervisor: FakeHypervisor) -> None:
    """An agent that dies while it starts a machine: the machine comes up all the same, once."""
    starting = asyncio.create_task(hypervisor.start(CONFIG))
    await asyncio.sleep(0)
    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)
    await hypervisor.close()
    after = FakeHypervisor(host.env, host)
    await after.recover()
    changed = asyncio.Event()
    after.subscribe(lambda id: changed.set())
    async with asyncio.timeout(5):
        while after.machines()[ID].state is not MachineState.running:
            await changed.wait()
            changed.clear()
    assert host.running() == {ID: 1}
