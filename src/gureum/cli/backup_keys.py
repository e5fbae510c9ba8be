"""What encrypted backups are encrypted with: a key in a file, kept apart from the backup.

A backup's blocks are encrypted with a key of its own (AES-256-GCM, a random nonce for each), which is in its
manifest, wrapped by the key of the file. What the manifest says of each snapshot is proved with it. So one
file may serve many backups, and none depends on the cloud that it was made of, nor on that cloud's master
key.

    gureum-backup-key-1:BASE64      the file: 32 random bytes
"""

from __future__ import annotations

import base64
import binascii
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

from gureum.cli.output import CliError
from gureum.files import make_directories, sync

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

MARK = "gureum-backup-key-1"
KEY_BYTES = 32
NONCE_BYTES = 12
OVERHEAD_BYTES = NONCE_BYTES + 16
"""Of what is sealed: a nonce before it, and the proof that it is whole behind it."""
_WRAPPED = b"the key of a backup"
_STATEMENT = b"it is so: "
"""Before what is said of a backup; blocks are sealed for a place, which begins with a snapshot's id."""
FILE_BYTES_MAX = 4096


class Seal:
    """The key of one backup at work."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._cipher = _cipher(key)

    def __repr__(self) -> str:
        return "Seal()"

    @classmethod
    def new(cls) -> Seal:
        return cls(secrets.token_bytes(KEY_BYTES))

    @classmethod
    def opened(cls, wrapped: bytes, file_key: bytes) -> Seal | None:
        """None if this is not the file's key that wrapped it."""
        key = _opened(_cipher(file_key), wrapped, _WRAPPED)
        return cls(key) if key is not None else None

    def wrapped(self, file_key: bytes) -> bytes:
        return _sealed(_cipher(file_key), self._key, _WRAPPED)

    def sealed(self, data: bytes, snapshot: str, block: int) -> bytes:
        """OVERHEAD_BYTES longer than ``data``."""
        return _sealed(self._cipher, data, _place(snapshot, block))

    def proof(self, statement: bytes) -> bytes:
        """That who has the key says so."""
        return _sealed(self._cipher, b"", _STATEMENT + statement)

    def proves(self, proof: bytes, statement: bytes) -> bool:
        return _opened(self._cipher, proof, _STATEMENT + statement) == b""

    def unsealed(self, data: bytes, snapshot: str, block: int) -> bytes | None:
        """None for what is not this block, as it was sealed."""
        return _opened(self._cipher, data, _place(snapshot, block))


def read_key(path: Path) -> bytes:
    """Raises CliError."""
    try:
        with open(path, "rb") as file:
            mark, _, text = file.read(FILE_BYTES_MAX).decode("ascii", "replace").strip().partition(":")
        key = base64.b64decode(text, validate=True) if mark == MARK else b""
    except OSError as error:
        raise CliError(
            f"{path}, the key of the backup: {error.strerror}", "put it there from where a copy of it is kept"
        ) from error
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != KEY_BYTES:
        raise CliError(
            f"{path} is no key of a backup",
            f"such a file has one line, which begins with {MARK}: and is its key",
        )
    return key


def make_key(path: Path) -> bytes:
    """A new one in a new file. Raises FileExistsError if another process was quicker, OSError."""
    key = secrets.token_bytes(KEY_BYTES)
    if path.parent != Path():
        make_directories(path.parent)
    # In the place of no other: a backup may have begun with that.
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(f"{MARK}:{base64.b64encode(key).decode()}\n".encode())
        file.flush()
        os.fsync(file.fileno())
    sync(path.parent)
    return key


def _place(snapshot: str, block: int) -> bytes:
    return f"{snapshot}/{block}".encode()


def _cipher(key: bytes) -> AESGCM:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    return AESGCM(key)


def _sealed(cipher: AESGCM, data: bytes, of: bytes) -> bytes:
    nonce = os.urandom(NONCE_BYTES)
    return nonce + cipher.encrypt(nonce, data, of)


def _opened(cipher: AESGCM, sealed: bytes, of: bytes) -> bytes | None:
    from cryptography.exceptions import InvalidTag

    try:
        return cipher.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], of)
    except (InvalidTag, ValueError):
        return None
