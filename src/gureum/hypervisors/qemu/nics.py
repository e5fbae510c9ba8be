"""A machine's network interfaces as QEMU sees them: a virtio device over a tap.

The backend (netdev) of an interface is ``<interface>.tap``, always. Its device has the interface's name if
the machine was started with it, and ``<interface>.<n>`` if it came later: a device that was taken away by
force stays until the guest lets go of it, and must not be in the way of the next one.
"""

from __future__ import annotations

import re

from gureum.errors import HypervisorError
from gureum.hypervisors.base import Nic
from gureum.hypervisors.qemu.node import Node

NIC_BUS = "nics"
NIC_SLOTS = range(1, 32)
"""Slots of the bridge for all interfaces but the first, by index; they come and go. Slot 0 is its
controller's. The first one is on the root bus, where nothing can be unplugged, and so is found first.
"""

_DEVICE = re.compile(r"(eni-[0-9a-z-]+?)(?:\.([0-9]+))?")


def device_name(interface: str, number: int) -> str:
    return f"{interface}.{number}" if number else interface


def parse_device(name: str) -> tuple[str, int] | None:
    """``(interface, number)`` of a device, None for one that is no interface."""
    found = _DEVICE.fullmatch(name)
    return (found[1], int(found[2] or 0)) if found else None


def backend(interface: str) -> str:
    return f"{interface}.tap"


def nic_device(nic: Nic, number: int, driver: str, place: Node) -> Node:
    return {
        "driver": driver,
        "id": device_name(nic.interface, number),
        "netdev": backend(nic.interface),
        "mac": nic.mac,
        "host_mtu": nic.mtu,
        **place,
    }


def hotplug_place(slot: int) -> Node:
    """Where in the machine an interface other than the first sits."""
    if slot not in NIC_SLOTS:
        raise HypervisorError(f"a machine has at most {len(NIC_SLOTS)} network interfaces beside its first")
    return {"bus": NIC_BUS, "addr": f"{slot:#x}", "disable-legacy": "on", "romfile": ""}
