"""Images that stay open between calls that read or write a few blocks: opening takes longer than that."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

IDLE_SECONDS = 5.0
OPEN_MAX = 16

Key = tuple[str, str]
"""The image, and its snapshot or "": the image itself, to be written."""


class _Handle:
    def __init__(self, image: Any) -> None:
        self.image = image
        self.users = 0
        self.used_at = time.monotonic()


class Handles:
    """``open``: what opens an image. Whoever removes, snapshots or hands over an image drops it first."""

    def __init__(self, open: Callable[[Key], Any]) -> None:
        self._open = open
        self._lock = threading.Lock()
        self._handles: dict[Key, _Handle] = {}
        self._dropped: list[_Handle] = []
        self._sweeper: threading.Thread | None = None

    @contextmanager
    def use(self, image: str, snapshot: str = "") -> Iterator[Any]:
        with self._lock:
            handle = self._handles.get((image, snapshot))
            if handle is None:
                handle = _Handle(self._open((image, snapshot)))
                self._handles[image, snapshot] = handle
            handle.users += 1
            if self._sweeper is None:
                self._sweeper = threading.Thread(target=self._sweep, daemon=True)
                self._sweeper.start()
        try:
            yield handle.image
        finally:
            with self._lock:
                handle.users -= 1
                handle.used_at = time.monotonic()
                self._close_unused()

    def drop(self, image: str) -> None:
        """Close it, once nobody uses it."""
        with self._lock:
            for key in [key for key in self._handles if key[0] == image]:
                self._dropped.append(self._handles.pop(key))
            self._close_unused()

    def close(self) -> None:
        """All that nobody uses."""
        for image, _ in list(self._handles):
            self.drop(image)

    def _close_unused(self) -> None:
        excess = sorted(self._handles, key=lambda key: self._handles[key].used_at)[:-OPEN_MAX]
        for key in excess:
            self._dropped.append(self._handles.pop(key))
        for handle in [each for each in self._dropped if not each.users]:
            self._dropped.remove(handle)
            handle.image.close()

    def _sweep(self) -> None:
        """Until nothing is open."""
        while True:
            time.sleep(IDLE_SECONDS / 2)
            with self._lock:
                before = time.monotonic() - IDLE_SECONDS
                idle = [
                    k for k, handle in self._handles.items() if not handle.users and handle.used_at < before
                ]
                for key in idle:
                    self._dropped.append(self._handles.pop(key))
                self._close_unused()
                if not self._handles:
                    self._sweeper = None
                    return
