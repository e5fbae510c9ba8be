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

The data is encrypted in sectors, each by itself. Here is that, too, for who reads or writes a few of them
without a machine.
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
HEAD_BYTES = _HEADER.size + SLOTS * _SLOT.size
"""Of a header, without the key slots' stripes."""
_NEVER_WRITTEN = bytes(SECTOR_BYTES)
"""A sector of the pool's, as no data becomes by being encrypted (but once in 2**4096 times)."""


def passphrase(key: bytes) -> str:
    """What opens the header's key slot: QEMU takes text only."""
    return base64.b64encode(key).decode()


def luks_header(key: bytes) -> bytes:
    """The header of a volume with ``key``, LUKS_HEADER_BYTES long. Takes about 30 ms of CPU time.

    Its master key is not ``key``, which only opens it. Raises PoolError for a key of a wrong length.
    """
    header = bytearray(LUKS_HEADER_BYTES)
    header[:HEAD_BYTES] = _head(key)
    opens = hashlib.pbkdf2_hmac("sha256", passphrase(key).encode(), _slot_salt(key), ROUNDS, KEY_BYTES)
    begin = FIRST_SLOT_SECTOR * SECTOR_BYTES
    header[begin : begin + STRIPES * KEY_BYTES] = _ciphered(opens, _split(key, _master(key)), 0, True)
    return bytes(header)


def require_header(id: str, key: bytes, head: bytes) -> None:
    """Raises PoolError unless a volume or snapshot that begins with ``head`` is encrypted with ``key``."""
    if head[:HEAD_BYTES] != _head(key):
        raise PoolError(
            f"{id} does not begin with the LUKS header of its key: it is damaged, or of another key"
        )


def decrypted(key: bytes, offset: int, data: bytes) -> bytes:
    """What ``data`` from ``offset`` of the pool's volume on, after the header, is to the machine.

    But what was never written: noise to the machine, it is zeros here. Whole sectors. Takes about 8 ms of CPU
    time for a MiB.
    """
    plain = _ciphered(_master(key), data, offset // SECTOR_BYTES, False)
    if _NEVER_WRITTEN not in data:
        return plain
    return b"".join(
        _NEVER_WRITTEN if data[at : at + SECTOR_BYTES] == _NEVER_WRITTEN else plain[at : at + SECTOR_BYTES]
        for at in range(0, len(data), SECTOR_BYTES)
    )


def encrypted(key: bytes, offset: int, data: bytes) -> bytes:
    """What the pool's volume has, after the header, for ``data`` that the machine has from ``offset`` on."""
    return _ciphered(_master(key), data, offset // SECTOR_BYTES, True)


def zeroed(key: bytes, offset: int, data: bytes) -> bytes:
    """``data`` of the pool's volume, but with zeros for the machine in sectors that were never written."""
    if _NEVER_WRITTEN not in data:
        return data
    zeros = encrypted(key, offset, bytes(len(data)))
    return b"".join(
        zeros[at : at + SECTOR_BYTES] if sector == _NEVER_WRITTEN else sector
        for at in range(0, len(data), SECTOR_BYTES)
        for sector in (data[at : at + SECTOR_BYTES],)
    )


def _head(key: bytes) -> bytes:
    if len(key) != KEY_BYTES:
        raise PoolError(f"a volume's key has {KEY_BYTES} bytes, not {len(key)}")
    master, digest_salt = _master(key), _derived(key, b"digest salt", 32)
    header = bytearray(HEAD_BYTES)
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
        used = (_ACTIVE, ROUNDS, _slot_salt(key)) if slot == 0 else (_UNUSED, 0, b"")
        _SLOT.pack_into(header, _HEADER.size + slot * _SLOT.size, *used, sector, STRIPES)
    return bytes(header)


def _master(key: bytes) -> bytes:
    return _derived(key, b"master key", KEY_BYTES)


def _slot_salt(key: bytes) -> bytes:
    return _derived(key, b"slot salt", 32)


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


def _ciphered(master: bytes, data: bytes, first: int, encrypt: bool) -> bytes:
    """AES-256-XTS of whole sectors, the first of which has the number ``first``."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes  # heavy

    cipher = algorithms.AES(master)
    sectors: list[bytes] = []
    for at in range(0, len(data), SECTOR_BYTES):
        mode = modes.XTS((first + at // SECTOR_BYTES).to_bytes(16, "little"))
        context = Cipher(cipher, mode).encryptor() if encrypt else Cipher(cipher, mode).decryptor()
        sectors.append(context.update(data[at : at + SECTOR_BYTES]))
    return b"".join(sectors)
