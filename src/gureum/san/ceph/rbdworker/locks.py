"""Whose a volume is: an advisory lock on the object that holds the image's header, gone with it.

librbd's own exclusive lock is another one: it is handed over to whoever asks, and orders writers only. The
locker is known by its cookie, CLOUD/HOST: the client's number changes with every process. No expiry. A volume
that several hosts may have open has a shared lock, with a locker for each.

Who opens it notes that first (``NOTE``, an attribute of the object), with the revision of its host's spec and
a number of its own. A lock is taken away only while the object is as it was when that note was read: so
nobody who hung meanwhile takes away what was opened since.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, NamedTuple

import rados

from . import encoding
from .encoding import Locker, Lockers
from .session import Refused, Session

NAME = "gureum"
UPKEEP = "gureum.upkeep"
"""The object, and its lock, of the host that looks after the pool. It expires."""
OPENING = "gureum.opening"
"""The lock of the host that opens a shared volume just now."""
OPENING_SECONDS = 300
"""Longer than a machine takes to open a disk, or to be given up."""
TAG = "several"
"""Of shared locks."""
MAY_RENEW = 1
"""LIBRADOS_LOCK_FLAG_RENEW."""
NOTE = "gureum.opened."
"""With CLOUD/HOST: "REVISION TOKEN", of when that host opened it last."""
TRIES = 5
CHANGED = (errno.ERANGE, errno.EOVERFLOW, errno.ENOENT, errno.ENODATA)
"""How the cluster says that an object is another than it was."""


class Opened(NamedTuple):
    """When a host opened a volume last: by the word of which spec, and which time of all."""

    revision: int = 0
    token: str = ""


class Seen(NamedTuple):
    """The lockers of an object's locks, by the locks' names, and its version when the first were read."""

    version: int
    locks: dict[str, Lockers]

    def of(self, cookie: str) -> list[tuple[str, Locker]]:
        return [
            (name, each) for name, found in self.locks.items() for each in found.all if each.cookie == cookie
        ]


def header(image: Any) -> str:
    return f"rbd_header.{image.id()}"


def cookie(session: Session) -> str:
    return f"{session.cloud}/{session.host}"


def lockers(session: Session, object: str, name: str = NAME) -> Lockers:
    try:
        _, data = session.io.execute(object, "lock", "get_info", encoding.lock_name(name))
    except rados.ObjectNotFound:
        return Lockers([], False)
    return encoding.lockers(data)


def holder(session: Session, object: str, name: str = NAME) -> Locker | None:
    """The only one, or the first."""
    return next(iter(lockers(session, object, name).all), None)


def take(session: Session, id: str, object: str, shared: bool = False) -> None:
    """Refused if it is another's, or others share it and this host is not to be one of them."""
    mine = cookie(session)
    for _ in range(2):
        try:
            _take(session, object, mine, shared)
            return
        except (rados.ObjectExists, rados.ObjectBusy):
            found = lockers(session, object)
        if not found.all:
            raise Refused(f"{id} is being given to another host: try again", "busy") from None
        if not (shared and found.shared):
            _require_mine(session, id, found)
        if found.shared == shared:  # a process of this host has it, or had
            return
        release(session, object, mine)
    raise Refused(f"{id} is being given to another host: try again", "busy")


def require_no_other(session: Session, id: str, object: str) -> None:
    """Refused if it is another host's."""
    _require_mine(session, id, lockers(session, object))


def _require_mine(session: Session, id: str, found: Lockers) -> None:
    others = [locker for locker in found.all if locker.cookie != cookie(session)]
    if others:
        raise Refused(f"{id} is in use by another host: {described(others[0])}", "busy")


def _take(session: Session, object: str, mine: str, shared: bool) -> None:
    description = f"host {session.host}, since {time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())}"
    if shared:
        session.io.lock_shared(object, NAME, mine, TAG, description)
    else:
        session.io.lock_exclusive(object, NAME, mine, description)


def note(session: Session, object: str, revision: int) -> None:
    """This host is about to open it, by the word of the spec with this revision."""
    value = f"{revision} {os.urandom(8).hex()}".encode()
    session.io.set_xattr(object, NOTE + cookie(session), value)


def opened(session: Session, object: str, host: str) -> Opened:
    """When ``host`` (CLOUD/HOST) did so last."""
    try:
        revision, _, token = session.io.get_xattr(object, NOTE + host).decode().partition(" ")
    except (rados.ObjectNotFound, rados.NoData):
        return Opened()
    return Opened(int(revision), token)


def seen(session: Session, object: str, *names: str) -> Seen:
    # With a context of its own: the version is that of the last answer to anybody who uses it.
    with session.cluster.open_ioctx(session.pool) as io:
        found, version = {}, 0
        for name in names:
            try:
                _, data = io.execute(object, "lock", "get_info", encoding.lock_name(name))
            except rados.ObjectNotFound:
                return Seen(0, {})
            found[name] = encoding.lockers(data)
            version = version or io.get_last_version()
    return Seen(version, found)


def take_away(
    session: Session, object: str, found: Seen, cookie: str, attributes: Iterable[str] = ()
) -> bool:
    """All of these locks that ``cookie`` has, with these attributes, at once; False if the object is another
    than it was.
    """
    with rados.WriteOpCtx() as op:
        op.assert_version(found.version)
        for name, locker in found.of(cookie):
            op.execute("lock", "break_lock", encoding.break_lock(name, locker))
        for name in attributes:
            op.rm_xattr(name)
        try:
            session.io.operate_write_op(op, object)
        except rados.Error as error:
            if abs(getattr(error, "errno", 0) or 0) in CHANGED:
                return False
            raise
    return True


def release(session: Session, object: str, expected: str, since: Opened | None = None) -> bool:
    """Take the lock from ``expected``, a cookie, and nobody else; whether it had it.

    Not if that host opens the volume anew meanwhile, or has after ``since``.
    """
    since = since or opened(session, object, expected)
    for _ in range(TRIES):
        found = seen(session, object, NAME)
        if not found.of(expected) or opened(session, object, expected) != since:
            return False
        if take_away(session, object, found, expected):
            return True
    raise Refused(f"{object} is changed by others all the time: try again", "busy")


def drop(session: Session, object: str, name: str, locker: Locker) -> None:
    """Take a lock from ``locker``, and nobody else."""
    with suppress(rados.ObjectNotFound):
        session.io.execute(object, "lock", "break_lock", encoding.break_lock(name, locker))


def begin_opening(session: Session, id: str, object: str) -> None:
    """Let no other host open it meanwhile. Refused while one does."""
    if not expiring(session, object, OPENING, OPENING_SECONDS):
        raise Refused(f"{id} is being opened by another host: try again", "busy")


def end_opening(session: Session, object: str, host: str = "") -> None:
    """Of ``host`` (CLOUD/HOST, "" for this one)."""
    found = holder(session, object, OPENING)
    if found is not None and found.cookie == (host or cookie(session)):
        drop(session, object, OPENING, found)


def lead(session: Session, seconds: int) -> bool:
    """Whether this host is the one to look after the pool for so long; asked again, for so long again."""
    return expiring(session, UPKEEP, UPKEEP, seconds)


def expiring(session: Session, object: str, name: str, seconds: int) -> bool:
    """Have a lock for so long, or for so long again; whether no other host has it."""
    mine = cookie(session)
    for _ in range(2):
        try:
            session.io.lock_exclusive(object, name, mine, "", seconds, MAY_RENEW)
            return True
        except (rados.ObjectBusy, rados.ObjectExists):
            found = holder(session, object, name)
        if found is None or found.cookie != mine:
            return False
        # A process of this host that has ended, or this one: it cannot be renewed by another client.
        drop(session, object, name, found)
    return False


def follow(session: Session) -> None:
    """Let another host look after the pool."""
    found = holder(session, UPKEEP, UPKEEP)
    if found is not None and found.cookie == cookie(session):
        drop(session, UPKEEP, UPKEEP, found)


def described(locker: Locker) -> str:
    cloud = locker.cookie.partition("/")[0]
    return f"{locker.description}, cloud {cloud}"
