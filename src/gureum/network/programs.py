"""The two BPF programs of the short way (``shortcut``): ``learn`` notes where packets went, ``take`` sends
those that follow there.

In both r6 is the packet's context (struct __sk_buff), r7 and r8 its first bytes and the end of these. They
answer -1, which is "no opinion", or send the packet to another device.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from typing import NamedTuple

ESTABLISHED_MARK = 1 << 24
"""The bit of a packet's mark by which the filter says that its flow may be noted. The lower 16 are the number
of its route table; VXLAN carries only these.
"""
NOTE_NS = 500_000_000

KEY_BYTES, NOTE_BYTES = 44, 48
_KEY, _LENGTH, _NOTE = 48, 56, 104
"""Where in a program's stack, below r10: the flow, how long a packet's headers are, a note."""


class Family(NamedTuple):
    """Places in a frame. ``check``: what else has to be so; ``age``: one router less to pass."""

    ether_type: int
    number: int
    protocol: int
    addresses: range
    transport: int
    check: str
    life: int
    age: str


FOUR = Family(
    0x0800, 0x400, 23, range(26, 34, 4), 34,
    """
    r2 = u8[r7 + 14]
    if r2 != 0x45 goto pass             # options
    r2 = u16[r7 + 20]
    if r2 & 0xff3f goto pass            # a fragment, as it is on the wire
    """,
    22,
    """
    r2 = u16[r7 + 24]                   # the checksum, as the byte before it has one less
    r2 += 1
    if r2 < 0xffff goto summed
    r2 += 1
summed:
    u16[r7 + 24] = r2
    """,
)  # fmt: skip
SIX = Family(
    0x86DD, 0x600, 20, range(22, 54, 4), 54,
    """
    r2 = u8[r7 + 14]
    r2 >>= 4
    if r2 != 6 goto pass
    """,
    21,
    "",
)  # fmt: skip


def _headers(family: Family) -> str:
    """Reads the first bytes, and puts the flow onto the stack: device (r4), protocol, addresses, ports. r5 is
    how long all headers are.
    """
    words = [*family.addresses, family.transport]
    rest = range(_KEY - 8 - 4 * len(words), _KEY - KEY_BYTES, -4)
    return f"""
    r2 = u32[r6 + 16]
    if r2 != {socket.htons(family.ether_type)} goto pass
    r2 = u32[r6 + 20]
    if r2 != 0 goto pass                # a VLAN tag
    r7 = u32[r6 + 76]
    r8 = u32[r6 + 80]
    r2 = r7
    r2 += {family.transport + 20}
    if r2 > r8 goto pass
    {family.check}
    r3 = u8[r7 + {family.protocol}]
    r5 = {family.transport + 8}
    if r3 == 17 goto flow
    if r3 != 6 goto pass
    r2 = u8[r7 + {family.transport + 13}]
    if r2 & 7 goto pass                 # FIN, SYN, RST
    r5 = u8[r7 + {family.transport + 12}]
    r5 >>= 2
    r5 &= 0x3c
    r5 += {family.transport}
flow:
    u32[r10 - {_KEY}] = r4
    r3 += {family.number}
    u32[r10 - {_KEY - 4}] = r3
    {_lines(f"r2 = u32[r7 + {word}]; u32[r10 - {_KEY - 8 - 4 * at}] = r2" for at, word in enumerate(words))}
    r2 = 0
    {_lines(f"u32[r10 - {place}] = r2" for place in rest)}
"""


def _lines(parts: Iterable[str]) -> str:
    return "\n".join(parts).replace("; ", "\n")


def take(family: Family) -> str:
    return f"""
    r6 = r1
    r2 = u32[r6 + 4]
    if r2 != 0 goto pass                # not sent to this device's Ethernet address
    r4 = u32[r6 + 40]
    {_headers(family)}
    u64[r10 - {_LENGTH}] = r5
    r1 = map flows
    r2 = r10
    r2 += -{_KEY}
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
    r3 = u64[r10 - {_LENGTH}]
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
    r2 = u8[r7 + {family.life}]
    if r2 <= 1 goto pass                # the router answers that its time is over
    r2 -= 1
    u8[r7 + {family.life}] = r2
    {family.age}
    r2 = u32[r9 + 24]
    u32[r7 + 0] = r2
    r2 = u32[r9 + 28]
    u32[r7 + 4] = r2
    r2 = u32[r9 + 32]
    u32[r7 + 8] = r2
    r2 = u32[r9 + 36]
    u32[r6 + 8] = r2
    r1 = u32[r9 + 40]
    r2 = u32[r9 + 44]
    if r2 != 0 goto through
    call redirect
    exit
through:
    r2 = 0
    call redirect_peer
    exit
pass:
    r0 = -1
    exit
"""


def learn(family: Family) -> str:
    """A note: time (0), longest frame (8), whether there is one sender only (12), its address (16), the
    addresses to send with (24), mark (36), device (40), whether to go to the device's other end at once (44).
    """
    return f"""
    r6 = r1
    r9 = u32[r6 + 8]
    r2 = r9
    r2 &= {ESTABLISHED_MARK}
    if r2 == 0 goto pass
    r9 &= 0xffff
    u32[r6 + 8] = r9
    r4 = u32[r6 + 36]
    {_headers(family)}
    # The device where it came in: the sender's Ethernet address, if it has to be a certain one.
    r1 = map devices
    r2 = r10
    r2 += -{_KEY}
    call map_lookup
    if r0 == 0 goto pass
    r2 = u32[r0 + 4]
    u32[r10 - {_NOTE - 12}] = r2
    r2 = u32[r0 + 8]
    u32[r10 - {_NOTE - 16}] = r2
    r2 = u32[r0 + 12]
    u32[r10 - {_NOTE - 20}] = r2
    # The one where it goes out: how long a frame may be there.
    r2 = u32[r6 + 40]
    u32[r10 - {_NOTE - 40}] = r2
    r1 = map devices
    r2 = r10
    r2 += -{_NOTE - 40}
    call map_lookup
    if r0 == 0 goto pass
    r2 = u32[r0 + 0]
    u32[r10 - {_NOTE - 8}] = r2
    r2 = u32[r0 + 16]
    u32[r10 - {_NOTE - 44}] = r2
    if r2 == 0 goto marked
    r9 = 0                              # the mark is this namespace's
marked:
    r2 = u32[r7 + 0]
    u32[r10 - {_NOTE - 24}] = r2
    r2 = u32[r7 + 4]
    u32[r10 - {_NOTE - 28}] = r2
    r2 = u32[r7 + 8]
    u32[r10 - {_NOTE - 32}] = r2
    u32[r10 - {_NOTE - 36}] = r9
    call coarse_ns
    u64[r10 - {_NOTE}] = r0
    r1 = map flows
    r2 = r10
    r2 += -{_KEY}
    r3 = r10
    r3 += -{_NOTE}
    r4 = 0
    call map_update
pass:
    r0 = -1
    exit
"""
