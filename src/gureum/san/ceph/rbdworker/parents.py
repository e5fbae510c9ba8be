"""Images whose parent has gone, and that can't be opened for it.

librbd's flatten copies all there is, takes the image off the parent's list of children (and with the last of
them a snapshot that was to go), and then takes the parent out of the image's header: three steps, between
which it may be killed. The parent may be removed from the second on, and librbd opens no image whose parent
is not there. But no parent, and no snapshot, goes while an image is on its list: whoever misses it has all.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Any

import rados

from . import encoding

log = logging.getLogger(__name__)

HEADER, DIRECTORY = "rbd_header.", "rbd_directory"
CHAIN_MAX = 64
"""Images, each over the next: more than librbd opens."""


def image_id(io: Any, name: str) -> str:
    """What who opens this name gets, "" for nothing."""
    try:
        return encoding.read_string(io.read(f"rbd_id.{name}"))[0]
    except rados.ObjectNotFound:
        return ""


def directory_name(io: Any, id: str) -> str:
    """What the image of this id is listed as, "" if it is not."""
    try:
        _, data = io.execute(DIRECTORY, "rbd", "dir_get_name", encoding.string(id))
    except rados.ObjectNotFound:
        return ""
    return encoding.read_string(data)[0]


def let_go(io: Any, id: str) -> bool:
    """Complete the flattening of the image, or of one that it is over, whose parent has gone; whether it can
    perhaps be opened now.
    """
    for _ in range(CHAIN_MAX):
        header = HEADER + id
        try:
            _, data = io.execute(header, "rbd", "parent_get", b"")
        except rados.ObjectNotFound:  # it has no header, too
            return False
        parent = encoding.parent(data)
        if not parent.image:
            return True  # somebody else has just done it
        if parent.pool != io.get_pool_id():
            return False
        if not _is_there(io, parent):
            with suppress(rados.ObjectNotFound):
                io.execute(header, "rbd", "parent_detach", b"")
            log.warning(
                "the image %s has all of its parent %s, which has gone, and lets go of it", id, parent.image
            )
            return True
        id = parent.image
    return False


def _is_there(io: Any, parent: encoding.Parent) -> bool:
    header = HEADER + parent.image
    try:
        io.execute(header, "rbd", "snapshot_get", encoding.number(parent.snapshot))
    except rados.ObjectNotFound:
        # Who removes an image takes it off the directory, too: a header that is gone alone was lost.
        return not _exists(io, header) and bool(directory_name(io, parent.image))
    return True


def _exists(io: Any, object: str) -> bool:
    try:
        io.stat(object)
    except rados.ObjectNotFound:
        return False
    return True
