"""The checksums of S3's flexible checksums: crc32, crc32c, crc64nvme, sha1, sha256, sha512, md5.

crc32c and crc64nvme come from awscrt where it is installed. Without it they are computed by table, eight
bytes a step: some 10 MB/s, enough to be right.
"""

from __future__ import annotations

import base64
import hashlib
import importlib
import zlib
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Protocol

HEADER_PREFIX = "x-amz-checksum-"


class Checksum(Protocol):
    def update(self, data: bytes, /) -> None: ...

    def digest(self) -> bytes: ...


class _Crc:
    """A running CRC. ``step(data, previous)`` continues one; the digest is big-endian."""

    def __init__(self, step: Callable[[bytes, int], int], size: int) -> None:
        self._step = step
        self._size = size
        self._value = 0

    def update(self, data: bytes) -> None:
        self._value = self._step(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(self._size, "big")


def _tables(polynomial: int) -> list[list[int]]:
    """Eight tables for a reflected polynomial: table k advances a byte that k more bytes follow."""
    first = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = (value >> 1) ^ (polynomial if value & 1 else 0)
        first.append(value)
    tables = [first]
    for _ in range(7):
        last = tables[-1]
        tables.append([(value >> 8) ^ first[value & 0xFF] for value in last])
    return tables


def table_crc(polynomial: int, bits: int) -> Callable[[bytes, int], int]:
    """A CRC step function in plain Python, with all-ones at the start and the end."""
    mask = (1 << bits) - 1
    t0, t1, t2, t3, t4, t5, t6, t7 = _tables(polynomial)

    def step(data: bytes, previous: int) -> int:
        crc = previous ^ mask
        whole = len(data) & ~7
        for i in range(0, whole, 8):
            x = int.from_bytes(data[i : i + 8], "little") ^ crc
            crc = (
                t7[x & 0xFF] ^ t6[x >> 8 & 0xFF] ^ t5[x >> 16 & 0xFF] ^ t4[x >> 24 & 0xFF]
                ^ t3[x >> 32 & 0xFF] ^ t2[x >> 40 & 0xFF] ^ t1[x >> 48 & 0xFF] ^ t0[x >> 56]
            )  # fmt: skip
        for byte in data[whole:]:
            crc = (crc >> 8) ^ t0[(crc ^ byte) & 0xFF]
        return crc ^ mask

    return step


@lru_cache(maxsize=2)
def _native_or_table(name: str) -> Callable[[bytes, int], int]:
    try:
        native: Any = importlib.import_module("awscrt.checksums")
        return getattr(native, name)  # type: ignore[no-any-return]
    except ImportError:
        return table_crc(0x82F63B78, 32) if name == "crc32c" else table_crc(0x9A6C9329AC4BC9B5, 64)


def _sha1() -> Checksum:
    return hashlib.sha1(usedforsecurity=False)


ALGORITHMS: dict[str, Callable[[], Checksum]] = {
    "crc32": lambda: _Crc(zlib.crc32, 4),
    "crc32c": lambda: _Crc(_native_or_table("crc32c"), 4),
    "crc64nvme": lambda: _Crc(_native_or_table("crc64nvme"), 8),
    "sha1": _sha1,
    "sha256": hashlib.sha256,
    "sha512": hashlib.sha512,
    "md5": lambda: md5(),
}


def md5() -> Checksum:
    return hashlib.md5(usedforsecurity=False)


def encoded(checksum: Checksum) -> str:
    return base64.b64encode(checksum.digest()).decode("ascii")
