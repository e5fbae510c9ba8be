"""The short way for packets of established flows: from the device where they come in straight to the one
where they go out, by two BPF programs at the devices of a VPC's namespace.

``learn`` stands where packets leave, after routing and all filters: what comes by has passed. If the filter
has marked it as of an established flow, it notes, by device and flow, where it went and with which Ethernet
addresses. ``take`` stands where packets come in, before all filters, and sends the same way what is noted.

A note holds for NOTE_NS at most. Then a packet goes the long way, and is noted again if it passes: that
often it is asked what connection tracking, ACLs and routes say of the flow, and tracking learns that it
lives. While the VPC's ports, routes or ACLs change, nothing goes the short way, and what was noted before is
void after. So a note is never more than a copy of what the filter has just decided.

What the filter has to see itself takes the long way always: the first and last packets of a connection,
fragments, packets with options, those whose time to live ends or which do not fit; flows that are translated,
logged or between VPCs; all but TCP and UDP.
"""

from __future__ import annotations

import array
import contextlib
import errno
import fcntl
import logging
import os
import socket
import struct
import sys
import threading
import time
import weakref
from collections.abc import Mapping

import msgspec

from gureum.errors import NetworkError
from gureum.hostspec import PortKind
from gureum.network import bpf, checks
from gureum.network.bytecode import assemble
from gureum.network.names import UPLINK, VXLAN
from gureum.network.namespaces import visit
from gureum.network.plan import VpcPlan
from gureum.network.programs import ESTABLISHED_MARK, FOUR, KEY_BYTES, NOTE_BYTES, SIX, Family, learn, take

log = logging.getLogger(__name__)

_MARGIN_NS = 40_000_000
"""The kernel's coarse clock is up to a tick behind; a packet's way through the filter takes less."""
FLOWS_MAX = 8192
"""How many are noted in a VPC: those that are used least are forgotten first."""
DEVICES_MAX = 4096
_NEVER = (1 << 63) - 1
_WAYS = (bpf.EGRESS, bpf.INGRESS)
_ETHERNET_BYTES = 14
_CLOCK = struct.Struct("=Q")
_DEVICE = struct.Struct("=II6sxxI")
_GET_DRIVER, _ETHTOOL = 0x3, 0x8946
_DRIVER_INFO = struct.Struct("=I32s160x")


def note_rules(vpc: VpcPlan) -> tuple[str, ...]:
    """The rules that let packets be noted. They stand in the filter for what is forwarded: what other rules
    refuse, before it or after it, does not come to ``learn``.
    """
    unlogged = " iifname != @logged oifname != @logged" if vpc.flow_logs else ""
    note = (
        f'ct state established iifname != "{UPLINK}" oifname != "{UPLINK}"{unlogged} '
        f"meta mark set meta mark or {ESTABLISHED_MARK:#x}"
    )
    routed = {checks.network(each) for hops in vpc.tables.values() for each in hops if ":" not in each}
    if any(each.subnet_of(checks.network(own)) for own in vpc.cidrs for each in routed):
        return (note,)
    # Inside the VPC all route tables say the same then. Which one it is need not be told to the other host,
    # and the way there costs the kernel one more look for a packet with a mark.
    inside = f'ct state established oifname "{VXLAN}" ip daddr {{ {", ".join(vpc.cidrs)} }}'
    return note, f"{inside} meta mark set meta mark and {ESTABLISHED_MARK:#x}"


class Device(msgspec.Struct, frozen=True):
    """``mac``: the only sender there may be; "" for any. ``six``: there is IPv6. ``carrier``: it leads to
    other hosts.
    """

    mtu: int
    mac: str = ""
    six: bool = False
    carrier: bool = False

    @property
    def families(self) -> tuple[Family, ...]:
        return (FOUR, SIX) if self.six else (FOUR,)


class Shortcut:
    """Of one VPC's namespace. OSError where the kernel does not have what it takes.

    What it has in the kernel ends with it and with the devices at which it stands.
    """

    def __init__(self) -> None:
        if sys.byteorder != "little":
            raise OSError("the programs are for little-endian processors")
        opened: list[int] = []
        weakref.finalize(self, _close, opened)

        def keep(descriptor: int) -> int:
            opened.append(descriptor)
            return descriptor

        maps = {
            "flows": keep(bpf.create_map(bpf.LRU_HASH, KEY_BYTES, NOTE_BYTES, FLOWS_MAX)),
            "devices": keep(bpf.create_map(bpf.HASH, 4, _DEVICE.size, DEVICES_MAX, bpf.NO_PREALLOCATION)),
            "clock": keep(bpf.create_map(bpf.ARRAY, 4, _CLOCK.size, 1)),
        }
        self._devices, self._clock = maps["devices"], maps["clock"]
        self._placed: dict[str, tuple[int, Device]] = {}
        self.suspend()
        self._programs = {
            (way, family): keep(bpf.load(assemble(text(family), maps)))
            for way, text in ((bpf.EGRESS, learn), (bpf.INGRESS, take))
            for family in (FOUR, SIX)
        }

    def suspend(self) -> None:
        """From now on nothing goes the short way."""
        self._void(_NEVER)

    def resume(self) -> None:
        """What was noted until now is void; what is noted from now on holds."""
        self._void(time.monotonic_ns() + _MARGIN_NS)

    def _void(self, until_ns: int) -> None:
        bpf.update(self._clock, bytes(4), _CLOCK.pack(until_ns))

    def place(self, devices: Mapping[str, Device]) -> None:
        """Stand at these devices of the calling thread's namespace, and at no others. One that goes and comes
        again has to be left out in between.
        """
        for name in [name for name, (_, device) in self._placed.items() if devices.get(name) != device]:
            index, _ = self._placed.pop(name)
            with contextlib.suppress(FileNotFoundError):
                bpf.delete(self._devices, struct.pack("=I", index))
        new: dict[str, tuple[int, Device]] = {}
        told: dict[int, bytes] = {}
        for name in devices.keys() - self._placed.keys():
            # One that is gone already is not missed.
            with contextlib.suppress(OSError):
                index = socket.if_nametoindex(name)
                told[index] = _packed(devices[name], paired=_driver(name) == "veth")
                new[name] = index, devices[name]
        for index, value in told.items():
            bpf.update(self._devices, struct.pack("=I", index), value)
        waited = {index for index, device in new.values() if device.carrier and self._attach(index, device)}
        bpf.place(
            bpf.Place(index, way, family.ether_type, self._programs[way, family])
            for index, device in new.values()
            if index not in waited
            for family in device.families
            for way in _WAYS
        )
        self._placed |= new

    def _attach(self, index: int, device: Device) -> bool:
        """Stand at the better places of a device, if it is still there. False if this kernel has none."""
        try:
            for way in _WAYS:
                bpf.attach(index, way, [self._programs[way, family] for family in device.families])
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENODEV):
                raise
            return error.errno == errno.ENODEV
        # Those of an agent that did not know of them.
        bpf.unplace(index)
        return True


class Shortcuts:
    """The short way in a VPC's namespace, where the kernel has what it takes; elsewhere none, which is said
    once. Blocking, one call at a time.
    """

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        self._shortcut: Shortcut | None = None
        self._wanted = True
        self._opening: threading.Thread | None = None

    def close(self, anew: bool) -> None:
        """Before a change. ``anew``: devices are not known to be those that they were."""
        if self._opening is not None:
            self._opening.join()
            self._opening = None
        if self._shortcut is not None:
            self._shortcut.suspend()
        if anew:
            self._shortcut = None

    def open(self, vpc: VpcPlan, carrier_mtu: int, later: bool = False) -> None:
        """After a change. ``later``: not before this returns, but soon."""
        if later and self._wanted:
            self._opening = threading.Thread(target=self._open, args=(vpc, carrier_mtu), daemon=True)
            self._opening.start()
        elif self._wanted:
            self._open(vpc, carrier_mtu)

    def _open(self, vpc: VpcPlan, carrier_mtu: int) -> None:
        try:
            shortcut = self._shortcut = self._shortcut or Shortcut()
            visit(self._namespace, lambda: shortcut.place(devices(vpc, carrier_mtu)))
            shortcut.resume()
        except (OSError, NetworkError) as error:
            self._shortcut, self._wanted = None, False
            log.warning("VPC %s: established flows go the long way through the filter: %s", vpc.id, error)


def _close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _packed(device: Device, paired: bool) -> bytes:
    """``paired``: it is an end of a veth, whose other end is in another namespace, as a NAT gateway's is."""
    mac = bytes.fromhex(device.mac.replace(":", ""))
    return _DEVICE.pack(device.mtu + _ETHERNET_BYTES, bool(mac), mac, paired)


def _driver(name: str) -> str:
    """Of a device of the calling thread's namespace. OSError."""
    answer = array.array("B", _DRIVER_INFO.pack(_GET_DRIVER, b""))
    request = struct.pack("16sQ16x", name.encode(), answer.buffer_info()[0])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        fcntl.ioctl(sock, _ETHTOOL, request)
    driver: bytes = _DRIVER_INFO.unpack(answer)[1]
    return driver.rstrip(b"\0").decode()


def devices(vpc: VpcPlan, carrier_mtu: int) -> dict[str, Device]:
    """The devices of a VPC's namespace between which there is a short way. ``carrier_mtu`` is that of its way
    to other hosts, 0 if it has none.
    """
    six = bool(vpc.cidrs6)
    found = {
        port.tap: Device(vpc.mtu, port.mac if port.kind is PortKind.machine else "", six)
        for port in vpc.ports.values()
    }
    return {**found, VXLAN: Device(carrier_mtu, six=six, carrier=True)} if carrier_mtu else found
