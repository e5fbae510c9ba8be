"""A block pool made of layers: what is the same for files in a directory and for the fake in memory.

A volume is a chain of layers; only its top one is written. A clone is a new layer over its source's. A
snapshot freezes the top layer and puts a new one over it. Data is copied by ``compact`` only.

Each change is one record, written after the layers that it names, so that a crash leaves either no change
or an unneeded layer, which ``check`` collects. A snapshot is two changes with a running machine between
them: the intent is recorded first, and from then on it can only go forward:

    new layer -> intent in the volume's record -> the machine writes to the new layer -> snapshot's record
    -> volume's record with the new chain

Repeated after a crash, the machine says how far it got; without a machine, going forward is always right.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from msgspec.structs import replace

from gureum.env import Env
from gureum.errors import PoolError
from gureum.san import blocks
from gureum.san.base import FileDisk, Inventory, Layer, LiveDisk, VolumeInfo
from gureum.san.catalogue import Catalogue
from gureum.san.layers import LayerStore, full
from gureum.san.live import answered
from gureum.san.locks import KeyedLocks
from gureum.san.records import (
    ImageRecord,
    SnapshotRecord,
    SwitchIntent,
    VolumeRecord,
    layer_format,
    layers_of,
    require_format,
    require_id,
    require_size,
)

CHAIN_MAX = 16
"""``compact`` shortens longer chains."""
LAYERS_MAX = 128
"""So many layers cost a machine memory and time: the volume gets no more snapshots before it is compacted."""
LAYER_BYTES = 1 << 20
"""What must be free to add a layer: its header, records, and a little to write at once."""


class LayeredPool:
    """A Pool over a LayerStore. Operations on different volumes run side by side."""

    def __init__(
        self, env: Env, store: LayerStore, name: str, reserve_bytes: int, chain_max: int = CHAIN_MAX
    ) -> None:
        self._env = env
        self._store = store
        self._name = name
        self._reserve_bytes = reserve_bytes
        self._chain_max = chain_max
        self._catalogue = Catalogue(store)
        self._locks = KeyedLocks()

    @property
    def shared(self) -> bool:
        return False

    async def close(self) -> None:
        """Let another process have the pool."""
        await self._store.close()
        self._catalogue.forget()

    # --- what there is

    async def inventory(self) -> Inventory:
        await self._catalogue.load()
        volumes = await self._infos(self._catalogue.volumes())
        space = await self._store.space()
        return Inventory(
            volumes=volumes,
            snapshots=frozenset(r.id for r in self._catalogue.snapshots()) - self._unsettled(),
            size_bytes=space.size_bytes,
            free_bytes=max(0, space.free_bytes - self._reserve_bytes),
        )

    async def find_volume(self, id: str) -> VolumeInfo | None:
        require_id(id, "vol")
        await self._catalogue.load()
        record = self._catalogue.get(id, VolumeRecord)
        return (await self._infos([record]))[id] if record is not None else None

    async def has_snapshot(self, id: str, volume: str) -> bool:
        require_id(id, "snap")
        await self._catalogue.load()
        return self._has_snapshot(id, volume) and id not in self._unsettled()

    async def _infos(self, records: Sequence[VolumeRecord]) -> dict[str, VolumeInfo]:
        users = self._catalogue.users()
        own = {r: [name for name in layers_of(r) if users[name] == 1] for r in records}
        used = await self._store.used([name for names in own.values() for name in names])
        return {
            record.id: VolumeInfo(
                id=record.id,
                size_bytes=record.size_bytes,
                used_bytes=sum(used.get(name, 0) for name in names),
                partial=record.partial,
            )
            for record, names in own.items()
        }

    async def open_volume(self, id: str, revision: int = 0) -> FileDisk:
        """Every layer, to be opened each by itself: backing names inside the files are not to be followed.

        For a machine that does not run yet: a snapshot that a crash cut short is completed here.
        """
        require_id(id, "vol")
        await self._catalogue.load()
        async with self._locks.hold(id):
            record = await self._settle(self._volume(id), None)
            await self._store.verify(record.chain)
            return FileDisk(layers=tuple(self._layer(name) for name in record.chain))

    async def share_volume(self, id: str, revision: int = 0) -> FileDisk:
        """Its files have one writer."""
        raise PoolError(f"{id} is in {self._name}, where one machine at a time can have it")

    async def receive_volume(self, id: str, revision: int = 0) -> FileDisk:
        raise PoolError(f"{id} is in {self._name}, which no other host reaches")

    async def note_opened(self, id: str) -> None:
        require_id(id, "vol")

    async def release_volume(self, id: str) -> None:
        """Nobody else can have it."""
        require_id(id, "vol")

    async def evict(self, id: str, host: str, revision: int | None = None) -> None:
        raise PoolError(f"{id} is in {self._name}, which no other host reaches")

    # --- volumes

    async def create_volume(
        self, id: str, size_bytes: int, source: str = "", source_volume: str = "", partial: bool = False
    ) -> None:
        require_id(id, "vol")
        require_size(id, size_bytes)
        await self._catalogue.load()
        async with self._locks.hold(id):
            if (present := self._catalogue.get(id, VolumeRecord)) is not None:
                if present.source != source:
                    raise PoolError(f"{id} exists already, made from {present.source or 'nothing'}")
                return
            chain = self._source_chain(id, size_bytes, source, source_volume)
            with self._catalogue.pin(chain):
                await self._require_space(LAYER_BYTES)
                async with self._new_layer(id, size_bytes, chain) as layer:
                    self._env.crashpoint("pool.volume.layer")
                    chain = (layer, *chain)
                    await self._catalogue.save(
                        VolumeRecord(
                            id=id, size_bytes=size_bytes, chain=chain, source=source, partial=partial
                        )
                    )
        self._env.crashpoint("pool.volume.recorded")

    async def mark_partial(self, id: str, partial: bool) -> None:
        require_id(id, "vol")
        await self._catalogue.load()
        async with self._locks.hold(id):
            record = self._volume(id)
            if record.partial != partial:
                await self._catalogue.save(replace(record, partial=partial))

    async def resize_volume(self, id: str, size_bytes: int, live: LiveDisk | None = None) -> None:
        require_id(id, "vol")
        require_size(id, size_bytes)
        await self._catalogue.load()
        async with self._locks.hold(id):
            record = await self._settle(self._volume(id), live)
            if size_bytes < record.size_bytes:
                raise PoolError(f"{id} has {record.size_bytes} bytes, and cannot shrink to {size_bytes}")
            if size_bytes == record.size_bytes:
                return
            await self._require_space(LAYER_BYTES)
            if live is not None:
                await answered(id, live.resize(size_bytes))
            else:
                await self._require_unused(record)
                await self._store.verify(record.chain)
                await self._store.grow_layer(record.chain[0], size_bytes)
            self._env.crashpoint("pool.resize.grown")
            await self._catalogue.save(replace(record, size_bytes=size_bytes))

    async def delete_volume(self, id: str) -> None:
        require_id(id, "vol")
        await self._catalogue.load()
        async with self._locks.hold(id):
            if (record := self._catalogue.get(id, VolumeRecord)) is None:
                return
            await self._require_unused(record)
            record = await self._settle(record, None)
            await self._catalogue.drop(record)
        self._env.crashpoint("pool.delete.dropped")
        await self._catalogue.collect(record.chain)

    async def compact(self, id: str) -> bool:
        """Shorten the chain of a volume that no machine has open, if it is too long; whether it was.

        What the volume alone uses, and as much of what it shares as must be, is copied into one new layer.
        """
        require_id(id, "vol")
        await self._catalogue.load()
        async with self._locks.hold(id):
            record = self._volume(id)
            await self._require_unused(record)
            record = await self._settle(record, None)
            if len(record.chain) <= self._chain_max:
                return False
            keep = self._shared_tail(record)
            copied = record.chain[: len(record.chain) - len(keep)]
            await self._store.verify(record.chain)
            used = await self._store.used(copied)
            await self._require_space(LAYER_BYTES + sum(used.values()))
            async with self._new_layer(id, record.size_bytes, record.chain) as flat:
                self._env.crashpoint("pool.compact.layer")
                await self._store.flatten(flat, record.chain, keep)
                self._env.crashpoint("pool.compact.flattened")
                await self._catalogue.save(replace(record, chain=(flat, *keep)))
            self._env.crashpoint("pool.compact.recorded")
            await self._catalogue.collect(record.chain)
            return True

    # --- snapshots

    async def create_snapshot(self, id: str, volume: str, live: LiveDisk | None = None) -> None:
        require_id(id, "snap")
        require_id(volume, "vol")
        await self._catalogue.load()
        async with self._locks.hold(id), self._locks.hold(volume):
            if self._has_snapshot(id, volume) and id not in self._unsettled():
                return
            record = await self._settle(self._volume(volume), live)
            if self._has_snapshot(id, volume):
                return
            if len(record.chain) >= LAYERS_MAX:
                raise PoolError(
                    f"{volume} has {len(record.chain)} layers: stop its machine once to merge them"
                )
            if live is None:
                await self._require_unused(record)
            await self._require_space(LAYER_BYTES)
            # The file's own size: a machine may have grown it just before a crash, and must not see less.
            size_bytes = max(record.size_bytes, await self._store.layer_size(record.chain[0]))
            require_size(volume, size_bytes)
            async with self._new_layer(volume, size_bytes, record.chain) as overlay:
                self._env.crashpoint("pool.snapshot.layer")
                intent = SwitchIntent(snapshot=id, overlay=overlay, size_bytes=size_bytes)
                record = replace(record, pending=intent)
                await self._catalogue.save(record)
            self._env.crashpoint("pool.snapshot.intent")
            await self._settle(record, live)

    async def delete_snapshot(self, id: str, volume: str) -> None:
        require_id(id, "snap")
        require_id(volume, "vol")
        await self._catalogue.load()
        async with self._locks.hold(id):
            self._has_snapshot(id, volume)
            for other in self._catalogue.volumes():
                if other.pending is not None and other.pending.snapshot == id:
                    await self._disown(other.id, id)
            if (record := self._catalogue.get(id, SnapshotRecord)) is None:
                return
            await self._catalogue.drop(record)
        self._env.crashpoint("pool.snapshot.dropped")
        await self._catalogue.collect(record.chain)

    async def _disown(self, volume: str, snapshot: str) -> None:
        """The switch to a new layer that was begun for this snapshot stays necessary, the snapshot not."""
        async with self._locks.hold(volume):
            record = self._catalogue.get(volume, VolumeRecord)
            if record is not None and record.pending is not None and record.pending.snapshot == snapshot:
                await self._catalogue.save(replace(record, pending=replace(record.pending, snapshot="")))

    async def _settle(self, record: VolumeRecord, live: LiveDisk | None) -> VolumeRecord:
        """Take a pending switch forward to its end. Without ``live`` no machine may have the volume open."""
        intent = record.pending
        if intent is None:
            return record
        if live is None:
            await self._require_unused(record)
        else:
            await self._switch(record, intent, live)
        self._env.crashpoint("pool.snapshot.switched")
        if intent.snapshot:
            await self._catalogue.save(
                SnapshotRecord(
                    id=intent.snapshot, size_bytes=intent.size_bytes, chain=record.chain, volume=record.id
                )
            )
        self._env.crashpoint("pool.snapshot.recorded")
        settled = replace(
            record, chain=(intent.overlay, *record.chain), size_bytes=intent.size_bytes, pending=None
        )
        await self._catalogue.save(settled)
        self._env.crashpoint("pool.snapshot.settled")
        return settled

    def _unsettled(self) -> set[str]:
        """Snapshots that are not complete: their volume's record is not yet right, their own may be there."""
        return {record.pending.snapshot for record in self._catalogue.volumes() if record.pending is not None}

    async def _switch(self, record: VolumeRecord, intent: SwitchIntent, live: LiveDisk) -> None:
        overlay = self._layer(intent.overlay)
        active = await answered(record.id, live.active_layer())
        if active == overlay.path:
            return
        if active != self._store.path(record.chain[0]):
            raise PoolError(
                f"{record.id}: the machine writes to {active}, which is not the volume's top layer"
            )
        await answered(record.id, live.switch_layer(overlay))

    # --- blocks

    async def snapshot_extents(
        self, id: str, volume: str, since: str = "", offset: int = 0, length: int = 0
    ) -> list[tuple[int, int]]:
        record = await self._snapshot(id, volume)
        earlier = (await self._snapshot(since, volume)).chain if since else ()
        end = min(offset + length, record.size_bytes) if length else record.size_bytes
        with self._catalogue.pin((*record.chain, *earlier)):
            return await blocks.extents(self._store, record.chain, earlier, offset, end)

    async def read_snapshot(self, id: str, volume: str, offset: int, length: int) -> bytes:
        record = await self._snapshot(id, volume)
        blocks.require_inside(id, record.size_bytes, offset, length)
        with self._catalogue.pin(record.chain):
            return await self._store.read(record.chain, offset, length)

    async def volume_extents(self, id: str, offset: int = 0, length: int = 0) -> list[tuple[int, int]]:
        async with self._unused(id) as record:
            end = min(offset + length, record.size_bytes) if length else record.size_bytes
            return await blocks.extents(self._store, record.chain, (), offset, end)

    async def read_volume(self, id: str, offset: int, length: int) -> bytes:
        async with self._unused(id) as record:
            blocks.require_inside(id, record.size_bytes, offset, length)
            return await self._store.read(record.chain, offset, length)

    @asynccontextmanager
    async def _unused(self, id: str) -> AsyncIterator[VolumeRecord]:
        """A volume that no machine has open, held still."""
        require_id(id, "vol")
        await self._catalogue.load()
        async with self._locks.hold(id):
            record = self._volume(id)
            await self._require_unused(record)
            yield await self._settle(record, None)

    async def write_volume(self, id: str, offset: int, data: bytes) -> None:
        async with self._unused(id) as record:
            blocks.require_inside(id, record.size_bytes, offset, len(data))
            await self._require_space(len(data))
            await self._store.write(record.chain, offset, data)

    # --- images

    async def add_image(self, id: str, disk: str, format: str, size_bytes: int) -> None:
        require_id(id, "ami")
        require_format(id, format)
        require_size(id, size_bytes)
        await self._catalogue.load()
        async with self._locks.hold(id):
            if self._catalogue.get(id, ImageRecord) is not None:
                return
            layer = f"{id}.{self._env.token(8)}.{format}"
            async with self._catalogue.unrecorded(layer):
                await self._store.import_layer(layer, disk, size_bytes, self._reserve_bytes)
                self._env.crashpoint("pool.image.layer")
                await self._catalogue.save(ImageRecord(id=id, size_bytes=size_bytes, chain=(layer,)))

    async def remove_image(self, id: str) -> None:
        require_id(id, "ami")
        await self._catalogue.load()
        async with self._locks.hold(id):
            if (record := self._catalogue.get(id, ImageRecord)) is None:
                return
            await self._catalogue.drop(record)
        self._env.crashpoint("pool.image.dropped")
        await self._catalogue.collect(record.chain)

    # --- keeping order

    async def check(self, repair: bool = False) -> list[str]:
        """What is not as it should be, a line each. ``repair`` removes what nothing needs, and only that."""
        await self._catalogue.load()
        listing = await self._store.listing()
        orphans = self._catalogue.unneeded(listing.layers)
        found = [f"{id} cannot be used: {why}" for id, why in sorted(self._catalogue.damaged.items())]
        found += [f"{name} does not belong to the pool" for name in sorted(listing.strange)]
        for record in sorted(self._catalogue.all(), key=lambda record: record.id):
            missing = [name for name in layers_of(record) if name not in listing.layers]
            found += [f"{record.id} is damaged: its layer {name} is missing" for name in missing]
            if isinstance(record, VolumeRecord) and record.pending is not None:
                found.append(f"{record.id}: switch to the layer {record.pending.overlay} is not complete")
        found += [f"unfinished file {name}" for name in listing.temporary]
        found += [f"nothing needs the layer {name}" for name in orphans]
        if repair:
            await self._store.discard(listing.temporary)
            await self._catalogue.collect(orphans)
        return found

    async def snapshot_volumes(self) -> dict[str, str]:
        """By snapshot, the volume that it is of."""
        await self._catalogue.load()
        return {record.id: record.volume for record in self._catalogue.snapshots()}

    def _shared_tail(self, record: VolumeRecord) -> tuple[str, ...]:
        """The end of the chain that others need too, at most half of what is allowed."""
        users = self._catalogue.users()
        length = 0
        for name in reversed(record.chain):
            if users[name] == 1 or length == self._chain_max // 2:
                break
            length += 1
        return record.chain[len(record.chain) - length :]

    @asynccontextmanager
    async def _new_layer(self, volume: str, size_bytes: int, chain: tuple[str, ...]) -> AsyncIterator[str]:
        """A new empty layer over the chain. What is done in the block must record it."""
        layer = f"{volume}.{self._env.token(8)}.qcow2"
        async with self._catalogue.unrecorded(layer):
            await self._store.create_layer(layer, size_bytes, chain[0] if chain else "")
            yield layer

    # --- small questions

    def _volume(self, id: str) -> VolumeRecord:
        if (record := self._catalogue.get(id, VolumeRecord)) is None:
            raise PoolError(f"there is no volume {id}")
        return record

    async def _snapshot(self, id: str, volume: str) -> SnapshotRecord:
        if not await self.has_snapshot(id, volume):
            raise PoolError(f"there is no snapshot {id}")
        record = self._catalogue.get(id, SnapshotRecord)
        assert record is not None
        return record

    def _has_snapshot(self, id: str, volume: str) -> bool:
        record = self._catalogue.get(id, SnapshotRecord)
        if record is not None and record.volume != volume:
            raise PoolError(f"{id} exists already, as a snapshot of {record.volume}")
        return record is not None

    def _source_chain(self, id: str, size_bytes: int, source: str, volume: str) -> tuple[str, ...]:
        if not source:
            return ()
        require_id(source, "snap", "ami")
        record = self._catalogue.any(source)
        if record is None:
            raise PoolError(f"{id}: there is no {source} to make it from")
        if volume and isinstance(record, SnapshotRecord) and record.volume != volume:
            raise PoolError(f"{id}: {source} is a snapshot of {record.volume}, not of {volume}")
        if size_bytes < record.size_bytes:
            raise PoolError(f"{id}: {size_bytes} bytes are less than the {record.size_bytes} of {source}")
        return record.chain

    def _layer(self, name: str) -> Layer:
        return Layer(path=self._store.path(name), format=layer_format(name))

    async def _require_space(self, need_bytes: int) -> None:
        space = await self._store.space()
        if space.free_bytes < need_bytes + self._reserve_bytes:
            raise full(self._name, need_bytes, self._reserve_bytes, space)

    async def _require_unused(self, record: VolumeRecord) -> None:
        """A last line of defence: the hypervisor's own locks on the files say whether one has them open."""
        tops = (record.chain[0],) if record.pending is None else (record.pending.overlay, record.chain[0])
        for name in tops:
            if await self._store.in_use(name):
                raise PoolError(f"{record.id} is open in a running machine")
