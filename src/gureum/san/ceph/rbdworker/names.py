"""Names of images in the pool, and what is written down with them.

    ami-X, vol-X                    complete: an image gets such a name last
    new.HOST.TOKEN.ami-X            not complete yet; HOST is 8 hexadecimal digits made of cloud and host

librbd renames in three steps: the new name's object is written, the directory changed, the old name's object
removed. From the first on the image has its new name for who opens it. ``settle`` does what a crash left.
"""

from __future__ import annotations

import hashlib
import json
import re
from contextlib import suppress
from typing import Any

import rados
import rbd

from . import encoding
from .parents import DIRECTORY, directory_name, image_id
from .session import Session

MARK = "gureum"
"""The key of what is written down with an image: a JSON object with some of the following."""
CLOUD, SOURCE, DELETED, DIGEST = "cloud", "source", "deleted", "sha256"
PARTIAL = "partial"
"""It is a copy that is not complete."""
DEPTH = "depth"
"""How many images a volume is over, at most: parents may have lost theirs since."""
BASE = "base"
"""The snapshot of an image that volumes are cloned from."""
FEATURES = (
    rbd.RBD_FEATURE_LAYERING
    | rbd.RBD_FEATURE_EXCLUSIVE_LOCK
    | rbd.RBD_FEATURE_OBJECT_MAP
    | rbd.RBD_FEATURE_FAST_DIFF
    | rbd.RBD_FEATURE_DEEP_FLATTEN
)
_COMPLETE = re.compile(r"(vol|ami)-[0-9a-z]{1,40}")
_TEMPORARY = re.compile(r"new\.([0-9a-f]{8})\.([0-9a-f]{8})\.((vol|ami)-[0-9a-z]{1,40})")


def host_tag(session: Session) -> str:
    return hashlib.sha256(f"{session.cloud}/{session.host}".encode()).hexdigest()[:8]


def temporary(session: Session, token: str, id: str) -> str:
    return f"new.{host_tag(session)}.{token}.{id}"


def is_complete(name: str) -> bool:
    return _COMPLETE.fullmatch(name) is not None


def parse_temporary(name: str) -> tuple[str, str, str] | None:
    """Host tag, token, and the name that it was to get."""
    found = _TEMPORARY.fullmatch(name)
    return (found[1], found[2], found[3]) if found else None


def marks(image: Any) -> dict[str, Any]:
    """What is written down with it; nothing with an image that is not ours."""
    try:
        found = json.loads(image.metadata_get(MARK))
    except (KeyError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def mark(image: Any, **changed: object) -> None:
    image.metadata_set(MARK, json.dumps({**marks(image), **changed}))


def mark_new(session: Session, image: Any, source: str = "", **more: object) -> None:
    """The same for an unfinished image. A clone has its parent's at first."""
    depth = int(marks(image).get(DEPTH, 0)) + 1 if source else 0
    found = {CLOUD: session.cloud, SOURCE: source, DEPTH: depth, **more}
    image.metadata_set(MARK, json.dumps(found))


def settle(session: Session, name: str) -> bool:
    """Complete the renaming to ``name``, if it was cut short; whether it was."""
    id = image_id(session.io, name)
    if not id:
        return False
    former = directory_name(session.io, id)
    if former == name or parse_temporary(former) is None:
        return False
    change = encoding.string(former) + encoding.string(name) + encoding.string(id)
    session.io.execute(DIRECTORY, "rbd", "dir_rename_image", change)
    with suppress(rados.ObjectNotFound):
        session.io.remove_object(f"rbd_id.{former}")
    return True
