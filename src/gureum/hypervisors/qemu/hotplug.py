"""What disks and network cards have in common when they come and go while the guest runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from gureum.errors import HypervisorError
from gureum.hypervisors.qemu.monitor import CommandError, Monitor


async def plug(
    monitor: Monitor,
    slots: Sequence[int],
    index: int,
    device_at: Callable[[int], Mapping[str, object]],
    what: str,
) -> str:
    """Plug a device into the slot of its index, or the first free one; returns the device's id.

    ``device_at`` makes its description for a slot.
    """
    tried = [slot for slot in slots if slot != index]
    if index in slots:
        tried.insert(0, index)
    for slot in tried:
        device = device_at(slot)
        try:
            await monitor.execute("device_add", device)
        except CommandError as error:
            if "not available" not in str(error):
                raise
        else:
            return str(device["id"])
    raise HypervisorError(f"{monitor.id}: no free slot for {what}")


async def ask_to_release(monitor: Monitor, device: str, force: bool) -> bool:
    """Ask the guest to give a device up, again if it was asked before; False if there is no such device."""
    try:
        await monitor.execute("device_del", {"id": device})
    except CommandError as error:
        if error.kind == "DeviceNotFound":
            return False
        if "already in the process" not in str(error) and not force:
            raise
    return True
