"""Network interfaces come and go while the guest runs."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from gureum.env import Env
from gureum.errors import HypervisorError, NetworkError
from gureum.hypervisors.base import Nic
from gureum.hypervisors.qemu.hypervisor import QemuHypervisor
from gureum.network.taps import open_tap

from . import guest
from .guest import ID, MIB, GuestFiles, Shell, booted, disk, linux, raw_disk, shell, tap, until

pytestmark = [pytest.mark.qemu, pytest.mark.root]

IDS = tuple(map(guest.interface, range(2)))
MACS = tuple(map(guest.mac, range(2)))


async def macs(inside: Shell) -> list[str]:
    return (await inside.run("cat /sys/class/net/eth*/address")).split()


async def appears(inside: Shell) -> None:
    await inside.run("while [ ! -e /sys/class/net/eth1 ]; do sleep 0.2; done")
    assert await macs(inside) == list(MACS)


async def sends(inside: Shell, number: int) -> None:
    """What the guest says on its interface comes out of the tap."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0806)) as wire:
        wire.bind((tap(number), 0x0806))
        wire.settimeout(60)
        await inside.run(f"ip link set eth{number} up; ip address replace 192.0.2.2/24 dev eth{number}")
        await inside.run("ping -c 1 -W 1 192.0.2.1 || true")
        assert wire.recv(2048)[6:12].hex(":") == MACS[number]


async def test_attach_and_detach(
    hypervisor: QemuHypervisor, guest_files: GuestFiles, tmp_path: Path, nic: Callable[[int], Nic]
) -> None:
    config = linux(guest_files, ID, disk(0, raw_disk(tmp_path / "root.raw", MIB)))
    await hypervisor.start(msgspec.structs.replace(config, nics=(nic(0),)))
    await booted(hypervisor, ID)
    assert hypervisor.machines()[ID].nics == IDS[:1]
    for force in (False, True, False):
        await hypervisor.attach_nic(ID, nic(1))
        assert hypervisor.machines()[ID].nics == IDS
        async with shell(hypervisor, ID) as inside:
            await appears(inside)
            await sends(inside, 1)
        with pytest.raises(NetworkError, match="a guest is attached"):
            open_tap(tap(1))
        await hypervisor.close()
        await hypervisor.recover()
        assert hypervisor.machines()[ID].nics == IDS
        await hypervisor.detach_nic(ID, IDS[1], force)
        if not force:
            await until(lambda: hypervisor.machines()[ID].nics == IDS[:1])
        assert hypervisor.machines()[ID].nics == IDS[:1]
        assert hypervisor.machines()[ID].detaching == ()
        os.close(open_tap(tap(1)))
        async with shell(hypervisor, ID) as inside:
            await inside.run("while [ -e /sys/class/net/eth1 ]; do sleep 0.1; done")
            assert await macs(inside) == list(MACS[:1])
    with pytest.raises(HypervisorError, match="hotplug"):
        await hypervisor.detach_nic(ID, IDS[0])


async def test_a_deaf_guest_keeps_a_dead_device(
    hypervisor: QemuHypervisor, tmp_path: Path, guest_files: GuestFiles, nic: Callable[[int], Nic]
) -> None:
    """Taken away by force while nobody listens, and given anew; also after another agent took over."""
    config = linux(guest_files, ID, disk(0, raw_disk(tmp_path / "root.raw", MIB)))
    await hypervisor.start(msgspec.structs.replace(config, nics=(nic(0), nic(1))))
    await hypervisor._machines[ID].monitor().execute("stop")
    for _ in range(2):
        await hypervisor.detach_nic(ID, IDS[1], force=True)
        await hypervisor.detach_nic(ID, IDS[1], force=True)
        assert hypervisor.machines()[ID].nics == IDS[:1]
        await hypervisor.close()
        await hypervisor.recover()
        assert hypervisor.machines()[ID].nics == IDS[:1]
        await hypervisor.attach_nic(ID, nic(1))
        assert hypervisor.machines()[ID].nics == IDS


async def test_one_that_was_there_from_the_start_can_leave(
    hypervisor: QemuHypervisor, guest_files: GuestFiles, tmp_path: Path, nic: Callable[[int], Nic]
) -> None:
    config = linux(guest_files, ID, disk(0, raw_disk(tmp_path / "root.raw", MIB)))
    await hypervisor.start(msgspec.structs.replace(config, nics=(nic(0), nic(1))))
    await booted(hypervisor, ID)
    async with shell(hypervisor, ID) as inside:
        assert await macs(inside) == list(MACS)
    await hypervisor.detach_nic(ID, IDS[1])
    await until(lambda: hypervisor.machines()[ID].nics == IDS[:1])
    os.close(open_tap(tap(1)))


class Crashed(Exception):
    pass


@pytest.mark.parametrize("point", ["qemu.nic.opened", "qemu.nic.plugged", "qemu.nic.unplugged"])
async def test_killed_in_between(
    run_dir: Path, guest_files: GuestFiles, tmp_path: Path, nic: Callable[[int], Nic], point: str
) -> None:
    """The next agent finds the interface whole or not at all, and its tap free if not."""

    def crash(name: str) -> None:
        if name == point:
            raise Crashed

    hypervisor = QemuHypervisor(Env(crashpoint=crash), run_dir)
    await hypervisor.recover()
    config = linux(guest_files, ID, disk(0, raw_disk(tmp_path / "root.raw", MIB)))
    await hypervisor.start(msgspec.structs.replace(config, nics=(nic(0),)))

    async def come_and_go() -> None:
        await hypervisor.attach_nic(ID, nic(1))
        await hypervisor.detach_nic(ID, IDS[1], force=True)

    with pytest.raises(Crashed):
        await come_and_go()
    await hypervisor.close()
    again = QemuHypervisor(Env(), run_dir)
    await again.recover()
    try:
        whole = point != "qemu.nic.opened"
        assert again.machines()[ID].nics == (IDS if whole else IDS[:1])
        if not whole:
            await again.attach_nic(ID, nic(1))
        await again.detach_nic(ID, IDS[1], force=True)
        os.close(open_tap(tap(1)))
    finally:
        await again.remove(ID)
        await again.close()


@pytest.mark.parametrize("machine", ["q35", "microvm"])
async def test_the_first_one_is_the_guests_first(
    hypervisor: QemuHypervisor,
    guest_files: GuestFiles,
    tmp_path: Path,
    nic: Callable[[int], Nic],
    machine: str,
) -> None:
    config = linux(guest_files, ID, disk(0, raw_disk(tmp_path / "root.raw", MIB)), machine=machine)
    await hypervisor.start(msgspec.structs.replace(config, nics=(nic(0), nic(1))))
    await booted(hypervisor, ID)
    async with shell(hypervisor, ID) as inside:
        assert await macs(inside) == list(MACS)
