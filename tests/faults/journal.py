"""What was done to a file system, and what a power cut may have left of it.

A journal is a list of operations in the order in which the file system answered them. What POSIX promises of
them after a power cut is little:

- what was written to a file, and its size, is there after fsync or fdatasync of that file;
- a name in a directory (made, replaced by a rename, removed) is there after fsync of that directory;
- a rename is there as a whole or not at all.

Everything else may be there or not. Real file systems promise more, each of them something else; so what is
right under all of the variants here is right on any of them.
"""

from __future__ import annotations

import marshal
import os
import random
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

ROOT = 1
SECTOR_BYTES = 512

# ("inode", ino, mode, target)   ("sync", ino)   ("mark", text)
# ("write", ino, offset, data)   ("size", ino, bytes)   ("hole", ino, offset, bytes)
# ("owner", ino, mode, uid, gid)
# ("link", directory, name, ino)   ("unlink", directory, name)
# ("rename", directory, name, new directory, new name, ino)
Operation = tuple[Any, ...]

CONTENT = frozenset(("write", "size", "hole", "owner"))
NAMES = frozenset(("link", "unlink", "rename"))


class Variant(StrEnum):
    """Which of the operations that nothing made durable are there nevertheless."""

    NONE = "none"
    NAMES = (
        "names"  # all names, as a journal of metadata has them: a renamed file that was not flushed is empty
    )
    CONTENT = "content"  # all contents, no name
    TORN = "torn"  # names up to some moment; any of the writes, some in part. By a seed
    ALL = "all"  # as after kill -9


@dataclass
class Inode:
    mode: int
    target: str = ""
    uid: int = 0
    gid: int = 0
    content: list[Operation] = field(default_factory=list)
    entries: dict[str, int] = field(default_factory=dict)


def read(journal: Path) -> list[Operation]:
    operations: list[Operation] = []
    with open(journal, "rb") as file:
        while True:
            try:
                operations.append(marshal.load(file))
            except EOFError:
                return operations


def marks(operations: Sequence[Operation]) -> list[str]:
    return [operation[1] for operation in operations if operation[0] == "mark"]


def moments(operations: Sequence[Operation]) -> list[int]:
    """The lengths of the journal just before each fsync, where most is at stake, and at its end."""
    found = [at for at, operation in enumerate(operations) if operation[0] == "sync"]
    return [*found, len(operations)]


def cases(operations: Sequence[Operation], count: int) -> Iterator[tuple[int, Variant, int]]:
    """Power cuts to try, as (length of the journal, variant, seed).

    Each moment at its worst, which is all that can be lost; and ``count`` others of every kind, by a seed.
    """
    for at in moments(operations):
        yield at, Variant.NONE, 0
    chance = random.Random(len(operations))
    variants = (*Variant, *[Variant.TORN] * 3)
    for seed in range(count):
        yield chance.randint(0, len(operations)), chance.choice(variants), seed


def after_cut(operations: Sequence[Operation], variant: Variant, seed: int = 0) -> dict[int, Inode]:
    """The inodes on the disk after a power cut at the end of ``operations``."""
    synced = {operation[1]: at for at, operation in enumerate(operations) if operation[0] == "sync"}
    chance = random.Random(seed)
    names_until = {
        Variant.NONE: 0,
        Variant.CONTENT: 0,
        Variant.TORN: chance.randint(0, len(operations)),
    }.get(variant, len(operations))
    inodes = {ROOT: Inode(stat.S_IFDIR | 0o755)}
    for at, operation in enumerate(operations):
        kind = operation[0]
        if kind == "inode":
            inodes[operation[1]] = Inode(operation[2], operation[3])
        elif kind in CONTENT:
            if at < synced.get(operation[1], -1) or variant in (Variant.CONTENT, Variant.ALL):
                inodes[operation[1]].content.append(operation)
            elif variant is Variant.TORN:
                inodes[operation[1]].content += torn(operation, chance)
        elif kind in NAMES:
            directory = operation[3] if kind == "rename" else operation[1]
            if at < synced.get(directory, -1) or at < names_until:
                apply_name(inodes, operation)
    return inodes


def torn(operation: Operation, chance: random.Random) -> list[Operation]:
    """All of a change, nothing, or of a write a part in whole sectors."""
    fate = chance.randrange(3)
    if fate == 0:
        return []
    if fate == 1 and operation[0] == "write" and len(operation[3]) > SECTOR_BYTES:
        kind, ino, offset, data = operation
        sectors = -(-len(data) // SECTOR_BYTES)
        first, end = sorted(chance.sample(range(sectors + 1), 2))
        return [(kind, ino, offset + first * SECTOR_BYTES, data[first * SECTOR_BYTES : end * SECTOR_BYTES])]
    return [operation]


def apply_name(inodes: dict[int, Inode], operation: Operation) -> None:
    match operation:
        case ("link", directory, name, ino):
            inodes[directory].entries[name] = ino
        case ("unlink", directory, name):
            inodes[directory].entries.pop(name, None)
        case ("rename", directory, name, new_directory, new_name, ino):
            if inodes[directory].entries.get(name) == ino:
                del inodes[directory].entries[name]
            inodes[new_directory].entries[new_name] = ino


def lay_down(inodes: dict[int, Inode], target: Path) -> None:
    """Make what is on the disk in the empty directory ``target``, hard links and holes included."""
    places: dict[int, Path] = {}

    def make(ino: int, path: Path) -> None:
        inode = inodes[ino]
        if ino in places:
            os.link(places[ino], path)
            return
        places[ino] = path
        if stat.S_ISDIR(inode.mode):
            path.mkdir(exist_ok=ino == ROOT)
            for name, entry in inode.entries.items():
                make(entry, path / name)
        elif stat.S_ISLNK(inode.mode):
            path.symlink_to(inode.target)
            return
        elif stat.S_ISREG(inode.mode):
            write_content(path, inode.content)
        else:
            os.mknod(path, inode.mode)
        mode, uid, gid = inode.mode, 0, 0
        for operation in inode.content:
            if operation[0] == "owner":
                _, _, mode, uid, gid = operation
        os.chown(path, uid, gid)
        path.chmod(stat.S_IMODE(mode))

    make(ROOT, target)


def write_content(path: Path, content: Sequence[Operation]) -> None:
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        for operation in content:
            match operation:
                case ("write", _, offset, data):
                    os.pwrite(file, data, offset)
                case ("size", _, size):
                    os.ftruncate(file, size)
                case ("hole", _, offset, length):
                    size = os.fstat(file).st_size
                    os.pwrite(file, bytes(max(0, min(length, size - offset))), offset)
    finally:
        os.close(file)
