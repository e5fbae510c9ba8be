"""Makes what the daemons of a cloud's own cluster need to start. Each step looks at what is there.

Nothing talks to a daemon: the monitor's database begins with all keys, a map of all OSDs and their places, so
that all daemons start at the same time and find each other. What a step makes gets its name when it is whole;
what a killed step left is made anew.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from gureum.errors import ConfigError, PoolError
from gureum.files import make_directories, sync, write_atomically
from gureum.san.ceph import configuration, modules
from gureum.san.ceph.cluster import ADMIN, MGR, MON, Cluster, Record
from gureum.san.ceph.keys import MON_KEY, capabilities, keyring, new_keys, read_keyring
from gureum.san.ceph.machine import daemon_user, memory_bytes
from gureum.san.settings import DEFAULT_USER

STEP_TIMEOUT_S = 120.0
LOCK_TIMEOUT_S = 120.0
POLL_S = 0.05
LABEL_BYTES = 64 << 10
"""At the beginning of an OSD's disk: its label, and the root of its files' names."""
ADDRESS_FILE = "gureum-address"
"""In the monitor's directory: the address that its map of monitors says."""
Progress = Callable[[str], None]


def prepare(cluster: Cluster, index: int, address: str, progress: Progress) -> None:
    """Have everything that the daemons need, with the monitor at this address. No daemon may run if it moves.

    Blocks for seconds the first time. Raises PoolError, ConfigError, OSError.
    """
    record = cluster.record()
    make_directories(cluster.directory)
    cluster.directory.chmod(0o711)
    with _locked(cluster.directory / "prepare.lock") as lock:
        _Preparation(cluster, record, index, address, lock, progress).run()


def needs_move(cluster: Cluster, address: str) -> bool:
    """Whether the monitor is there and its map has another address."""
    record = cluster.record()
    said = _read(cluster.daemon_dir(MON) / ADDRESS_FILE)
    return said is not None and said != configuration.messenger_address(record, address)


class _Preparation:
    def __init__(
        self, cluster: Cluster, record: Record, index: int, address: str, lock: int, progress: Progress
    ) -> None:
        self.cluster = cluster
        self.record = record
        self.index = index
        self.address = address
        self.mon_address = configuration.messenger_address(record, address)
        self.lock = lock
        self.progress = progress
        self.user = daemon_user(cluster.directory)
        self.keys: dict[str, str] = {}

    def run(self) -> None:
        self.require_whole()
        self.sweep()
        self.configure()
        self.have_keys()
        self.have_modules()
        self._directory(self.cluster.run_dir)
        for device in self.record.devices:
            self._give(Path(device))  # its node belongs to root again after each boot
        missing = [name for name in self.cluster.osds if not self.cluster.daemon_dir(name).exists()]
        formatting = {name: self.start_osd(name) for name in missing}
        if formatting:
            self.progress(f"formatting {len(formatting)} OSDs ...")
        try:
            self.have_mon()
            self.have_mgr()
        finally:
            for name, process in formatting.items():
                self.finish_osd(name, process)
        if needs_move(self.cluster, self.address):
            self.progress(f"the monitor moves to {self.mon_address} ...")
            self.move_mon()

    def require_whole(self) -> None:
        """What was once in use is not made anew: that would be an empty thing in the place of data."""
        if not self.cluster.pool_mark.exists():
            return
        gone = [name for name in self.cluster.daemons if not self.cluster.daemon_dir(name).exists()]
        if gone:
            raise PoolError(
                f"{', '.join(gone)} had data and is gone from {self.cluster.directory}: "
                "put it back from a backup"
            )

    def sweep(self) -> None:
        """What killed preparations left; none runs, as they hold the lock."""
        for path in self.cluster.directory.glob("*.new"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def configure(self) -> None:
        texts = {
            self.cluster.conf: configuration.clients_conf(self.cluster, self.record, self.address),
            self.cluster.daemons_conf: configuration.daemons_conf(
                self.cluster, self.record, self.index, self.address, memory_bytes(), self.user is None
            ),
        }
        for path, text in texts.items():
            if _read(path) != text:
                write_atomically(path, text.encode(), mode=0o644)

    def have_keys(self) -> None:
        rights = capabilities(self.record.osds)
        file = self.cluster.keys
        if not file.exists():
            write_atomically(file, keyring(new_keys(self.record.osds), rights, rights).encode())
        self.keys = read_keyring(file.read_text())
        for user in (ADMIN, DEFAULT_USER):
            text = keyring(self.keys, [f"client.{user}"])
            if _read(self.cluster.keyring(user)) != text:
                write_atomically(self.cluster.keyring(user), text.encode())

    def have_modules(self) -> None:
        directory = self.cluster.directory / "mgr-modules"
        if directory.exists() and modules.are_in(directory):
            return
        shutil.rmtree(directory, ignore_errors=True)  # of another version of Ceph
        new = _new(directory)
        modules.make(new)
        self._name(new, directory)

    def have_mgr(self) -> None:
        directory = self.cluster.daemon_dir(MGR)
        if not directory.exists():
            new = self._directory(_new(directory))
            self._keyring(new, MGR)
            self._name(new, directory)

    def have_mon(self) -> None:
        directory = self.cluster.daemon_dir(MON)
        if directory.exists():
            return
        new = self._directory(_new(directory))
        maps = self._directory(self.cluster.directory / "maps.new")
        monmap, osdmap, keys = (maps / name for name in ("monmap", "osdmap", "keys"))
        self._run("monmaptool", "--create", "--fsid", self.record.fsid, *self._add_mon(), str(monmap))
        self._run("osdmaptool", *self._conf(), "--createsimple", str(self.record.osds), str(osdmap))
        write_atomically(keys, self.cluster.keys.read_bytes(), durable=False)
        for path in (monmap, osdmap, keys):
            self._give(path)
        self._run(
            *("ceph-mon", "--mkfs", "--id", "a", *self._conf(), "--mon-data", str(new)),
            *("--monmap", str(monmap), "--osdmap", str(osdmap), "--keyring", str(keys)),
        )
        shutil.rmtree(maps)
        if not (new / "store.db/CURRENT").exists():
            raise PoolError("ceph-mon made no database, and did not say why")
        self._keyring(new, MON_KEY)
        write_atomically(new / ADDRESS_FILE, self.mon_address.encode(), mode=0o644)
        self._name(new, directory)

    def start_osd(self, name: str) -> subprocess.Popen[bytes]:
        """Starts the making of an OSD's disk."""
        number = int(name.partition(".")[2])
        new = self._directory(_new(self.cluster.daemon_dir(name)))
        self._keyring(new, name)
        if self.record.devices:
            (new / "block").symlink_to(self.record.devices[number])
            # What a killed step left there would be taken for an OSD's.
            with open(self.record.devices[number], "r+b") as device:
                device.write(bytes(LABEL_BYTES))
                os.fsync(device.fileno())
        with open(_mkfs_log(new), "wb") as log:
            return subprocess.Popen(
                [
                    *("ceph-osd", "--mkfs", "--id", str(number), *self._conf(), "--osd-data", str(new)),
                    *("--keyring", str(new / "keyring"), "--no-mon-config"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(self.lock,),
            )

    def finish_osd(self, name: str, process: subprocess.Popen[bytes]) -> None:
        directory = self.cluster.daemon_dir(name)
        new = _new(directory)
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
        self._name(new, directory)

    def move_mon(self) -> None:
        """Puts the wanted address into the monitor's own map: repeated harmlessly until the file says so."""
        directory = self.cluster.daemon_dir(MON)
        map = self.cluster.directory / "monmap.new"
        at = ("ceph-mon", "--id", "a", *self._conf(), "--mon-data", str(directory))
        map.touch()
        self._give(map)
        self._run(*at, "--extract-monmap", str(map))
        self._run("monmaptool", "--rm", "a", str(map))
        self._run("monmaptool", *self._add_mon(), str(map))
        self._give(map)
        self._run(*at, "--inject-monmap", str(map))
        map.unlink()
        write_atomically(directory / ADDRESS_FILE, self.mon_address.encode(), mode=0o644)

    # ---- the means

    def _add_mon(self) -> tuple[str, ...]:
        return ("--addv", "a", f"[{self.mon_address}]")

    def _conf(self) -> tuple[str, ...]:
        return ("--conf", str(self.cluster.daemons_conf))

    def _run(self, *command: str) -> None:
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

    def _directory(self, path: Path) -> Path:
        path.mkdir(mode=0o750, exist_ok=True)
        self._give(path)
        return path

    def _keyring(self, directory: Path, entity: str) -> None:
        path = directory / "keyring"
        write_atomically(path, keyring(self.keys, [entity]).encode())
        self._give(path)

    def _give(self, path: Path) -> None:
        """To the user that the daemons run as."""
        if self.user is not None:
            os.chown(path, self.user.pw_uid, self.user.pw_gid)

    def _name(self, new: Path, final: Path) -> None:
        """From here on it is there, also after a power cut."""
        _sync_tree(new)
        new.rename(final)
        sync(final.parent)


def last_words(output: str) -> str:
    """The end of what a program of Ceph's said: what is not a debug line, else its last line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if " -1 " in line or not line[:4].isdecimal()]
    return " | ".join((errors or lines)[-3:]) or "it said nothing"


def _new(path: Path) -> Path:
    return path.with_name(f"{path.name}.new")


def _mkfs_log(new: Path) -> Path:
    return new.with_name(f"mkfs-{new.name}")


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except FileNotFoundError:
        return None


def _sync_tree(directory: Path) -> None:
    for root, _, files in os.walk(directory):
        for name in files:
            with contextlib.suppress(OSError):  # a device behind a link flushes itself
                sync(Path(root, name))
        sync(Path(root))


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[int]:
    """Programs that are started inherit the lock: one that outlives its killed starter is waited for."""
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
