from __future__ import annotations

import random
from pathlib import Path

import pytest

from gureum.errors import PoolError
from gureum.san import qemu_img
from gureum.san.luks import (
    KEY_BYTES,
    LUKS_HEADER_BYTES,
    decrypted,
    encrypted,
    luks_header,
    passphrase,
    require_header,
    zeroed,
)

ONE, OTHER = (random.Random(seed).randbytes(KEY_BYTES) for seed in (1, 2))


def test_a_key_always_has_the_same_header() -> None:
    """So it can be written again when nobody knows whether it was."""
    assert luks_header(ONE) == luks_header(ONE) != luks_header(OTHER)
    assert len(luks_header(ONE)) == LUKS_HEADER_BYTES
    assert luks_header(ONE).startswith(b"LUKS\xba\xbe\x00\x01aes")


def test_it_does_not_show_the_key() -> None:
    header = luks_header(ONE)
    assert ONE not in header
    assert passphrase(ONE).encode() not in header


def test_headers_have_nothing_random_in_common() -> None:
    """Not even the salts: what is the same in both is the structure."""
    one, other = luks_header(ONE), luks_header(OTHER)
    slot = 8 * 512
    same = sum(a == b for a, b in zip(one[slot : slot + 256_000], other[slot : slot + 256_000], strict=True))
    assert same < 2000  # one in 256, by chance
    assert one[112:164] != other[112:164]


def test_keys_have_their_length() -> None:
    with pytest.raises(PoolError):
        luks_header(b"short")


async def through_qemu(tmp_path: Path, key: bytes, *arguments: str) -> None:
    secret = tmp_path / "secret"
    secret.write_text(passphrase(key))
    await qemu_img.run(
        [arguments[0], "--object", f"secret,id=key,format=raw,file={secret}", *arguments[1:]], 60.0
    )


async def test_qemu_opens_it(tmp_path: Path) -> None:
    """What it writes behind the header it reads again, and nobody without the key."""
    size = 1 << 20
    plain, disk, back = tmp_path / "plain", tmp_path / "disk", tmp_path / "back"
    plain.write_bytes(random.Random(3).randbytes(size))
    with disk.open("wb") as file:
        file.write(luks_header(ONE))
        file.truncate(LUKS_HEADER_BYTES + size)
    options = f"driver=luks,key-secret=key,file.driver=file,file.filename={disk}"
    to_disk = ("convert", "-n", "--target-image-opts", "-f", "raw", str(plain), options)
    await through_qemu(tmp_path, ONE, *to_disk)
    assert disk.read_bytes().startswith(luks_header(ONE))
    assert plain.read_bytes()[:512] not in disk.read_bytes()
    from_disk = ("convert", "--image-opts", options, "-O", "raw", str(back))
    await through_qemu(tmp_path, ONE, *from_disk)
    assert back.read_bytes() == plain.read_bytes()
    # What is done here to sectors is what QEMU does.
    at, stored = 3 * 512, disk.read_bytes()[LUKS_HEADER_BYTES:]
    assert decrypted(ONE, at, stored[at : at + 5120]) == plain.read_bytes()[at : at + 5120]
    assert encrypted(ONE, at, plain.read_bytes()[at : at + 5120]) == stored[at : at + 5120]
    with pytest.raises(PoolError, match="password"):
        await through_qemu(tmp_path, OTHER, *from_disk)


def test_what_was_never_written_is_zeros() -> None:
    data, hole, zeros = b"d" * 512, bytes(512), bytes(512)
    stored = encrypted(ONE, 0, data) + hole + encrypted(ONE, 1024, zeros)
    assert encrypted(ONE, 1024, zeros) != zeros
    assert decrypted(ONE, 0, stored) == data + zeros + zeros
    filled = zeroed(ONE, 0, stored)
    assert filled == encrypted(ONE, 0, data + zeros + zeros)
    assert zeroed(ONE, 0, filled) == filled


def test_a_header_is_of_one_key() -> None:
    require_header("snap-1", ONE, luks_header(ONE)[:1024])
    for head in (luks_header(OTHER)[:1024], bytes(1024), luks_header(ONE)[:100]):
        with pytest.raises(PoolError, match="snap-1 does not begin with"):
            require_header("snap-1", ONE, head)
