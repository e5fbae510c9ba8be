"""A cloud's own Ceph cluster on one machine: what it is, and where everything of it is.

    STATE/san/cluster.json            what the cluster began as: written first, never changed
    STATE/san/osds.json               its OSDs, once they are others than it began with
    STATE/san/keys                    all of its keys, 0600: what the monitor's database began with
    STATE/san/ceph.conf               for clients: where the monitor is
    STATE/san/ceph.client.*.keyring   0600, of client.admin and client.gureum
    STATE/san/daemons.conf            for the daemons
    STATE/san/mon.a, mgr.x, osd.N     the daemons' directories; an OSD's disk is the file `block` in its own
    STATE/san/mgr-modules             the manager's modules
    STATE/san/run                     the daemons' admin sockets
    STATE/san/pool                    written once the pool was made: the names of those besides it

Imported by what starts a cloud: msgspec and the standard library only.
"""

from __future__ import annotations

import secrets
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import msgspec

from gureum.errors import ConfigError
from gureum.files import write_atomically
from gureum.san.settings import DEFAULT_USER, DIRECTORY, SanSettings

MON, MGR = "mon.a", "mgr.x"
OSDS_MIN = 3
OSDS_MAX = 16
COPIES = 3
COPIES_MIN = 2
CEPH_USER = "ceph"
ADMIN = "admin"
MON_PORTS = 10
"""The monitor has one of so many ports; the other daemons have those after them."""
LOOPBACK = "127.0.0.1"


USED, ADDED, REPLACED, LEAVING, GONE = "used", "added", "replaced", "leaving", "gone"
"""An OSD is one as any other; is on its way into the cluster, new or in the place of one that was lost; is
being emptied; is empty, and its remains are to be removed."""


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """cluster.json. ``osd_bytes``: the size of each OSD's file, 0 with ``devices``, one for each OSD."""

    fsid: str
    mon_port: int
    osds: int = OSDS_MIN
    osd_bytes: int = 0
    devices: tuple[str, ...] = ()


class Disk(msgspec.Struct, frozen=True, kw_only=True):
    """What an OSD is on. ``bytes``: its file's size, 0 with ``device``.

    ``uuid``: what the OSD is known by in the cluster, "" for those that it began with.
    ``is_made``: whether there is something that a daemon can run on.
    """

    number: int
    bytes: int = 0
    device: str = ""
    uuid: str = ""
    state: str = USED
    is_made: bool = True

    @property
    def name(self) -> str:
        return osd(self.number)

    @property
    def runs(self) -> bool:
        return self.is_made and self.state != GONE


@dataclass(frozen=True)
class Cluster:
    """The cluster of the cloud in this state directory."""

    state_dir: Path

    @property
    def directory(self) -> Path:
        return self.state_dir / DIRECTORY

    @property
    def conf(self) -> Path:
        return self.directory / "ceph.conf"

    @property
    def daemons_conf(self) -> Path:
        return self.directory / "daemons.conf"

    @property
    def keys(self) -> Path:
        return self.directory / "keys"

    @property
    def run_dir(self) -> Path:
        return self.directory / "run"

    @property
    def pool_mark(self) -> Path:
        return self.directory / "pool"

    @property
    def _record_file(self) -> Path:
        return self.directory / "cluster.json"

    @property
    def _disks_file(self) -> Path:
        return self.directory / "osds.json"

    @property
    def exists(self) -> bool:
        """Whether the directory has a cluster, made or to be made."""
        return self._record_file.exists()

    def record(self) -> Record:
        """Raises ConfigError."""
        try:
            return msgspec.json.decode(self._record_file.read_bytes(), type=Record)
        except OSError as error:
            raise ConfigError(f"{self._record_file} cannot be read: {error.strerror}") from error
        except msgspec.MsgspecError as error:
            raise ConfigError(f"{self._record_file} is damaged: {error}") from error

    def create(self, record: Record) -> None:
        write_atomically(self._record_file, msgspec.json.format(msgspec.json.encode(record)) + b"\n")

    def disks(self) -> tuple[Disk, ...]:
        """Those of all OSDs, by number, also of those that come and go. Raises ConfigError."""
        try:
            return msgspec.json.decode(self._disks_file.read_bytes(), type=tuple[Disk, ...])
        except FileNotFoundError:
            record = self.record()
            devices = record.devices or ("",) * record.osds
            return tuple(
                Disk(number=number, bytes=record.osd_bytes, device=device)
                for number, device in enumerate(devices)
            )
        except OSError as error:
            raise ConfigError(f"{self._disks_file} cannot be read: {error.strerror}") from error
        except msgspec.MsgspecError as error:
            raise ConfigError(f"{self._disks_file} is damaged: {error}") from error

    def keep(self, disk: Disk) -> None:
        """From here on the OSD of this number is this."""
        self._save([disk, *(each for each in self.disks() if each.number != disk.number)])

    def drop(self, disk: Disk) -> None:
        """From here on there is no OSD of this number."""
        self._save([each for each in self.disks() if each.number != disk.number])

    def _save(self, disks: list[Disk]) -> None:
        text = msgspec.json.format(msgspec.json.encode(sorted(disks, key=lambda disk: disk.number)))
        write_atomically(self._disks_file, text + b"\n")

    @property
    def daemons(self) -> tuple[str, ...]:
        """Names of the processes that are to run, the monitor's first. Raises ConfigError."""
        return (MON, MGR, *self.osds)

    @property
    def all_daemons(self) -> tuple[str, ...]:
        """Names of the processes that may run: also those of OSDs that were let go."""
        return (MON, MGR, *(disk.name for disk in self.disks()))

    @property
    def osds(self) -> tuple[str, ...]:
        return tuple(disk.name for disk in self.disks() if disk.runs)

    def daemon_dir(self, name: str) -> Path:
        return self.directory / name

    def admin_socket(self, name: str) -> Path:
        return self.run_dir / f"{name}.asok"

    def keyring(self, user: str) -> Path:
        """Of a client, named without "client."."""
        return self.directory / f"ceph.client.{user}.keyring"

    def settings(self) -> SanSettings:
        """What the rest of the cloud uses."""
        return SanSettings("ceph", self.conf, self.keyring(DEFAULT_USER))

    @classmethod
    def of(cls, state_dir: Path) -> Self | None:
        """None where its disks are elsewhere. Raises ConfigError."""
        found = cls(state_dir)
        return found if found.exists and SanSettings.load(state_dir).conf == found.conf else None


def osd(number: int) -> str:
    return f"osd.{number}"


def new_uuid() -> str:
    return str(uuid.UUID(bytes=secrets.token_bytes(16), version=4))
