"""Takes the kernel proper out of its self-extracting boot file.

QEMU starts such an ELF kernel directly (PVH). That saves the guest the unpacking, which costs little in a new
process, but 4 s at every reboot under TCG: unpacking writes over memory for which QEMU holds translated code.

Layout of the boot file: Documentation/arch/x86/boot.rst in the Linux source.
"""

import gzip
import lzma
import struct
from collections.abc import Callable
from pathlib import Path

from gureum.images.command import run
from gureum.images.errors import ImageBuildError

_UNPACKERS = {
    b"\x02\x21\x4c\x18": ("lz4", ()),  # Debian 12's cloud kernel
    b"\x28\xb5\x2f\xfd": ("zstd", ("-o",)),  # Debian 13's
}
"""Programs for what Python does not unpack, and what stands before the name of the file that they make."""
_GZIP = b"\x1f\x8b"
_XZ = b"\xfd7zXZ\0"
_UNPACK_S = 120.0
_KERNEL_BYTES_MAX = 256 << 20


def compressed_payload(boot_file: bytes) -> tuple[bytes, int]:
    """The compressed kernel in a boot file, and its size in bytes when it is unpacked."""
    if len(boot_file) < 0x250 or boot_file[0x202:0x206] != b"HdrS":
        raise ImageBuildError("the kernel's boot file has no x86 boot header")
    sectors = boot_file[0x1F1] or 4
    offset, length = struct.unpack_from("<II", boot_file, 0x248)
    start = (sectors + 1) * 512 + offset
    payload = boot_file[start : start + length]
    if length < 8 or len(payload) != length:
        raise ImageBuildError("the kernel's boot file is cut short")
    # The build appends the unpacked size.
    (size,) = struct.unpack("<I", payload[-4:])
    return payload[:-4], size


async def extract(boot_file: Path, kernel: Path, program: Callable[[str], list[str | Path]]) -> bool:
    """Writes the ELF kernel out of `boot_file` into `kernel`. False when its compression is not known here.

    `program` says with which words a program is run, lz4 or zstd.
    """
    payload, size = compressed_payload(boot_file.read_bytes())
    if size > _KERNEL_BYTES_MAX:
        raise ImageBuildError(f"a kernel of {size} bytes?")
    if unpacker := _UNPACKERS.get(payload[:4]):
        name, target = unpacker
        packed = kernel.with_suffix(".packed")
        packed.write_bytes(payload)
        await run(*program(name), "-d", "-q", "-f", packed, *target, kernel, timeout_s=_UNPACK_S)
        packed.unlink()
    elif payload.startswith(_GZIP):
        kernel.write_bytes(gzip.decompress(payload))
    elif payload.startswith(_XZ):
        kernel.write_bytes(lzma.decompress(payload))
    else:
        return False
    unpacked = kernel.read_bytes()
    if not unpacked.startswith(b"\x7fELF") or len(unpacked) != size:
        raise ImageBuildError("the kernel in the boot file is not the ELF file that its header announces")
    return True
