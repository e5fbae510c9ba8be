"""Ceph's encoding of the few messages to object classes that the Python bindings have no calls for.

Source: cls/lock/cls_lock_ops.h and cls_lock_types.h, cls/rbd/cls_rbd.cc, msg/msg_types.h in Ceph's tree.
Structures begin with version, oldest compatible version, and length: what a newer Ceph appends is skipped.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

CLIENT = 8
"""CEPH_ENTITY_TYPE_CLIENT."""
_STRUCTURE = struct.Struct("<BBI")
_LENGTH = struct.Struct("<I")
_ENTITY = struct.Struct("<Bq")
_NUMBER = struct.Struct("<Q")
_SIGNED = struct.Struct("<q")
_TIME = struct.Struct("<II")
_SHARED = 2
"""ClsLockType::SHARED."""
_OLD_ADDRESS = 136


class Locker(NamedTuple):
    """``client`` is the number of the client that took the lock, ``cookie`` the name that it gave itself.

    ``expires``: seconds and nanoseconds of the OSD's clock, (0, 0) for never.
    """

    client: int
    cookie: str
    description: str
    expires: tuple[int, int] = (0, 0)


class Parent(NamedTuple):
    """What an image is a clone of; ``image`` is an id, "" for none, ``snapshot`` a number."""

    pool: int
    image: str
    snapshot: int


class Lockers(NamedTuple):
    """Of one lock; ``shared``: there may be others besides."""

    all: list[Locker]
    shared: bool


def string(text: str) -> bytes:
    data = text.encode()
    return _LENGTH.pack(len(data)) + data


def read_string(data: bytes, at: int = 0) -> tuple[str, int]:
    (length,) = _LENGTH.unpack_from(data, at)
    at += _LENGTH.size
    return data[at : at + length].decode(), at + length


def structure(body: bytes) -> bytes:
    return _STRUCTURE.pack(1, 1, len(body)) + body


def flags(mask: int) -> bytes:
    """To set these flags of an image: the flags, and which of them are meant."""
    return struct.pack("<QQ", mask, mask)


def number(value: int) -> bytes:
    return _NUMBER.pack(value)


def parent(data: bytes) -> Parent:
    """A cls::rbd::ParentImageSpec."""
    at, _ = _enter(data, 0)
    (pool,) = _SIGNED.unpack_from(data, at)
    _, at = read_string(data, at + _SIGNED.size)  # the pool's namespace
    image, at = read_string(data, at)
    return Parent(pool, image, *_NUMBER.unpack_from(data, at))


def lock_name(name: str) -> bytes:
    """cls_lock_get_info_op."""
    return structure(string(name))


def break_lock(name: str, locker: Locker) -> bytes:
    """cls_lock_break_op."""
    return structure(string(name) + _ENTITY.pack(CLIENT, locker.client) + string(locker.cookie))


def lockers(data: bytes) -> Lockers:
    """What a cls_lock_get_info_reply says."""
    at = _STRUCTURE.size
    (count,) = _LENGTH.unpack_from(data, at)
    at += _LENGTH.size
    found = []
    for _ in range(count):
        id_at, at = _enter(data, at)
        _, client = _ENTITY.unpack_from(data, id_at)
        cookie, _ = read_string(data, id_at + _ENTITY.size)
        info_at, at = _enter(data, at)
        seconds, nanoseconds = _TIME.unpack_from(data, info_at)
        description, _ = read_string(data, _after_address(data, info_at + _TIME.size))
        found.append(Locker(client, cookie, description, (seconds, nanoseconds)))
    return Lockers(found, data[at] == _SHARED)


def _enter(data: bytes, at: int) -> tuple[int, int]:
    """Where a structure's body begins, and where it ends."""
    _, _, length = _STRUCTURE.unpack_from(data, at)
    return at + _STRUCTURE.size, at + _STRUCTURE.size + length


def _after_address(data: bytes, at: int) -> int:
    if data[at] == 0:  # the form of before Ceph 12
        return at + _OLD_ADDRESS
    _, end = _enter(data, at + 1)
    return end
