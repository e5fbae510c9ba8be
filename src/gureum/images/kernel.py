"""Takes the kernel proper out of its self-extracting boot file.

QEMU starts such an ELF kernel directly (PVH). That saves the guest the unpacking, which costs little in a new
process, but 4 s at every reboot under TCG: unpacking writes over memory for which QEMU holds translated code.

Layout of the boot file: Documentation/arch/x86/boot.rst in the Linux source.
"""

import gzip
import lzma
import struct
from pathlib import Path

from gureum.images.command import run
from gureum.images.errors import ImageBuildError

_LZ4_LEGACY = b"\x02\x21\x4c\x18"
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


async def extract(boot_file: Path, kernel: Path, lz4: list[str | Path]) -> bool:
    """Writes the ELF kernel out of `boot_file` into `kernel`. False when its compression is not known here.

    `lz4` are the words of the lz4 command, for the compression that Debian's cloud kernel has.
    """
    payload, size = compressed_payload(boot_file.read_bytes())
    if size > _KERNEL_BYTES_MAX:
        raise ImageBuildError(f"a kernel of {size} bytes?")
    if payload.startswith(_LZ4_LEGACY):
        packed = kernel.with_suffix(".lz4")
        packed.write_bytes(payload)
        await run(*lz4, "-d", "-q", "-f", packed, kernel, timeout_s=_UNPACK_S)
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
