"""What the worker says of an image. Read by the manager, too, which has no worker."""

from __future__ import annotations

import msgspec


class FoundImage(msgspec.Struct, frozen=True):
    """``cloud``: which made it, "" for none. ``snapshots``: without those that only clones still need.

    ``holder``: CLOUD/HOST that has the attach lock, "" for none; ``held_since`` its words. ``watchers``:
    addresses of clients that have it open to write. ``sharers``: who else has the lock.
    """

    name: str
    size: int
    cloud: str
    deleted: bool
    snapshots: tuple[str, ...]
    holder: str
    held_since: str
    watchers: tuple[str, ...]
    sharers: tuple[str, ...] = ()
