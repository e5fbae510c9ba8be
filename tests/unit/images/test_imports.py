import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from gureum.images import imports
from gureum.images.errors import ImageFormatError
from gureum.images.imports import import_disk, inspect

needs_qemu_img = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img is not installed")


def qcow2(
    *, version: int = 3, backing: int = 0, crypt: int = 0, size: int = 1 << 20, incompatible: int = 0,
    extensions: bytes = bytes(8),
) -> bytes:  # fmt: skip
    head = b"QFI\xfb" + struct.pack(">IQIIQI", version, backing, 0, 16, size, crypt)
    head = head.ljust(72, b"\0") + struct.pack(">QQQII", incompatible, 0, 0, 4, 104)
    return (head + extensions).ljust(65536, b"\0")


def qemu_img(*words: str | Path) -> None:
    subprocess.run(["qemu-img", *words], check=True)


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_inspect_harmless(tmp_path: Path) -> None:
    assert inspect(write(tmp_path / "a", qcow2())) == ("qcow2", 1 << 20)
    assert inspect(write(tmp_path / "b", bytes(1024))) == ("raw", 1024)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (qcow2(backing=200), "backing file"),
        (qcow2(crypt=1), "encrypted"),
        (qcow2(crypt=2), "encrypted"),
        (qcow2(incompatible=1 << 2), "external data file"),
        (qcow2(incompatible=1 << 1), "corrupt"),
        (qcow2(incompatible=1 << 9), "unknown qcow2 features"),
        (qcow2(version=1), "version 1"),
        (qcow2(size=0), "not the size of a disk"),
        (qcow2(size=1 << 62), "larger than"),
        (qcow2(extensions=struct.pack(">II", 0x44415441, 8) + b"/etc/pwd" + bytes(8)), "external data file"),
        (qcow2(extensions=struct.pack(">II", 0xE2792ACA, 3) + b"raw" + bytes(13)), "backing file"),
        (qcow2(extensions=struct.pack(">II", 0x12345678, 0xFFFFFFF0)), "have no end"),
        (qcow2()[:60], "cut short"),
        (b"", "0 bytes"),
        (b"x" * 1000, "1000 bytes"),
        (b"KDMV" + bytes(508), "VMDK"),
        (b"\x1f\x8b" + bytes(510), "gzip"),
    ],
)
def test_inspect_refuses(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(ImageFormatError, match=message):
        inspect(write(tmp_path / "disk", data))


def test_inspect_missing(tmp_path: Path) -> None:
    with pytest.raises(ImageFormatError, match="No such file"):
        inspect(tmp_path / "none")


@needs_qemu_img
@pytest.mark.parametrize("jail", [True, False])
async def test_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jail: bool) -> None:
    if not jail:
        monkeypatch.setattr(imports, "_jail_program", lambda: None)
    raw = write(tmp_path / "a.raw", b"boot".ljust(1 << 20, b"\0"))
    qemu_img("convert", "-O", "qcow2", raw, tmp_path / "a.qcow2")
    manifest = await import_disk(tmp_path / "a.qcow2", tmp_path / "images", name="mine", login="debian")
    # Guests get it as an open file: nobody else on the host has to read what may be private.
    assert Path(manifest.disk).stat().st_mode & 0o777 == 0o600
    assert Path(manifest.disk).read_bytes() == raw.read_bytes()
    assert (manifest.kernel, manifest.machines, manifest.disk_format) == (None, ("q35",), "raw")
    assert (manifest.login, manifest.disk_bytes) == ("debian", 1 << 20)
    assert (
        await import_disk(tmp_path / "a.qcow2", tmp_path / "images", name="mine", login="debian") == manifest
    )

    kept = await import_disk(raw, tmp_path / "images", name="other", disk_format="qcow2")
    assert inspect(Path(kept.disk)) == ("qcow2", 1 << 20)


@needs_qemu_img
async def test_import_leaks_no_other_file(tmp_path: Path) -> None:
    write(tmp_path / "secret", b"secret".ljust(1 << 20, b"\0"))
    qemu_img("create", "-q", "-f", "qcow2", "-F", "raw", "-b", tmp_path / "secret", tmp_path / "evil")
    with pytest.raises(ImageFormatError, match="backing file"):
        await import_disk(tmp_path / "evil", tmp_path / "images", name="evil")
    assert not (tmp_path / "images").exists()


@needs_qemu_img
async def test_import_of_garbage_behind_a_good_header(tmp_path: Path) -> None:
    with pytest.raises(ImageFormatError, match="qemu-img"):
        await import_disk(write(tmp_path / "bad", qcow2()), tmp_path / "images", name="bad")
    assert [path.name for path in (tmp_path / "images").iterdir()] == [".lock"]
