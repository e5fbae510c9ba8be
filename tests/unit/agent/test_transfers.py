from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gureum.agent.transfers import Transfers
from gureum.env import Env
from gureum.errors import PoolError
from gureum.san.fake import BLOCK_BYTES, FakePool
from gureum.san.fake_shared import FakeSan, FakeSharedPool

SIZE = 3 << 30
ID = "vol-1"


async def pools() -> tuple[FakePool, FakeSharedPool, FakeSan]:
    env, san = Env(), FakeSan()
    source, target = FakePool(env), FakeSharedPool(env, san, "h")
    await source.create_volume(ID, SIZE)
    await target.create_volume(ID, SIZE, partial=True)
    return source, target, san


async def ended(transfers: Transfers, event: asyncio.Event, *pools: Any) -> None:
    assert not await transfers.step(ID, *pools, SIZE)
    await asyncio.wait_for(event.wait(), 20)
    event.clear()
    assert await transfers.step(ID, *pools, SIZE)


async def test_all_of_it_and_nothing_else() -> None:
    source, target, san = await pools()
    for offset in (0, (1 << 30) - BLOCK_BYTES, SIZE - BLOCK_BYTES):
        await source.write_volume(ID, offset, f"at {offset}".encode().ljust(BLOCK_BYTES, b"."))
    # Of an earlier copy.
    await target.write_volume(ID, 5 * BLOCK_BYTES, b"!" * BLOCK_BYTES)
    event = asyncio.Event()
    transfers = Transfers(lambda id: None, lambda id: event.set())
    await ended(transfers, event, source, target)
    assert transfers.take_done(ID)
    found = {block: data for block, data in san.contents_of(ID).items() if data.strip(b"\0")}
    assert sorted(found) == [0, (1 << 30) // BLOCK_BYTES - 1, SIZE // BLOCK_BYTES - 1]
    assert san.rbd[ID].holder is None
    assert san.rbd[ID].partial


async def test_one_that_is_stopped_does_not_count() -> None:
    source, target, _ = await pools()
    for at in range(20):
        await source.write_volume(ID, at * 64 * BLOCK_BYTES, b"x" * BLOCK_BYTES)
    transfers = Transfers(lambda id: None, lambda id: None)
    assert not await transfers.step(ID, source, target, SIZE)
    await asyncio.sleep(0.1)
    assert transfers.progress(ID)[1] == SIZE
    await transfers.stop(ID)
    assert transfers.progress(ID) == (0, 0)
    assert not transfers.take_done(ID)


async def test_one_that_fails_can_be_begun_anew() -> None:
    source, target, san = await pools()
    await source.write_volume(ID, 0, b"x" * BLOCK_BYTES)
    san.fail_next("write_volume", PoolError("once"))
    event = asyncio.Event()
    transfers = Transfers(lambda id: None, lambda id: event.set())
    with pytest.raises(PoolError, match="once"):
        await ended(transfers, event, source, target)
    await ended(transfers, event, source, target)
    await transfers.close()
