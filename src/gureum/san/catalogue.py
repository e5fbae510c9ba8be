"""The records of a pool in memory, in step with those in its store, and what they need."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager

from gureum.errors import PoolError
from gureum.san.layers import LayerStore
from gureum.san.locks import uninterrupted
from gureum.san.records import PoolRecord, R, SnapshotRecord, VolumeRecord, decode, encode, layers_of

log = logging.getLogger(__name__)


class Catalogue:
    """All records, and the layers that operations under way have pinned.

    A record that cannot be read: in ``damaged`` with the reason. While there is one, no layer is removed: it
    may be needed.
    """

    def __init__(self, store: LayerStore) -> None:
        self._store = store
        self._records: dict[str, PoolRecord] = {}
        self._pinned: dict[str, int] = {}
        self._loading = asyncio.Lock()
        self._loaded = False
        self.damaged: dict[str, str] = {}

    async def load(self) -> None:
        """Read the store, the first time."""
        async with self._loading:
            if self._loaded:
                return
            self._records.clear()
            self.damaged.clear()
            for id, data in (await self._store.load()).items():
                try:
                    self._records[id] = decode(id, data)
                except PoolError as error:
                    log.error("%s", error)
                    self.damaged[id] = str(error)
            self._loaded = True

    def forget(self) -> None:
        """Read the store again the next time."""
        self._loaded = False

    def get(self, id: str, kind: type[R]) -> R | None:
        """PoolError if the record is damaged."""
        record = self.any(id)
        return record if isinstance(record, kind) else None

    def any(self, id: str) -> PoolRecord | None:
        if id in self.damaged:
            raise PoolError(self.damaged[id])
        return self._records.get(id)

    def all(self) -> list[PoolRecord]:
        return list(self._records.values())

    def volumes(self) -> list[VolumeRecord]:
        return [record for record in self._records.values() if isinstance(record, VolumeRecord)]

    def snapshots(self) -> list[SnapshotRecord]:
        return [record for record in self._records.values() if isinstance(record, SnapshotRecord)]

    async def save(self, record: PoolRecord) -> None:
        async def put() -> None:
            await self._store.put_record(record.id, encode(record))
            self._records[record.id] = record

        await uninterrupted(put())

    async def drop(self, record: PoolRecord) -> None:
        async def drop() -> None:
            await self._store.drop_record(record.id)
            del self._records[record.id]

        await uninterrupted(drop())

    def users(self) -> dict[str, int]:
        """How many records name each layer."""
        users: dict[str, int] = {}
        for record in self._records.values():
            for name in layers_of(record):
                users[name] = users.get(name, 0) + 1
        return users

    def unneeded(self, layers: Iterable[str]) -> list[str]:
        """Those of the layers that no record names, and no operation under way is about to."""
        needed = self.users().keys() | self._pinned.keys()
        return sorted(name for name in layers if name not in needed)

    async def collect(self, layers: Iterable[str]) -> None:
        """Remove those of the layers that are not needed."""
        if self.damaged:
            log.warning("no layer is removed, since %s cannot be read", ", ".join(sorted(self.damaged)))
            return
        await uninterrupted(self._store.remove_layers(self.unneeded(layers)))

    @contextmanager
    def pin(self, layers: Sequence[str]) -> Iterator[None]:
        """Keep layers that no record may name at the moment."""
        for name in layers:
            self._pinned[name] = self._pinned.get(name, 0) + 1
        try:
            yield
        finally:
            for name in layers:
                self._pinned[name] -= 1
                if not self._pinned[name]:
                    del self._pinned[name]

    @asynccontextmanager
    async def unrecorded(self, layer: str) -> AsyncIterator[None]:
        """Around the making of a layer up to the saving of its record: if that fails, the layer goes away."""
        try:
            with self.pin((layer,)):
                yield
        except (PoolError, asyncio.CancelledError):
            await self.collect((layer,))
            raise
