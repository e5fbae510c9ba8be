"""The data of snapshots, from and to the host that has it (``services.operation.Blocks``)."""

from __future__ import annotations

import asyncio

import msgspec

from gureum.control.calls import Calls
from gureum.control.keys import KeyStore
from gureum.errors import ConfigError, TransportError
from gureum.resources import Snapshot, Volume, VolumeKey, VolumeState
from gureum.resources.volume import shared
from gureum.store.base import Store
from gureum.transport.messages import BLOCK_BYTES, BlockUse

READY_SECONDS_MAX = 4.0
LOOK_SECONDS = 0.05

_uses = msgspec.msgpack.Decoder(list[BlockUse])


class SnapshotBlocks:
    """Of encrypted ones the data in clear. A key goes to the host that is to read, with each call."""

    def __init__(self, store: Store, calls: Calls, keys: KeyStore | None) -> None:
        self._store = store
        self._calls = calls
        self._keys = keys

    async def used(
        self, snapshot: Snapshot, since: Snapshot | None, first: int, count: int
    ) -> list[BlockUse]:
        if since is not None and _place(since) != _place(snapshot):
            # Nobody can compare them: any block may differ.
            blocks = -(-snapshot.size_bytes // BLOCK_BYTES)
            return [BlockUse(at, True, True) for at in range(first, min(first + count, blocks))]
        answer = await self._calls.call(
            self._host(snapshot),
            "list-blocks",
            pool=snapshot.pool,
            snapshot=snapshot.id,
            volume=snapshot.taken_of,
            since=since.id if since is not None else "",
            since_volume=since.taken_of if since is not None else "",
            offset=first,
            length=count,
            size=snapshot.size_bytes,
            encrypted=snapshot.encrypted,
        )
        try:
            return _uses.decode(answer)
        except msgspec.MsgspecError as error:
            raise TransportError(f"no list of blocks: {error}") from error

    async def read(self, snapshot: Snapshot, index: int) -> bytes:
        data = await self._calls.call(
            self._host(snapshot),
            "read-block",
            pool=snapshot.pool,
            snapshot=snapshot.id,
            volume=snapshot.taken_of,
            offset=index * BLOCK_BYTES,
            length=BLOCK_BYTES,
            size=snapshot.size_bytes,
            encrypted=snapshot.encrypted,
            key=await self._key(snapshot),
        )
        if len(data) != BLOCK_BYTES:
            raise TransportError(f"a block of {len(data)} bytes")
        return data

    async def write(self, snapshot: Snapshot, index: int, data: bytes) -> None:
        volume = await self._ready(snapshot)
        assert volume.host is not None
        offset = index * BLOCK_BYTES
        await self._calls.call(
            volume.host, "write-block", pool=volume.pool, volume=volume.id, offset=offset, data=data
        )

    async def _key(self, snapshot: Snapshot) -> bytes:
        """b"" for what is not encrypted. Raises ConfigError."""
        if not snapshot.encrypted:
            return b""
        async with self._store.read() as reader:
            record = await reader.get(VolumeKey, snapshot.key)
        if record is None or self._keys is None:
            raise ConfigError(f"there is no key of {snapshot.id}")
        return self._keys.unwrap(record)

    def _host(self, snapshot: Snapshot) -> str:
        """The one that has it; of a shared pool its keeper, which knows its key, or any that is connected."""
        keeper = snapshot.host
        if keeper is not None and (keeper in self._calls.sessions or not shared(snapshot.pool)):
            return keeper
        if not self._calls.sessions:
            raise TransportError("no host is connected")
        return min(self._calls.sessions)

    async def _ready(self, snapshot: Snapshot) -> Volume:
        """The volume that the snapshot will be taken of, once it is made."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + READY_SECONDS_MAX
        while True:
            async with self._store.read() as reader:
                volume = await reader.get(Volume, snapshot.staging)
            if volume is None or volume.state in (VolumeState.deleting, VolumeState.error):
                why = volume.message if volume is not None else ""
                raise TransportError(why or f"{snapshot.id} takes no more blocks")
            if volume.state is VolumeState.available and volume.host is not None:
                return volume
            if loop.time() >= deadline:
                raise TransportError(f"the volume of {snapshot.id} is not made yet")
            await asyncio.sleep(LOOK_SECONDS)


def _place(snapshot: Snapshot) -> tuple[str, str | None]:
    """Where its data is. Of a shared pool any host reaches all, whichever its keeper is."""
    return snapshot.pool, None if shared(snapshot.pool) else snapshot.host
