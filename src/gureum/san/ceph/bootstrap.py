"""Makes what the daemons of a cloud's own cluster need to start. Each step looks at what is there.

Nothing talks to a daemon: the monitor's database begins with all keys, a map of all OSDs and their places, so
that all daemons start at the same time and find each other. What a step makes gets its name when it is whole;
what a killed step left is made anew.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable

from gureum.errors import PoolError
from gureum.files import make_directories, write_atomically
from gureum.san.ceph import configuration, modules
from gureum.san.ceph.cluster import ADMIN, COPIES_MIN, MGR, MON, Cluster, Record
from gureum.san.ceph.keys import MON_KEY, capabilities, keyring, new_keys, read_keyring
from gureum.san.ceph.machine import memory_bytes
from gureum.san.ceph.making import Maker, locked, read_text, unfinished
from gureum.san.settings import DEFAULT_USER

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
    with locked(cluster) as lock:
        _Preparation(cluster, record, index, address, lock, progress).run()


def needs_move(cluster: Cluster, address: str) -> bool:
    """Whether the monitor is there and its map has another address."""
    record = cluster.record()
    said = read_text(cluster.daemon_dir(MON) / ADDRESS_FILE)
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
        self.progress = progress
        self.maker = Maker(cluster, lock)
        self.keys: dict[str, str] = {}

    def run(self) -> None:
        self.require_whole()
        self.sweep()
        self.configure()
        self.have_keys()
        self.have_modules()
        self.maker.directory(self.cluster.run_dir)
        disks = [disk for disk in self.cluster.disks() if disk.runs]
        for disk in disks:
            self.maker.give_disk(disk)
        missing = [disk for disk in disks if not self.cluster.daemon_dir(disk.name).exists()]
        if self.cluster.pool_mark.exists():
            missing = []  # they had data: to be replaced when somebody says so
        formatting = {disk.name: self.maker.start_osd(disk, self.keys[disk.name]) for disk in missing}
        if formatting:
            self.progress(f"formatting {len(formatting)} OSDs ...")
        try:
            self.have_mon()
            self.have_mgr()
        finally:
            for name, process in formatting.items():
                self.maker.finish_osd(name, process)
        if needs_move(self.cluster, self.address):
            self.progress(f"the monitor moves to {self.mon_address} ...")
            self.move_mon()

    def require_whole(self) -> None:
        """What was once in use is not made anew: that would be an empty thing in the place of data."""
        if not self.cluster.pool_mark.exists():
            return
        gone = [name for name in self.cluster.daemons if not self.cluster.daemon_dir(name).exists()]
        lost = set(gone) & set(self.cluster.osds)
        if len(gone) > len(lost) or len(lost) > len(self.cluster.osds) - COPIES_MIN:
            raise PoolError(
                f"{', '.join(gone)} had data and is gone from {self.cluster.directory}: "
                "put it back from a backup"
            )
        for name in sorted(lost):
            self.progress(f"{name} is gone from {self.cluster.directory}: gureum san status")

    def sweep(self) -> None:
        """What killed preparations left; none runs, as they hold the lock."""
        for path in self.cluster.directory.glob("*.new"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def configure(self) -> None:
        texts = {
            self.cluster.conf: configuration.clients_conf(self.cluster, self.record, self.address),
            self.cluster.daemons_conf: configuration.daemons_conf(
                self.cluster, self.record, self.index, self.address, memory_bytes(), self.maker.user is None
            ),
        }
        for path, text in texts.items():
            if read_text(path) != text:
                write_atomically(path, text.encode(), mode=0o644)

    def have_keys(self) -> None:
        rights = capabilities(self.record.osds)
        file = self.cluster.keys
        if not file.exists():
            write_atomically(file, keyring(new_keys(self.record.osds), rights, rights).encode())
        self.keys = read_keyring(file.read_text())
        for user in (ADMIN, DEFAULT_USER):
            text = keyring(self.keys, [f"client.{user}"])
            if read_text(self.cluster.keyring(user)) != text:
                write_atomically(self.cluster.keyring(user), text.encode())

    def have_modules(self) -> None:
        directory = self.cluster.directory / "mgr-modules"
        if directory.exists() and modules.are_in(directory):
            return
        shutil.rmtree(directory, ignore_errors=True)  # of another version of Ceph
        new = unfinished(directory)
        modules.make(new)
        self.maker.name(new, directory)

    def have_mgr(self) -> None:
        directory = self.cluster.daemon_dir(MGR)
        if not directory.exists():
            new = self.maker.directory(unfinished(directory))
            self.maker.keyring(new, MGR, self.keys[MGR])
            self.maker.name(new, directory)

    def have_mon(self) -> None:
        directory = self.cluster.daemon_dir(MON)
        if directory.exists():
            return
        new = self.maker.directory(unfinished(directory))
        maps = self.maker.directory(self.cluster.directory / "maps.new")
        monmap, osdmap, keys = (maps / name for name in ("monmap", "osdmap", "keys"))
        self.maker.run("monmaptool", "--create", "--fsid", self.record.fsid, *self._add_mon(), str(monmap))
        self.maker.run("osdmaptool", *self.maker.conf(), "--createsimple", str(self.record.osds), str(osdmap))
        write_atomically(keys, self.cluster.keys.read_bytes(), durable=False)
        for path in (monmap, osdmap, keys):
            self.maker.give(path)
        self.maker.run(
            *("ceph-mon", "--mkfs", "--id", "a", *self.maker.conf(), "--mon-data", str(new)),
            *("--monmap", str(monmap), "--osdmap", str(osdmap), "--keyring", str(keys)),
        )
        shutil.rmtree(maps)
        if not (new / "store.db/CURRENT").exists():
            raise PoolError("ceph-mon made no database, and did not say why")
        self.maker.keyring(new, MON_KEY, self.keys[MON_KEY])
        write_atomically(new / ADDRESS_FILE, self.mon_address.encode(), mode=0o644)
        self.maker.name(new, directory)

    def move_mon(self) -> None:
        """Puts the wanted address into the monitor's own map: repeated harmlessly until the file says so."""
        directory = self.cluster.daemon_dir(MON)
        map = self.cluster.directory / "monmap.new"
        at = ("ceph-mon", "--id", "a", *self.maker.conf(), "--mon-data", str(directory))
        map.touch()
        self.maker.give(map)
        self.maker.run(*at, "--extract-monmap", str(map))
        self.maker.run("monmaptool", "--rm", "a", str(map))
        self.maker.run("monmaptool", *self._add_mon(), str(map))
        self.maker.give(map)
        self.maker.run(*at, "--inject-monmap", str(map))
        map.unlink()
        write_atomically(directory / ADDRESS_FILE, self.mon_address.encode(), mode=0o644)

    # ---- the means

    def _add_mon(self) -> tuple[str, ...]:
        return ("--addv", "a", f"[{self.mon_address}]")
