"""Parts of what a chain of layer files contains, by qemu-img: it knows the formats."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from gureum.errors import PoolError
from gureum.files import sync
from gureum.san import qemu_img
from gureum.san.base import Layer

SECONDS = 120.0

Node = Mapping[str, Any]


class _Extent(msgspec.Struct, frozen=True):
    """``present``: the file itself says what is there, data or zeros."""

    start: int
    length: int
    present: bool
    data: bool


def node(chain: Sequence[Layer]) -> Node:
    """What QEMU is to open: each layer by itself, no name inside a file is followed."""
    backing: Node | None = None
    for layer in reversed(chain):
        file = {"driver": "file", "filename": layer.path}
        below = {"backing": backing} if layer.format == "qcow2" else {}
        backing = {"driver": layer.format, "file": file, **below}
    assert backing is not None
    return backing


async def extents(layer: Layer, offset: int, length: int, zeros: bool) -> list[tuple[int, int]]:
    """Where the layer itself has data, or ``zeros`` too."""
    window = (f"--start-offset={offset}", f"--max-length={length}")
    printed = await qemu_img.run(("map", "--output=json", *window, _name(node([layer]))), SECONDS)
    try:
        found = msgspec.json.decode(printed, type=list[_Extent])
    except msgspec.MsgspecError as error:
        raise PoolError(f"qemu-img map of {layer.path}: {error}") from error
    return [(each.start, each.length) for each in found if each.data or (zeros and each.present)]


async def read(chain: Sequence[Layer], offset: int, length: int) -> bytes:
    with _memory(length) as file:
        source = _name(_window(chain, offset, length))
        arguments = ("convert", "-n", "-f", "raw", source, "-O", "raw", f"/proc/self/fd/{file}")
        await qemu_img.run(arguments, SECONDS, pass_fds=(file,))
        return os.pread(file, length, 0)


async def write(chain: Sequence[Layer], offset: int, data: bytes) -> None:
    """To the top layer, flushed."""
    with _memory(len(data)) as file:
        os.pwrite(file, data, 0)
        target = _name(_window(chain, offset, len(data)))
        arguments = ("convert", "-n", "-f", "raw", f"/proc/self/fd/{file}", "-O", "raw", target)
        await qemu_img.run(arguments, SECONDS, pass_fds=(file,))
    await asyncio.to_thread(sync, Path(chain[0].path))


def _window(chain: Sequence[Layer], offset: int, length: int) -> Node:
    return {"driver": "raw", "offset": offset, "size": length, "file": node(chain)}


def _name(node: Node) -> str:
    return f"json:{json.dumps(node)}"


@contextmanager
def _memory(length: int) -> Iterator[int]:
    """A file without a name, in memory."""
    file = os.memfd_create("blocks", os.MFD_CLOEXEC)
    try:
        os.ftruncate(file, length)
        yield file
    finally:
        os.close(file)
