"""Keeping a host silent whose instances may be elsewhere: its kernel lives on when its machines are stopped.

It would go on to answer ARP and neighbour discovery for their public addresses, and to translate for its NAT
gateways. Two tables of packet filters stop that, in the host's network: nothing is forwarded from or to the
cloud's own devices, no ARP leaves the uplink in the name of a public address, and no neighbour advertisement
for one of the IPv6 networks that are led there. Nothing else that the machine forwards is touched, and what
the agent builds anew meanwhile changes nothing.

A host on which the warden has ended, too, is silent by itself: the filters are always there, and let pass
only while a set of theirs has its element, which the kernel takes away unless it is put there time and again.

Told to the kernel over netlink, as in <linux/netfilter/nf_tables.h>: to start ``nft`` needs a disk. The
warden uses it, so only the standard library may be imported here.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from ipaddress import IPv4Network, IPv6Network
from typing import NamedTuple

ANSWER_SECONDS = 1.0
NETFILTER = 12
INET, ARP = 1, 3
FORWARD, OUTPUT, ARP_OUT = 2, 3, 1
"""Hooks of these two families."""
PRIORITY = -400
"""Before all other filters."""
_BEGIN, _END, _TABLES = 0x10, 0x11, 10
_NEW_TABLE, _GET_TABLE, _DELETE_TABLE, _NEW_CHAIN, _NEW_RULE = 0, 1, 2, 3, 6
_NEW_SET, _NEW_ELEMENTS, _GET_ELEMENTS, _DELETE_ELEMENTS = 9, 12, 13, 14
_REQUEST, _ACK, _CREATE, _APPEND, _ERROR = 0x1, 0x4, 0x400, 0x800, 2
_IIFNAME, _OIFNAME = 6, 7
_SET = "heard"
_SET_ID = 1
_TIMEOUTS = 0x10
_KEY = bytes(3) + b"\1"
_DROP, _ACCEPT = 0, 1
_ARP_SENDER = 14
"""Where an ARP packet has its sender's IPv4 address."""
_NETWORK, _TRANSPORT = 1, 2
_L4PROTO, _ICMP6, _ADVERTISEMENT = 16, 58, 136
_TARGET = 8
"""Where a neighbour advertisement has the address that it is about."""
_ROUTES6 = "/proc/thread-self/net/ipv6_route"
_PROXIES = "/proc/sys/net/ipv6/conf/{}/proxy_ndp"


class Place(NamedTuple):
    """Of a host's network. ``table``: what ours are called; ``devices``: how the names of the cloud's own
    begin; ``uplink``: "" for an only host, which nobody can take anything from; ``public``: the cloud's
    public addresses; ``metric6``: of its routes to the IPv6 networks that are led to the uplink, 0 for none.
    """

    table: str = ""
    devices: str = ""
    uplink: str = ""
    public: str = ""
    metric6: int = 0


class Silence:
    """To be used in the host's network. All methods raise OSError."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._made: frozenset[IPv6Network] | None = None
        """The filters are of this place, and of this version, and silent of these networks."""

    def keep(self) -> None:
        """Be silent, also if somebody took the filters away."""
        if self._place.uplink and (self._led() != self._made or not self.kept()):
            self._set(0.0)

    def lift(self, seconds: float) -> None:
        """Be heard for so long."""
        if self._place.uplink:
            self._set(seconds)
        else:
            # It had one, perhaps.
            self.end()

    def end(self) -> None:
        """Be heard from now on, whether there is a warden or not."""
        self._made = None
        if not self._place.table:
            return
        table = _attribute(1, _text(self._place.table))
        for family in (INET, ARP):
            with contextlib.suppress(FileNotFoundError):
                _tell([_message(_DELETE_TABLE, family, table)])

    def leave(self) -> None:
        """As ``end``, where nothing of the cloud's network is left. Else what is kept silent stays so, and
        what is heard is heard for as long as was said.
        """
        with contextlib.suppress(OSError):
            if not any(name.startswith(self._place.devices) for _, name in socket.if_nameindex()):
                self.end()

    def proxy(self) -> None:
        """Let neighbour discovery be proxied again: wardens of before 0.7.0 switched that off."""
        with contextlib.suppress(OSError), open(_PROXIES.format(self._place.uplink), "w") as file:
            file.write("1")

    def kept(self) -> bool:
        """Whether nothing passes."""
        return all(self._has(family) and not self._is_heard(family) for family in (INET, ARP))

    def _set(self, seconds: float) -> None:
        """Be heard for so long, all or nothing of both tables."""
        led = self._led()
        made = [] if led == self._made and self._has(INET) and self._has(ARP) else self._filters(led)
        _tell([*made, *self._heard(INET, seconds), *self._heard(ARP, seconds)])
        self._made = led

    def _led(self) -> frozenset[IPv6Network]:
        """The networks that are led to the uplink, as the kernel's routes say."""
        if not self._place.metric6:
            return frozenset()
        try:
            with open(_ROUTES6) as file:
                routes = [line.split() for line in file if f" {self._place.metric6:08x} " in line]
        except OSError:  # a kernel without IPv6
            return frozenset()
        # Destination, its length, source, its length, next hop, metric ...
        ours = (each for each in routes if int(each[5], 16) == self._place.metric6)
        return frozenset(IPv6Network((bytes.fromhex(each[0]), int(each[1], 16))) for each in ours)

    def _has(self, family: int) -> bool:
        return _is_there(_message(_GET_TABLE, family, _attribute(1, _text(self._place.table))))

    def _is_heard(self, family: int) -> bool:
        return _is_there(_message(_GET_ELEMENTS, family, self._elements(_HEARD)))

    def _heard(self, family: int, seconds: float) -> list[_Message]:
        """The set with its element for so long; without it for 0."""
        found = [_message(_DELETE_ELEMENTS, family, self._elements())]
        if seconds:
            timeout = _attribute(4, struct.pack(">Q", int(seconds * 1000)))
            found.append(_message(_NEW_ELEMENTS, family, self._elements(_HEARD + timeout), _CREATE))
        return found

    def _elements(self, element: bytes = b"") -> bytes:
        """Those of the set; all of them if none is named."""
        names = _attribute(1, _text(self._place.table)) + _attribute(2, _text(_SET))
        return names + (_nested(3, _nested(1, element)) if element else b"")

    def _filters(self, led: frozenset[IPv6Network]) -> list[_Message]:
        """Both tables anew, all or nothing."""
        place = self._place
        ours = place.devices.encode()
        uplink = _named(_OIFNAME, _text(place.uplink))
        forward = [[_named(_IIFNAME, ours)], [_named(_OIFNAME, ours)]]
        answers = [[uplink, _payload(_NETWORK, _ARP_SENDER, 4) + _within(IPv4Network(place.public))]]
        advertisement = [
            uplink,
            _expression("meta", _number(2, _L4PROTO), _number(1, 1)) + _equal(bytes([_ICMP6])),
            _payload(_TRANSPORT, 0, 1) + _equal(bytes([_ADVERTISEMENT])),
        ]
        neighbours = [[*advertisement, _payload(_TRANSPORT, _TARGET, 16) + _within(each)] for each in led]
        return [
            *self._table(INET),
            *self._chain(INET, "forward", FORWARD, forward),
            *self._chain(INET, "neighbours", OUTPUT, neighbours),
            *self._table(ARP),
            *self._chain(ARP, "answers", ARP_OUT, answers),
        ]

    def _table(self, family: int) -> list[_Message]:
        name = _attribute(1, _text(self._place.table))
        heard = name + _attribute(2, _text(_SET)) + _number(3, _TIMEOUTS) + _number(4, 0)
        heard += _number(5, len(_KEY)) + _number(10, _SET_ID)
        return [
            _message(_NEW_TABLE, family, name, _CREATE),
            # What is there of an earlier one goes.
            _message(_DELETE_TABLE, family, name),
            _message(_NEW_TABLE, family, name, _CREATE),
            _message(_NEW_SET, family, heard, _CREATE),
        ]

    def _chain(self, family: int, chain: str, hook: int, drops: list[list[bytes]]) -> list[_Message]:
        name = _attribute(1, _text(self._place.table))
        hooked = _nested(4, _number(1, hook), struct.pack("=HH", 8, 2) + struct.pack(">i", PRIORITY))
        base = name + _attribute(3, _text(chain)) + hooked + _attribute(7, _text("filter"))
        found = [_message(_NEW_CHAIN, family, base, _CREATE)]
        is_heard = (
            _expression("immediate", _number(1, 1), _nested(2, _attribute(1, _KEY)))
            + _expression("lookup", _attribute(1, _text(_SET)), _number(2, 1), _number(4, _SET_ID))
        )  # fmt: skip
        rules = [[is_heard, _verdict(_ACCEPT)], *([*matches, _verdict(_DROP)] for matches in drops)]
        for expressions in rules:
            rule = name + _attribute(2, _text(chain)) + _nested(4, *expressions)
            found.append(_message(_NEW_RULE, family, rule, _CREATE | _APPEND))
        return found


class _Message(NamedTuple):
    kind: int
    family: int
    flags: int
    body: bytes


def _message(kind: int, family: int, body: bytes, flags: int = 0) -> _Message:
    return _Message(_TABLES << 8 | kind, family, flags, body)


def _attribute(kind: int, data: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(data), kind) + data + bytes(-len(data) % 4)


def _nested(kind: int, *attributes: bytes) -> bytes:
    return _attribute(kind | 0x8000, b"".join(attributes))


_HEARD = _nested(1, _attribute(1, _KEY))
"""The element's key."""


def _number(kind: int, value: int) -> bytes:
    return _attribute(kind, struct.pack(">I", value))


def _text(value: str) -> bytes:
    return value.encode() + b"\0"


def _expression(name: str, *attributes: bytes) -> bytes:
    return _nested(1, _attribute(1, _text(name)), _nested(2, *attributes))


def _verdict(code: int) -> bytes:
    return _expression("immediate", _number(1, 0), _nested(2, _nested(2, _number(1, code))))


def _equal(data: bytes) -> bytes:
    return _expression("cmp", _number(1, 1), _number(2, 0), _nested(3, _attribute(1, data)))


def _payload(header: int, offset: int, length: int) -> bytes:
    """So many bytes of the packet's header."""
    return _expression("payload", _number(1, 1), _number(2, header), _number(3, offset), _number(4, length))


def _within(network: IPv4Network | IPv6Network) -> bytes:
    """An address that was loaded is of the network."""
    mask = network.netmask.packed
    masked = _expression(
        "bitwise",
        _number(1, 1),
        _number(2, 1),
        _number(3, len(mask)),
        _nested(4, _attribute(1, mask)),
        _nested(5, _attribute(1, bytes(len(mask)))),
    )
    return masked + _equal(network.network_address.packed)


def _named(key: int, name: bytes) -> bytes:
    """The name of the packet's device is, or begins with, this one."""
    return _expression("meta", _number(2, key), _number(1, 1)) + _equal(name)


def _tell(messages: list[_Message]) -> None:
    """Have them all done, or none."""
    begin, end = (_Message(kind, 0, 0, b"") for kind in (_BEGIN, _END))
    _converse([begin, *messages, end], len(messages))


def _is_there(message: _Message) -> bool:
    try:
        _converse([message], 0)
    except FileNotFoundError:
        return False
    return True


def _converse(messages: list[_Message], last: int) -> None:
    """Raises OSError with what is answered to any; returns when the ``last`` is done."""
    data = b""
    for number, each in enumerate(messages):
        flags = _REQUEST | each.flags | (_ACK if number == last else 0)
        resource = _TABLES if each.kind in (_BEGIN, _END) else 0
        body = struct.pack(">BBH", each.family, 0, resource) + each.body
        data += struct.pack("=LHHLL", 16 + len(body), each.kind, flags, number, 0) + body
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETFILTER) as sock:
        sock.settimeout(ANSWER_SECONDS)
        sock.bind((0, 0))
        sock.send(data)
        while True:
            answer = sock.recv(65536)
            while len(answer) >= 20:
                length, kind, _, number, _, code = struct.unpack_from("=LHHLLi", answer)
                if kind == _ERROR and code:
                    raise OSError(-code, f"packet filter: {os.strerror(-code)}")
                if kind == _ERROR and number == last:
                    return
                answer = answer[(length + 3) & ~3 :]
