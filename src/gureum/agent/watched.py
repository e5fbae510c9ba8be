"""The warden as the agent of its host knows it: is told of the manager, and asked before a machine starts.

The warden is another process (``gureum.agent.warden``), and may be dead; then no machine is started.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Protocol

from gureum import __version__
from gureum.agent.warden import notes
from gureum.agent.warden.custody import reaches_storage
from gureum.errors import ConfigError
from gureum.fencespec import WardenReport
from gureum.files import write_atomically
from gureum.network.silence import Place
from gureum.san.settings import SanSettings

log = logging.getLogger(__name__)

ABSENT = "its warden does not run: no machine is started"


class Watched(Protocol):
    """A host's warden, as its agent knows it. ``now`` is the warden's clock."""

    def now(self) -> float: ...

    def heard(self, sent: float) -> None:
        """The manager has had a report that was sent at ``sent``."""

    def report(self) -> WardenReport:
        """``permitted``: machines may be started now."""


class HostWarden:
    """``directory``: the host's, of which the warden knows, too."""

    def __init__(self, directory: Path) -> None:
        shared = notes.directory(str(directory))
        self._word = notes.Note(shared, notes.WORD)
        self._state = notes.Note(shared, notes.STATE)

    def now(self) -> float:
        return notes.now()

    def heard(self, sent: float) -> None:
        try:
            self._word.write(sent=sent)
        except OSError as error:
            log.warning("the warden cannot be told that the manager is there: %s", error)

    def report(self) -> WardenReport:
        found = self._state.read()
        if not found:
            return WardenReport(permitted=False, message=ABSENT)
        now = self.now()
        permitted = float(found["until"]) > now
        message = str(found["why"]) or ("" if permitted else ABSENT) or str(found["error"])
        away = not reaches_storage(float(found["lease"]), now)
        return WardenReport(permitted=permitted, fence=int(found["fence"]), away=away, message=message)


def configure(
    run: Path, machines: Path, san: SanSettings, cloud: str, host: str, namespace: str, place: Place
) -> None:
    """Let the warden know what it needs. It waits for this, and begins anew when it is another.

    Raises ConfigError.
    """
    config = {
        "conf": str(san.conf or ""),
        "user": san.user,
        "keyring": str(san.keyring or ""),
        "pool": san.pool,
        "cloud": cloud,
        "host": host,
        "machines": str(machines),
        "netns": namespace,
        "version": __version__,
        "network": place._asdict(),
    }
    path = run / notes.CONFIG
    data = json.dumps(config).encode()
    try:
        if not path.exists() or path.read_bytes() != data:
            write_atomically(path, data)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from error
