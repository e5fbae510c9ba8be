"""Where a cloud's disks are: what `up --san` chose, in STATE/san/settings.json.

A cluster of the cloud's own and one that was there before look the same from here: a configuration file, a
keyring, a user, pools. A cloud without the file has local pools. Read by manager and agents: msgspec and the
standard library only.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Self

import msgspec

from gureum.errors import ConfigError
from gureum.files import make_directories, write_atomically

DIRECTORY = "san"
FILE = "settings.json"
DEFAULT_USER = "gureum"
DEFAULT_POOL = "gureum"


@dataclass(frozen=True)
class SanSettings:
    """`conf` and `keyring` are None exactly for local pools. `user` has no "client." before it.

    `types`: EBS volume types and the pools of their volumes; those of all others are in `pool`.
    `further`: the cluster's pools besides that one that hosts open. Types lead to them, or did once.
    """

    kind: Literal["local", "ceph"] = "local"
    conf: Path | None = None
    keyring: Path | None = None
    user: str = DEFAULT_USER
    pool: str = DEFAULT_POOL
    types: tuple[tuple[str, str], ...] = ()
    further: tuple[str, ...] = ()

    @property
    def pools(self) -> tuple[str, ...]:
        """All of the cluster that hosts open."""
        return (self.pool, *self.further) if self.kind == "ceph" else ()

    def of_pool(self, pool: str) -> Self:
        """For who works on this pool alone."""
        return replace(self, pool=pool, types=(), further=())

    @classmethod
    def load(cls, state_dir: Path) -> Self:
        """Raises ConfigError. Paths that are relative in the file are below the state directory."""
        path = state_dir / DIRECTORY / FILE
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return cls()
        except OSError as error:
            raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
        try:
            kept = msgspec.json.decode(data, type=_Kept)
        except msgspec.MsgspecError as error:
            raise ConfigError(f"{path} is damaged: {error}") from error
        conf = state_dir / kept.conf if kept.conf else None
        keyring = state_dir / kept.keyring if kept.keyring else None
        types = tuple(sorted(kept.types.items()))
        return cls(kept.kind, conf, keyring, kept.user, kept.pool, types, kept.further)

    def save(self, state_dir: Path) -> None:
        """Whole and durably. Paths below the state directory are kept relative to it."""
        kept = _Kept(
            kind=self.kind,
            conf=_relative(self.conf, state_dir),
            keyring=_relative(self.keyring, state_dir),
            user=self.user,
            pool=self.pool,
            types=dict(self.types),
            further=self.further,
        )
        directory = state_dir / DIRECTORY
        make_directories(directory)
        directory.chmod(0o711)  # guests' processes, each a user of its own, read ceph.conf in it
        write_atomically(directory / FILE, msgspec.json.format(msgspec.json.encode(kept)) + b"\n")


class _Kept(msgspec.Struct, frozen=True, kw_only=True):
    kind: Literal["local", "ceph"]
    conf: str = ""
    keyring: str = ""
    user: str = DEFAULT_USER
    pool: str = DEFAULT_POOL
    types: dict[str, str] = {}
    further: tuple[str, ...] = ()


def _relative(path: Path | None, state_dir: Path) -> str:
    if path is None:
        return ""
    return str(path.relative_to(state_dir) if path.is_relative_to(state_dir) else path)
