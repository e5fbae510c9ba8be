"""A volume that comes to this host with its machine, which still runs on another one.

That host keeps the attach lock. This one has a lock of its own beside it, which keeps out everybody else from
the moment on in which the other lets go. librbd's lock stays on: it is handed over with the first write here.

Who has the image open before is the other host's, and is written down as such (``sharing.OPEN``): so either
host can be shut out without the other.
"""

from __future__ import annotations

import json
from typing import Any

import rbd

from . import locks, names, sharing
from .session import Refused, Session, explained

NAME = "gureum.receiving"
SECONDS = 3600
"""After that nobody is kept out any more: the lock of a host that has forgotten it holds up nobody. Whose
clients are whose is known longer: see ``may_have``.
"""


def receive(session: Session, id: str, revision: int = 0) -> int:
    """Refused unless another host has it alone, and no third one receives it. Its depth."""
    with explained(id):
        try:
            with session.image(id, read_only=True) as image:
                return _receive(session, id, revision, image)
        except rbd.ImageNotFound:
            raise Refused(f"there is no volume {id}", "missing") from None


def _receive(session: Session, id: str, revision: int, image: Any) -> int:
    found, object = names.marks(image), locks.header(image)
    if found.get(names.DELETED):
        raise Refused(f"there is no volume {id}", "missing")
    held = locks.lockers(session, object)
    if held.shared or not held.all:
        raise Refused(f"{id} is no other host's alone: it cannot be received from one", "busy")
    session.handles.drop(id)
    locks.note(session, object, revision)
    if not locks.expiring(session, object, NAME, SECONDS):
        raise Refused(f"{id} is being received by another host: try again", "busy")
    locks.begin_opening(session, id, object)
    try:
        _note_others(session, id, object, held.all[0].cookie, image)
    except BaseException:
        locks.end_opening(session, object)
        raise
    return int(found.get(names.DEPTH, 0))


def _note_others(session: Session, id: str, object: str, host: str, image: Any) -> None:
    """Those that have it open now are that host's, but for those of an earlier attempt."""
    before = sharing.clients(session, image)
    others = before - set(sharing.claimed(session, object).get(locks.cookie(session), ()))
    session.io.set_xattr(object, sharing.OPEN + host, json.dumps(sorted(others)).encode())
    session.opening[id] = before


def require_none(session: Session, id: str, object: str) -> None:
    """Refused if another host receives it: nobody but that one is to have it next."""
    found = locks.holder(session, object, NAME)
    if found is not None and found.cookie != locks.cookie(session):
        raise Refused(f"{id} is being received by another host: {found.cookie}", "busy")


def receives(session: Session, object: str, host: str) -> bool:
    found = locks.holder(session, object, NAME)
    return found is not None and found.cookie == host


def may_have(session: Session, object: str, host: str) -> bool:
    """Whether a host that has not the attach lock may have the volume open: it receives it, or did when its
    lock expired. Whose clients are whose stays written down until one host has it alone.
    """
    return receives(session, object, host) or bool(sharing.claimed(session, object))


def end(session: Session, object: str, host: str = "") -> bool:
    """That of ``host``, "" for whoever it is; whether there was one. Whose which client is does not matter
    any more.
    """
    found = locks.holder(session, object, NAME)
    if host and (found is None or found.cookie != host):
        return False
    for each in sharing.claimed(session, object):
        sharing.forget(session, object, each)
    if found is None:
        return False
    locks.end_opening(session, object, found.cookie)
    locks.drop(session, object, NAME, found)
    return True


def give_up(session: Session, id: str, object: str, host: str) -> bool:
    """Of a machine that was not to be here after all; whether ``host`` has received the volume.

    A QEMU whose guest does not come ends without closing its disks. The cluster would ask it for half a
    minute about every change of the lock, and let the guest at the other host wait for an answer.
    """
    if not receives(session, object, host):
        return False
    if host == locks.cookie(session):
        sharing.note_own(session, id, object)
        with session.image(id, read_only=True) as image:
            left = sharing.clients(session, image) & set(sharing.claimed(session, object).get(host, ()))
        session.fence(sorted(left))
    return end(session, object, host)


def clients_of(session: Session, id: str, object: str, host: str, present: set[str]) -> set[str]:
    """Who has to be shut out when ``host`` is lost, the one that has it or the one that receives it: of those
    that are there now, all that are not known to be the other's.
    """
    sharing.note_own(session, id, object)
    opening = locks.holder(session, object, locks.OPENING)
    if opening is not None and opening.cookie not in (host, locks.cookie(session)):
        raise Refused(f"{id} is being opened by {opening.cookie}: try again", "busy")
    claims = sharing.claimed(session, object)
    lost = set(claims.pop(host, ()))
    others = {address for addresses in claims.values() for address in addresses}
    return lost | (present - others)
