"""The key store: what encrypted volumes are encrypted with. None of it is on the SAN.

    STATE/keys/master    32 random bytes, made once; without them all that is encrypted is lost

Each encrypted volume that is made from nothing gets a key of its own (KEY_BYTES random bytes). It is kept as
a record of the store (``VolumeKey``), wrapped by the master key: AES-256-GCM, bound to the record's id. So a
copy of the store alone, or of the disks, or of both, tells nothing. Snapshots of the volume, and volumes made
of these, have the same key.

A key in clear is in the memory of the manager, of the agent of the host that has the volume, and of the
machine that has it open; on the way to the agent it is in the HostSpec, or in the call for a block of a
snapshot that a host is to decrypt. It is in no file, log or answer.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from gureum.env import Env
from gureum.errors import ConfigError
from gureum.files import make_directories, write_atomically
from gureum.resources import Snapshot, Volume, VolumeKey
from gureum.store.base import Reader, Transaction

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

log = logging.getLogger(__name__)

DIRECTORY = "keys"
MASTER = "master"
MASTER_BYTES = 32
KEY_BYTES = 64
NONCE_BYTES = 12
_SIGNING = b"gureum: tokens of EBS blocks"


class KeyStore:
    """The master key at work. The cryptography package is imported for the first key only."""

    def __init__(self, master: bytes) -> None:
        assert len(master) == MASTER_BYTES
        self._master = master
        self._signing = hmac.digest(master, _SIGNING, hashlib.sha256)

    def __repr__(self) -> str:
        return "KeyStore()"

    @classmethod
    def open(cls, env: Env, directory: Path) -> KeyStore:
        """The cloud's own, made at its first start. Raises ConfigError."""
        path = directory / MASTER
        try:
            make_directories(directory, 0o700)
            directory.chmod(0o700)
            if not path.exists():
                write_atomically(path, env.secret(MASTER_BYTES))
            master = path.read_bytes()
        except OSError as error:
            raise ConfigError(f"{path}: the master key can't be read: {error.strerror}") from error
        if len(master) != MASTER_BYTES:
            raise ConfigError(
                f"{path} is damaged: it has {len(master)} bytes, not {MASTER_BYTES}. Put it back from a "
                "backup: without it no encrypted volume can be opened"
            )
        return cls(master)

    @classmethod
    def unsafe(cls) -> KeyStore:
        """For clouds in memory: everybody knows its master key, and a simulation stays what its seed says."""
        return cls(bytes(MASTER_BYTES))

    def new(self, env: Env, id: str) -> bytes:
        """A new key, wrapped for the record of this id."""
        return self.seal(env, id, env.secret(KEY_BYTES))

    def seal(self, env: Env, id: str, secret: bytes) -> bytes:
        """So that only this master key opens it, and only as what belongs to ``id``."""
        nonce = env.secret(NONCE_BYTES)
        return nonce + self._cipher().encrypt(nonce, secret, id.encode())

    def opened(self, id: str, sealed: bytes) -> bytes:
        """Raises ConfigError if this is not the master key that sealed it."""
        from cryptography.exceptions import InvalidTag

        try:
            return self._cipher().decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], id.encode())
        except InvalidTag as error:
            raise ConfigError(
                f"{id} was not wrapped by this cloud's master key ({DIRECTORY}/{MASTER}), or "
                "is damaged: put that file back from the backup that belongs to the store"
            ) from error

    def unwrap(self, record: VolumeKey) -> bytes:
        """The key of a record. Raises ConfigError."""
        return self.opened(record.id, record.wrapped)

    def sign(self, text: bytes) -> bytes:
        """An HMAC-SHA256 under a key that only this cloud has."""
        return hmac.digest(self._signing, text, hashlib.sha256)

    def _cipher(self) -> AESGCM:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        return AESGCM(self._master)


async def keys_of(reader: Reader, store: KeyStore, things: Iterable[Volume]) -> dict[str, bytes]:
    """The keys of these volumes, by the ids of the keys; without those that the master key does not open."""
    wanted = {thing.key for thing in things if thing.key}
    if not wanted:
        return {}
    found = {}
    for record in await reader.get_many(VolumeKey, wanted):
        try:
            found[record.id] = store.unwrap(record)
        except ConfigError as error:
            log.error("what is encrypted can't be used: %s", error)
    return found


async def forget_key(tx: Transaction, thing: Volume | Snapshot) -> None:
    """``thing`` was just deleted: its key goes, too, unless another volume or snapshot has it."""
    if not thing.key:
        return
    others = await tx.count(Volume, keys=thing.key) + await tx.count(Snapshot, keys=thing.key)
    record = await tx.get(VolumeKey, thing.key)
    if record is not None and not others:
        await tx.delete(record)
