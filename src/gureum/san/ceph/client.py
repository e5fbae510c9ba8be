"""What the worker can be asked, with types and time limits."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from gureum.san.ceph.commands import PYTHON
from gureum.san.ceph.found import FoundImage
from gureum.san.ceph.process import Progress, Worker
from gureum.san.leases import FenceState
from gureum.san.settings import SanSettings

ASK_SECONDS = 15.0
CHANGE_SECONDS = 60.0
"""Over the 30 s that the cluster takes to see that who had an image open is dead."""
LONG_SECONDS = 6 * 3600.0
"""What copies or removes data."""


class PoolStatus(msgspec.Struct, frozen=True):
    """In bytes of data. ``full``: nothing new is to be made, and ``message`` says why."""

    size: int
    free: int
    full: bool
    message: str


class FoundVolume(msgspec.Struct, frozen=True):
    """``depth``: how many images it is over at most."""

    size: int
    depth: int
    partial: bool = False


class Trashed(msgspec.Struct, frozen=True):
    """``name``: what it once was called."""

    id: str
    name: str


class Purged(msgspec.Struct, frozen=True):
    """``why`` it is still there, "" if it is not; ``children``: volumes that need its data; ``open``: who
    has it open may let go of it soon.
    """

    why: str
    children: tuple[str, ...] = ()
    open: bool = False


def command(settings: SanSettings, cloud: str, host: str, nice: int = 0) -> tuple[str, ...]:
    """How a worker is started. Isolated from what its environment or working directory would add."""
    arguments = {
        "conf": str(settings.conf or ""),
        "user": settings.user,
        "keyring": str(settings.keyring or ""),
        "pool": settings.pool,
        "cloud": cloud,
        "host": host,
        "nice": nice,
    }
    path = str(Path(__file__).parent)
    start = f"import sys; sys.path.append({path!r}); from rbdworker.program import main; main()"
    return PYTHON, "-I", "-c", start, json.dumps(arguments)


class Client:
    """One worker's operations. Names are checked by the pool."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    async def close(self) -> None:
        await self._worker.close()

    @property
    def killed(self) -> list[str]:
        """Addresses of workers that did not end by themselves, and are not fenced yet."""
        return self._worker.killed

    async def fence(self, addresses: list[str]) -> None:
        """Let the cluster take nothing more from clients whose process has ended."""
        await self._change("fence", addresses=addresses)

    async def hello(self) -> Mapping[str, Any]:
        await self._ask("hello")
        return self._worker.hello

    async def status(self) -> PoolStatus:
        return msgspec.convert(await self._ask("status"), PoolStatus)

    # Volumes

    async def find_volume(self, id: str) -> FoundVolume | None:
        return msgspec.convert(await self._ask("find_volume", id=id), FoundVolume | None)

    async def create_volume(
        self, id: str, size_bytes: int, source: str, source_volume: str, token: str, partial: bool = False
    ) -> bool:
        """Whether it was made now. ``token``: 8 hexadecimal digits that no other call has."""
        return bool(
            await self._change(
                "create_volume",
                id=id,
                size=size_bytes,
                source=source,
                source_volume=source_volume,
                token=token,
                partial=partial,
            )
        )

    async def mark_partial(self, id: str, partial: bool) -> None:
        await self._change("mark_partial", id=id, partial=partial)

    async def resize_volume(self, id: str, size_bytes: int) -> None:
        await self._change("resize_volume", id=id, size=size_bytes)

    async def delete_volume(self, id: str) -> None:
        await self._change("delete_volume", id=id)

    async def open_volume(self, id: str, revision: int = 0) -> int:
        """Its depth."""
        return int(await self._change("open_volume", id=id, revision=revision))

    async def share_volume(self, id: str, revision: int = 0) -> None:
        """Until ``note_opened`` no other host can open it."""
        await self._change("share_volume", id=id, revision=revision)

    async def receive_volume(self, id: str, revision: int = 0) -> None:
        """As ``share_volume``."""
        await self._change("receive_volume", id=id, revision=revision)

    async def note_opened(self, id: str) -> None:
        await self._change("note_opened", id=id)

    async def release_volume(self, id: str, holder: str = "") -> bool:
        """Whether ``holder`` (CLOUD/HOST, "" for this host) had it."""
        return bool(await self._change("release_volume", id=id, holder=holder))

    async def evict_volume(self, id: str, holder: str, revision: int | None = None) -> bool:
        """Whether ``holder`` (CLOUD/HOST) had it by the word of no later spec; it can write no more."""
        return bool(await self._change("evict_volume", id=id, holder=holder, revision=revision))

    # Snapshots

    async def has_snapshot(self, id: str, volume: str) -> bool:
        return bool(await self._ask("has_snapshot", id=id, volume=volume))

    async def create_snapshot(self, id: str, volume: str) -> bool:
        return bool(await self._change("create_snapshot", id=id, volume=volume))

    async def delete_snapshot(self, id: str, volume: str) -> bool:
        return bool(await self._change("delete_snapshot", id=id, volume=volume))

    # Blocks

    async def extents(
        self, id: str, volume: str, since: str, offset: int, length: int
    ) -> list[tuple[int, int]]:
        arguments = {"id": id, "volume": volume, "since": since, "offset": offset, "length": length}
        return msgspec.convert(await self._change("extents", **arguments), list[tuple[int, int]])

    async def read(self, id: str, volume: str, offset: int, length: int) -> bytes:
        arguments = {"id": id, "volume": volume, "offset": offset, "length": length}
        return (await self._worker.call("read", CHANGE_SECONDS, arguments)).payload

    async def write(self, id: str, offset: int, data: bytes) -> None:
        await self._worker.call("write", CHANGE_SECONDS, {"id": id, "offset": offset}, data)

    # Images

    async def has_image(self, id: str) -> bool:
        return bool(await self._ask("has_image", id=id))

    async def begin_image(self, id: str, size_bytes: int, token: str) -> str:
        """The name of the RBD image to fill."""
        return str(await self._change("begin_image", id=id, size=size_bytes, token=token))

    async def fill_image(self, name: str, path: str, progress: Progress) -> int:
        """From a raw file. How many bytes were not zeros."""
        answer = await self._worker.call(
            "fill_image", LONG_SECONDS, {"name": name, "path": path}, b"", progress
        )
        return int(answer.result["written"])

    async def complete_image(self, id: str, name: str) -> bool:
        """False if there is such an image already; then ``name`` goes."""
        return bool(await self._change("complete_image", id=id, name=name))

    async def discard_image(self, name: str) -> None:
        await self._change("discard", name=name)

    async def remove_image(self, id: str) -> None:
        await self._change("remove_image", id=id)

    # Hosts

    async def mark_host(self, host: str, number: int) -> None:
        await self._change("mark_host", host=host, number=number)

    async def fence_state(self, host: str, number: int) -> FenceState:
        return msgspec.convert(await self._change("fence_state", host=host, number=number), FenceState)

    async def lift_fences(self, host: str, number: int) -> None:
        await self._change("lift_fences", host=host, number=number)

    # Upkeep

    async def lead(self, seconds: int) -> bool:
        """Whether this host is the one to do upkeep for that long."""
        return bool(await self._change("lead", seconds=seconds))

    async def follow(self) -> None:
        """Let another host do it."""
        await self._change("follow")

    async def names(self) -> list[str]:
        """Of all images, whoever made them."""
        return msgspec.convert(await self._change("names"), list[str])

    async def describe(self, name: str) -> FoundImage | None:
        return msgspec.convert(await self._change("describe", name=name), FoundImage | None)

    async def bury(self, id: str) -> bool:
        """Remove what is left of a deleted volume without snapshots; whether it was one."""
        return bool(await self._change("bury", id=id))

    async def survey(self, making: list[str], repair: bool) -> list[str]:
        """What is in the pool and should not be, a line each. ``making``: tokens that are in use here."""
        result: list[str] = await self._change("survey", making=making, repair=repair)
        return result

    async def trash(self) -> list[Trashed]:
        """Images of this cloud in the trash."""
        return msgspec.convert(await self._change("trash"), list[Trashed])

    async def purge(self, trashed: Trashed) -> Purged:
        arguments = {"id": trashed.id, "name": trashed.name}
        return msgspec.convert((await self._worker.call("purge", LONG_SECONDS, arguments)).result, Purged)

    async def flatten(self, id: str, progress: Progress) -> bool:
        """Whether the volume had a parent."""
        return bool((await self._worker.call("flatten", LONG_SECONDS, {"id": id}, b"", progress)).result)

    async def _ask(self, op: str, **arguments: object) -> Any:
        return (await self._worker.call(op, ASK_SECONDS, arguments)).result

    async def _change(self, op: str, **arguments: object) -> Any:
        return (await self._worker.call(op, CHANGE_SECONDS, arguments)).result
