"""The pool in a storage cluster, held against what every pool must do."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from contracts.pools import BOOT, IMAGE_BYTES, PoolContract
from gureum.san.ceph.pool import RbdPool

from .rbd import Cluster, tidied

pytestmark = pytest.mark.ceph


class TestRbdPool(PoolContract):
    @pytest.fixture
    async def pool(self, cluster: Cluster) -> AsyncIterator[RbdPool]:
        pool = cluster.pool()
        yield pool
        await tidied(cluster, pool)
        await pool.close()

    @pytest.fixture
    def image_disk(self, tmp_path: Path) -> tuple[str, str]:
        path = tmp_path / "contract.raw"
        with open(path, "wb") as file:
            file.write(BOOT)
            file.truncate(IMAGE_BYTES)
        return str(path), "raw"
