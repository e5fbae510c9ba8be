"""What a pool leaves to its upkeep; what it does with a cluster is in tests/system/san/test_rbd_pool.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from gureum.env import Env
from gureum.errors import PoolError
from gureum.san.ceph.pool import RbdPool
from gureum.san.settings import SanSettings


@pytest.mark.parametrize("error", [None, PoolError("no space left")])
async def test_what_was_made_of_an_image_and_is_not_needed_is_looked_for_at_once(
    error: PoolError | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when two hosts bring it in at the same time: what one of them made waits in the trash."""
    pool = RbdPool(Env(), SanSettings("ceph", Path("/x"), Path("/y")), "c", "h")
    done: list[str] = []

    async def absent(id: str) -> bool:
        return False

    async def add(id: str, disk: str, format: str, size_bytes: int) -> None:
        done.append("added")
        if error is not None:
            raise error

    monkeypatch.setattr(pool._client, "has_image", absent)
    monkeypatch.setattr(pool._importer, "add", add)
    monkeypatch.setattr(pool._upkeep, "kick", lambda: done.append("kicked"))
    adding = pool.add_image("ami-0123456789abcdef0", "/disk", "raw", 1 << 20)
    if error is None:
        await adding
    else:
        with pytest.raises(PoolError):
            await adding
    assert done == ["added", "kicked"]
