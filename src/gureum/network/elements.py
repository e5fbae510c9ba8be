"""Elements of nftables sets, told to the kernel by netlink: in one transaction, without ``nft``.

``nft`` first asks the kernel for all tables, chains and sets that there are, so with it a change costs what
is beside it. And it reads text: of tens of thousands of elements that is most of the work.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import chain

import msgspec

from gureum.errors import NetworkError
from gureum.network.conntrack import attribute
from gureum.network.ruleset import Change, Set

BATCH_BYTES_MAX = 16 << 20
"""Of one transaction; a larger one is refused by ``transaction``."""
PORTION_BYTES = 256 << 10
_NETLINK_NETFILTER = 12
_NESTED = 0x8000
_KEY, _DATA, _KEY_END = 1, 2, 10
_SOL_NETLINK, _NETLINK_CAP_ACK = 270, 10
_SO_SNDBUFFORCE = 32
_SUBSYSTEM = 10
_BEGIN, _END = 0x10, 0x11
_ADD, _DELETE = _SUBSYSTEM << 8 | 12, _SUBSYSTEM << 8 | 14
_REQUEST, _ACK, _CREATE = 0x1, 0x4, 0x400
_ERROR = 2
_FAMILIES = {"inet": 1, "netdev": 5}
_VERDICTS = {"accept": 1, "drop": 0, "jump": -3, "goto": -4}
_LIST_BYTES_MAX = 60_000
"""The length of an attribute has 16 bits."""
_RECEIVE_BYTES = 1 << 16

Span = tuple[bytes, bytes]
"""The first and the last value, the same for one."""


class Batch(msgspec.Struct, frozen=True):
    """Netlink messages of one transaction, without its begin and its end."""

    messages: list[bytes]

    @property
    def size(self) -> int:
        return sum(map(len, self.messages))


def supported(found: Set) -> bool:
    """Whether elements of such a set can be told so. Intervals of one field are kept in another way, and
    numbers of the processor's byte order in another one where there are intervals.
    """
    keys, _, value = found.type.partition(" : ")
    fields = keys.split(" . ")
    if found.of != "type" or "timeout" in found.flags or not all(field in _FIELDS for field in fields):
        return False
    if "interval" in found.flags and (len(fields) == 1 or "mark" in fields):
        return False
    return value in ("", "verdict", *_FIELDS)


def transaction(changes: Iterable[Change]) -> Batch:
    """NetworkError for elements that are none, or too many for one transaction."""
    batch = Batch([message for change in changes for message in _messages(change)])
    if batch.size > BATCH_BYTES_MAX:
        raise NetworkError(f"{batch.size} bytes of elements are too many for one transaction")
    return batch


def portions(changes: Iterable[Change]) -> Iterator[Batch]:
    """The same in many transactions, for what nobody uses yet."""
    messages: list[bytes] = []
    size = 0
    for message in chain.from_iterable(map(_messages, changes)):
        if messages and size + len(message) > PORTION_BYTES:
            yield Batch(messages)
            messages, size = [], 0
        messages.append(message)
        size += len(message)
    if messages:
        yield Batch(messages)


def commit(batches: Iterable[Batch]) -> None:
    """Apply these transactions in the calling thread's namespace, each all or none."""
    try:
        with socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER
        ) as sock:
            sock.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
            sock.bind((0, 0))
            for batch in batches:
                if batch.messages:
                    _send(sock, batch)
    except OSError as error:
        raise NetworkError(f"nftables: {error.strerror or error}") from error


def _send(sock: socket.socket, batch: Batch) -> None:
    *messages, last = batch.messages
    # The last message asks for an answer; whatever fails answers unasked.
    (flags,) = struct.unpack_from("=H", last, 6)
    last = last[:6] + struct.pack("=H", flags | _ACK) + last[8:]
    data = b"".join([_edge(_BEGIN), *messages, last, _edge(_END)])
    sock.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, len(data) + 4096)
    sock.send(data)
    # The kernel has done it all when it returns.
    answered = False
    while True:
        try:
            data = sock.recv(_RECEIVE_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            break
        at = 0
        while at + 20 <= len(data):
            length, kind = struct.unpack_from("=IH", data, at)
            if kind == _ERROR:
                (code,) = struct.unpack_from("=i", data, at + 16)
                if code:
                    raise OSError(-code, os.strerror(-code))
                answered = True
            at += max(16, (length + 3) & ~3)
    if not answered:
        raise OSError(errno.EIO, "no answer")


def _edge(kind: int) -> bytes:
    return struct.pack("=IHHIIBBH", 20, kind, _REQUEST, 0, 0, 0, 0, socket.htons(_SUBSYSTEM))


def _messages(change: Change) -> Iterator[bytes]:
    family, _, table = change.table.partition(" ")
    head = struct.pack("=BBH", _FAMILIES[family], 0, 0)
    head += attribute(1, table.encode() + b"\0") + attribute(2, change.key.encode() + b"\0")
    for kind, flags, elements in (
        (_DELETE, _REQUEST, _encoded(change.set, dict.fromkeys(change.gone, ""))),
        (_ADD, _REQUEST | _CREATE, _encoded(change.set, change.come)),
    ):
        while elements:
            count = max(1, _LIST_BYTES_MAX // max(map(len, elements)))
            body = head + attribute(3, b"".join(elements[:count]), nested=True)
            yield struct.pack("=IHHII", 16 + len(body), kind, flags, 1, 0) + body
            del elements[:count]


def _encoded(found: Set, elements: Mapping[str, str]) -> list[bytes]:
    keys, _, kind = found.type.partition(" : ")
    types = keys.split(" . ")
    try:
        if len(types) == 1:
            encoded = [_key(_FIELDS[keys](element)[0]) for element in elements]
        elif "interval" in found.flags:
            encoded = _intervals([_PADDED[each] for each in types], elements)
        else:
            fields = [_PADDED[each] for each in types]
            split = [zip(fields, each.split(" . "), strict=True) for each in elements]
            encoded = [_key(b"".join([field(text)[0] for field, text in pairs])) for pairs in split]
        if kind:
            encoded = [
                key + (_data(kind, value) if value else b"")
                for key, value in zip(encoded, elements.values(), strict=True)
            ]
    except (ValueError, OSError, KeyError, struct.error) as error:
        raise NetworkError(f"an element of {found.type} that is none: {error}") from None
    return [struct.pack("=HH", 4 + len(each), 1 | _NESTED) + each for each in encoded]


def _intervals(fields: list[Callable[[str], Span]], elements: Iterable[str]) -> list[bytes]:
    """The keys of all have the same length."""
    spans = [
        [field(text) for field, text in zip(fields, element.split(" . "), strict=True)]
        for element in elements
    ]
    if not spans:
        return []
    size = sum(len(first) for first, _ in spans[0])
    begin, end = (struct.pack("=HHHH", 8 + size, kind | _NESTED, 4 + size, 1) for kind in (_KEY, _KEY_END))
    return [
        b"".join((begin, *[first for first, _ in each], end, *[last for _, last in each])) for each in spans
    ]


def _key(value: bytes, kind: int = _KEY) -> bytes:
    size = len(value)
    return struct.pack("=HHHH", 8 + size, kind | _NESTED, 4 + size, 1) + value + _PADDING[size & 3]


def _data(kind: str, value: str) -> bytes:
    if kind != "verdict":
        return _key(_FIELDS[kind](value)[0], _DATA)
    verb, _, target = value.partition(" ")
    verdict = attribute(1, struct.pack(">i", _VERDICTS[verb]))
    if target:
        verdict += attribute(2, target.encode() + b"\0")
    return attribute(_DATA, attribute(2, verdict, nested=True), nested=True)


def _ipv4(text: str) -> Span:
    address, slash, length = text.partition("/")
    first = socket.inet_pton(socket.AF_INET, address)
    if not slash:
        return first, first
    return first, (int.from_bytes(first) | (1 << 32 - int(length)) - 1).to_bytes(4)


def _ipv6(text: str) -> Span:
    address, slash, length = text.partition("/")
    first = socket.inet_pton(socket.AF_INET6, address)
    if not slash:
        return first, first
    return first, (int.from_bytes(first) | (1 << 128 - int(length)) - 1).to_bytes(16)


def _numbers(format: str) -> Callable[[str], Span]:
    @lru_cache(maxsize=4096)
    def field(text: str) -> Span:
        first, dash, last = text.partition("-")
        return struct.pack(format, int(first)), struct.pack(format, int(last if dash else first))

    return field


def _station(text: str) -> Span:
    value = bytes.fromhex(text.replace(":", ""))
    if len(value) != 6:
        raise ValueError(text)
    return value, value


def _device(text: str) -> Span:
    value = text.strip('"').encode().ljust(16, b"\0")
    if len(value) != 16:
        raise ValueError(text)
    return value, value


def _padded(field: Callable[[str], Span]) -> Callable[[str], Span]:
    """In a concatenation each field is a multiple of four bytes."""

    @lru_cache(maxsize=4096)
    def padded(text: str) -> Span:
        first, last = field(text)
        return first + _PADDING[len(first) & 3], last + _PADDING[len(last) & 3]

    return padded


_PADDING = (b"", b"\0" * 3, b"\0" * 2, b"\0")
_FIELDS: dict[str, Callable[[str], Span]] = {
    "ipv4_addr": _ipv4,
    "ipv6_addr": _ipv6,
    "inet_proto": _numbers(">B"),
    "inet_service": _numbers(">H"),
    "mark": _numbers("=I"),
    "ether_addr": _station,
    "ifname": _device,
}
_PADDED = {
    **_FIELDS,
    **{name: _padded(_FIELDS[name]) for name in ("inet_proto", "inet_service", "ether_addr", "ifname")},
}
