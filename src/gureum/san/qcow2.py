"""The header of a qcow2 file: writing an empty image, and reading one with suspicion.

Source of the layout: QEMU's docs/interop/qcow2.txt. An empty image is four regions, of one cluster each but
the last: header, refcount table, first refcount block, L1 table. Writing it here takes a fraction of a
millisecond; qemu-img takes ten and more, most of it to start, and ten launches at once would queue for it.
"""

from __future__ import annotations

import struct

import msgspec

from gureum.errors import PoolError

CLUSTER_BITS = 16
CLUSTER = 1 << CLUSTER_BITS
HEADER_READ = 4096
"""Enough of a file's start for the fixed header, our extensions and any backing name (1023 bytes at most)."""

_MAGIC = 0x514649FB
_FIXED = struct.Struct(">IIQIIQIIQQIIQ")
_VERSION3 = struct.Struct(">QQQII")
_HEADER_LENGTH = 112
_BACKING_FORMAT = 0xE2792ACA
_BACKING_NAME_MAX = 1023

INCOMPATIBLE_DIRTY = 1 << 0
INCOMPATIBLE_CORRUPT = 1 << 1
INCOMPATIBLE_DATA_FILE = 1 << 2
INCOMPATIBLE_COMPRESSION = 1 << 3
INCOMPATIBLE_EXTENDED_L2 = 1 << 4


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """``backing`` is the name as written in the file, "" for none. Sizes in bytes."""

    version: int
    size_bytes: int
    backing: str
    encrypted: bool
    incompatible: int


def empty_image(size_bytes: int, backing: str, backing_format: str) -> tuple[dict[int, bytes], int]:
    """An empty version 3 image: what to write at which offsets, and the file's length. The rest is a hole."""
    tables = -(-size_bytes // (CLUSTER // 8 * CLUSTER))
    clusters = 3 + max(1, -(-tables * 8 // CLUSTER))
    extensions = b""
    if backing:
        name = backing_format.encode()
        extensions = struct.pack(">II", _BACKING_FORMAT, len(name)) + name.ljust(
            -(-len(name) // 8) * 8, b"\0"
        )
    extensions += bytes(8)
    backing_name = backing.encode()
    if len(backing_name) > _BACKING_NAME_MAX:
        raise PoolError(f"the backing name {backing[:80]!r}... is too long")
    backing_offset = _HEADER_LENGTH + len(extensions) if backing else 0
    fixed = _FIXED.pack(
        _MAGIC,
        3,
        backing_offset,
        len(backing_name),
        CLUSTER_BITS,
        size_bytes,
        0,  # no encryption
        tables,
        3 * CLUSTER,  # L1 table
        CLUSTER,  # refcount table
        1,  # of one cluster
        0,  # no internal snapshots
        0,
    )
    version3 = _VERSION3.pack(0, 0, 0, 4, _HEADER_LENGTH)  # no features; refcounts of 2 ** 4 bits
    header = (fixed + version3).ljust(_HEADER_LENGTH, b"\0") + extensions + backing_name
    refcount_table = struct.pack(">Q", 2 * CLUSTER)
    refcounts = b"\0\1" * clusters
    return {0: header, CLUSTER: refcount_table, 2 * CLUSTER: refcounts}, clusters * CLUSTER


def parse(data: bytes) -> Header:
    """The header in the first HEADER_READ bytes of a file; PoolError if it is none."""
    if len(data) < _FIXED.size:
        raise PoolError("no qcow2 file: too short")
    magic, version, backing_offset, backing_size, bits, size, crypt, *_ = _FIXED.unpack_from(data)
    if magic != _MAGIC or version not in (2, 3) or not 9 <= bits <= 21:
        raise PoolError("no qcow2 file of version 2 or 3")
    incompatible = 0
    if version == 3:
        if len(data) < _FIXED.size + _VERSION3.size:
            raise PoolError("no qcow2 file: too short")
        incompatible = _VERSION3.unpack_from(data, _FIXED.size)[0]
    backing = ""
    if backing_offset:
        name = data[backing_offset : backing_offset + backing_size]
        if backing_size > _BACKING_NAME_MAX or len(name) != backing_size:
            raise PoolError("the qcow2 file's backing name is out of place")
        backing = name.decode(errors="replace")
    return Header(
        version=version, size_bytes=size, backing=backing, encrypted=crypt != 0, incompatible=incompatible
    )


def refuse_foreign(header: Header, allowed: int) -> None:
    """PoolError if the file would make QEMU open another, needs a key, or has features not ``allowed``."""
    if header.encrypted:
        raise PoolError("encrypted qcow2 files are not supported")
    if header.incompatible & INCOMPATIBLE_DATA_FILE:
        raise PoolError("the qcow2 file has an external data file")
    if header.incompatible & ~allowed:
        raise PoolError(f"the qcow2 file has features {header.incompatible:#x}, which are not allowed here")
