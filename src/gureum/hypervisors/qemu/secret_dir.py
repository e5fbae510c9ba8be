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
GROUP_FILE = "dh-params.pem"
GROUP = """-----BEGIN DH PARAMETERS-----
MIIBCAKCAQEA//////////+t+FRYortKmq/cViAnPTzx2LnFg84tNpWp4TZBFGQz
+8yTnc4kmz75fS/jY2MMddj2gbICrsRhetPfHtXV/WVhJDP1H18GbtCFY2VVPe0a
87VXE15/V8k1mE8McODmi3fipona8+/och3xWKE2rec1MKzKT0g6eXq8CrGCsyT7
YdEIqUuyyOP7uWrat2DX9GgdT0Kj3jlN9K5W7edjcrsZCwenyO4KbXCeAvzhzffi
7MA0BM0oNC9hkXL+nOmFg/+OTxIy7vKBg8P+OxtMb61zO7X8vC7CIAXFjvGDfRaD
ssbzSibBsu/6iGtCOGEoXJf//////////wIBAg==
-----END DH PARAMETERS-----
"""
"""RFC 7919's ffdhe2048. It is not used; where the file is missing, QEMU's server looks for a group of its
own, which takes seconds.
"""


def write(directory: Path, secret: bytes, uid: int) -> int:
    """The open directory. It replaces one from before."""
    remove(directory)
    directory.mkdir(mode=0o700)
    for name, text in ((GROUP_FILE, GROUP), (FILE, f"{USER}:{secret.hex()}\n")):
        file = os.open(directory / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400)
        try:
            os.write(file, text.encode())
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
        for name in (FILE, GROUP_FILE):
            (directory / name).unlink(missing_ok=True)
        directory.rmdir()
