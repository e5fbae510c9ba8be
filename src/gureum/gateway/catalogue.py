"""The service models, compiled once into one SQLite file of small rows.

botocore's models are 100 MB of objects once loaded, of which a call needs a few KB. The catalogue keeps a row
an operation and a shape, and reads the ones a call needs. It is made by a process of its own, so that the
one that serves never imports botocore; written beside and renamed, so that several may race.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import logging
import os
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from gureum.errors import ConfigError
from gureum.gateway.shapes import Directory, Operation, Service, Shape

log = logging.getLogger(__name__)

OWN_MODELS = Path(__file__).parent / "models"
"""Models of services that are not AWS's, in botocore's format and layout."""
COMPILER_VERSION = 3
"""Raise it whenever a record or the compiler changes: a catalogue is found by it."""

SERVICES = (
    "ec2", "ebs", "s3", "s3control", "lambda", "emr", "autoscaling", "serverlessrepo",
    "cloudformation", "iam", "sts", "cloudwatch", "logs", "elbv2", "fleet",
)  # fmt: skip
COMPILE_SECONDS_MAX = 120

T = TypeVar("T")


def default_directory() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "gureum"


def path_in(directory: Path, services: Sequence[str] = SERVICES) -> Path:
    """The catalogue's file for the installed botocore, our own models, this compiler and these services."""
    botocore = importlib.metadata.version("botocore")
    own = hashlib.sha256()
    for model in sorted(OWN_MODELS.glob("*/*/*.json")):
        own.update(model.read_bytes())
    chosen = "" if tuple(services) == SERVICES else "-" + "-".join(services)
    return directory / f"catalogue-{botocore}-{own.hexdigest()[:8]}-{COMPILER_VERSION}{chosen}.sqlite"


def ensure(directory: Path | None = None, services: Sequence[str] = SERVICES) -> Path:
    """The path of an up-to-date catalogue; a child process compiles it (in a second) if there is none."""
    directory = directory or default_directory()
    path = path_in(directory, services)
    if path.exists():
        return path
    command = [sys.executable, "-m", "gureum.gateway.compiler", str(path), *services]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=COMPILE_SECONDS_MAX, text=True)
    except subprocess.CalledProcessError as error:
        raise ConfigError(f"cannot compile the AWS service models into {path}: {error.stderr}") from error
    except subprocess.TimeoutExpired as error:
        raise ConfigError(f"compiling the AWS service models took over {COMPILE_SECONDS_MAX} s") from error
    return path


class Catalogue:
    """A compiled catalogue, read row by row. Not for several threads at once."""

    def __init__(self, path: Path) -> None:
        self._rows = sqlite3.connect(
            f"file:{path}?mode=ro&immutable=1", uri=True, check_same_thread=False, cached_statements=4
        )
        self._services: dict[str, Service] = {}
        try:
            self.directory = self._decode("", "directory", "", Directory)
        except BaseException:
            self._rows.close()
            raise

    @classmethod
    def open(cls, directory: Path | None = None, services: Sequence[str] = SERVICES) -> Catalogue:
        path = ensure(directory, services)
        try:
            return cls(path)
        except (sqlite3.DatabaseError, LookupError, msgspec.DecodeError) as error:
            log.warning("the catalogue %s is damaged (%s) and is made anew", path, error)
            path.unlink(missing_ok=True)
            return cls(ensure(directory, services))

    def close(self) -> None:
        self._rows.close()

    def service(self, name: str) -> Service:
        """Raises LookupError for a service that was not compiled."""
        found = self._services.get(name)
        if found is None:
            found = self._services[name] = self._decode(name, "service", "", Service)
        return found

    def operation(self, service: str, name: str) -> Operation | None:
        blob = self._blob(service, "operation", name)
        return None if blob is None else msgspec.msgpack.decode(blob, type=Operation)

    def operations(self, service: str) -> list[str]:
        rows = self._rows.execute(
            "SELECT name FROM entry WHERE service = ? AND kind = 'operation' ORDER BY name", (service,)
        )
        return [row[0] for row in rows]

    def shape(self, service: str, name: str) -> Shape:
        return self._decode(service, "shape", name, Shape)

    def _blob(self, service: str, kind: str, name: str) -> bytes | None:
        row = self._rows.execute(
            "SELECT data FROM entry WHERE service = ? AND kind = ? AND name = ?", (service, kind, name)
        ).fetchone()
        return None if row is None else row[0]

    def _decode(self, service: str, kind: str, name: str, record: type[T]) -> T:
        blob = self._blob(service, kind, name)
        if blob is None:
            raise LookupError(f"the catalogue has no {kind} {name!r} of {service!r}")
        return msgspec.msgpack.decode(blob, type=record)


def write(path: Path, rows: Iterable[tuple[str, str, str, bytes]]) -> None:
    """Write a catalogue of ``(service, kind, name, data)`` rows at ``path``, all or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=path.name, suffix=".tmp", dir=path.parent)
    os.close(handle)
    try:
        with contextlib.closing(sqlite3.connect(name)) as database:
            database.execute("PRAGMA journal_mode = OFF")
            database.execute(
                "CREATE TABLE entry (service TEXT, kind TEXT, name TEXT, data BLOB,"
                " PRIMARY KEY (service, kind, name)) WITHOUT ROWID"
            )
            database.executemany("INSERT INTO entry VALUES (?, ?, ?, ?)", rows)
            database.commit()
        with Path(name).open("rb") as written:
            os.fsync(written.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
