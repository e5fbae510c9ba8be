"""A pool in memory, for the simulation and for tests. The protocol is the real one, only files are not.

``FakePoolDisk`` is the host's disk: it keeps everything while pools come and go, shows what each volume and
snapshot contains, and takes orders about what goes wrong. ``FakePool`` is what one agent process holds.
Waiting is asyncio's, so that it works on virtual time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from gureum.env import Env
from gureum.errors import PoolError
from gureum.san import fake_parts
from gureum.san.fake_parts import BLOCK_BYTES, Blocks, Failing
from gureum.san.layers import Listing, Space, full
from gureum.san.pool import CHAIN_MAX, LayeredPool
from gureum.san.records import (
    PoolRecord,
    SnapshotRecord,
    VolumeRecord,
    decode,
    is_layer_name,
    layer_format,
    layers_of,
)

STEP_SECONDS = (0.0005, 0.005)
FOLDER = "/fake-pool/"


class FakeLayer:
    """``blocks`` are what was written to this layer, by number."""

    def __init__(self, size_bytes: int, backing: str) -> None:
        self.size_bytes = size_bytes
        self.backing = backing
        self.blocks: Blocks = {}


class FakePoolDisk(Failing):
    """The disk of one fake host, of ``size_bytes``. Images are named by their disk's path in ``images``.

    Steps are those of LayerStore.
    """

    def __init__(self, size_bytes: int = 1 << 40) -> None:
        super().__init__()
        self.size_bytes = size_bytes
        self.layers: dict[str, FakeLayer] = {}
        self.records: dict[str, bytes] = {}
        self.images: dict[str, Blocks] = {}
        self.opened: set[str] = set()
        """Layers that a machine has open for writing (as QEMU's image locks tell), where a test says so."""
        self._frozen: set[str] = set()

    # What can be told to happen.

    def write(self, path: str, block: int, data: bytes) -> None:
        """What a guest does. PoolFull for lack of space; AssertionError if the layer may not change now."""
        name = self.name(path)
        assert name not in self._frozen, f"{name} is written to, but it is frozen"
        layer = self.layers[name]
        assert 0 <= block < -(-layer.size_bytes // BLOCK_BYTES), f"{name} has no block {block}"
        if block not in layer.blocks:
            self.require(BLOCK_BYTES)
        layer.blocks[block] = data
        self._freeze_below(name)

    def lose_layer(self, path: str) -> None:
        del self.layers[self.name(path)]

    # What there is: for checking.

    def name(self, path: str) -> str:
        assert path.startswith(FOLDER), path
        return path.removeprefix(FOLDER)

    def contents(self, path: str) -> Blocks:
        """All that can be read through this layer, by block number; what was never written is left out."""
        chain = [self.name(path)]
        while backing := self.layers[chain[-1]].backing:
            chain.append(backing)
        found: Blocks = {}
        for name in reversed(chain):
            found.update(self.layers[name].blocks)
        return found

    def contents_of(self, id: str) -> Blocks:
        """What a volume that no machine has open, or a snapshot, or an image contains."""
        record = self._record(id)
        pending = record.pending if isinstance(record, VolumeRecord) else None
        return self.contents(FOLDER + (pending.overlay if pending else record.chain[0]))

    def source_of(self, volume: str) -> str:
        """What the volume was made from: an image, a snapshot, or "" for nothing."""
        record = self._record(volume)
        assert isinstance(record, VolumeRecord)
        return record.source

    def volume_of(self, snapshot: str) -> str:
        record = self._record(snapshot)
        assert isinstance(record, SnapshotRecord)
        return record.volume

    def volumes(self) -> frozenset[str]:
        return frozenset(id for id in self.records if id.startswith("vol-"))

    def snapshots(self) -> frozenset[str]:
        return frozenset(id for id in self.records if id.startswith("snap-"))

    def leaks(self) -> list[str]:
        """Layers that no record needs, and needed ones that are missing."""
        needed = {name for id in self.records for name in layers_of(self._record(id))}
        return sorted(needed ^ self.layers.keys())

    def used_bytes(self) -> int:
        blocks = sum(1 + len(layer.blocks) for layer in self.layers.values())
        return (blocks + len(self.records)) * BLOCK_BYTES

    def space(self) -> Space:
        return Space(size_bytes=self.size_bytes, free_bytes=max(0, self.size_bytes - self.used_bytes()))

    # For FakeLayers.

    def require(self, need_bytes: int) -> None:
        space = self.space()
        if space.free_bytes < need_bytes:
            raise full("the fake pool", need_bytes, 0, space)

    def freeze(self, record: PoolRecord) -> None:
        """What a record says must not change any more."""
        written = 1 if isinstance(record, VolumeRecord) else 0
        self._frozen.update(record.chain[written:])

    def _freeze_below(self, name: str) -> None:
        while name := self.layers[name].backing:
            self._frozen.add(name)

    def _record(self, id: str) -> PoolRecord:
        return decode(id, self.records[id])


class FakeLayers:
    """A LayerStore over a FakePoolDisk. Each step takes a moment, and has its effect at the end of it."""

    def __init__(self, env: Env, disk: FakePoolDisk) -> None:
        self._env = env
        self._disk = disk

    def path(self, layer: str) -> str:
        return FOLDER + layer

    async def load(self) -> Mapping[str, bytes]:
        await self._step("load")
        return dict(self._disk.records)

    async def put_record(self, id: str, data: bytes) -> None:
        await self._step("put_record")
        if id not in self._disk.records:
            self._disk.require(BLOCK_BYTES)
        self._disk.records[id] = data
        self._disk.freeze(decode(id, data))

    async def drop_record(self, id: str) -> None:
        await self._step("drop_record")
        self._disk.records.pop(id, None)

    async def create_layer(self, layer: str, size_bytes: int, backing: str) -> None:
        await self._step("create_layer")
        self._add(layer, FakeLayer(size_bytes, backing))

    async def import_layer(self, layer: str, disk: str, size_bytes: int, reserve_bytes: int) -> None:
        await self._step("import_layer")
        imported = FakeLayer(size_bytes, "")
        imported.blocks = dict(self._disk.images.get(disk, {}))
        self._add(layer, imported)

    async def remove_layers(self, layers: Sequence[str]) -> None:
        if layers:
            await self._step("remove_layers")
        for layer in layers:
            self._disk.layers.pop(layer, None)

    async def verify(self, chain: Sequence[str]) -> None:
        await self._step("verify")
        for name, backing in zip(chain, (*chain[1:], ""), strict=True):
            layer = self._layer(name)
            if layer.backing != backing:
                raise PoolError(f"the layer {name} is damaged: it is over {layer.backing!r}, not {backing!r}")

    async def layer_size(self, layer: str) -> int:
        await self._step("layer_size")
        return self._layer(layer).size_bytes

    async def grow_layer(self, layer: str, size_bytes: int) -> None:
        await self._step("grow_layer")
        grown = self._layer(layer)
        grown.size_bytes = max(grown.size_bytes, size_bytes)

    async def flatten(self, layer: str, chain: Sequence[str], keep: Sequence[str]) -> None:
        await self._step("flatten")
        merged: Blocks = {}
        for name in reversed(chain[: len(chain) - len(keep)]):
            merged.update(self._layer(name).blocks)
        self._disk.require(len(merged) * BLOCK_BYTES)
        flat = self._layer(layer)
        flat.blocks = merged
        flat.backing = keep[0] if keep else ""

    async def extents(
        self, layers: Sequence[str], offset: int, length: int, zeros: bool
    ) -> list[tuple[int, int]]:
        await self._step("extents")
        numbers = {number for name in layers for number in self._layer(name).blocks}
        return [(number * BLOCK_BYTES, BLOCK_BYTES) for number in numbers]

    async def read(self, chain: Sequence[str], offset: int, length: int) -> bytes:
        await self._step("read")
        return fake_parts.read(self._disk.contents(self.path(chain[0])), offset, length)

    async def write(self, chain: Sequence[str], offset: int, data: bytes) -> None:
        await self._step("read")
        before = self._disk.contents(self.path(chain[0]))
        await self._step("write")
        for number, block in fake_parts.changed(before, offset, data).items():
            self._disk.write(self.path(chain[0]), number, block)

    async def in_use(self, layer: str) -> bool:
        await self._step("in_use")
        return layer in self._disk.opened

    async def used(self, layers: Sequence[str]) -> Mapping[str, int]:
        await self._step("used")
        present = {name: self._disk.layers[name] for name in layers if name in self._disk.layers}
        return {name: (1 + len(layer.blocks)) * BLOCK_BYTES for name, layer in present.items()}

    async def space(self) -> Space:
        await self._step("space")
        return self._disk.space()

    async def listing(self) -> Listing:
        await self._step("listing")
        return Listing(layers=frozenset(filter(is_layer_name, self._disk.layers)))

    async def discard(self, temporary: Sequence[str]) -> None:
        assert not temporary, "records of the fake are never half written"

    async def close(self) -> None:
        pass

    async def _step(self, name: str) -> None:
        await asyncio.sleep(self._env.random.uniform(*STEP_SECONDS))
        self._disk.take_failure(name)

    def _add(self, name: str, layer: FakeLayer) -> None:
        assert name not in self._disk.layers, name
        assert layer_format(name) in ("raw", "qcow2"), name
        self._disk.require((1 + len(layer.blocks)) * BLOCK_BYTES)
        self._disk.layers[name] = layer

    def _layer(self, name: str) -> FakeLayer:
        try:
            return self._disk.layers[name]
        except KeyError:
            raise PoolError(f"the layer {name} is missing") from None


class FakePool(LayeredPool):
    """A Pool on a fake host's disk; by default one of its own."""

    def __init__(
        self,
        env: Env,
        disk: FakePoolDisk | None = None,
        reserve_bytes: int = 0,
        chain_max: int = CHAIN_MAX,
    ) -> None:
        self.disk = disk or FakePoolDisk()
        super().__init__(env, FakeLayers(env, self.disk), "the fake pool", reserve_bytes, chain_max)
