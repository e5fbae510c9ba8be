import gzip
import lzma
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from gureum.images.errors import ImageBuildError
from gureum.images.kernel import compressed_payload, extract

ELF = b"\x7fELF" + bytes(100)


def none(name: str) -> list[str | Path]:
    raise AssertionError(f"{name} is not needed")


def boot_file(payload: bytes, size: int = len(ELF)) -> bytes:
    payload += struct.pack("<I", size)
    head = bytearray(1024)
    head[0x1F1] = 1
    head[0x202:0x206] = b"HdrS"
    struct.pack_into("<II", head, 0x248, 16, len(payload))
    return bytes(head) + bytes(16) + payload + b"what follows"


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress])
async def test_extract(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    (tmp_path / "vmlinuz").write_bytes(boot_file(pack(ELF)))
    assert await extract(tmp_path / "vmlinuz", tmp_path / "vmlinux", none)
    assert (tmp_path / "vmlinux").read_bytes() == ELF


@pytest.mark.parametrize(
    ("name", "magic", "target"), [("lz4", b"\x02\x21\x4c\x18", []), ("zstd", b"\x28\xb5\x2f\xfd", ["-o"])]
)
async def test_what_a_program_unpacks(tmp_path: Path, name: str, magic: bytes, target: list[str]) -> None:
    words = tmp_path / "words"
    script = tmp_path / "program"
    script.write_text(f'#!/bin/sh\necho "$@" >{words}\nfor last; do :; done; cat {tmp_path}/elf >"$last"\n')
    script.chmod(0o755)
    (tmp_path / "elf").write_bytes(ELF)
    (tmp_path / "vmlinuz").write_bytes(boot_file(magic + b"packed"))
    assert await extract(tmp_path / "vmlinuz", tmp_path / "vmlinux", lambda asked: [script, asked])
    assert (tmp_path / "vmlinux").read_bytes() == ELF
    packed = str(tmp_path / "vmlinux.packed")
    assert words.read_text().split() == [name, "-d", "-q", "-f", packed, *target, str(tmp_path / "vmlinux")]
    assert not Path(packed).exists()


async def test_unknown_compression(tmp_path: Path) -> None:
    (tmp_path / "vmlinuz").write_bytes(boot_file(b"another compression"))
    assert not await extract(tmp_path / "vmlinuz", tmp_path / "vmlinux", none)


@pytest.mark.parametrize("data", [b"", bytes(2000), boot_file(b"x" * 100)[:1040]])
def test_not_a_boot_file(data: bytes) -> None:
    with pytest.raises(ImageBuildError):
        compressed_payload(data)


@pytest.mark.parametrize(
    ("size", "content"), [(len(ELF) + 1, ELF), (len(ELF), b"#!" + ELF[2:]), (1 << 31, ELF)]
)
async def test_not_the_announced_kernel(tmp_path: Path, size: int, content: bytes) -> None:
    (tmp_path / "vmlinuz").write_bytes(boot_file(gzip.compress(content), size))
    with pytest.raises(ImageBuildError):
        await extract(tmp_path / "vmlinuz", tmp_path / "vmlinux", none)
