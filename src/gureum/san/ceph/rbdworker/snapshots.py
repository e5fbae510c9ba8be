"""Snapshots: those of the RBD image that the volume is."""

from __future__ import annotations

import logging
from typing import Any

import rbd

from . import volumes
from .session import Refused, Session, explained

log = logging.getLogger(__name__)


def has(session: Session, id: str, volume: str) -> bool:
    """Whether it is there, whole: see ``_complete``."""
    with explained(id):
        try:
            with session.image(volume, read_only=True, snapshot=id):
                return True
        except rbd.ImageNotFound:
            return False


def create(session: Session, id: str, volume: str) -> bool:
    """Whether it was made now. Whoever has the volume open makes it, with no write of its half done."""
    session.handles.drop(volume)
    with explained(id):
        try:
            with session.image(volume) as image:
                return _create(session, image, id, volume)
        except rbd.ImageNotFound:
            raise Refused(f"there is no volume {volume}", "missing") from None


def _create(session: Session, image: Any, id: str, volume: str) -> bool:
    if id in volumes.user_snapshots(image):
        if not has(session, id, volume):
            _complete(image, id)
        return False
    if volumes.is_husk(image):
        raise Refused(f"there is no volume {volume}", "missing")
    session.require_room()
    try:
        image.create_snap(id)
    except rbd.ImageExists:
        return False
    return True


def _complete(image: Any, id: str) -> None:
    """Make the object map of a snapshot whose maker died before it did: without one it cannot be opened."""
    log.warning("%s was cut short: its object map is made anew", id)
    image.set_snap(id)
    image.rebuild_object_map()


def delete(session: Session, id: str, volume: str) -> bool:
    """Whether it was there. One with clones goes to a place of its own, until the last clone leaves."""
    found = False
    session.handles.drop(volume)
    with explained(id):
        try:
            with session.image(volume) as image:
                if id in volumes.user_snapshots(image):
                    image.remove_snap(id)
                    found = True
        except rbd.ImageNotFound:
            return found
        volumes.bury(session, volume)
    return found
