"""Writes cpio archives in the "newc" format, the one that Linux unpacks as its initial RAM file system.

Format: Documentation/driver-api/early-userspace/buffer-format.rst in the Linux source. Each member is a
header of 110 ASCII characters, the name with a zero byte, and the data; name and data are padded to 4 bytes.
The same members give the same bytes: owner 0, time 0, inode numbers counted from 1.
"""

import stat
from typing import BinaryIO

_TRAILER = "TRAILER!!!"


class CpioWriter:
    """Writes members one after the other; `close` ends the archive (it does not close the file)."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._inode = 0

    def directory(self, name: str, mode: int = 0o755) -> None:
        self._member(name, stat.S_IFDIR | mode, links=2)

    def file(self, name: str, data: bytes, mode: int = 0o644) -> None:
        self._member(name, stat.S_IFREG | mode, data)

    def symlink(self, name: str, target: str) -> None:
        self._member(name, stat.S_IFLNK | 0o777, target.encode())

    def character_device(self, name: str, major: int, minor: int, mode: int = 0o600) -> None:
        self._member(name, stat.S_IFCHR | mode, device=(major, minor))

    def close(self) -> None:
        self._inode = -1
        self._member(_TRAILER, 0)

    def _member(
        self, name: str, mode: int, data: bytes = b"", *, links: int = 1, device: tuple[int, int] = (0, 0)
    ) -> None:
        if not name or name.startswith("/"):
            raise ValueError(f"a member's name is relative: {name!r}")
        self._inode += 1
        encoded = name.encode() + b"\0"
        # inode, mode, uid, gid, links, mtime, size, device of the file (2), device node (2), name size, check
        fields = (self._inode, mode, 0, 0, links, 0, len(data), 0, 0, *device, len(encoded), 0)
        header = b"070701" + b"".join(b"%08x" % field for field in fields)
        self._file.write(_padded(header + encoded))
        self._file.write(_padded(data))


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
