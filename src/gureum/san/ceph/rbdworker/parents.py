"""Images whose parent has gone, and that can't be opened for it.

librbd's flatten copies all there is, takes the image off the parent's list of children (and with the last of
them a snapshot that was to go), and then takes the parent out of the image's header: three steps, between
which it may be killed. The parent may be removed from the second on, and librbd opens no image whose parent
is not there. But no parent, and no snapshot, goes while an image is on its list: whoever misses it has all.
"""

from __future__ import annotations

import logging
from typing import Any

import rados

from . import encoding

log = logging.getLogger(__name__)

HEADER = "rbd_header."


def image_id(io: Any, name: str) -> str:
    """What who opens this name gets, "" for nothing."""
    try:
        return encoding.read_string(io.read(f"rbd_id.{name}"))[0]
    except rados.ObjectNotFound:
        return ""


def let_go(io: Any, id: str) -> bool:
    """Complete the flattening of the image, if its parent has gone; whether it had."""
    header = HEADER + id
    try:
        _, data = io.execute(header, "rbd", "parent_get", b"")
    except rados.ObjectNotFound:  # it has no header, too
        return False
    parent = encoding.parent(data)
    if not parent.image or parent.pool != io.get_pool_id() or _is_there(io, parent):
        return False
    io.execute(header, "rbd", "parent_detach", b"")
    log.warning("the image %s has all of its parent %s, which has gone, and lets go of it", id, parent.image)
    return True


def _is_there(io: Any, parent: encoding.Parent) -> bool:
    try:
        io.execute(HEADER + parent.image, "rbd", "snapshot_get", encoding.number(parent.snapshot))
    except rados.ObjectNotFound:
        return False
    return True
