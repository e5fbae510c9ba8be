"""`gureum console`: the serial console of an instance, in the terminal that the user sits at."""

import contextlib
import os
import re
import select
import signal
import socket
import sys
import termios
import tty
from collections.abc import Iterable, Iterator
from pathlib import Path

from gureum.cli.output import NOT_RUNNING, USAGE, CliError

ESCAPE = b"\x1d"  # Ctrl-]
CHUNK_BYTES = 65536


def console_path(run_dirs: Iterable[Path], instance_id: str) -> Path:
    """The socket in the run directory of the host that has the instance. Raises CliError."""
    if not re.fullmatch(r"i-[0-9a-f]{17}", instance_id):
        raise CliError(f"{instance_id!r} is no instance id (i- and 17 hexadecimal digits)", exit_code=USAGE)
    found = [path for run in run_dirs if (path := run / "machines" / instance_id).is_dir()]
    if not found:
        raise CliError(
            f"{instance_id} is on no host of this machine",
            "aws ec2 describe-instances says whether it runs; gureum host list, on which host",
        )
    return found[0] / "console"


def connect(path: Path) -> socket.socket:
    """Raises CliError where nothing listens there."""
    stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        stream.settimeout(5)
        stream.connect(str(path))
    except OSError as error:
        stream.close()
        raise CliError(
            f"no console at {path}: {error.strerror or error}",
            "see whether the instance runs: gureum status",
            exit_code=NOT_RUNNING,
        ) from error
    stream.settimeout(None)
    return stream


@contextlib.contextmanager
def raw_terminal(descriptor: int) -> Iterator[None]:
    """Keys go to the guest as they are, Ctrl-C too. The terminal is put back also after SIGTERM or SIGHUP."""
    if not os.isatty(descriptor):
        yield
        return
    before = termios.tcgetattr(descriptor)
    handlers = {number: signal.signal(number, _leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        tty.setraw(descriptor)
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _leave(number: int, _frame: object) -> None:
    sys.exit(128 + number)


def relay(stream: socket.socket, keyboard: int, screen: int) -> str:
    """Copies both ways until the user escapes, the input ends or the console closes. Returns why it ended."""
    poll = select.poll()
    poll.register(stream, select.POLLIN)
    poll.register(keyboard, select.POLLIN)
    while True:
        for descriptor, _events in poll.poll():
            if descriptor == stream.fileno():
                received = stream.recv(CHUNK_BYTES)
                if not received:
                    return "the console closed"
                _write_all(screen, received)
                continue
            typed = os.read(keyboard, CHUNK_BYTES)
            head, escape, _ = typed.partition(ESCAPE)
            if head:
                stream.sendall(head)
            if escape:
                return "left"
            if not typed:
                # Input from a file or pipe has ended: show what the guest still says, for a moment.
                poll.unregister(keyboard)
                _drain(stream, screen)
                return "end of input"


def _drain(stream: socket.socket, screen: int, quiet_s: float = 1.0) -> None:
    stream.settimeout(quiet_s)
    with contextlib.suppress(TimeoutError):
        while received := stream.recv(CHUNK_BYTES):
            _write_all(screen, received)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
