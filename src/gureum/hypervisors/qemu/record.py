"""What is kept of a machine in files, so that any later agent finds it again.

``<run dir>/machines/<id>/``, root's alone:

- ``machine.json``: the ``Saved`` record, replaced atomically. Written before anything is started or ended.
- ``lock``: locked (flock) by the QEMU process through a descriptor that it inherits, from before it exists to
  its end. While it is held, the machine runs: nobody else may start it. The process writes its own
  /proc/self/stat line into it before it becomes QEMU.
- ``qmp``, ``console``, ``agent`` (the guest's): sockets.
- ``console.before``: what the guest wrote on another host, from which it came.
- ``psk/``: the secret of a migration, until that has begun.
- ``console.log``, ``qemu.log``: what guest and QEMU wrote.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import shutil
import socket
from pathlib import Path
from typing import NamedTuple

import msgspec

from gureum.errors import HypervisorError
from gureum.files import sync, write_atomically
from gureum.hostspec import MachineState
from gureum.migrationspec import Room

log = logging.getLogger(__name__)

_ID = re.compile(r"[a-z][a-z0-9-]{0,62}")
MARKER = "GUREUM_MACHINE"
"""Environment variable of our processes: the machine's directory."""

LOG_BYTES_MAX = 1024 * 1024
LOG_BYTES_KEPT = 256 * 1024
OUTPUT_BYTES_MAX = 4096

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Saved(msgspec.Struct, frozen=True, kw_only=True):
    """``machine_type`` is resolved ("pc-q35-7.2"). ``ended`` is None from start to end of a run.

    A run whose end is decided on (power-off, guest shut down) has ``ended`` set before its process is ended.
    ``volumes`` and ``nics`` (interfaces) are those it had last: one more is written before it is attached,
    one less after it is released. Nothing is kept of how to open them, and so no key either.

    ``cpu`` is the model as QEMU has it (``model``: as ``cpus`` has it, "" for the usual one), "" of one that
    an earlier gureum has started, which cannot migrate. ``migration`` names the last attempt to bring the
    machine from here or to here; ``incoming``: it came, or is to come, and does not go on here yet;
    ``listens``: where that is waited for, ``exports``: where what its disks contain is. ``group``: the
    control group's name, "" for the machine's id. (Of one that comes it is another: its host may be on the
    same computer.)

    ``watchdog``: it has the device; what an earlier gureum has started has none.

    ``room``: to what it can grow, None for one that keeps its size. ``leaving``: to so many
    vCPUs its guest was asked to come down, and may do so at any moment; 0: it was not.

    ``paused``: why its storage paused it, "" while it goes on. ``frozen``: its guest may have been told to
    write nothing more.
    """

    generation: int
    machine_type: str
    boot_id: str
    uid: int
    vmgenid: str
    reboots: int = 0
    volumes: tuple[str, ...] = ()
    nics: tuple[str, ...] = ()
    ended: MachineState | None = None
    message: str = ""
    paused: str = ""
    frozen: bool = False
    cpu: str = ""
    migration: str = ""
    incoming: bool = False
    listens: str = ""
    exports: str = ""
    group: str = ""
    room: Room | None = None
    leaving: int = 0
    watchdog: bool = False
    model: str = ""


class _Disk(msgspec.Struct):
    volume: str


class _Nic(msgspec.Struct):
    interface: str


class _Config(msgspec.Struct):
    disks: list[_Disk] = []
    nics: list[_Nic] = []


class _StartedBy020(msgspec.Struct):
    """0.2.0 kept how a machine was started, and ``volumes`` and ``nics`` only once they had changed."""

    config: _Config
    volumes: list[str] | None = None
    nics: list[str] | None = None


def decoded(data: bytes) -> Saved:
    """The record in a file's bytes, also if an older gureum wrote it. Raises MsgspecError."""
    try:
        return msgspec.json.decode(data, type=Saved)
    except msgspec.ValidationError:
        old = msgspec.json.decode(data, type=_StartedBy020)
        fields = msgspec.json.decode(data, type=dict[str, object])
        if old.volumes is None:
            fields["volumes"] = [disk.volume for disk in old.config.disks]
        if old.nics is None:
            fields["nics"] = [nic.interface for nic in old.config.nics]
        return msgspec.convert(fields, Saved)


class Identity(NamedTuple):
    """A process for certain: a pid is used again, a pid with its start time (clock ticks after boot) is
    not.
    """

    pid: int
    started: int


def boot_id() -> str:
    return BOOT_ID.read_text().strip()


def parse_stat(line: str) -> Identity | None:
    """From a /proc/<pid>/stat line; the second field may hold blanks and parentheses."""
    pid, _, _ = line.partition(" ")
    _, _, rest = line.rpartition(") ")
    fields = rest.split()
    if not pid.isdigit() or len(fields) < 20 or not fields[19].isdigit():
        return None
    return Identity(int(pid), int(fields[19]))


def process_identity(pid: int) -> Identity | None:
    """The process that has this pid now."""
    try:
        return parse_stat(Path(f"/proc/{pid}/stat").read_text())
    except (FileNotFoundError, ProcessLookupError):
        return None


class MachineFiles:
    """The directory of one machine."""

    def __init__(self, machines: Path, id: str) -> None:
        if not _ID.fullmatch(id):
            raise HypervisorError(f"{id!r} is no machine id")
        self.id = id
        self.directory = machines / id
        self.record = self.directory / "machine.json"
        self.lock = self.directory / "lock"
        self.qmp = self.directory / "qmp"
        self.console = self.directory / "console"
        self.agent = self.directory / "agent"
        self.console_log = self.directory / "console.log"
        self.console_before = self.directory / "console.before"
        self.qemu_log = self.directory / "qemu.log"

    def create(self) -> None:
        self.directory.mkdir(mode=0o700, exist_ok=True)

    def load(self) -> Saved | None:
        """The record; None if there is none or it is damaged."""
        try:
            return decoded(self.record.read_bytes())
        except FileNotFoundError:
            return None
        except msgspec.MsgspecError as error:
            log.warning("%s: its record %s is damaged and not used: %s", self.id, self.record, error)
            return None

    def save(self, saved: Saved, durable: bool = False) -> None:
        """``durable``: also after a power cut. A start needs that not: after a power cut nothing runs."""
        write_atomically(self.record, msgspec.json.encode(saved), durable=durable)
        if durable:
            # The directory's own name. Not when it is made, as a start would wait for it.
            sync(self.directory.parent)

    def take_lock(self) -> int | None:
        """An open descriptor that holds the machine's lock, or None: a process of the machine holds it.

        It cannot be written through: QEMU keeps it, and what is in the file is believed.
        """
        fd = os.open(self.lock, os.O_RDONLY | os.O_CREAT, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        except OSError:
            os.close(fd)
            raise
        return fd

    def locked(self) -> bool:
        fd = self.take_lock()
        if fd is None:
            return True
        os.close(fd)
        return False

    def forget_holder(self) -> None:
        """A start begins: nobody has said yet that it holds the lock."""
        os.truncate(self.lock, 0)

    def holder(self) -> Identity | None:
        """Who wrote itself into the lock last. None: nobody since the start began."""
        try:
            return parse_stat(self.lock.read_text())
        except FileNotFoundError:
            return None

    def last_output(self) -> str:
        """The last line that the process wrote to its log, "" for none."""
        try:
            lines = read_tail(self.qemu_log, OUTPUT_BYTES_MAX).decode(errors="replace").strip().splitlines()
        except FileNotFoundError:
            return ""
        return lines[-1].removeprefix("qemu-system-x86_64: ") if lines else ""

    def listen(self, path: Path) -> int:
        """An open socket that listens at ``path``, for QEMU to take over: connecting works from now on."""
        path.unlink(missing_ok=True)
        directory = os.open(self.directory, os.O_PATH | os.O_DIRECTORY)
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
                # By the open directory: a path may be longer than sockaddr_un's 108 bytes.
                listener.bind(f"/proc/self/fd/{directory}/{path.name}")
                listener.listen(4)
                return listener.detach()
        finally:
            os.close(directory)

    def open_console_log(self) -> int:
        return os.open(self.console_log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def prepend_console(self, text: bytes) -> None:
        write_atomically(self.console_before, text[-LOG_BYTES_KEPT:], durable=False)

    def console_tail(self, max_bytes: int) -> bytes:
        """The end of the console's log, and of what the guest wrote on another host before that."""
        tails: list[bytes] = []
        for path in (self.console_log, self.console_before):
            with contextlib.suppress(FileNotFoundError):
                tails.insert(0, read_tail(path, max_bytes))
                max_bytes -= len(tails[0])
        return b"".join(tails)

    def trim_logs(self) -> None:
        """Keep the ends of logs that grew too long. What is written in the very moment may be lost."""
        for path in (self.console_log, self.qemu_log):
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_size > LOG_BYTES_MAX:
                    tail = read_tail(path, LOG_BYTES_KEPT)
                    with open(path, "ab") as file:
                        file.truncate(0)
                        file.write(tail)

    def remove(self) -> None:
        """The record goes first: a directory without one is finished off by ``recover``."""
        self.record.unlink(missing_ok=True)
        shutil.rmtree(self.directory, ignore_errors=True)


def read_tail(path: Path, max_bytes: int) -> bytes:
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - max_bytes))
        return file.read(max_bytes)
