"""A directory whose power can be cut."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from . import journal
from .journal import Operation, Variant

SECONDS = 20.0


class Killed(BaseException):
    """The process is killed: nothing of its own comes after this."""


@contextmanager
def killed_at(flush: int) -> Iterator[Callable[[], bool]]:
    """The process dies in the block instead of its ``flush``-th fsync; the block ends there.

    What is yielded says afterwards whether it did. Only where Python calls fsync.
    """
    fsync, left = os.fsync, flush

    def counted(descriptor: int) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise Killed
        fsync(descriptor)

    os.fsync = counted
    try:
        yield lambda: left <= 0
    except Killed:
        pass
    finally:
        os.fsync = fsync


def is_possible() -> bool:
    return os.geteuid() == 0 and os.access("/dev/fuse", os.R_OK | os.W_OK)


class Medium:
    """The directory ``root``, empty at first. Everything in it, and done to it, is in the journal."""

    def __init__(self, root: Path, journal: Path) -> None:
        self.root = root
        self._journal = journal
        self._server: subprocess.Popen[str] | None = None

    def mount(self) -> None:
        # By a relative name: who looks for the processes of what is in the directory must not find this one.
        command = (sys.executable, "-I", str(Path(__file__).with_name("fuse.py")))
        self._server = subprocess.Popen(
            (*command, self.root.name, str(self._journal)),
            cwd=self.root.parent,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._server.stdout is not None
        assert self._server.stdout.readline() == "mounted\n"

    def mark(self, text: str) -> None:
        """Something was acknowledged."""
        os.setxattr(self.root, "user.mark", text.encode())

    def operations(self) -> list[Operation]:
        return journal.read(self._journal)

    def unmount(self) -> None:
        """Whoever still has a file open gets errors."""
        if self._server is None:
            return
        self._server.kill()
        self._server.wait(SECONDS)
        assert self._server.stdout is not None
        self._server.stdout.close()
        self._server = None
        if f" {self.root} " in Path("/proc/self/mounts").read_text():
            subprocess.run(("umount", "-l", str(self.root)), check=True, timeout=SECONDS)

    def cut(self, variant: Variant, seed: int = 0) -> None:
        """The power goes and comes back: ``root`` is what is left, and all of that is durable."""
        self.unmount()
        left = self._journal.with_name("left")
        left.mkdir()
        journal.lay_down(journal.after_cut(self.operations(), variant, seed), left)
        self._journal.unlink()
        self._mount_with(left)

    def mount_over(self) -> None:
        """Go on with what is in the directory ``root``, as if it had always been on this medium."""
        held = self._journal.with_name("held")
        held.mkdir()
        copy_tree(self.root, held)
        self._mount_with(held)

    def _mount_with(self, held: Path) -> None:
        self.mount()
        try:
            copy_tree(held, self.root)
        finally:
            shutil.rmtree(held)


def copy_tree(source: Path, target: Path) -> None:
    """With owners, holes and hard links; durable."""
    subprocess.run(("cp", "-a", "--sparse=always", f"{source}/.", str(target)), check=True, timeout=60)
    for directory, _, files in os.walk(target):
        for path in (Path(directory), *(Path(directory) / name for name in files)):
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                continue
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)


@contextmanager
def mounted(folder: Path) -> Iterator[Medium]:
    (folder / "medium").mkdir()
    medium = Medium(folder / "medium", folder / "journal")
    medium.mount()
    try:
        yield medium
    finally:
        medium.unmount()


@contextmanager
def left_after(operations: list[Operation], variant: Variant, seed: int = 0) -> Iterator[Path]:
    """A directory with what a power cut at the end of ``operations`` leaves."""
    # In memory: who goes on there flushes what it does, which only takes time.
    with tempfile.TemporaryDirectory(prefix="gureum-left-", dir="/dev/shm") as target:
        journal.lay_down(journal.after_cut(operations, variant, seed), Path(target))
        yield Path(target)
