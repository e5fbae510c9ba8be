"""The data of snapshots and volumes, a few blocks at a time, and where a snapshot has any."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import rbd

from . import names, volumes
from .session import Refused, Session, explained

BYTES_MAX = 4 << 20
EXTENTS_MAX = 100_000


def extents(
    session: Session, id: str, volume: str, since: str, offset: int, length: int
) -> list[tuple[int, int]]:
    """Where the snapshot has data, or with ``since`` where it differs from that earlier one. In order.

    ``id`` "": where the volume itself has data, which no machine has open; so with ``read``.

    The object map tells which objects are concerned, without reading any; then each of them is asked.
    ``length`` 0: to the end.
    """
    with explained(id or volume), _snapshot(session, id, volume) as image:
        end = min(offset + length, image.size()) if length else image.size()
        found: list[tuple[int, int]] = []
        for start, size in _differences(image, offset, end, since, whole_object=True):
            found += _differences(image, start, min(start + size, end), since, whole_object=False)
            if len(found) > EXTENTS_MAX:
                raise Refused(
                    f"{id or volume} has more than {EXTENTS_MAX} pieces there: ask for a smaller part"
                )
        return _merged(found)


def _differences(image: Any, start: int, end: int, since: str, whole_object: bool) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []

    def take(offset: int, length: int, exists: bool) -> None:
        if exists or since:
            found.append((offset, length))

    if start < end:
        image.diff_iterate(start, end - start, since or None, take, True, whole_object)
    return _merged(found)


def _merged(extents: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Neighbours are one."""
    found: list[tuple[int, int]] = []
    for offset, length in sorted(extents):
        if found and offset <= sum(found[-1]):
            first = found[-1][0]
            found[-1] = first, max(sum(found[-1]), offset + length) - first
        else:
            found.append((offset, length))
    return found


def read(session: Session, id: str, volume: str, offset: int, length: int) -> bytes:
    with explained(id or volume), _snapshot(session, id, volume) as image:
        _require_inside(id or volume, image.size(), offset, length)
        return bytes(image.read(offset, length))


def write(session: Session, id: str, offset: int, data: bytes) -> None:
    """Of a volume that no machine has."""
    with explained(id):
        try:
            with session.handles.use(id) as image:
                if names.marks(image).get(names.DELETED):
                    raise Refused(f"there is no volume {id}", "missing")
                volumes.require_no_machine(session, id, image)
                _require_inside(id, image.size(), offset, len(data))
                image.write(data, offset)
                image.flush()
        except rbd.ImageNotFound:
            raise Refused(f"there is no volume {id}", "missing") from None


@contextmanager
def _snapshot(session: Session, id: str, volume: str) -> Iterator[Any]:
    try:
        with session.handles.use(volume, id) as image:
            if not id:
                if names.marks(image).get(names.DELETED):
                    raise Refused(f"there is no volume {volume}", "missing")
                volumes.require_no_machine(session, volume, image)
            yield image
    except rbd.ImageNotFound:
        missing = f"there is no snapshot {id} of {volume}" if id else f"there is no volume {volume}"
        raise Refused(missing, "missing") from None


def _require_inside(id: str, size: int, offset: int, length: int) -> None:
    if not 0 < length <= BYTES_MAX or offset < 0 or offset + length > size:
        raise Refused(f"{id}: {length} bytes at {offset} are not within its {size}, or are too many")
