from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gureum.agent.copies import ATTEMPTS_MAX, Copies
from gureum.env import Env
from gureum.errors import PoolError, PoolUnavailable
from gureum.hostspec import VolumeSpec, source_clone

SPEC = VolumeSpec(id="vol-00000001", size_bytes=1 << 30, source="snap-00000001", key=bytes(64), encrypts=True)


class NoPool:
    """In which nothing can be made."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def create_volume(self, id: str, *values: Any) -> None:
        self.asked.append(id)
        raise PoolError("no room")


async def test_a_copy_that_fails_is_not_tried_for_ever() -> None:
    pool: Any = NoPool()
    found = Copies(Env(), lambda volume: None)
    for _ in range(2 * ATTEMPTS_MAX):
        try:
            assert not await found.step(pool, SPEC)
        except PoolError:
            continue
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        with pytest.raises(PoolError, match="no room"):
            await found.step(pool, SPEC)
    assert pool.asked == [source_clone(SPEC.id)] * ATTEMPTS_MAX
    with pytest.raises(PoolError):
        await found.step(pool, SPEC)
    await found.stop(SPEC.id)
    assert not await found.step(pool, SPEC)
    await found.close()


async def test_a_copy_waits_for_a_pool_that_is_away() -> None:
    """Or for another host that holds the volume still: that is not the copy's fault."""

    class Away(NoPool):
        async def create_volume(self, id: str, *values: Any) -> None:
            self.asked.append(id)
            raise PoolUnavailable("not now")

    pool: Any = Away()
    found = Copies(Env(), lambda volume: None)
    for _ in range(2 * ATTEMPTS_MAX):
        assert not await found.step(pool, SPEC)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        with pytest.raises(PoolUnavailable):
            await found.step(pool, SPEC)
    assert len(pool.asked) == 2 * ATTEMPTS_MAX
    await found.close()


def test_the_clone_has_an_id_of_its_own() -> None:
    one, other = source_clone("vol-00000001"), source_clone("vol-00000002")
    assert one != other
    assert one.startswith("vol-")
    assert len(one) == len("vol-") + 17
