"""Disks and interfaces that a running machine gets, and the record of what it has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gureum.errors import HypervisorError
from gureum.hypervisors.base import Disk, Nic
from gureum.san.base import RbdDisk

if TYPE_CHECKING:
    from gureum.hypervisors.qemu.machine import Machine


async def attach_disk(machine: Machine, disk: Disk) -> None:
    disks = machine.disks()
    if disk.volume in disks.devices:
        return
    machine.migrating.require_settled()
    network = _reaches(machine, disk)
    try:
        # First, so that whoever finds the machine never thinks that it has less than it has.
        await machine.save(volumes=tuple(sorted({*machine.volumes, disk.volume})))
    except OSError as error:
        raise HypervisorError(f"{machine.id}: {disk.volume} is not attached: {error}") from error
    try:
        await disks.attach(disk, pauses=network)
    finally:
        machine.remember_devices()


def _reaches(machine: Machine, disk: Disk) -> bool:
    """Whether the machine can have disks of a cluster; HypervisorError if this is one, and it cannot."""
    network = machine.shares_storage()
    if isinstance(disk.source, RbdDisk) and not network:
        raise HypervisorError(
            f"{machine.id}: cannot have {disk.volume} in a storage cluster: the machine was started without "
            "a way there, and gets one when it is stopped and started"
        )
    return network


async def mirror_disk(machine: Machine, disk: Disk, bytes_per_second: int) -> None:
    _reaches(machine, disk)
    machine.migrating.require_settled()
    await machine.mirrors().start(disk, bytes_per_second)


async def attach_nic(machine: Machine, nic: Nic) -> None:
    if machine.saved.machine_type.startswith("microvm"):
        raise HypervisorError(f"{machine.id}: a microvm gets network interfaces only when it is started")
    nics = machine.nics()
    if nic.interface in nics.devices:
        return
    machine.migrating.require_settled()
    try:
        # An agent that finds the machine cleans up after what was begun and neither done nor undone.
        await machine.save(nics=tuple(sorted({*machine.interfaces, nic.interface})))
    except OSError as error:
        raise HypervisorError(f"{machine.id}: {nic.interface} is not attached: {error}") from error
    try:
        await nics.attach(nic)
    except HypervisorError:
        machine.remember_devices()
        raise
