"""Whose a volume is: an advisory lock on the object that holds the image's header, gone with it.

librbd's own exclusive lock is another one: it is handed over to whoever asks, and orders writers only. The
locker is known by its cookie, CLOUD/HOST: the client's number changes with every process. No expiry.
"""

from __future__ import annotations

import time
from typing import Any

import rados

from . import encoding
from .encoding import Locker
from .session import Refused, Session

NAME = "gureum"
UPKEEP = "gureum.upkeep"
"""The object, and its lock, of the host that looks after the pool. It expires."""
MAY_RENEW = 1
"""LIBRADOS_LOCK_FLAG_RENEW."""


def header(image: Any) -> str:
    return f"rbd_header.{image.id()}"


def cookie(session: Session) -> str:
    return f"{session.cloud}/{session.host}"


def holder(session: Session, object: str, name: str = NAME) -> Locker | None:
    try:
        _, data = session.io.execute(object, "lock", "get_info", encoding.lock_name(name))
    except rados.ObjectNotFound:
        return None
    return next(iter(encoding.lockers(data)), None)


def take(session: Session, id: str, object: str) -> None:
    """Refused if it is another's."""
    mine = cookie(session)
    try:
        since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        session.io.lock_exclusive(object, NAME, mine, f"host {session.host}, since {since}")
    except rados.ObjectExists:  # this very process has it
        return
    except rados.ObjectBusy:
        found = holder(session, object)
        if found is None:
            raise Refused(f"{id} is being given to another host: try again", "busy") from None
        if found.cookie != mine:
            raise Refused(f"{id} is in use by another host: {described(found)}", "busy") from None


def release(session: Session, object: str, expected: str) -> bool:
    """Take the lock from ``expected``, a cookie, and nobody else; whether it had it."""
    found = holder(session, object)
    if found is None or found.cookie != expected:
        return False
    try:
        session.io.execute(object, "lock", "break_lock", encoding.break_lock(NAME, found))
    except rados.ObjectNotFound:
        return False
    return True


def lead(session: Session, seconds: int) -> bool:
    """Whether this host is the one to look after the pool for so long; asked again, for so long again."""
    mine = cookie(session)
    for _ in range(2):
        try:
            session.io.lock_exclusive(UPKEEP, UPKEEP, mine, "", seconds, MAY_RENEW)
            return True
        except (rados.ObjectBusy, rados.ObjectExists):
            found = holder(session, UPKEEP, UPKEEP)
        if found is None or found.cookie != mine:
            return False
        # A process of this host that has ended, or this one: it cannot be renewed by another client.
        session.io.execute(UPKEEP, "lock", "break_lock", encoding.break_lock(UPKEEP, found))
    return False


def follow(session: Session) -> None:
    """Let another host look after the pool."""
    found = holder(session, UPKEEP, UPKEEP)
    if found is not None and found.cookie == cookie(session):
        session.io.execute(UPKEEP, "lock", "break_lock", encoding.break_lock(UPKEEP, found))


def described(locker: Locker) -> str:
    cloud = locker.cookie.partition("/")[0]
    return f"{locker.description}, cloud {cloud}"
