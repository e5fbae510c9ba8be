"""Takes disk images that users bring. They are hostile until proven harmless.

A qcow2 file can name other files (backing file, data file) that the reader then opens with its own rights.
So its header is judged here, by our own few lines, before QEMU's code sees it; and qemu-img works in a jail:
limits on memory, processor time and file size, and, where bubblewrap is installed, no network and no file but
the two.
"""

import asyncio
import hashlib
import os
import shutil
import struct
from pathlib import Path

import msgspec

from gureum.images import library
from gureum.images.command import run
from gureum.images.errors import CommandError, ImageFormatError
from gureum.images.manifest import ImageManifest, write_manifest

HOST_PACKAGES = ("qemu-utils", "bubblewrap")
"""Debian packages with the tools that this module runs."""

DISK_BYTES_MAX = 2 << 40
_MEMORY_BYTES_MAX = 4 << 30
_INFO_S = 20.0
_CONVERT_S = 3600.0

# docs/interop/qcow2.txt in the QEMU source
_QCOW2_MAGIC = b"QFI\xfb"
_HARMLESS_INCOMPATIBLE = 1 << 0 | 1 << 3 | 1 << 4
"""Dirty reference counts, compression type, extended L2 entries."""
_EXTENSION_BACKING_FORMAT, _EXTENSION_DATA_FILE = 0xE2792ACA, 0x44415441
_EXTENSION_CRYPTO = 0x0537BE77
_OTHER_FORMATS = {
    b"KDMV": "VMDK", b"COWD": "VMDK", b"# Disk DescriptorFile"[:8]: "VMDK", b"conectix": "VHD",
    b"vhdxfile": "VHDX", b"<<< Orac": "VDI", b"QED\0": "QED", b"LUKS\xba\xbe": "LUKS", b"\x1f\x8b": "gzip",
    b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"PK\x03\x04": "zip",
}  # fmt: skip


async def import_disk(
    source: Path,
    out_dir: Path,
    *,
    name: str,
    description: str = "",
    login: str | None = None,
    disk_format: str = "raw",
    size_bytes_max: int = DISK_BYTES_MAX,
) -> ImageManifest:
    """Copies the disk image `source` (qcow2 or raw) into the library `out_dir`; it boots through firmware.

    `disk_format` is the format to keep it in, `raw` or `qcow2`. The same file again is returned at once.
    Raises ImageFormatError with the reason when the file is broken, or is not harmless.
    """
    if disk_format not in ("raw", "qcow2"):
        raise ImageFormatError(f"images are kept as raw or qcow2, not as {disk_format}")
    source = source.resolve()
    found, disk_bytes = await asyncio.to_thread(inspect, source, size_bytes_max)
    digest = await asyncio.to_thread(_sha256, source)
    input_hash = hashlib.sha256(f"{digest} {name} {disk_format} {login}".encode()).hexdigest()
    async with library.workspace(out_dir) as work:
        existing = await asyncio.to_thread(
            library.newest, out_dir, lambda other: other.input_hash == input_hash
        )
        if existing is not None:
            return existing
        image = work / "image"
        image.mkdir()
        await _convert(source, found, image, disk_format, disk_bytes)
        # What was judged must be what was copied.
        if await asyncio.to_thread(_sha256, source) != digest:
            raise ImageFormatError(f"{source.name} changed while it was read")
        file = f"disk.{disk_format}"
        (image / file).chmod(0o600)
        manifest = ImageManifest(
            name=name,
            description=description,
            architecture="x86_64",
            machines=("q35",),
            disk=str(image / file),
            disk_format=disk_format,
            disk_bytes=disk_bytes,
            login=login,
            input_hash=input_hash,
            inputs={source.name: digest},
            files={file: (image / file).stat().st_size},
        )
        await asyncio.to_thread(write_manifest, image, manifest)
        return await library.publish(image, library.image_directory(out_dir, name, input_hash))


def inspect(source: Path, size_bytes_max: int = DISK_BYTES_MAX) -> tuple[str, int]:
    """The format (`qcow2` or `raw`) and virtual size in bytes of a disk image that is harmless to open.

    The format is what the first bytes say. Raises ImageFormatError for everything else.
    """
    try:
        with open(source, "rb") as file:
            head = file.read(65536)
            size = os.fstat(file.fileno()).st_size
    except OSError as error:
        raise ImageFormatError(f"{source.name}: {error.strerror}") from error
    if head.startswith(_QCOW2_MAGIC):
        found, size = "qcow2", _inspect_qcow2(source.name, head)
    else:
        found = "raw"
        for magic, other in _OTHER_FORMATS.items():
            if head.startswith(magic):
                raise ImageFormatError(
                    f"{source.name} is {other}: convert or unpack it to qcow2 or raw first"
                )
    if size == 0 or size % 512:
        raise ImageFormatError(f"{source.name}: {size} bytes is not the size of a disk")
    if size > size_bytes_max:
        raise ImageFormatError(f"{source.name}: a disk of {size} bytes is larger than {size_bytes_max}")
    return found, size


def _inspect_qcow2(name: str, head: bytes) -> int:
    """Virtual size in bytes of a qcow2 image that stands alone."""
    if len(head) < 104:
        raise ImageFormatError(f"{name}: the qcow2 header is cut short")
    version, backing, _, _, size, crypt = struct.unpack_from(">IQIIQI", head, 4)
    if version not in (2, 3):
        raise ImageFormatError(f"{name}: unknown qcow2 version {version}")
    if backing:
        raise ImageFormatError(f"{name} refers to a backing file: flatten it with qemu-img convert first")
    if crypt:
        raise ImageFormatError(f"{name} is encrypted")
    length = 72
    if version == 3:
        (incompatible,) = struct.unpack_from(">Q", head, 72)
        (length,) = struct.unpack_from(">I", head, 100)
        if incompatible & 1 << 2:
            raise ImageFormatError(f"{name} refers to an external data file")
        if incompatible & 1 << 1:
            raise ImageFormatError(f"{name} is marked as corrupt")
        if incompatible & ~_HARMLESS_INCOMPATIBLE:
            raise ImageFormatError(f"{name} uses unknown qcow2 features {incompatible:#x}")
    _inspect_extensions(name, head, length)
    return int(size)


def _inspect_extensions(name: str, head: bytes, at: int) -> None:
    refused = {
        _EXTENSION_BACKING_FORMAT: "refers to a backing file",
        _EXTENSION_DATA_FILE: "refers to an external data file",
        _EXTENSION_CRYPTO: "is encrypted",
    }
    while at + 8 <= len(head):
        kind, length = struct.unpack_from(">II", head, at)
        if kind == 0:
            return
        if kind in refused:
            raise ImageFormatError(f"{name} {refused[kind]}")
        at += 8 + length + -length % 8
    raise ImageFormatError(f"{name}: the qcow2 header extensions have no end")


class _Info(msgspec.Struct, rename="kebab"):
    """What qemu-img info says about an image."""

    virtual_size: int
    format: str
    encrypted: bool = False
    backing_filename: str | None = None
    snapshots: list[msgspec.Raw] = []


async def _convert(source: Path, found: str, target: Path, disk_format: str, disk_bytes: int) -> None:
    """Writes `target/disk.<format>`. A second opinion comes from qemu-img itself, in its jail."""
    try:
        output = await run(
            *_jailed(source, target, 0, _INFO_S),
            "qemu-img", "info", "--output=json", "-f", found, _inside(source),
            timeout_s=_INFO_S,
        )  # fmt: skip
        info = msgspec.json.decode(output, type=_Info)
        if info.encrypted or info.backing_filename or info.virtual_size != disk_bytes or info.format != found:
            raise ImageFormatError(f"{source.name}: qemu-img sees another disk in it than its header shows")
        # Room for qcow2's own tables.
        written_max = disk_bytes + disk_bytes // 64 + (64 << 20)
        await run(
            *_jailed(source, target, written_max, _CONVERT_S),
            "qemu-img", "convert", "-f", found, "-O", disk_format,
            _inside(source), _inside(target) / f"disk.{disk_format}",
            timeout_s=_CONVERT_S,
        )  # fmt: skip
    except (CommandError, msgspec.MsgspecError) as error:
        raise ImageFormatError(f"{source.name}: {error}") from error


def _jail_program() -> str | None:
    return shutil.which("bwrap")


def _inside(path: Path) -> Path:
    """The name of a file or directory as seen from inside the jail."""
    if _jail_program() is None:
        return path
    return Path("/target") if path.is_dir() else Path("/source")


def _jailed(source: Path, target: Path, file_bytes_max: int, cpu_s: float) -> list[str]:
    """The words to put before a command that reads `source` and writes into the directory `target`."""
    limits = [
        "prlimit", f"--as={_MEMORY_BYTES_MAX}", f"--cpu={int(cpu_s)}", f"--fsize={file_bytes_max}",
        "--nofile=64", "--core=0", "--",
    ]  # fmt: skip
    program = _jail_program()
    if program is None:
        return limits
    system = [
        word
        for path in ("/lib", "/lib64", "/bin", "/etc/ld.so.cache")
        for word in ("--ro-bind-try", path, path)
    ]
    return [
        *limits, program, "--unshare-all", "--die-with-parent", "--new-session", "--clearenv",
        "--setenv", "PATH", "/usr/bin:/bin", "--ro-bind", "/usr", "/usr", *system, "--proc", "/proc",
        "--dev", "/dev", "--tmpfs", "/tmp", "--ro-bind", str(source), "/source",
        "--bind", str(target), "/target", "--chdir", "/tmp", "--cap-drop", "ALL", "--",
    ]  # fmt: skip


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
