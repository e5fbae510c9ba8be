"""Encrypted volumes: LUKS version 1, opened by QEMU (LUKS1 On-Disk Format Specification 1.2.3).

An encrypted volume is a header of ``LUKS_HEADER_BYTES``, and then what the machine sees: it is larger than
that by the header. A pool writes ``luks_header`` at the beginning when it makes the volume, and no more: what
was never written is noise to the machine. A clone or snapshot of a volume has the volume's header, and so its
key.

The header's key slot is opened by a passphrase made of 64 random bytes, which nobody can guess. So the many
rounds that make guessing slow are left out: they would make each start slow, and qemu-img takes 2 s to
measure how many there should be.

All of a header follows from the key: the same key always has the same header. So it can be written again
where nobody knows whether it was, with data after it or not. Each new volume has a new key.
"""

from __future__ import annotations

import base64
import hashlib
import struct
import uuid

from gureum.errors import PoolError

KEY_BYTES = 64
SLOTS = 8
STRIPES = 4000
ROUNDS = 1000
SECTOR_BYTES = 512
SLOT_SECTORS = 504
"""A key in stripes, in whole blocks of 4 KiB."""
FIRST_SLOT_SECTOR = 8

LUKS_HEADER_BYTES = (FIRST_SLOT_SECTOR + SLOTS * SLOT_SECTORS) * SECTOR_BYTES
"""Where the data begins: 2,068,480, which is 505 blocks of 4 KiB. As qemu-img makes it."""

_HEADER = struct.Struct(">6sH32s32s32sII20s32sI40s")
_SLOT = struct.Struct(">II32sII")
_ACTIVE, _UNUSED = 0x00AC71F3, 0x0000DEAD


def passphrase(key: bytes) -> str:
    """What opens the header's key slot: QEMU takes text only."""
    return base64.b64encode(key).decode()


def luks_header(key: bytes) -> bytes:
    """The header of a volume with ``key``, LUKS_HEADER_BYTES long. Takes about 30 ms of CPU time.

    Its master key is not ``key``, which only opens it. Raises PoolError for a key of a wrong length.
    """
    if len(key) != KEY_BYTES:
        raise PoolError(f"a volume's key has {KEY_BYTES} bytes, not {len(key)}")
    master, digest_salt, slot_salt = (
        _derived(key, purpose, size)
        for purpose, size in ((b"master key", KEY_BYTES), (b"digest salt", 32), (b"slot salt", 32))
    )
    header = bytearray(LUKS_HEADER_BYTES)
    _HEADER.pack_into(
        header,
        0,
        *(b"LUKS\xba\xbe", 1, b"aes", b"xts-plain64", b"sha256"),
        *(LUKS_HEADER_BYTES // SECTOR_BYTES, KEY_BYTES),
        *(hashlib.pbkdf2_hmac("sha256", master, digest_salt, ROUNDS, 20), digest_salt, ROUNDS),
        str(uuid.UUID(bytes=_derived(key, b"uuid", 16), version=4)).encode(),
    )
    for slot in range(SLOTS):
        sector = FIRST_SLOT_SECTOR + slot * SLOT_SECTORS
        used = (_ACTIVE, ROUNDS, slot_salt) if slot == 0 else (_UNUSED, 0, b"")
        _SLOT.pack_into(header, _HEADER.size + slot * _SLOT.size, *used, sector, STRIPES)
    opens = hashlib.pbkdf2_hmac("sha256", passphrase(key).encode(), slot_salt, ROUNDS, KEY_BYTES)
    begin = FIRST_SLOT_SECTOR * SECTOR_BYTES
    header[begin : begin + STRIPES * KEY_BYTES] = _encrypted(opens, _split(key, master))
    return bytes(header)


def _derived(key: bytes, purpose: bytes, size: int) -> bytes:
    """Bytes that nobody can tell from random ones without the key."""
    return hashlib.shake_256(b"gureum LUKS " + purpose + b":" + key).digest(size)


def _split(key: bytes, master: bytes) -> bytes:
    """The master key in stripes, all of which it takes to have it back: one overwritten, and it is gone."""
    stripes = _derived(key, b"stripes", (STRIPES - 1) * KEY_BYTES)
    mixed = bytes(KEY_BYTES)
    for begin in range(0, len(stripes), KEY_BYTES):
        mixed = _diffused(_xor(mixed, stripes[begin : begin + KEY_BYTES]))
    return stripes + _xor(mixed, master)


def _xor(a: bytes, b: bytes) -> bytes:
    return (int.from_bytes(a, "big") ^ int.from_bytes(b, "big")).to_bytes(len(a), "big")


def _diffused(block: bytes) -> bytes:
    size = hashlib.sha256().digest_size
    parts = (block[begin : begin + size] for begin in range(0, len(block), size))
    return b"".join(
        hashlib.sha256(number.to_bytes(4, "big") + part).digest() for number, part in enumerate(parts)
    )


def _encrypted(key: bytes, data: bytes) -> bytes:
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes  # heavy

    sectors: list[bytes] = []
    for number in range(len(data) // SECTOR_BYTES):
        encryptor = Cipher(algorithms.AES(key), modes.XTS(number.to_bytes(16, "little"))).encryptor()
        sectors.append(encryptor.update(data[number * SECTOR_BYTES : (number + 1) * SECTOR_BYTES]))
    return b"".join(sectors)
