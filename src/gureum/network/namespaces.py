"""Network namespaces, and doing things inside them.

A thread has a network namespace of its own: what it opens there (sockets, taps) stays there, and what it
starts begins there. Each visit is a thread that ends with it, so no thread is ever left in the wrong place.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import subprocess
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from gureum.errors import NetworkError

T = TypeVar("T")

DIRECTORY = Path("/run/netns")
COMMAND_SECONDS_MAX = 20.0
VISIT_SECONDS_MAX = 60.0
_CLONE_NEWNET = 0x40000000
_GONE = re.compile(r"No such (process|device|file)|Cannot find device|does not exist|Command failed")
_libc = ctypes.CDLL(None, use_errno=True)


def visit(namespace: str, work: Callable[[], T]) -> T:
    """``work()``'s result, from inside the namespace. Blocks; raises what it raises, NetworkError if not
    there.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            enter(namespace)
            results.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name=f"in-{namespace}", daemon=True)
    thread.start()
    thread.join(VISIT_SECONDS_MAX)
    if errors:
        raise errors[0]
    if not results:
        raise NetworkError(f"work in namespace {namespace} hangs")
    return results[0]


def enter(namespace: str) -> None:
    """Move the calling thread there; threads and processes that it starts begin there."""
    try:
        fd = os.open(DIRECTORY / namespace, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise NetworkError(f"there is no network namespace {namespace}") from None
    try:
        if _libc.setns(fd, _CLONE_NEWNET) != 0:
            error = ctypes.get_errno()
            raise NetworkError(f"cannot enter network namespace {namespace}: {os.strerror(error)}")
    finally:
        os.close(fd)


def names() -> list[str]:
    try:
        return sorted(entry.name for entry in DIRECTORY.iterdir())
    except FileNotFoundError:
        return []


def exists(namespace: str) -> bool:
    """Whether it is there and is a namespace: a crash can leave the file of one that was never mounted."""
    try:
        return (DIRECTORY / namespace).stat().st_dev != DIRECTORY.stat().st_dev
    except FileNotFoundError:
        return False


def add(namespace: str) -> None:
    if (DIRECTORY / namespace).exists():
        remove(namespace)
    command(["ip", "netns", "add", namespace])


def remove(namespace: str) -> None:
    if exists(namespace):
        command(["ip", "netns", "delete", namespace])
    else:
        (DIRECTORY / namespace).unlink(missing_ok=True)


def inode(namespace: str) -> int:
    """What identifies the namespace in /proc/PID/ns/net."""
    return (DIRECTORY / namespace).stat().st_ino


def has_ipv6() -> bool:
    """Whether the kernel has IPv6; it can be started without."""
    return Path("/proc/sys/net/ipv6").exists()


def write_sysctl(name: str, value: str) -> None:
    """``name`` is a path below /proc/sys/net; it means the namespace of the calling thread."""
    path = f"/proc/sys/net/{name}"
    try:
        with open(path, "w") as file:
            file.write(value)
    except FileNotFoundError:
        if not name.startswith("ipv6/"):  # a kernel without IPv6 has nothing to be switched off
            raise NetworkError(f"there is no {path}") from None
    except OSError as error:
        raise NetworkError(f"cannot set {path} to {value}: {error.strerror}") from error


def command(argv: Sequence[str], text: str = "", fails: bool = False) -> str:
    """Run a program to its end and return what it printed. NetworkError with its complaint if it fails.

    ``fails``: it may fail because what it asks for is not there; then what it printed is all there is.
    """
    done = _run(argv, text)
    if done.returncode != 0 and not fails:
        complaint = " ".join(done.stderr.split())[:500] or f"exit status {done.returncode}"
        raise NetworkError(f"{' '.join(argv[:3])}: {complaint}")
    return done.stdout


def _run(argv: Sequence[str], text: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            argv, input=text, capture_output=True, text=True, timeout=COMMAND_SECONDS_MAX, check=False
        )
    except subprocess.TimeoutExpired:
        raise NetworkError(f"{argv[0]} did not end within {COMMAND_SECONDS_MAX:g} s") from None
    except OSError as error:
        raise NetworkError(f"cannot run {argv[0]}: {error.strerror}") from error


def ip_batch(lines: Sequence[str]) -> None:
    """Run ``ip`` commands in the calling thread's namespace, up to the first that fails."""
    command_batch("ip", lines)


def command_batch(program: str, lines: Sequence[str], gone: bool = False) -> None:
    """The same of another program, given with its options. ``gone``: run them all; what a command is to
    remove may be gone.
    """
    if not lines:
        return
    argv = [*program.split(), *(["-force"] if gone else []), "-batch", "-"]
    done = _run(argv, "".join(f"{line}\n" for line in lines))
    complaints = [line for line in done.stderr.splitlines() if not (gone and _GONE.search(line))]
    if done.returncode != 0 and complaints:
        raise NetworkError(f"{program}: {' '.join(' '.join(complaints).split())[:500]}")


def nft(transaction: str) -> None:
    """Apply nftables commands in the calling thread's namespace, all or none."""
    if transaction:
        command(["nft", "-f", "-"], transaction)


class Transaction:
    """nftables commands for the calling thread's namespace that ``nft`` reads at once and applies, all or
    none, with ``commit``. ``cancel`` is harmless after that.
    """

    def __init__(self, text: str) -> None:
        self._nft = subprocess.Popen(
            ["nft", "-f", "-"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._nft.stdin is not None
        # What it complains about is said by ``commit``.
        with contextlib.suppress(BrokenPipeError):
            self._nft.stdin.write(text)
            self._nft.stdin.flush()

    def commit(self) -> None:
        try:
            _, complaint = self._nft.communicate(timeout=COMMAND_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            raise NetworkError(f"nft did not end within {COMMAND_SECONDS_MAX:g} s") from None
        if self._nft.returncode != 0:
            raise NetworkError(f"nft -f -: {' '.join(complaint.split())[:500]}")

    def cancel(self) -> None:
        if self._nft.poll() is None:
            self._nft.kill()
            self._nft.communicate()
