"""Volumes. What is made gets its name when it is complete; what is deleted leaves it at once."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import rbd

from . import locks, names, parents, receiving, sharing
from .session import Refused, Session, explained

log = logging.getLogger(__name__)

CUT_SHORT = 1 << 16
"""A depth that is more than any."""
EVICTED_SECONDS = 30 * 24 * 3600
"""How long a lost host's clients are shut out: longer than one sleeps that wakes up once more."""


@contextmanager
def existing(session: Session, id: str, read_only: bool = False) -> Iterator[tuple[Any, dict[str, Any]]]:
    """A volume's image, open, and what is written down with it. Refused where there is none (any more)."""
    try:
        with session.image(id, read_only=read_only) as image:
            found = names.marks(image)
            if found.get(names.DELETED):
                raise Refused(f"there is no volume {id}", "missing")
            yield image, found
    except rbd.ImageNotFound:
        raise Refused(f"there is no volume {id}", "missing") from None


def find(session: Session, id: str) -> dict[str, Any] | None:
    """Its size and depth, None if there is no such volume (any more)."""
    with explained(id):
        try:
            with session.image(id, read_only=True) as image:
                found = names.marks(image)
                if found.get(names.DELETED):
                    return None
                return {
                    "size": image.size(),
                    "depth": _depth(image, found),
                    "partial": bool(found.get(names.PARTIAL)),
                }
        except rbd.ImageNotFound:
            return None


def create(
    session: Session, id: str, size: int, source: str, source_volume: str, token: str, partial: bool = False
) -> bool:
    """Whether it was made now."""
    with explained(id):
        if _is_made(session, id, source):
            return False
        session.require_room()
        session.have_trash()
        name = names.temporary(session, token, id)
        try:
            _make(session, id, name, size, source, source_volume, partial)
            session.rbd.rename(session.io, name, id)
        except rbd.ImageExists:  # another host was quicker
            discard(session, name)
            if not _is_made(session, id, source):
                raise
            return False
        except (rbd.Error, Refused):
            discard(session, name)
            raise
        return True


def _is_made(session: Session, id: str, source: str) -> bool:
    try:
        with session.image(id, read_only=True) as image:
            found = names.marks(image)
    except rbd.ImageNotFound:
        return False
    if found.get(names.DELETED):
        raise Refused(f"{id} was deleted, and only its snapshots are left")
    if found.get(names.SOURCE, "") != source:
        raise Refused(f"{id} exists already, made from {found.get(names.SOURCE) or 'nothing'}")
    names.settle(session, id)
    return True


def mark_partial(session: Session, id: str, partial: bool) -> None:
    """Also while a machine of this host has it open."""
    session.handles.drop(id)
    with explained(id), existing(session, id) as (image, found):
        locks.require_no_other(session, id, locks.header(image))
        if bool(found.get(names.PARTIAL)) != partial:
            names.mark(image, **{names.PARTIAL: partial})


def _make(
    session: Session, id: str, name: str, size: int, source: str, source_volume: str, partial: bool
) -> None:
    if not source:
        session.rbd.create(session.io, name, size, old_format=False, features=names.FEATURES)
    else:
        parent, snapshot = (source, names.BASE) if source.startswith("ami-") else (source_volume, source)
        _require_source(session, id, size, source, parent, snapshot)
        try:
            session.rbd.clone(session.io, parent, snapshot, session.io, name, features=names.FEATURES)
        except rbd.ImageNotFound:
            raise Refused(f"{id}: there is no {source} to make it from", "missing") from None
    with session.image(name) as image:
        names.mark_new(session, image, source, **({names.PARTIAL: True} if partial else {}))
        if image.size() < size:
            image.resize(size)


def _require_source(session: Session, id: str, size: int, source: str, parent: str, snapshot: str) -> None:
    try:
        with session.image(parent, read_only=True, snapshot=snapshot) as image:
            least = image.size()
    except rbd.ImageNotFound:
        raise Refused(f"{id}: there is no {source} to make it from", "missing") from None
    if size < least:
        raise Refused(f"{id}: {size} bytes are less than the {least} of {source}")


def resize(session: Session, id: str, size: int) -> None:
    session.handles.drop(id)
    with explained(id), existing(session, id) as (image, _):
        present = image.size()
        if size < present:
            raise Refused(f"{id} has {present} bytes, and cannot shrink to {size}")
        if size > present:
            session.require_room()
            image.resize(size)


def open_(session: Session, id: str, revision: int = 0) -> int:
    """Make the volume this host's; Refused while it is another's. Its depth."""
    with explained(id):
        with existing(session, id, read_only=True) as (image, found):
            object = locks.header(image)
            shared = not image.features() & rbd.RBD_FEATURE_EXCLUSIVE_LOCK
            depth = _depth(image, found)
        session.handles.drop(id)
        locks.note(session, object, revision)
        _take(session, id, object)
        if shared:
            sharing.end(session, id)
        return depth


def _depth(image: Any, found: Mapping[str, Any]) -> int:
    """With how many images, one below the other, it shares data; that it is to be flattened also if that was
    cut short when nothing was shared any more.
    """
    depth = int(found.get(names.DEPTH, 0))
    return depth if not depth or has_parent(image) else CUT_SHORT


def _take(session: Session, id: str, object: str) -> None:
    """Also from who receives it, for the host that had it all the time: then it was not to be after all."""
    mine = locks.cookie(session)
    had = any(locker.cookie == mine for locker in locks.lockers(session, object).all)
    if not had:
        receiving.require_none(session, id, object)
    locks.take(session, id, object)
    try:
        if not had:
            receiving.require_none(session, id, object)
    except Refused:
        locks.release(session, object, mine)
        raise
    receiving.end(session, object)


def release(session: Session, id: str, holder: str) -> bool:
    """Take the lock from ``holder`` (CLOUD/HOST, "" for this host), if it has it."""
    with explained(id):
        image = parents.image_id(session.io, id)
        if not image:
            return False
        object, holder = f"rbd_header.{image}", holder or locks.cookie(session)
        since = locks.opened(session, object, holder)
        if locks.lockers(session, object).shared:
            sharing.forget(session, object, holder)
        received = receiving.give_up(session, id, object, holder)
        return locks.release(session, object, holder, since) or received


def evict(session: Session, id: str, holder: str, revision: int | None = None) -> bool:
    """Take the lock from ``holder`` (CLOUD/HOST), a host that is lost; whether it had it, or received it.

    Should its machines still run, they can write no more: the OSDs refuse all clients that have the image
    open, and the one that has librbd's own lock, which it keeps when it cannot be reached for a while. Where
    several hosts share it, or another receives it, they refuse those of this one. What it opened by the word
    of a later spec than ``revision`` it keeps.
    """
    with explained(id):
        for _ in range(locks.TRIES):
            done = _evict(session, id, holder, revision)
            if done is not None:
                return done
    raise Refused(f"{id} is changed by others all the time: try again", "busy")


def _evict(session: Session, id: str, holder: str, revision: int | None) -> bool | None:
    """None if something changed meanwhile."""
    try:
        with session.image(id, read_only=True) as image:
            object = locks.header(image)
            held = locks.lockers(session, object)
            has = holder in {locker.cookie for locker in held.all}
            if not has and (held.shared or not receiving.may_have(session, object, holder)):
                return False
            if held.shared:
                sharing.note_own(session, id, object)
            found = locks.seen(session, object, locks.NAME, locks.OPENING, receiving.NAME)
            claims = set(sharing.claimed(session, object))
            if held.shared:
                clients = sharing.clients_of(session, id, object, image, holder)
            else:
                present = sharing.clients(session, image) | _lock_owners(image)
                clients = receiving.clients_of(session, id, object, holder, present)
    except rbd.ImageNotFound:
        return False
    # After its clients: those of a machine that it starts anew come after this.
    if revision is not None and locks.opened(session, object, holder).revision > revision:
        log.warning("%s: %s has opened it anew, and keeps it", id, holder)
        return False
    others = sorted(clients - {session.cluster.get_addrs()})
    session.fence(others, EVICTED_SECONDS)
    for address in others:
        log.warning("%s: client %s is shut out of the cluster", id, address)
    if receiving.NAME not in dict(found.of(holder)):
        claims &= {holder}  # whose the others are matters still
    return locks.take_away(session, object, found, holder, [sharing.OPEN + each for each in claims]) or None


def _lock_owners(image: Any) -> set[str]:
    """Addresses of who has librbd's own lock. It outlasts its owner's connection."""
    found = image.list_lockers()
    return {address for _, _, address in found["lockers"]} if found else set()


def delete(session: Session, id: str) -> None:
    """To the trash, or what its snapshots do not need of it."""
    session.handles.drop(id)
    with explained(id):
        names.settle(session, id)
        try:
            with session.image(id, read_only=True) as image:
                object = locks.header(image)
        except rbd.ImageNotFound:
            to_trash(session, id)
            return
        locks.take(session, id, object)
        with session.image(id) as image:
            require_unused(session, id, image)
            kept = user_snapshots(image)
            if kept and not is_husk(image):
                names.mark(image, **{names.DELETED: True})
            if kept:
                shrink(image)
        if not kept:
            to_trash(session, id)
        locks.release(session, object, locks.cookie(session))


def shrink(image: Any) -> None:
    """Give back what its snapshots do not need of a husk.

    Not while it has a parent: all that its snapshots share with that would be copied first, and beside a
    ``flatten`` of another client it could be lost.
    """
    if image.size() and not has_parent(image):
        image.resize(0)


def has_parent(image: Any) -> bool:
    try:
        image.parent_id()
    except rbd.ImageNotFound:
        return False
    return True


def to_trash(session: Session, name: str) -> None:
    """Also what was moved halfway."""
    with suppress(rbd.ImageNotFound):
        session.rbd.trash_move(session.io, name)


def bury(session: Session, id: str) -> bool:
    """Move a husk to the trash that has lost its last snapshot; whether it was one."""
    with explained(id):
        try:
            with session.image(id, read_only=True) as image:
                gone = is_husk(image) and not user_snapshots(image)
        except rbd.ImageNotFound:
            return False
        if gone:
            to_trash(session, id)
        return gone


def discard(session: Session, name: str) -> None:
    """What was not completed goes."""
    try:
        to_trash(session, name)
    except rbd.Error as error:
        log.warning("%s stays until the next check: %s", name, error)


def is_husk(image: Any) -> bool:
    return bool(names.marks(image).get(names.DELETED))


def user_snapshots(image: Any) -> list[str]:
    """Not those in the trash, which only clones still need."""
    return [
        snapshot["name"]
        for snapshot in image.list_snaps()
        if snapshot["namespace"] == rbd.RBD_SNAP_NAMESPACE_TYPE_USER
    ]


def require_unused(session: Session, id: str, image: Any) -> None:
    """Who has an image open to write watches it; after a process was killed, for 30 s more.

    Nobody at all may: of what librbd changes only for a single client.
    """
    if others := session.watchers(image):
        raise _in_use(id, others)


def require_no_machine(session: Session, id: str, image: Any) -> None:
    """As ``require_unused``, of what can be done beside the upkeep, too: to read and to write."""
    if others := users(session, image):
        raise _in_use(id, others)


def _in_use(id: str, clients: list[str]) -> Refused:
    return Refused(f"{id} is open in a running machine (client {', '.join(clients)})", "busy")


def users(session: Session, image: Any) -> list[str]:
    """Addresses of other clients that have the image open for a machine, or as somebody's disk.

    Not of who looks after the pool: it copies what the image shares while others write to it.
    """
    if not session.watchers(image):
        return []
    keeper = locks.holder(session, locks.UPKEEP, locks.UPKEEP)
    return session.watchers(image, but=keeper.client if keeper else 0)
