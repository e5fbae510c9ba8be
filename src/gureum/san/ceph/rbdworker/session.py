"""One connection to the cluster and the pool, and what its errors mean."""

from __future__ import annotations

import errno
import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import rados
import rbd

from . import parents
from .handles import Handles

log = logging.getLogger(__name__)

CONNECT_SECONDS = 10
MON_SECONDS = 15
"""Mon commands here only ask, so that one may be given up and repeated. Writes have no such limit: one that
was given up may still be done, after what was written next. Who waits too long for one kills this process."""
COUNTED_SECONDS = 8.0
STATUS_SECONDS = 2.0
FENCED_SECONDS = 3600
"""For clients whose process has ended: longer than anything of theirs can be on its way."""
TRASH = "rbd_trash"
"""librbd's name for it."""
RESERVE_BYTES = 256 << 20
FULL_CHECKS = ("OSD_NEARFULL", "OSD_BACKFILLFULL", "OSD_FULL")
FULL_POOL_CHECKS = ("POOL_NEAR_FULL", "POOL_BACKFILLFULL", "POOL_FULL")


class Refused(Exception):
    """``kind``: "full" for lack of space, "missing" for what is not there, "busy" for what another host or a
    machine has to let go of first, "refused" for all else.
    """

    def __init__(self, message: str, kind: str = "refused") -> None:
        super().__init__(message)
        self.kind = kind


class Session:
    """``cloud`` and ``host`` name who works here, in locks and in the metadata of images."""

    def __init__(self, conf: str, user: str, keyring: str, pool: str, cloud: str, host: str) -> None:
        self.pool = pool
        self.cloud = cloud
        self.host = host
        self.rbd = rbd.RBD()
        options = {
            "client_mount_timeout": str(CONNECT_SECONDS),
            "rados_mon_op_timeout": str(MON_SECONDS),
            "rbd_cache": "false",
            "rbd_move_to_trash_on_remove": "false",
            # Clones of snapshots that need no protection, also where clients older than Ceph 13 are admitted.
            "rbd_default_clone_format": "2",
            "admin_socket": "",
            "log_to_stderr": "false",
        }
        if keyring:
            options["keyring"] = keyring
        self.cluster = rados.Rados(conffile=conf, rados_id=user, conf=options)
        self.cluster.connect()
        try:
            self.io = self.cluster.open_ioctx(pool)
        except rados.ObjectNotFound:
            raise Refused(f"the storage cluster has no pool {pool}", "missing") from None
        # In a full cluster what needs room fails at once, and what makes room can be done.
        self.io.set_osdmap_full_try()
        self._has_trash = False
        self.handles = Handles(lambda key: self.image(key[0], bool(key[1]), key[1] or None))
        self.opening: dict[str, set[str]] = {}
        """By shared volume that is being opened, who had it open before."""
        self._status: tuple[float, dict[str, Any]] | None = None

    def hello(self) -> dict[str, Any]:
        """``address``: this client's, as it is among an image's watchers."""
        version = ".".join(map(str, self.rbd.version()))
        return {
            "fsid": self.cluster.get_fsid(),
            "librbd": version,
            "address": self.cluster.get_addrs(),
            "client": self.cluster.get_instance_id(),
        }

    def close(self) -> None:
        self.handles.close()
        self.io.close()
        self.cluster.shutdown()

    def fence(self, addresses: list[str], seconds: int = FENCED_SECONDS) -> None:
        """Let the cluster take nothing more from these clients, and free what they hold.

        From when this returns on, nothing that is done here can be followed by something of theirs.
        """
        add = getattr(self.cluster, "blocklist_add", None) or self.cluster.blacklist_add
        with explained("fencing"):
            for address in addresses:
                add(address, seconds)
            self.cluster.wait_for_latest_osdmap()

    def have_trash(self) -> None:
        """Have the object that lists the trash: in a full cluster it could not be made any more."""
        if not self._has_trash:
            with rados.WriteOpCtx() as op:
                op.new(rados.LIBRADOS_CREATE_IDEMPOTENT)
                self.io.operate_write_op(op, TRASH)
            self._has_trash = True

    def watchers(self, image: Any, but: int = 0) -> list[str]:
        """Addresses of other clients that have the image open to write, the one with the number ``but`` left
        out.

        Not of those that are shut out: where one died in the moment of opening, the OSD keeps its watch until
        the placement group's next peering.
        """
        found = {each["addr"] for each in image.watchers_list() if each["id"] != but}
        found.discard(self.cluster.get_addrs())
        return sorted(found - self._shut_out()) if found else []

    def _shut_out(self) -> set[str]:
        command = json.dumps({"prefix": "osd blocklist ls", "format": "json"})
        code, out, _ = self.cluster.mon_command(command, b"", timeout=MON_SECONDS)
        if code:  # before Ceph 16 it had another name: then they are counted
            return set()
        entries, _ = json.JSONDecoder().raw_decode(out.decode())  # a second list, of ranges, may follow
        return {entry["addr"] for entry in entries}

    def ask(self, prefix: str, **arguments: str) -> Any:
        """A mon command that changes nothing."""
        command = json.dumps({"prefix": prefix, "format": "json", **arguments})
        code, out, message = self.cluster.mon_command(command, b"", timeout=MON_SECONDS)
        if code:
            raise Refused(f"ceph {prefix}: {message or errno.errorcode.get(abs(code), code)}")
        try:
            return json.loads(out)
        except ValueError:
            return out.decode(errors="replace").strip()

    def status(self, fresh: bool = True) -> dict[str, Any]:
        """In bytes of data, copies not counted. ``full``: nothing new; ``message`` says why."""
        now = time.monotonic()
        if not fresh and self._status is not None and now - self._status[0] < STATUS_SECONDS:
            return self._status[1]
        stats = self._usage()
        while stats is None:
            # It was there when it was opened, and its use is counted a few seconds after it was made.
            if time.monotonic() > now + COUNTED_SECONDS:
                raise Refused(f"the storage cluster has no pool {self.pool}", "missing")
            time.sleep(0.2)
            stats = self._usage()
        health = self.ask("health", detail="detail")
        stored, free = int(stats["stored"]), int(stats["max_avail"])
        if quota := int(stats.get("quota_bytes", 0)):
            free = min(free, max(0, quota - stored))
        message = self._full_text(health, free, quota)
        status = {"size": stored + free, "free": free, "full": bool(message), "message": message}
        self._status = (now, status)
        return status

    def _usage(self) -> dict[str, Any] | None:
        pools = self.ask("df", detail="detail")["pools"]
        return next((each["stats"] for each in pools if each["name"] == self.pool), None)

    def _full_text(self, health: Any, free: int, quota: int) -> str:
        for name, check in sorted(health.get("checks", {}).items()):
            details = [detail["message"] for detail in check.get("detail", ())]
            if name in FULL_POOL_CHECKS:
                details = [detail for detail in details if f"'{self.pool}'" in detail]
            elif name not in FULL_CHECKS:
                continue
            if details:
                return f"the storage cluster is nearly full: {'; '.join(details[:3])}"
        if free < RESERVE_BYTES:
            limit = "its quota" if quota else "the storage cluster"
            reserve = f"{RESERVE_BYTES >> 20} MiB are kept in reserve"
            return f"the pool {self.pool} has {free >> 20} MiB left in {limit}, and {reserve}"
        return ""

    def require_room(self) -> None:
        """Before anything new is made: guests that can still write must not be the first to notice."""
        status = self.status(fresh=False)
        if status["full"]:
            raise Refused(f"nothing new is made in the pool {self.pool}: {status['message']}", "full")

    def image(self, name: str, read_only: bool = False, snapshot: str | None = None, by_id: str = "") -> Any:
        """An open image, to be used in a ``with``; rbd.ImageNotFound."""
        which = {"image_id": by_id} if by_id else {"name": name}
        try:
            return rbd.Image(self.io, **which, snapshot=snapshot, read_only=read_only)
        except rbd.ImageNotFound:
            id = by_id or parents.image_id(self.io, name)
            if not id or not parents.let_go(self.io, id):
                raise
        return rbd.Image(self.io, **which, snapshot=snapshot, read_only=read_only)


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn the bindings' errors into Refused, about ``what``."""
    try:
        yield
    except Refused:
        raise
    except (rbd.Error, rados.Error) as error:
        number = abs(getattr(error, "errno", 0) or 0)
        if number == errno.ESHUTDOWN:
            log.warning("the storage cluster has shut this client out: it begins anew as another")
            os._exit(1)
        if number in (errno.ENOSPC, errno.EDQUOT):
            raise Refused(f"{what}: the storage cluster is full ({error})", "full") from error
        kinds = {errno.ENOENT: "missing", errno.EBUSY: "busy", errno.ETIMEDOUT: "busy"}
        raise Refused(f"{what}: {error}", kinds.get(number, "refused")) from error
