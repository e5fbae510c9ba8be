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
logged or between VPCs; IPv6, and all but TCP and UDP.
"""

from __future__ import annotations

import contextlib
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
from gureum.network import bpf
from gureum.network.bytecode import assemble
from gureum.network.names import UPLINK, VXLAN
from gureum.network.namespaces import visit
from gureum.network.plan import VpcPlan

log = logging.getLogger(__name__)

ESTABLISHED_MARK = 1 << 24
"""The bit of a packet's mark by which the filter says that its flow may be noted. The lower 16 are the number
of its route table; VXLAN carries only these.
"""
NOTE_NS = 500_000_000
_MARGIN_NS = 40_000_000
"""The kernel's coarse clock is up to a tick behind; a packet's way through the filter takes less."""
FLOWS_MAX = 8192
"""How many are noted in a VPC: those that are used least are forgotten first."""
DEVICES_MAX = 4096
_NEVER = (1 << 63) - 1
_ETHERNET_BYTES = 14

_CLOCK = struct.Struct("=Q")
_DEVICE = struct.Struct("=II6sxx")
_KEY_BYTES, _NOTE_BYTES = 20, 48

_HEADERS = """
    # The first bytes: Ethernet, IPv4 without options, no fragment, TCP or UDP. r3 is the protocol.
    r2 = u32[r6 + 16]
    if r2 != 8 goto pass                # ether type, as it is on the wire
    r2 = u32[r6 + 20]
    if r2 != 0 goto pass                # a VLAN tag
    r7 = u32[r6 + 76]
    r8 = u32[r6 + 80]
    r2 = r7
    r2 += 54
    if r2 > r8 goto pass
    r2 = u8[r7 + 14]
    if r2 != 0x45 goto pass
    r2 = u16[r7 + 20]
    if r2 & 0xff3f goto pass
    r3 = u8[r7 + 23]
    r5 = 42
    if r3 == 17 goto flow
    if r3 != 6 goto pass
    r2 = u8[r7 + 47]
    if r2 & 7 goto pass                 # FIN, SYN, RST
    r5 = u8[r7 + 46]
    r5 >>= 2
    r5 &= 0x3c
    r5 += 34
flow:
    # Of the flow: device, addresses, ports, protocol, at r10 - 24. r5 is how long all headers are.
    u32[r10 - 24] = r4
    r2 = u32[r7 + 26]
    u32[r10 - 20] = r2
    r2 = u32[r7 + 30]
    u32[r10 - 16] = r2
    r2 = u32[r7 + 34]
    u32[r10 - 12] = r2
    u32[r10 - 8] = r3
"""

_TAKE = f"""
    r6 = r1
    r2 = u32[r6 + 4]
    if r2 != 0 goto pass                # not sent to this device's Ethernet address
    r4 = u32[r6 + 40]
    {_HEADERS}
    u64[r10 - 32] = r5
    r1 = map flows
    r2 = r10
    r2 += -24
    call map_lookup
    if r0 == 0 goto pass
    r9 = r0
    # Not older than the last change, nor than a note may be.
    call coarse_ns
    r1 = value clock
    r2 = u64[r1 + 0]
    r3 = u64[r9 + 0]
    if r3 <= r2 goto pass
    r0 -= r3
    if r0 > {NOTE_NS} goto pass
    # It fits: what is in one piece here becomes packets of gso_size and headers.
    r3 = u32[r6 + 0]
    r2 = u32[r6 + 176]
    if r2 == 0 goto whole
    r3 = u64[r10 - 32]
    r3 += r2
whole:
    r2 = u32[r9 + 8]
    if r3 > r2 goto pass
    # The sender's Ethernet address.
    r2 = u32[r9 + 12]
    if r2 == 0 goto known
    r2 = u32[r9 + 16]
    r3 = u32[r7 + 6]
    if r2 != r3 goto pass
    r2 = u16[r9 + 20]
    r3 = u16[r7 + 10]
    if r2 != r3 goto pass
known:
    r2 = u8[r7 + 22]
    if r2 <= 1 goto pass                # the router answers that its time is over
    r2 -= 1
    u8[r7 + 22] = r2
    r2 = u16[r7 + 24]                   # the checksum, as the byte before it has one less
    r2 += 1
    if r2 < 0xffff goto summed
    r2 += 1
summed:
    u16[r7 + 24] = r2
    r2 = u32[r9 + 24]
    u32[r7 + 0] = r2
    r2 = u32[r9 + 28]
    u32[r7 + 4] = r2
    r2 = u32[r9 + 32]
    u32[r7 + 8] = r2
    r2 = u32[r9 + 36]
    u32[r6 + 8] = r2
    r1 = u32[r9 + 40]
    r2 = 0
    call redirect
    exit
pass:
    r0 = -1
    exit
"""

_LEARN = f"""
    r6 = r1
    r9 = u32[r6 + 8]
    r2 = r9
    r2 &= {ESTABLISHED_MARK}
    if r2 == 0 goto pass
    r9 &= 0xffff
    u32[r6 + 8] = r9
    r4 = u32[r6 + 36]
    {_HEADERS}
    # The device where it came in: the sender's Ethernet address, if it has to be a certain one.
    r1 = map devices
    r2 = r10
    r2 += -24
    call map_lookup
    if r0 == 0 goto pass
    r2 = u32[r0 + 4]
    u32[r10 - 68] = r2
    r2 = u32[r0 + 8]
    u32[r10 - 64] = r2
    r2 = u32[r0 + 12]
    u32[r10 - 60] = r2
    # The one where it goes out: how long a frame may be there.
    r2 = u32[r6 + 40]
    u32[r10 - 40] = r2
    r1 = map devices
    r2 = r10
    r2 += -40
    call map_lookup
    if r0 == 0 goto pass
    r2 = u32[r0 + 0]
    u32[r10 - 72] = r2
    r2 = u32[r7 + 0]
    u32[r10 - 56] = r2
    r2 = u32[r7 + 4]
    u32[r10 - 52] = r2
    r2 = u32[r7 + 8]
    u32[r10 - 48] = r2
    u32[r10 - 44] = r9
    r2 = 0
    u32[r10 - 36] = r2
    call coarse_ns
    u64[r10 - 80] = r0
    r1 = map flows
    r2 = r10
    r2 += -24
    r3 = r10
    r3 += -80
    r4 = 0
    call map_update
pass:
    r0 = -1
    exit
"""


def note_rule(vpc: VpcPlan) -> str:
    """The rule that lets packets be noted. It stands in the filter for what is forwarded: what other rules
    refuse, before it or after it, does not come to ``learn``.
    """
    unlogged = " iifname != @logged oifname != @logged" if vpc.flow_logs else ""
    return (
        f'ct state established iifname != "{UPLINK}" oifname != "{UPLINK}"{unlogged} '
        f"meta mark set meta mark or {ESTABLISHED_MARK:#x}"
    )


class Device(msgspec.Struct, frozen=True):
    """``mac``: the only sender there may be; "" for any."""

    mtu: int
    mac: str = ""


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
            "flows": keep(bpf.create_map(bpf.LRU_HASH, _KEY_BYTES, _NOTE_BYTES, FLOWS_MAX)),
            "devices": keep(bpf.create_map(bpf.HASH, 4, _DEVICE.size, DEVICES_MAX, bpf.NO_PREALLOCATION)),
            "clock": keep(bpf.create_map(bpf.ARRAY, 4, _CLOCK.size, 1)),
        }
        self._devices, self._clock = maps["devices"], maps["clock"]
        self._placed: dict[str, tuple[int, Device]] = {}
        self.suspend()
        self._take = keep(bpf.load(assemble(_TAKE, maps)))
        self._learn = keep(bpf.load(assemble(_LEARN, maps)))

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
        for name in devices.keys() - self._placed.keys():
            # One that is gone already is not missed.
            with contextlib.suppress(OSError):
                new[name] = socket.if_nametoindex(name), devices[name]
        for index, device in new.values():
            bpf.update(self._devices, struct.pack("=I", index), _packed(device))
        bpf.place(
            place
            for index, _ in new.values()
            for place in ((index, bpf.EGRESS, self._learn), (index, bpf.INGRESS, self._take))
        )
        self._placed |= new


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


def _packed(device: Device) -> bytes:
    mac = bytes.fromhex(device.mac.replace(":", ""))
    return _DEVICE.pack(device.mtu + _ETHERNET_BYTES, bool(mac), mac)


def devices(vpc: VpcPlan, carrier_mtu: int) -> dict[str, Device]:
    """The devices of a VPC's namespace between which there is a short way. ``carrier_mtu`` is that of its way
    to other hosts, 0 if it has none.
    """
    found = {
        port.tap: Device(vpc.mtu, port.mac if port.kind is PortKind.machine else "")
        for port in vpc.ports.values()
    }
    return {**found, VXLAN: Device(carrier_mtu)} if carrier_mtu else found
