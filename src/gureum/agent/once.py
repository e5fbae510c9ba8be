"""Warnings about what is tried again and again."""

from __future__ import annotations

import logging

REASONS_MAX = 32


class Once:
    """Logs each reason once, until it went well (``done``)."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._said: set[str] = set()

    def warn(self, reason: str) -> None:
        if reason in self._said:
            return
        if len(self._said) >= REASONS_MAX:
            self._said.clear()
        self._said.add(reason)
        self._log.warning("%s", reason)

    def done(self) -> None:
        self._said.clear()
