"""A PostgreSQL server of the tests' own: Debian's programs, in a directory, reached by a UNIX socket only."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DEBIAN_PROGRAMS = Path("/usr/lib/postgresql")
READY_SECONDS_MAX = 60.0
PORT = 5432
USER = "gureum"


def programs() -> Path | None:
    """The directory of the newest server's programs, which Debian has in no PATH."""
    versions = sorted(DEBIAN_PROGRAMS.glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if versions:
        return versions[-1].parent
    found = shutil.which("initdb")
    return Path(found).resolve().parent if found else None


def lacks_postgres() -> str:
    """Why there can be no server; empty where there can."""
    if programs() is None:
        return "needs postgresql"
    if os.geteuid() == 0 and _account() is None:
        return "needs a user that a server can run as"
    return ""


def _account() -> pwd.struct_passwd | None:
    """Whom a server runs as if we are root: it refuses to be."""
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    return None


class Server:
    """A running server. ``directory``: of its socket."""

    def __init__(self, directory: Path, durable: bool) -> None:
        found = programs()
        assert found is not None
        self.directory = directory
        self._programs = found
        self._durable = durable
        self._process: subprocess.Popen[bytes] | None = None

    def url(self, database: str) -> str:
        return f"postgresql://{USER}@/{database}?host={self.directory}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def create(self) -> None:
        account = _account() if os.geteuid() == 0 else None
        if account is not None:
            os.chown(self.directory, account.pw_uid, account.pw_gid)
        command = [self._programs / "initdb", "-D", self.directory / "data", "-A", "trust", "-U", USER]
        options = ["-E", "UTF8", "--locale=C", "--no-sync", "--no-instructions"]
        subprocess.run(
            [*self._prefix(), *command, *options],
            check=True,
            timeout=READY_SECONDS_MAX,
            stdout=subprocess.DEVNULL,
            cwd="/",
        )

    def copy(self, primary: Server) -> None:
        """As a replica of another server, which is to know it by the name of its directory."""
        account = _account() if os.geteuid() == 0 else None
        if account is not None:
            os.chown(self.directory, account.pw_uid, account.pw_gid)
        source = f"host={primary.directory} user={USER} application_name={self.directory.name}"
        command = [self._programs / "pg_basebackup", "-D", self.directory / "data", "-R", "--no-sync"]
        subprocess.run(
            [*self._prefix(), *command, "-c", "fast", "-d", source],
            check=True,
            timeout=READY_SECONDS_MAX,
            cwd="/",
        )

    def promote(self) -> None:
        """Make it the one that is written to; it may take a moment."""
        self.query("postgres", "SELECT pg_promote(false)")

    def kill(self) -> None:
        """All of it at once, as if its machine were lost."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)  # so that it has no more children than these
        for pid in [*_children(self.pid), self.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait(30)
        self._process = None

    def start(self) -> None:
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(self.directory),
            "fsync": "on" if self._durable else "off",
            "max_connections": "200",
            "shared_buffers": "32MB",
            # In the data directory: in /dev/shm it would outlive a server that is killed.
            "dynamic_shared_memory_type": "mmap",
            "autovacuum_naptime": "10s",
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*self._prefix(), self._programs / "postgres", "-D", self.directory / "data", *options],
                stdout=log,
                stderr=log,
                cwd="/",
            )
        deadline = time.monotonic() + READY_SECONDS_MAX
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((self.directory / "log").read_text())
            time.sleep(0.02)

    def _answers(self) -> bool:
        done = subprocess.run(
            [self._programs / "pg_isready", "-q", "-h", self.directory, "-d", "postgres"],
            check=False,
            timeout=10,
        )
        return done.returncode == 0

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """SIGINT ends it in good order; SIGQUIT as a crash does, of the server but not of its machine."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(30)
            self._process = None

    def query(self, database: str, sql: str) -> str:
        return subprocess.run(
            [self._programs / "psql", "-XAtq", "-h", self.directory, "-U", USER, "-d", database, "-c", sql],
            check=True,
            timeout=30,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout.strip()

    def create_database(self, name: str) -> str:
        """Its URL."""
        self.query("postgres", f'CREATE DATABASE "{name}"')
        return self.url(name)

    def _prefix(self) -> list[str]:
        """As whom it runs; and it ends with the tests, however they end."""
        account = _account() if os.geteuid() == 0 else None
        change = (
            [f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups"] if account else []
        )
        return ["setpriv", *change, "--pdeathsig=QUIT"]


def _children(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # After the name, in parentheses: the state, the parent.
            if int(stat.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(stat.parent.name))
    return found


@contextmanager
def server(
    *, durable: bool = False, parent: Path | None = None, replica_of: Server | None = None
) -> Iterator[Server]:
    """A server until the end. ``durable``: it waits for the disk, as real ones do."""
    directory = Path(tempfile.mkdtemp(prefix="gureum-pg-", dir=parent))
    made = Server(directory, durable)
    try:
        if replica_of is None:
            made.create()
        else:
            made.copy(replica_of)
        made.start()
        yield made
    finally:
        made.stop(signal.SIGQUIT)
        shutil.rmtree(directory, ignore_errors=True)
