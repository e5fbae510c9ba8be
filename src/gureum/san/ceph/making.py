"""How the directories of a cluster's daemons are made: whole, or not there, also after a power cut."""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from gureum.errors import ConfigError, PoolError
from gureum.files import sync, write_atomically
from gureum.san.ceph.cluster import Cluster, Disk
from gureum.san.ceph.keys import keyring
from gureum.san.ceph.machine import daemon_user

STEP_TIMEOUT_S = 120.0
LOCK_TIMEOUT_S = 120.0
POLL_S = 0.05
UUID_BYTES = 36
LABEL_BYTES = 1 << 20
"""At the beginning of a disk: an OSD's label and the root of its files' names, and what shows that a disk is
another's. Of Btrfs nothing is before 64 KiB.
"""


class Maker:
    """``lock``: what `locked` gave."""

    def __init__(self, cluster: Cluster, lock: int) -> None:
        self.cluster = cluster
        self.lock = lock
        self.user = daemon_user(cluster.directory)

    # ---- an OSD

    def start_osd(self, disk: Disk, key: str) -> subprocess.Popen[bytes]:
        """Starts the making of an OSD's disk."""
        new = self.directory(unfinished(self.cluster.daemon_dir(disk.name)))
        self.keyring(new, disk.name, key)
        if disk.device:
            wipe(disk.device)  # what a killed step left there would be taken for an OSD's
            self.give(Path(disk.device))
            (new / "block").symlink_to(disk.device)
        with open(_mkfs_log(new), "wb") as log:
            return subprocess.Popen(
                [
                    *("ceph-osd", "--mkfs", "--id", str(disk.number), *self.conf(), "--osd-data", str(new)),
                    *("--keyring", str(new / "keyring"), "--no-mon-config"),
                    *("--bluestore-block-size", str(disk.bytes)),
                    *(("--osd-uuid", disk.uuid) if disk.uuid else ()),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(self.lock,),
            )

    def finish_osd(self, name: str, process: subprocess.Popen[bytes]) -> None:
        """Raises PoolError."""
        directory = self.cluster.daemon_dir(name)
        new = unfinished(directory)
        log = _mkfs_log(new)
        try:
            process.wait(STEP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise PoolError(f"{name} could not be made within {STEP_TIMEOUT_S:.0f} s") from None
        if process.returncode != 0:
            raise PoolError(f"{name} could not be made: {last_words(log.read_text(errors='replace'))}")
        log.unlink()
        self.name(new, directory)

    # ---- the means

    def conf(self) -> tuple[str, ...]:
        return ("--conf", str(self.cluster.daemons_conf))

    def run(self, *command: str) -> None:
        """Raises PoolError."""
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=STEP_TIMEOUT_S,
                check=False,
                pass_fds=(self.lock,),
            )
        except subprocess.TimeoutExpired:
            raise PoolError(f"{command[0]} did not end within {STEP_TIMEOUT_S:.0f} s") from None
        except FileNotFoundError:
            raise PoolError(f"the program {command[0]} is missing") from None
        if done.returncode != 0:
            raise PoolError(f"{command[0]} failed: {last_words(done.stderr.decode(errors='replace'))}")

    def directory(self, path: Path) -> Path:
        path.mkdir(mode=0o750, exist_ok=True)
        self.give(path)
        return path

    def keyring(self, directory: Path, entity: str, key: str) -> None:
        path = directory / "keyring"
        write_atomically(path, keyring({entity: key}, [entity]).encode())
        self.give(path)

    def give(self, path: Path) -> None:
        """To the user that the daemons run as."""
        if self.user is not None:
            os.chown(path, self.user.pw_uid, self.user.pw_gid)

    def give_disk(self, disk: Disk) -> None:
        """Its OSD's device, which is root's again after each boot; then another may have its name."""
        with contextlib.suppress(OSError):  # it may be broken, or gone
            if disk.device and device_label(disk.device) in labels(self.cluster, disk):
                self.give(Path(disk.device))

    def name(self, new: Path, final: Path) -> None:
        """From here on it is there, also after a power cut."""
        _sync_tree(new)
        new.rename(final)
        sync(final.parent)


def wipe(device: str) -> None:
    """Nobody takes it for an OSD's any more. Raises OSError, also where something on it is in use."""
    with open(os.open(device, os.O_RDWR | os.O_EXCL | os.O_CLOEXEC), "r+b") as disk:
        disk.write(bytes(LABEL_BYTES))
        disk.flush()
        os.fsync(disk.fileno())


def label(head: bytes) -> str:
    """The uuid of the OSD whose disk begins so, "" if it is none's (bluestore_bdev_label_t)."""
    kind, _, rest = head.partition(b"\n")
    return rest[:UUID_BYTES].decode(errors="replace") if kind == b"bluestore block device" else ""


def device_label(device: str) -> str:
    """Raises OSError."""
    with open(device, "rb") as disk:
        return label(disk.read(LABEL_BYTES))


def labels(cluster: Cluster, disk: Disk) -> frozenset[str]:
    """What may be on the OSD's device. After a boot another disk may have its name: that is another's."""
    made = (read_text(cluster.daemon_dir(disk.name) / "fsid") or "").strip()
    return frozenset({made, disk.uuid} - {""})


def unfinished(path: Path) -> Path:
    """Where it is made."""
    return path.with_name(f"{path.name}.new")


def read_text(path: Path) -> str | None:
    """None where it is not there."""
    try:
        return path.read_text()
    except FileNotFoundError:
        return None


def last_words(output: str) -> str:
    """The end of what a program of Ceph's said: what is not a debug line, else its last line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if " -1 " in line or not line[:4].isdecimal()]
    return " | ".join((errors or lines)[-3:]) or "it said nothing"


@contextlib.contextmanager
def locked(cluster: Cluster) -> Iterator[int]:
    """While directories are made. Raises ConfigError where another process is at it for long.

    Programs that are started inherit the lock: one that outlives its killed starter is waited for.
    """
    path = cluster.directory / "prepare.lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        deadline = time.monotonic() + LOCK_TIMEOUT_S
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise ConfigError(f"{path} is held by another process") from None
                time.sleep(POLL_S)
        yield descriptor
    finally:
        os.close(descriptor)


def _mkfs_log(new: Path) -> Path:
    return new.with_name(f"mkfs-{new.name}")


def _sync_tree(directory: Path) -> None:
    for root, _, files in os.walk(directory):
        for name in files:
            with contextlib.suppress(OSError):  # a device behind a link flushes itself
                sync(Path(root, name))
        sync(Path(root))
