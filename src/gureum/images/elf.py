"""Reads from ELF files which libraries a program needs, and which modules a kernel module needs."""

import re
import struct
from pathlib import Path

_PT_LOAD, _PT_DYNAMIC = 1, 2
_DT_NEEDED, _DT_STRTAB = 1, 5
_DEPENDS = re.compile(rb"(?:^|\0)depends=([a-zA-Z0-9_,-]*)\0")


def needed_libraries(path: Path) -> list[str]:
    """Names of the shared libraries that a 64-bit little-endian program or library asks for; [] if static."""
    data = path.read_bytes()
    if data[:6] != b"\x7fELF\x02\x01":
        raise ValueError(f"{path}: not a 64-bit little-endian ELF file")
    (table,) = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    segments = [struct.unpack_from("<IIQQQQ", data, table + index * size) for index in range(count)]
    loads = [(vaddr, offset, length) for kind, _, offset, vaddr, _, length in segments if kind == _PT_LOAD]
    needed: list[int] = []
    strings = 0
    for kind, _, offset, _, _, length in segments:
        if kind != _PT_DYNAMIC:
            continue
        for tag, value in struct.iter_unpack("<QQ", data[offset : offset + length]):
            if tag == _DT_NEEDED:
                needed.append(value)
            elif tag == _DT_STRTAB:
                strings = _file_offset(loads, value)
    return [data[strings + at : data.index(b"\0", strings + at)].decode() for at in needed]


def _file_offset(loads: list[tuple[int, int, int]], address: int) -> int:
    for vaddr, offset, length in loads:
        if vaddr <= address < vaddr + length:
            return address - vaddr + offset
    raise ValueError(f"address {address:#x} is in no segment of the file")


def module_depends(path: Path) -> list[str]:
    """Names of the modules that a kernel module needs, from its .modinfo section."""
    match = _DEPENDS.search(path.read_bytes())
    if match is None:
        raise ValueError(f"{path}: not a kernel module")
    return [name.decode() for name in match[1].split(b",") if name]
