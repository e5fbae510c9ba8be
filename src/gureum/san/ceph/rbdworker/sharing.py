"""Volumes that machines of several hosts have open at the same time.

Their attach lock is a shared one, of which each host has its part. librbd's own exclusive lock, and what
needs it (object map, fast diff), is off: it would be handed to and fro with every write.

Nothing at a watcher of an image says whose it is. So one host after another opens such an image, sees who
came, and writes that down (``OPEN``, an attribute of the header, by host). When a host is lost its clients
can be shut out, and the others' are left alone. A client that nobody wrote down counts as the lost host's.
"""

from __future__ import annotations

import json
import logging
from contextlib import suppress
from typing import Any

import rados
import rbd

from . import locks, names, receiving, volumes
from .session import Refused, Session, explained

log = logging.getLogger(__name__)

OPEN = "gureum.open."
"""With CLOUD/HOST: addresses of clients, those first that have closed it, then oldest first."""
CLIENTS_MAX = 256
"""Of a host. Those that have closed the image since are among them."""
NEEDS_LOCK = rbd.RBD_FEATURE_EXCLUSIVE_LOCK | rbd.RBD_FEATURE_OBJECT_MAP | rbd.RBD_FEATURE_FAST_DIFF


def share(session: Session, id: str, revision: int = 0) -> int:
    """Let this host open the volume, and no other until ``note_opened``. Refused while one has it alone.

    Its depth.
    """
    with explained(id):
        with volumes.existing(session, id, read_only=True) as (image, found):
            object = locks.header(image)
        receiving.require_none(session, id, object)
        session.handles.drop(id)
        locks.note(session, object, revision)
        locks.take(session, id, object, shared=True)
        locks.begin_opening(session, id, object)
        try:
            with session.image(id) as image:
                _without_lock(session, id, image)
                session.opening[id] = clients(session, image)
        except BaseException:
            locks.end_opening(session, object)
            raise
        return int(found.get(names.DEPTH, 0))


def _without_lock(session: Session, id: str, image: Any) -> None:
    features = image.features() & NEEDS_LOCK
    if features:
        volumes.require_unused(session, id, image)
        image.update_features(features, False)
        log.info("%s: several hosts may have it open now", id)


def end(session: Session, id: str) -> None:
    """One host alone has it from now on. librbd's lock tells who that is, also when its watch has ended."""
    with session.image(id) as image:
        volumes.require_unused(session, id, image)
        image.update_features(rbd.RBD_FEATURE_EXCLUSIVE_LOCK, True)


def note_opened(session: Session, id: str) -> None:
    """Write down which clients are this host's, and let other hosts open it.

    After a process that did not come to it: those that no host has claimed.
    """
    with explained(id):
        try:
            with session.image(id, read_only=True) as image:
                object, now = locks.header(image), clients(session, image)
        except rbd.ImageNotFound:
            return
        claims = claimed(session, object)
        mine = claims.get(locks.cookie(session), [])
        before = session.opening.get(id)
        if before is None:
            opening = locks.holder(session, object, locks.OPENING)
            if opening is not None and opening.cookie != locks.cookie(session):
                # Whom nobody has claimed yet may be that host's.
                raise Refused(f"{id} is being opened by {opening.cookie}: try again", "busy")
            before = {address for addresses in claims.values() for address in addresses}
        if new := sorted(now - before - set(mine)):
            # Those that have closed it are the first to be forgotten.
            known = sorted(mine, key=lambda address: address in now)
            value = json.dumps([*known, *new][-CLIENTS_MAX:]).encode()
            session.io.set_xattr(object, OPEN + locks.cookie(session), value)
        locks.end_opening(session, object)
        session.opening.pop(id, None)


def note_own(session: Session, id: str, object: str) -> None:
    """What this host opened and could not write down yet: else it would count as the lost host's."""
    opening = locks.holder(session, object, locks.OPENING)
    if opening is not None and opening.cookie == locks.cookie(session):
        note_opened(session, id)


def claimed(session: Session, object: str) -> dict[str, list[str]]:
    """By CLOUD/HOST, the clients that have it open or had."""
    found: dict[str, list[str]] = {}
    with suppress(rados.ObjectNotFound):
        for name, value in session.io.get_xattrs(object):
            if name.startswith(OPEN):
                found[name.removeprefix(OPEN)] = json.loads(value)
    return found


def forget(session: Session, object: str, holder: str) -> None:
    with suppress(rados.ObjectNotFound, rados.NoData):
        session.io.rm_xattr(object, OPEN + holder)


def clients_of(session: Session, id: str, object: str, image: Any, holder: str) -> set[str]:
    """Who has to be shut out when ``holder``, one of several hosts that share it, is lost.

    Also clients of its that have lost their watch, as one that cannot reach the cluster for a while.
    """
    opening = locks.holder(session, object, locks.OPENING)
    if opening is not None and opening.cookie not in (holder, locks.cookie(session)):
        raise Refused(f"{id} is being opened by {opening.cookie}: try again", "busy")
    claims = claimed(session, object)
    lost = set(claims.pop(holder, ()))
    sharers = {locker.cookie for locker in locks.lockers(session, object).all}
    others = {address for host in claims.keys() & sharers for address in claims[host]}
    return lost | (clients(session, image) - others)


def clients(session: Session, image: Any) -> set[str]:
    """Addresses of those that have the image open, but for this one."""
    return {each["addr"] for each in image.watchers_list()} - {session.cluster.get_addrs()}
