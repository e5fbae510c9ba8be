"""Whose a volume is: an advisory lock on the object that holds the image's header, gone with it.

librbd's own exclusive lock is another one: it is handed over to whoever asks, and orders writers only. The
locker is known by its cookie, CLOUD/HOST: the client's number changes with every process. No expiry. A volume
that several hosts may have open has a shared lock, with a locker for each.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

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
        others = [locker for locker in found.all if locker.cookie != mine]
        if others and not (shared and found.shared):
            raise Refused(f"{id} is in use by another host: {described(others[0])}", "busy") from None
        if found.shared == shared:  # a process of this host has it, or had
            return
        release(session, object, mine)
    raise Refused(f"{id} is being given to another host: try again", "busy")


def _take(session: Session, object: str, mine: str, shared: bool) -> None:
    description = f"host {session.host}, since {time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())}"
    if shared:
        session.io.lock_shared(object, NAME, mine, TAG, description)
    else:
        session.io.lock_exclusive(object, NAME, mine, description)


def release(session: Session, object: str, expected: str) -> bool:
    """Take the lock from ``expected``, a cookie, and nobody else; whether it had it."""
    found = [locker for locker in lockers(session, object).all if locker.cookie == expected]
    for locker in found:
        drop(session, object, NAME, locker)
    return bool(found)


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
