"""What of a running machine has to be the same on the host that it moves to (``MachineLayout``).

QEMU recognizes a device's state by the device's place on its buses: the names of devices may differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from gureum.errors import HypervisorError
from gureum.hypervisors import messages
from gureum.hypervisors.base import MachineConfig
from gureum.hypervisors.qemu.disks import parse_name
from gureum.hypervisors.qemu.installation import Installation
from gureum.hypervisors.qemu.live_nodes import items
from gureum.hypervisors.qemu.machine import Machine
from gureum.hypervisors.qemu.monitor import Monitor
from gureum.hypervisors.qemu.nics import parse_device
from gureum.migrationspec import MachineLayout
from gureum.sizespec import MachineSize

DEVICES = "/machine/peripheral"
SLOT_SHIFT = 3
"""A PCI address is slot and function."""

Places = dict[str, tuple[str, int]]


async def ask(machine: Machine, installation: Installation, host_cpu: str) -> MachineLayout:
    """HypervisorError if the machine cannot move now."""
    machine.migrating.require_settled()
    if machine.hung:
        raise HypervisorError(f"{machine.id}: {messages.GUEST_HUNG}")
    if not machine.saved.cpu:
        raise HypervisorError(
            f"{machine.id}: was started by an earlier gureum: it can move once it was stopped and started"
        )
    disks, nics = machine.disks(), machine.nics()
    if leaving := sorted({*disks.detaching, *nics.detaching}):
        raise HypervisorError(f"{machine.id}: its guest has not let go of {', '.join(leaving)} yet")
    if moving := sorted(machine.mirrors().status):
        raise HypervisorError(f"{machine.id}: {', '.join(moving)} is on its way to another pool")
    monitor = machine.monitor()
    ghosts = await _others(monitor, {*disks.devices.values(), *nics.devices.values()})
    if ghosts:
        raise HypervisorError(
            f"{machine.id}: its guest has not let go of {', '.join(ghosts)}, which was taken away by force"
        )
    size = await _size(machine, installation)
    saved, micro = machine.saved, machine.saved.machine_type.startswith("microvm")
    return MachineLayout(
        type=saved.machine_type,
        version=installation.version,
        cpu=saved.cpu,
        host_cpu=host_cpu,
        vmgenid=saved.vmgenid,
        watchdog=saved.watchdog,
        model=saved.model,
        disks=await _places(monitor, disks.devices, micro),
        queues=await _queues(monitor, disks.devices),
        nics=await _places(monitor, nics.devices, micro),
        vcpus=size.vcpus if size is not None else 0,
        memory_bytes=size.memory_bytes if size is not None else 0,
        room=saved.room,
    )


async def _size(machine: Machine, installation: Installation) -> MachineSize | None:
    if machine.saved.room is None:
        return None
    live = machine.resizing.live()
    await live.look()
    size = live.status
    # It may have let go after it was asked for the last time.
    wanted = machine.saved.leaving
    if live.leaving or (wanted and size is not None and size.vcpus > wanted):
        raise HypervisorError(f"{machine.id}: its guest has not let go of a vCPU yet")
    if size is not None and size.is_tied(machine.accelerator):
        # As ``growth.memory`` says. A virtio-mem device's size cannot be uneven.
        raise HypervisorError(
            f"{machine.id}: has got memory while it ran, and this QEMU ({installation.version}) cannot copy "
            "that of an emulated machine: take it away again, or stop and start the instance"
        )
    return size


async def _others(monitor: Monitor, known: set[str]) -> list[str]:
    """Disks and interfaces that the guest still sees, and that are no longer the machine's."""
    names = {str(each.get("name")) for each in items(await monitor.execute("qom-list", {"path": DEVICES}))}
    return sorted(name for name in names - known if parse_name(name) or parse_device(name))


async def _places(monitor: Monitor, devices: Mapping[str, str], micro: bool) -> Places:
    places: Places = {}
    for id, device in devices.items():
        path = f"{DEVICES}/{device}"
        bus = await monitor.execute("qom-get", {"path": path, "property": "parent_bus"})
        address = 0 if micro else await monitor.execute("qom-get", {"path": path, "property": "addr"})
        places[id] = (str(bus).rpartition("/")[2], int(str(address)) >> SLOT_SHIFT)
    return places


async def _queues(monitor: Monitor, devices: Mapping[str, str]) -> dict[str, int]:
    """QEMU chose them by the vCPUs that there were at the start, and those may be others now."""
    found: dict[str, int] = {}
    for volume, device in devices.items():
        asked = {"path": f"{DEVICES}/{device}", "property": "num-queues"}
        found[volume] = int(str(await monitor.execute("qom-get", asked)))
    return found


def require_fit(
    config: MachineConfig,
    layout: MachineLayout,
    installation: Installation,
    host_cpu: str,
    models: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """HypervisorError if this host cannot have the machine, or it isn't the machine of the layout.

    ``models``: by the names of those that are offered here, what QEMU is told.
    """
    if layout.model and models.get(layout.model) != layout.cpu:
        raise HypervisorError(
            f"{config.id}: has the CPU model {layout.model} ({layout.cpu}), which is not offered here"
        )
    if layout.model and layout.host_cpu.partition(" ")[0] != host_cpu.partition(" ")[0]:
        raise HypervisorError(f"{config.id}: runs by {layout.host_cpu}, and guests here by {host_cpu}")
    if not layout.model and layout.host_cpu != host_cpu:
        raise HypervisorError(
            f"{config.id}: runs on a CPU ({layout.host_cpu}) that is not the same as this host's ({host_cpu})"
        )
    if layout.type not in installation.types:
        raise HypervisorError(
            f"{config.id}: this QEMU ({installation.version}) has no machine type {layout.type}, which it "
            f"has on its host (QEMU {layout.version})"
        )
    if layout.type.startswith("microvm") and layout.version != installation.version:
        # Its type has no versions, which would keep devices as they were.
        raise HypervisorError(
            f"{config.id}: a microvm of QEMU {layout.version} cannot come to QEMU {installation.version}"
        )
    differing = {disk.volume for disk in config.disks} ^ layout.disks.keys()
    differing |= {nic.interface for nic in config.nics} ^ layout.nics.keys()
    if differing:
        raise HypervisorError(
            f"{config.id}: only one of the two hosts knows of {', '.join(sorted(differing))}"
        )
