"""What nobody waits for: removing what was left half-made, the data of what was deleted, and long chains."""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import rados
import rbd

from . import encoding, locks, names, parents, volumes
from .session import TRASH, Refused, Session, explained

log = logging.getLogger(__name__)

ABANDONED_SECONDS = 3600.0
"""Another host's unfinished image that nobody has open is let be for so long: it may still go on."""

NORMAL, MOVING = b"\0", b"\1"
"""States of an image in the trash (cls::rbd::TrashImageState)."""

Progress = Callable[[float], None]


def all_names(session: Session) -> list[str]:
    """Of complete images, whoever made them."""
    with explained("the pool"):
        return sorted(filter(names.is_complete, session.rbd.list(session.io)))


def describe(session: Session, name: str) -> dict[str, Any] | None:
    with explained(name):
        try:
            with session.image(name, read_only=True) as image:
                found = names.marks(image)
                holders = locks.lockers(session, locks.header(image)).all
                return {
                    "name": name,
                    "size": image.size(),
                    "cloud": found.get(names.CLOUD, ""),
                    "deleted": bool(found.get(names.DELETED)),
                    "snapshots": volumes.user_snapshots(image),
                    "holder": holders[0].cookie if holders else "",
                    "held_since": holders[0].description if holders else "",
                    "sharers": [holder.cookie for holder in holders[1:]],
                    "watchers": volumes.users(session, image),
                }
        except rbd.ImageNotFound:
            return None


def survey(session: Session, making: list[str], repair: bool) -> list[str]:
    """``making``: tokens of this host's images that are being made now."""
    found = []
    with explained("the pool"):
        for name in sorted(session.rbd.list(session.io)):
            parsed = names.parse_temporary(name)
            if parsed is not None:
                found += _unfinished(session, name, parsed, making, repair)
            elif not names.is_complete(name):
                found.append(f"{name} is not an image of the cloud's; kept")
        found += [f"{each['name']} waits in the trash" for each in trash(session)]
    return found


def _unfinished(
    session: Session, name: str, parsed: tuple[str, str, str], making: list[str], repair: bool
) -> list[str]:
    tag, token, target = parsed
    if tag == names.host_tag(session) and token in making:
        return []
    try:
        with session.image(name, read_only=True) as image:
            if parents.image_id(session.io, target) == image.id():
                if repair:
                    names.settle(session, target)
                return [f"{target} is still called {name}, too"]
            used = bool(session.watchers(image))
            age = time.time() - image.create_timestamp().timestamp()
    except rbd.ImageNotFound:  # not even that far
        used, age = False, _id_age(session, name)
    if tag != names.host_tag(session) and (used or age < ABANDONED_SECONDS):
        return []
    if repair and not used:
        volumes.discard(session, name)
    return [f"{name} is unfinished"]


def _id_age(session: Session, name: str) -> float:
    """How long ago the image got its name, in seconds; 0 if it has hardly that."""
    try:
        _, modified = session.io.stat(f"rbd_id.{name}")
    except rados.ObjectNotFound:
        return 0.0
    return time.time() - time.mktime(modified)


def trash(session: Session) -> list[dict[str, Any]]:
    """Those images of the trash that are this cloud's."""
    found = []
    with explained("the trash"):
        for each in session.rbd.trash_list(session.io):
            id, name = each["id"], each["name"]
            if names.parse_temporary(name) or (names.is_complete(name) and _is_ours(session, id)):
                found.append({"id": id, "name": name})
    return found


def _is_ours(session: Session, id: str) -> bool:
    try:
        with session.image("", read_only=True, by_id=id) as image:
            return names.marks(image).get(names.CLOUD) == session.cloud
    except rbd.ImageNotFound:  # its header is gone already: somebody was removing it
        return True


def purge(session: Session, id: str, name: str) -> dict[str, Any]:
    """Remove an image of the trash. What clones still need stays, and which ones need it is told."""
    with explained(name):
        try:
            kept = _kept(session, id, name)
            if kept is None:
                _remove(session, id)
        except rbd.ImageBusy:
            return {"why": "it is open", "open": True}
    if kept is None:
        log.info("%s is removed", name)
    return kept or {"why": "", "children": []}


def _kept(session: Session, id: str, name: str) -> dict[str, Any] | None:
    """Why it stays, if it does; snapshots that only clones needed are gone after that."""
    try:
        with session.image("", by_id=id) as image:
            kept = volumes.user_snapshots(image)
            if kept and names.is_complete(name) and name.startswith("vol-"):
                return {"why": f"it has snapshots: {', '.join(kept[:3])}", "children": []}
            for snapshot in kept:
                image.remove_snap(snapshot)
            children = list(image.list_children2())
    except rbd.ImageNotFound:
        return None
    if not children:
        return None
    inside = [each["image"] for each in children if each["pool"] == session.pool and not each["trash"]]
    return {"why": f"{len(children)} clones need it", "children": sorted(inside)}


def _remove(session: Session, id: str) -> None:
    """rbd.ImageBusy for one that somebody has open who is not shut out."""
    try:
        with suppress(rbd.ImageNotFound):
            _remove_moving(session, id)
    except rbd.ImageBusy:
        if not _remove_by_hand(session, id):
            raise


def _remove_moving(session: Session, id: str) -> None:
    """Also one whose mover died: librbd removes none that is still on its way to the trash."""
    try:
        session.rbd.trash_remove(session.io, id)
        return
    except rbd.Error as error:
        listed = parents.directory_name(session.io, id)
        # As long as the name leads to something it is that one's to be moved, or to be let be.
        if abs(error.errno or 0) != errno.EUCLEAN or (listed and parents.image_id(session.io, listed)):
            raise
    if listed:
        volumes.to_trash(session, listed)
    else:
        # The directory has lost it, and that was the last step but one.
        session.io.execute(TRASH, "rbd", "trash_state_set", encoding.string(id) + NORMAL + MOVING)
    session.rbd.trash_remove(session.io, id)


def _remove_by_hand(session: Session, id: str) -> bool:
    """Remove an image which nobody has open but clients that are shut out; whether it was such a one.

    librbd removes nothing that is watched, and the OSD may keep a dead client's watch until the object goes
    (Session.watchers). So the image is emptied, leaves its parent and loses its header, and librbd the rest.
    """
    try:
        with session.image("", by_id=id) as image:
            if session.watchers(image):
                return False
            image.resize(0)
            with suppress(rbd.InvalidArgument):  # it has no parent
                image.flatten()
        session.io.remove_object(f"rbd_header.{id}")
    except (rbd.ImageNotFound, rados.ObjectNotFound):  # begun before
        pass
    with suppress(rbd.ImageNotFound):
        session.rbd.trash_remove(session.io, id)
    return True


def _counted(progress: Progress) -> Callable[[int, int], int]:
    """As librbd wants it: with objects done of how many, and 0 for going on."""

    def reported(done: int, total: int) -> int:
        progress(done / total if total else 1.0)
        return 0

    return reported


def _distrust_map(session: Session, image: Any) -> None:
    """Let nobody believe the image's object map, if it has one, until that is rebuilt.

    It is written before the objects. Where a client dies between the two it tells of objects that are not
    there, and before Ceph 19 a flatten takes them for copied (tracker.ceph.com/issues/68998). A rebuild
    does not help, as it may not know better than a client that writes just now.
    """
    if not image.features() & rbd.RBD_FEATURE_OBJECT_MAP:
        return
    flags = encoding.flags(rbd.RBD_FLAG_OBJECT_MAP_INVALID | rbd.RBD_FLAG_FAST_DIFF_INVALID)
    session.io.execute(locks.header(image), "rbd", "set_flags", flags)
    # Who has it open, and may be who flattens, reads its header again when what is marked is written.
    names.mark(image)


def flatten(session: Session, id: str, progress: Progress) -> bool:
    """Give a volume what it shares with its parents. Who has it open does it; begun again, it goes on."""
    with explained(id):
        try:
            with session.image(id) as image:
                if volumes.has_parent(image):
                    session.require_room()
                    _distrust_map(session, image)
                    image.flatten(_counted(progress))
                elif not names.marks(image).get(names.DEPTH):
                    return False
                if image.flags() & rbd.RBD_FLAG_OBJECT_MAP_INVALID:
                    image.rebuild_object_map()
                if volumes.is_husk(image):
                    volumes.shrink(image)
                names.mark(image, **{names.DEPTH: 0})
        except rbd.ImageNotFound:
            raise Refused(f"there is no volume {id}", "missing") from None
    return True
