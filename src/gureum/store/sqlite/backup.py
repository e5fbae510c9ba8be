"""A consistent copy of a store while it is in use."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from gureum.errors import StoreError, StoreFull
from gureum.files import sync
from gureum.store.sqlite import queries
from gureum.store.sqlite.connection import connect, explained


def back_up(connection: sqlite3.Connection, source: str, target: Path) -> None:
    """Write a compact copy of the store to ``target``, which must not exist; durable on return.

    Written beside the target and linked into place, so that a half-written backup never has the name of one.
    """
    if target.exists():
        raise StoreError(f"{target} exists already: choose another name for the backup")
    part = target.with_name(target.name + ".part")
    part.unlink(missing_ok=True)
    try:
        os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        with explained(source, writing=True):
            connection.execute(queries.BACKUP, (str(part),))
        sync(part)
        os.link(part, target)
        sync(target.parent)
    except FileExistsError as error:
        raise StoreError(f"{target} exists already: choose another name for the backup") from error
    except OSError as error:
        raise StoreFull(f"backup to {target}: {error.strerror}") from error
    finally:
        part.unlink(missing_ok=True)


def back_up_file(source: str, target: Path) -> None:
    """As ``back_up``, over a connection of its own: for use in a thread."""
    with explained(source):
        connection = connect(source, "ro", ())
    try:
        back_up(connection, source, target)
    finally:
        connection.close()
