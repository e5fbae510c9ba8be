"""What every hypervisor does alike: the fake, on which the simulation stands, and QEMU."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest

from gureum.env import Env
from gureum.errors import HypervisorError
from gureum.hostspec import MachineState
from gureum.hypervisors import messages
from gureum.hypervisors.base import Hypervisor, MachineConfig, Nic
from gureum.hypervisors.fake import FakeHypervisor, FakeMachines
from gureum.hypervisors.qemu.hypervisor import QemuHypervisor
from gureum.san.base import FileDisk

from . import guest
from .guest import ID, MIB, bare, disk, linux, raw_disk, volume


class House:
    """A host with a hypervisor that can be made anew, as after an agent's restart."""

    def __init__(self, make: Callable[[], Hypervisor], boot: Callable[..., MachineConfig]) -> None:
        self._make = make
        self.hypervisor = make()
        self.boot = boot

    async def restart(self) -> None:
        await self.hypervisor.close()
        self.hypervisor = self._make()
        await self.hypervisor.recover()

    async def until(self, state: MachineState) -> None:
        changed = asyncio.Event()
        self.hypervisor.subscribe(lambda id: changed.set())
        async with asyncio.timeout(60):
            while self.hypervisor.machines()[ID].state is not state:
                await changed.wait()
                changed.clear()

    async def booted(self, times: int = 1) -> None:
        if isinstance(self.hypervisor, QemuHypervisor):
            await guest.booted(self.hypervisor, ID, times)

    async def hang(self) -> None:
        """The guest feeds its watchdog once, and not again."""
        if isinstance(self.hypervisor, FakeHypervisor):
            self.hypervisor.host.hang(ID)
            return
        async with guest.shell(self.hypervisor, ID) as shell:
            await shell.run(guest.FEED_ONCE)


@pytest.fixture(params=["fake", pytest.param("qemu", marks=[pytest.mark.qemu, pytest.mark.root])])
async def house(request: pytest.FixtureRequest) -> AsyncIterator[House]:
    env = Env(rng=random.Random(1))
    machines = FakeMachines(env)
    if request.param == "fake":
        house = House(lambda: FakeHypervisor(env, machines), bare)
    else:
        run_dir: Path = request.getfixturevalue("run_dir")
        files: guest.GuestFiles = request.getfixturevalue("guest_files")
        house = House(
            lambda: QemuHypervisor(Env(), run_dir), lambda *args, **more: linux(files, *args, **more)
        )
    await house.hypervisor.recover()
    yield house
    for id in list(house.hypervisor.machines()):
        await house.hypervisor.remove(id)
    await house.hypervisor.close()
    await machines.close()


async def test_start_stop_start(house: House, tmp_path: Path) -> None:
    hypervisor = house.hypervisor
    assert hypervisor.machines() == {}
    root = disk(0, raw_disk(tmp_path / "root.raw", MIB))
    seen: list[str] = []
    hypervisor.subscribe(seen.append)
    await hypervisor.start(bare(ID, root))
    status = hypervisor.machines()[ID]
    assert (status.state, status.message, status.generation) == (MachineState.running, "", 1)
    assert (status.disks, status.detaching, status.reboots) == ((volume(0),), (), 0)
    assert set(seen) == {ID}
    await hypervisor.start(bare(ID, root))
    with pytest.raises(HypervisorError, match="still runs"):
        await hypervisor.start(bare(ID, root, generation=2))
    await hypervisor.power_off(ID)
    await hypervisor.power_off(ID)
    status = hypervisor.machines()[ID]
    assert (status.state, status.message, status.disks) == (MachineState.off, messages.STOPPED, ())
    with pytest.raises(HypervisorError, match="off"):
        await hypervisor.reset(ID, 1)
    with pytest.raises(HypervisorError, match="off"):
        await hypervisor.attach_disk(ID, root)
    await hypervisor.detach_disk(ID, volume(0))
    await hypervisor.press_power_button(ID)
    await hypervisor.start(bare(ID, root, generation=2))
    with pytest.raises(HypervisorError, match="older"):
        await hypervisor.start(bare(ID, root, generation=1))
    await hypervisor.remove(ID)
    await hypervisor.remove(ID)
    assert hypervisor.machines() == {}
    with pytest.raises(HypervisorError, match="no such machine"):
        await hypervisor.power_off(ID)


async def test_recovered_as_it_was(house: House, tmp_path: Path) -> None:
    await house.hypervisor.start(bare(ID, disk(0, raw_disk(tmp_path / "root.raw", MIB))))
    await house.hypervisor.reset(ID, 2)
    before = house.hypervisor.machines()[ID]
    assert before.reboots == 2
    await house.restart()
    assert house.hypervisor.machines()[ID] == before
    await house.hypervisor.power_off(ID)
    before = house.hypervisor.machines()[ID]
    await house.restart()
    assert house.hypervisor.machines()[ID] == before
    await house.hypervisor.start(msgspec.structs.replace(bare(ID), reboots=5))
    assert house.hypervisor.machines()[ID].reboots == 5


async def test_guest_shuts_down_and_is_reset(house: House, tmp_path: Path) -> None:
    root = disk(0, raw_disk(tmp_path / "root.raw", MIB))
    await house.hypervisor.start(house.boot(ID, root))
    await house.booted()
    await house.hypervisor.press_power_button(ID)
    await house.until(MachineState.shutdown)
    status = house.hypervisor.machines()[ID]
    assert (status.message, status.disks) == (messages.GUEST_SHUT_DOWN, (volume(0),))
    await house.restart()
    assert house.hypervisor.machines()[ID] == status
    await house.hypervisor.start(house.boot(ID, root))
    assert house.hypervisor.machines()[ID] == status
    await house.hypervisor.reset(ID, 1)
    status = house.hypervisor.machines()[ID]
    assert (status.state, status.message, status.reboots) == (MachineState.running, "", 1)
    await house.hypervisor.power_off(ID)
    assert house.hypervisor.machines()[ID].state is MachineState.off


async def test_a_hung_guest_is_held_until_it_is_reset(house: House, tmp_path: Path) -> None:
    hypervisor = house.hypervisor
    await hypervisor.start(house.boot(ID))
    await house.booted()
    await house.hang()
    await house.until(MachineState.paused)
    status = hypervisor.machines()[ID]
    assert (status.message, status.hung) == (messages.GUEST_HUNG, True)
    await hypervisor.resume(ID)
    with pytest.raises(HypervisorError, match="watchdog"):
        await hypervisor.layout(ID)
    await house.restart()
    hypervisor = house.hypervisor
    assert hypervisor.machines()[ID] == status
    await hypervisor.reset(ID, 1)
    status = hypervisor.machines()[ID]
    assert (status.state, status.hung, status.reboots) == (MachineState.running, False, 1)
    await house.booted(times=2)
    await house.hang()
    await house.until(MachineState.paused)
    await hypervisor.power_off(ID)
    status = hypervisor.machines()[ID]
    assert (status.state, status.hung) == (MachineState.off, False)


async def test_disks(house: House, tmp_path: Path) -> None:
    root = disk(0, raw_disk(tmp_path / "root.raw", MIB))
    base = raw_disk(tmp_path / "data.raw", MIB)
    source = FileDisk(layers=(guest.qcow2(tmp_path / "data.qcow2", MIB), *base.layers))
    await house.hypervisor.start(house.boot(ID, root))
    await house.booted()
    await house.hypervisor.attach_disk(ID, disk(1, source))
    await house.hypervisor.attach_disk(ID, disk(1, source))
    assert house.hypervisor.machines()[ID].disks == (volume(0), volume(1))
    assert await house.hypervisor.active_layer(ID, volume(1)) == source.layers[0].path
    overlay = guest.qcow2(tmp_path / "overlay.qcow2", MIB)
    await house.hypervisor.switch_layer(ID, volume(1), overlay)
    await house.hypervisor.switch_layer(ID, volume(1), overlay)
    await house.restart()
    assert await house.hypervisor.active_layer(ID, volume(1)) == overlay.path
    await house.hypervisor.resize_disk(ID, volume(1), 2 * MIB)
    with pytest.raises(HypervisorError, match="has no volume"):
        await house.hypervisor.active_layer(ID, volume(2))
    gone = asyncio.Event()
    house.hypervisor.subscribe(
        lambda id: gone.set() if house.hypervisor.machines()[id].disks == (volume(0),) else None
    )
    await house.hypervisor.detach_disk(ID, volume(1))
    async with asyncio.timeout(60):
        await gone.wait()
    await house.hypervisor.detach_disk(ID, volume(1))
    source = FileDisk(layers=(overlay, *source.layers))
    await house.hypervisor.attach_disk(ID, disk(1, source))
    await house.hypervisor.detach_disk(ID, volume(1), force=True)
    assert house.hypervisor.machines()[ID].disks == (volume(0),)
    await house.restart()


async def test_interfaces(house: House, nic: Callable[[int], Nic]) -> None:
    first, second = (guest.interface(n) for n in range(2))
    await house.hypervisor.start(msgspec.structs.replace(house.boot(ID), nics=(nic(0),)))
    await house.booted()
    assert house.hypervisor.machines()[ID].nics == (first,)
    await house.hypervisor.attach_nic(ID, nic(1))
    assert house.hypervisor.machines()[ID].nics == (first, second)
    await house.restart()
    assert house.hypervisor.machines()[ID].nics == (first, second)
    gone = asyncio.Event()
    house.hypervisor.subscribe(
        lambda id: gone.set() if house.hypervisor.machines()[id].nics == (first,) else None
    )
    await house.hypervisor.detach_nic(ID, second)
    async with asyncio.timeout(60):
        await gone.wait()
    await house.hypervisor.detach_nic(ID, second)
    await house.hypervisor.attach_nic(ID, nic(1))
    await house.hypervisor.detach_nic(ID, second, force=True)
    assert house.hypervisor.machines()[ID].nics == (first,)
    await house.restart()
    assert house.hypervisor.machines()[ID].nics == (first,)
    card = nic(1)
    await house.hypervisor.power_off(ID)
    assert house.hypervisor.machines()[ID].nics == ()
    with pytest.raises(HypervisorError, match="off"):
        await house.hypervisor.attach_nic(ID, card)


async def test_console_is_kept(house: House) -> None:
    await house.hypervisor.start(house.boot(ID))
    await house.booted()
    text = await house.hypervisor.console(ID, 100)
    assert 0 < len(text) <= 100
    await house.hypervisor.power_off(ID)
    assert house.hypervisor.console_socket(ID) is None
    assert len(await house.hypervisor.console(ID, 10)) == 10


async def test_disk_moves(house: House, tmp_path: Path) -> None:
    source, target = raw_disk(tmp_path / "a.raw", MIB), raw_disk(tmp_path / "b.raw", MIB)
    await house.hypervisor.start(bare(ID, disk(0, source)))

    async def ready() -> None:
        async with asyncio.timeout(60):
            while not house.hypervisor.machines()[ID].mirrors[volume(0)].ready:  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    await house.hypervisor.cancel_mirror(ID, volume(0))
    with pytest.raises(HypervisorError, match="not being moved"):
        await house.hypervisor.finish_mirror(ID, volume(0))
    for _ in range(2):
        await house.hypervisor.mirror_disk(ID, volume(0), target)
    await ready()
    mirror = house.hypervisor.machines()[ID].mirrors[volume(0)]
    assert (mirror.target, mirror.error) == (target.layers[0].path, "")
    assert mirror.done_bytes == mirror.total_bytes > 0
    await house.restart()
    assert house.hypervisor.machines()[ID].mirrors[volume(0)] == mirror
    await house.hypervisor.cancel_mirror(ID, volume(0))
    assert house.hypervisor.machines()[ID].mirrors == {}
    assert await house.hypervisor.active_layer(ID, volume(0)) == source.layers[0].path
    await house.hypervisor.mirror_disk(ID, volume(0), target)
    await ready()
    await house.hypervisor.finish_mirror(ID, volume(0))
    assert house.hypervisor.machines()[ID].mirrors == {}
    assert await house.hypervisor.active_layer(ID, volume(0)) == target.layers[0].path
    await house.hypervisor.power_off(ID)
    await house.hypervisor.cancel_mirror(ID, volume(0))
    with pytest.raises(HypervisorError, match="off"):
        await house.hypervisor.mirror_disk(ID, volume(0), source)


async def test_freeze_of_a_machine_that_does_not_run(house: House) -> None:
    with pytest.raises(HypervisorError, match="no such machine"):
        await house.hypervisor.freeze(ID)
    await house.hypervisor.start(bare(ID))
    await house.hypervisor.power_off(ID)
    assert not await house.hypervisor.freeze(ID)
    await house.hypervisor.thaw(ID)
