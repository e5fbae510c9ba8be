"""What is in a pool, told to the manager, and what it asks to be repaired there."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import msgspec

from gureum.agent.pool_volumes import PoolVolumes
from gureum.errors import HostError
from gureum.san.ceph.audit import Action, Finding, Listing
from gureum.san.ceph.found import FoundImage
from gureum.san.pool import LayeredPool
from gureum.transport.messages import Call

_finding = msgspec.msgpack.Decoder(Finding)


@runtime_checkable
class Shared(Protocol):
    """A shared pool that can be looked at."""

    async def look(self, after: str, count: int) -> Listing: ...

    async def mend(self, finding: Finding) -> None: ...


async def called(volumes: PoolVolumes, cloud: str, call: Call) -> bytes:
    """The answer to a call about a pool. Raises HostError."""
    pool = volumes.pool
    if call.method == "list-pool":
        if isinstance(pool, Shared):
            return msgspec.msgpack.encode(await pool.look(call.since, call.length))
        if isinstance(pool, LayeredPool):
            return msgspec.msgpack.encode(await _look(pool, cloud, call.since, call.length))
    elif call.method == "mend-pool":
        finding = _finding.decode(call.data)
        if isinstance(pool, Shared):
            await pool.mend(finding)
            return b""
        if isinstance(pool, LayeredPool):
            await _mend(pool, volumes, finding)
            return b""
    raise HostError(f"the pool {call.pool} cannot do {call.method}")


async def _look(pool: LayeredPool, cloud: str, after: str, count: int) -> Listing:
    """Of a pool of the host's own: nobody else has a volume of it open."""
    inventory = await pool.inventory()
    names = sorted(name for name in inventory.volumes if name > after)
    page = names[:count]
    until = page[-1] if len(page) < len(names) else ""
    images = tuple(_image(name, inventory.volumes[name].size_bytes, cloud) for name in page)
    snapshots = [
        (id, volume)
        for id, volume in sorted((await pool.snapshot_volumes()).items())
        if id in inventory.snapshots and after < volume and (not until or volume <= until)
    ]
    return Listing(images, tuple(await pool.check()) if not after else (), until, tuple(snapshots))


def _image(name: str, size: int, cloud: str) -> FoundImage:
    return FoundImage(name, size, cloud, False, (), "", "", ())


async def _mend(pool: LayeredPool, volumes: PoolVolumes, finding: Finding) -> None:
    match finding.action:
        case Action.delete_volume:
            await pool.delete_volume(finding.id)
            volumes.volumes.pop(finding.id, None)
        case Action.delete_snapshot:
            await pool.delete_snapshot(finding.id, finding.volume)
            volumes.snapshots.discard(finding.id)
        case Action.tidy:
            await pool.check(repair=True)
