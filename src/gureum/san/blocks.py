"""The data of a layered pool's snapshots and volumes, a few blocks at a time."""

from __future__ import annotations

from collections.abc import Sequence

from gureum.errors import PoolError
from gureum.san.base import BLOCKS_BYTES_MAX
from gureum.san.layers import LayerStore

SECTOR = 512


async def extents(
    store: LayerStore, chain: Sequence[str], since: Sequence[str], offset: int, end: int
) -> list[tuple[int, int]]:
    """Where ``chain`` may have data; if ``since`` has layers: where it may differ from that chain."""
    if offset >= end:
        return []
    if since and tuple(chain[len(chain) - len(since) :]) == tuple(since):
        layers = chain[: len(chain) - len(since)]
    else:  # nothing earlier, or merged meanwhile: what at least one of the two has
        layers = [*chain, *(name for name in since if name not in chain)]
    found = await store.extents(layers, offset, end - offset, zeros=bool(since))
    return merged(found, offset, end)


def merged(extents: Sequence[tuple[int, int]], start: int, end: int) -> list[tuple[int, int]]:
    """In order, neighbours as one, without what is outside."""
    found: list[tuple[int, int]] = []
    for offset, length in sorted(extents):
        first, last = max(offset, start), min(offset + length, end)
        if first >= last:
            continue
        if found and first <= sum(found[-1]):
            begun = found[-1][0]
            found[-1] = begun, max(sum(found[-1]), last) - begun
        else:
            found.append((first, last - first))
    return found


def require_inside(id: str, size_bytes: int, offset: int, length: int) -> None:
    if not 0 < length <= BLOCKS_BYTES_MAX or offset < 0 or offset + length > size_bytes:
        raise PoolError(f"{id}: {length} bytes at {offset} are not within its {size_bytes}, or are too many")
    if offset % SECTOR or length % SECTOR:
        raise PoolError(f"{id}: {length} bytes at {offset} are not whole sectors of {SECTOR}")
