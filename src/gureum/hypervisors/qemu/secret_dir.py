"""The secret of a migration where QEMU's TLS looks for it: in a directory of the machine's user.

QEMU gets the directory as an open descriptor, since its user may not pass those above it. The server's end
reads the file at the handshake and not before, so it is there until then.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

USER = "qemu"
"""QEMU's default for ``username``."""
FILE = "keys.psk"
"""The name that QEMU looks for (QCRYPTO_TLS_CREDS_PSKFILE)."""


def write(directory: Path, secret: bytes, uid: int) -> int:
    """The open directory. It replaces one from before."""
    remove(directory)
    directory.mkdir(mode=0o700)
    file = os.open(directory / FILE, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400)
    try:
        os.write(file, f"{USER}:{secret.hex()}\n".encode())
        os.fchown(file, uid, uid)
    finally:
        os.close(file)
    opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    os.fchmod(opened, 0o500)
    os.fchown(opened, uid, uid)
    return opened


def read(directory: Path) -> bytes:
    """b"" if there is none."""
    try:
        return bytes.fromhex((directory / FILE).read_text().partition(":")[2])
    except (FileNotFoundError, ValueError):
        return b""


def remove(directory: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        (directory / FILE).unlink(missing_ok=True)
        directory.rmdir()
