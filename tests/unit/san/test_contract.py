"""The pool in memory, held against what every pool must do."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from contracts.pools import BOOT, PoolContract
from gureum.env import Env
from gureum.san.fake import FakePool
from gureum.san.fake_parts import BLOCK_BYTES


class TestFakePool(PoolContract):
    @pytest.fixture
    async def pool(self) -> AsyncIterator[FakePool]:
        pool = FakePool(Env())
        pool.disk.images["/images/tiny"] = {
            at // BLOCK_BYTES: BOOT[at : at + BLOCK_BYTES] for at in range(0, len(BOOT), BLOCK_BYTES)
        }
        yield pool
        assert await pool.check() == []
        assert pool.disk.leaks() == []

    @pytest.fixture
    def image_disk(self) -> tuple[str, str]:
        return "/images/tiny", "raw"
