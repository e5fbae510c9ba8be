"""Changes the OSDs of a cloud's own cluster while it runs: one more, one less, another for a dead one.

What is to become of an OSD is written down first (Disk.state), and each step looks at what is there: a change
that was killed goes on when it is asked for again. All of it blocks.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any

import msgspec

from gureum.errors import PoolError
from gureum.san.ceph import health, pools, room
from gureum.san.ceph.cluster import (
    ADDED,
    COPIES,
    GONE,
    LEAVING,
    OSDS_MAX,
    REPLACED,
    USED,
    Cluster,
    Disk,
    new_uuid,
)
from gureum.san.ceph.commands import Answer, ask
from gureum.san.ceph.health import Recovery
from gureum.san.ceph.keys import OSD_RIGHTS
from gureum.san.ceph.making import Maker, device_label, labels, locked, read_text, unfinished, wipe

ASK_TIMEOUT_S = 30.0
POLL_S = 1.0
STEADY_S = 4.0
"""What the manager counts is up to two seconds old."""
JOIN_TIMEOUT_S = 90.0
BUSY_TIMEOUT_S = 60.0
STALL_TIMEOUT_S = 600.0
REALLY = {"yes_i_really_mean_it": True, "force": True}


class Refused(PoolError):
    """It is not done, or not to its end; ``todo``: what helps."""

    def __init__(self, message: str, todo: str = "") -> None:
        super().__init__(message)
        self.todo = todo


@dataclass(frozen=True)
class Means:
    """``supervise``: let exactly the daemons of the cluster run, and return when others have ended.

    ``recovering`` is told now and then how far the copying is.
    """

    supervise: Callable[[], None]
    progress: Callable[[str], None]
    recovering: Callable[[Recovery], None]


@contextlib.contextmanager
def changing(cluster: Cluster) -> Iterator[None]:
    """One change at a time. Raises Refused while there is another."""
    descriptor = os.open(cluster.directory / "osds.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Refused("another `gureum san osd` is at work", "wait for its end") from None
        yield
    finally:
        os.close(descriptor)


def half_done(cluster: Cluster) -> Disk | None:
    """The OSD that is being added, if there is one."""
    return next((disk for disk in cluster.disks() if disk.state == ADDED), None)


class Change:
    def __init__(self, cluster: Cluster, means: Means) -> None:
        self.cluster = cluster
        self.means = means

    # ---- what can be asked for

    def add(self, bytes: int, device: str) -> Disk:
        """One more, or one whose adding was interrupted. Returns it when all copies are in their places."""
        disk = half_done(self.cluster)
        if disk is not None and disk.is_made and (disk.bytes, disk.device) != (bytes, device):
            self.cluster.keep(msgspec.structs.replace(disk, state=USED))  # all but the copies was done
            disk = None
        if disk is not None and (disk.bytes, disk.device) != (bytes, device):
            raise Refused(
                f"{disk.name} on {on(disk)} is half made",
                f"gureum san osd add with the same disk goes on; gureum san osd remove {disk.number} "
                "takes it away",
            )
        if disk is None:
            disk = Disk(
                number=self._free_number(),
                bytes=bytes,
                device=device,
                uuid=new_uuid(),
                state=ADDED,
                is_made=False,
            )
            self._require_space(disk)
            self.cluster.keep(disk)
        return self._bring_in(disk)

    def replace(self, number: int, bytes: int, device: str, *, force: bool = False) -> Disk:
        """Another in the place of one that is dead; ``force``: or runs. Ends as `add` does."""
        disk = self.disk(number)
        if disk.state not in (USED, REPLACED):
            what, word = ("added", "add") if disk.state == ADDED else ("removed", f"remove {number}")
            raise Refused(f"{disk.name} is being {what}", f"gureum san osd {word} goes on with it")
        wanted = Disk(
            number=number, bytes=bytes, device=device, uuid=new_uuid(), state=REPLACED, is_made=False
        )
        if disk.state == USED:
            self._require_dispensable(disk, force=force)
            self._require_space(wanted, less=disk)
        if disk.state == USED or (bytes, device) != (disk.bytes, disk.device):
            disk = wanted
            self.cluster.keep(disk)
        return self._bring_in(disk)

    def remove(self, number: int) -> None:
        """Empty it, and then take it away."""
        disk = self.disk(number)
        if disk.state == ADDED and not disk.is_made:
            disk = self._become(disk, GONE)
        if disk.state not in (LEAVING, GONE):
            self._require_spare(disk)
            disk = self._become(disk, LEAVING)
        self.means.supervise()
        if disk.state == LEAVING:
            self._ask({"prefix": "osd out", "ids": [str(number)]})
            self.means.progress(f"copying what is on {disk.name} to the others ...")
            # Ceph's answer alone is not enough: it is "safe" too while the last copies are still being read.
            self._follow(
                lambda status: is_whole(status) and self._is_empty(number),
                f"what is on {disk.name} does not get elsewhere",
            )
            disk = self._become(disk, GONE)
            self.means.supervise()
        self._forget(disk)

    def keep(self, number: int) -> None:
        """It stays, though its removal was begun."""
        disk = self.disk(number)
        if disk.state not in (LEAVING, USED) or not disk.is_made:
            raise Refused(f"{disk.name} is {disk.state}: it is too late to keep it")
        self._become(disk, USED)
        self.means.supervise()
        self._ask({"prefix": "osd in", "ids": [str(number)]})

    def disk(self, number: int) -> Disk:
        found = next((disk for disk in self.cluster.disks() if disk.number == number), None)
        if found is None:
            raise Refused(f"the cluster has no osd.{number}", "gureum san osd list")
        return found

    # ---- whether it may be

    def _free_number(self) -> int:
        known = {disk.number for disk in self.cluster.disks()} | set(self._shown())
        if len(known) >= OSDS_MAX:
            raise Refused(f"a cluster has at most {OSDS_MAX} OSDs")
        return next(number for number in range(OSDS_MAX + 1) if number not in known)

    def _require_space(self, disk: Disk, less: Disk | None = None) -> None:
        free = shutil.disk_usage(self.cluster.directory).free
        if less is not None and not less.device:
            free += room.taken(self.cluster, less)
        if disk.bytes > free:
            raise Refused(
                f"a file of {room.gib(disk.bytes)} does not fit: {room.gib(free)} are free "
                f"for {self.cluster.directory}",
                "--size SIZE, or --device DEVICE",
            )

    def _require_spare(self, disk: Disk) -> None:
        """Raises Refused where the others could not hold every copy."""
        shown = self._shown()
        others = [number for number, each in shown.items() if each["up"] and each["in"]]
        others = [number for number in others if number != disk.number]
        if len(others) < COPIES:
            raise Refused(
                f"{COPIES} copies need {COPIES} OSDs that run; without {disk.name} there are {len(others)}",
                "gureum san osd add first; for one that is dead: gureum san osd replace " + str(disk.number),
            )
        df, usage = self._ask({"prefix": "df"}, {"prefix": "osd df", "to manager": True})
        lacking = room.lacking(df, usage, others)
        if lacking > 0:
            raise Refused(
                f"the other OSDs lack {room.gib(lacking)} to hold {COPIES} copies of everything",
                "gureum san osd add first, or delete volumes and snapshots",
            )

    def _require_dispensable(self, disk: Disk, *, force: bool) -> None:
        """Raises Refused where its copies may be the only ones, or it runs."""
        is_up = bool(self._shown().get(disk.number, {}).get("up"))
        if is_up and not force:
            raise Refused(
                f"{disk.name} runs",
                "is its disk failing? Best: gureum san osd add, then remove "
                f"{disk.number}; else gureum san osd replace {disk.number} --force",
            )
        self._ask({"prefix": "osd df", "to manager": True})  # the manager counts: it has to be there
        status = pools.wait_for(
            self.cluster, lambda status: enough_without(status, is_up), time.monotonic() + BUSY_TIMEOUT_S
        )
        if not enough_without(status, is_up):
            raise Refused(
                f"some data may have its only copies on {disk.name}",
                "bring the other OSDs up and let them recover first: gureum san status",
            )

    # ---- steps

    def _bring_in(self, disk: Disk) -> Disk:
        self.means.supervise()  # of a dead one, no process is started any more
        if not disk.is_made:
            key = self._register(disk)
            self.means.progress(f"making {disk.name} on {on(disk)} ...")
            self._make(disk, key)
            self._place(disk)
            disk = msgspec.structs.replace(disk, is_made=True)
            self.cluster.keep(disk)
            self.means.supervise()
        self._wait_joined(disk)
        self._ask({"prefix": "osd in", "ids": [str(disk.number)]})
        self.means.progress(f"{disk.name} runs; copies are made on it ...")
        self._follow(is_whole, "not all copies can be made")
        return self._become(disk, USED)

    def _become(self, disk: Disk, state: str) -> Disk:
        changed = msgspec.structs.replace(disk, state=state)
        self.cluster.keep(changed)
        return changed

    def _register(self, disk: Disk) -> str:
        """The cluster knows it, by its uuid. Returns its key."""
        known = self._shown().get(disk.number)
        if known is not None and known["uuid"] != disk.uuid:
            if disk.state != REPLACED:
                raise Refused(f"the cluster has another {disk.name}", "ceph osd tree shows it")
            self._away("osd destroy", disk.number)
        self._ask({"prefix": "osd new", "uuid": disk.uuid, "id": disk.number})
        caps = [word for pair in OSD_RIGHTS.items() for word in pair]
        [found] = self._ask({"prefix": "auth get-or-create", "entity": disk.name, "caps": caps})
        return str(found[0]["key"])

    def _make(self, disk: Disk, key: str) -> None:
        directory = self.cluster.daemon_dir(disk.name)
        with locked(self.cluster) as lock:
            if (read_text(directory / "fsid") or "").strip() == disk.uuid:
                return
            maker = Maker(self.cluster, lock)
            try:
                if disk.device:
                    wipe(disk.device)  # while the directory still says whose it was
                for path in (directory, unfinished(directory)):
                    shutil.rmtree(path, ignore_errors=not path.exists())
                maker.finish_osd(disk.name, maker.start_osd(disk, key))
            except OSError as error:
                raise PoolError(f"{disk.name} could not be made on {on(disk)}: {error.strerror}") from error

    def _place(self, disk: Disk) -> None:
        """Beside the others, with the share of the data that its size is of theirs."""
        other = next(number for number in self._shown() if number != disk.number)
        place, usage = self._ask(
            {"prefix": "osd find", "id": other}, {"prefix": "osd df", "to manager": True}
        )
        size = disk.bytes or room.device_bytes(disk.device)
        shares = [each["crush_weight"] / each["kb"] for each in usage["nodes"] if each["kb"]]
        weight = median(shares) * size / room.KIB if shares else 1.0
        args = [f"{kind}={name}" for kind, name in place["crush_location"].items()]
        self._ask({"prefix": "osd crush add", "id": disk.number, "weight": weight, "args": args})
        self._ask({"prefix": "osd crush reweight", "name": disk.name, "weight": weight})

    def _wait_joined(self, disk: Disk) -> None:
        if not pools.wait_joined(self.cluster, [disk.name], time.monotonic() + JOIN_TIMEOUT_S):
            raise Refused(
                f"{disk.name} does not join the others", f"gureum logs {disk.name}; then the same command"
            )

    def _forget(self, disk: Disk) -> None:
        """Nothing is left of an empty OSD whose daemon has ended."""
        if disk.number in self._shown():
            self._away("osd purge", disk.number)
        self._ask({"prefix": "auth rm", "entity": disk.name})
        directory = self.cluster.daemon_dir(disk.name)
        with locked(self.cluster):
            if disk.device:
                with contextlib.suppress(OSError):  # it may be broken, or gone
                    if device_label(disk.device) in labels(self.cluster, disk):
                        wipe(disk.device)
            for path in (directory, unfinished(directory)):
                shutil.rmtree(path, ignore_errors=not path.exists())
            self.cluster.drop(disk)

    def _away(self, prefix: str, number: int) -> None:
        """Out of the map of OSDs, once the monitor believes that it is down."""
        deadline = time.monotonic() + BUSY_TIMEOUT_S
        while True:
            self._ask({"prefix": "osd down", "ids": [str(number)]})
            asked = {"prefix": prefix, "id": number, "to manager": True, **REALLY}
            answer = self._answers(asked)[0]
            if answer.code == 0:
                return
            if answer.code not in (-errno.EBUSY, -errno.EAGAIN) or time.monotonic() > deadline:
                raise PoolError(f"{prefix} of {number}: {answer.message or answer.code}")
            time.sleep(POLL_S)

    def _follow(self, done: Callable[[dict[str, Any]], bool], stalled: str) -> None:
        """Returns when that has been so for some seconds. Raises Refused where nothing moves for long."""
        before: object = None
        since: float | None = None
        moved = time.monotonic()
        while True:
            groups: dict[str, Any] = {}
            is_done = False
            with contextlib.suppress(PoolError):  # a daemon may be just starting
                status = self._ask({"prefix": "status"})[0]
                groups = status["pgmap"]
                is_done = done(status)
            now = time.monotonic()
            # What was so before nobody answered may be so no more.
            since = (now if since is None else since) if is_done else None
            if since is not None and now - since >= STEADY_S:
                return
            recovery = health.recovery(groups)
            if recovery is not None and since is None:
                self.means.recovering(recovery)
            if (groups.get("pgs_by_state"), recovery) != before:
                before, moved = (groups.get("pgs_by_state"), recovery), now
            if now - moved > STALL_TIMEOUT_S:
                raise Refused(stalled, "gureum san status says why; then the same command goes on")
            time.sleep(POLL_S)

    # ---- asking

    def _is_empty(self, number: int) -> bool:
        """Whether no part of the data is kept there, nor is to be."""
        [said] = self._answers({"prefix": "osd safe-to-destroy", "ids": [str(number)]})
        shown = (said.document() or {}) if said.code == 0 else {}
        return bool(shown.get("safe_to_destroy") == [number])

    def _shown(self) -> dict[int, dict[str, Any]]:
        """The OSDs that the cluster knows."""
        [dump] = self._ask({"prefix": "osd dump"})
        return {each["osd"]: each for each in dump["osds"]}

    def _ask(self, *commands: dict[str, Any]) -> list[Any]:
        return [answer.document() for answer in self._answers(*commands)]

    def _answers(self, *commands: dict[str, Any]) -> list[Answer]:
        return ask(pools.admin(self.cluster), commands, ASK_TIMEOUT_S)


def is_whole(status: dict[str, Any]) -> bool:
    """Whether every copy is where it belongs."""
    states = _states(status)
    return bool(states) and all({"active", "clean"} <= state and "stale" not in state for state in states)


def enough_without(status: dict[str, Any], is_up: bool) -> bool:
    """Whether nothing needs an OSD that is down; or one that is up, the others having copies of all."""
    groups = status["pgmap"]
    lost = groups.get("unfound_objects", 0) or (is_up and groups.get("degraded_objects", 0))
    return pools.is_usable(status) and not lost


def _states(status: dict[str, Any]) -> list[set[str]]:
    return [{*each["state_name"].split("+")} for each in status["pgmap"]["pgs_by_state"]]


def on(disk: Disk) -> str:
    return disk.device or f"a file of {room.gib(disk.bytes)}"
