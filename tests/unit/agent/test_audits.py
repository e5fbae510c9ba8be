"""A pool of the host's own is listed and mended by calls."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from gureum.agent import audits
from gureum.agent.pool_volumes import PoolVolumes
from gureum.env import Env
from gureum.errors import HostError
from gureum.san.ceph.audit import Action, Finding, Listing
from gureum.san.local import LocalPool
from gureum.transport.messages import Call


@pytest.fixture
async def volumes(tmp_path: Path):
    pool = LocalPool(Env(), tmp_path / "pool", reserve_bytes=0)
    for number in (1, 2, 3):
        await pool.create_volume(f"vol-{number}", 1 << 30)
    await pool.create_snapshot("snap-1", "vol-2")
    found = PoolVolumes("local", pool)
    await found.open()
    yield found
    await pool.close()


async def listed(volumes: PoolVolumes, after: str = "", count: int = 10) -> Listing:
    call = Call(id=1, method="list-pool", pool="local", since=after, length=count)
    return msgspec.msgpack.decode(await audits.called(volumes, "c", call), type=Listing)


async def mend(volumes: PoolVolumes, finding: Finding) -> None:
    call = Call(id=1, method="mend-pool", pool="local", data=msgspec.msgpack.encode(finding))
    await audits.called(volumes, "c", call)


async def test_pages(volumes):
    first = await listed(volumes, count=2)
    assert ([each.name for each in first.images], first.until) == (["vol-1", "vol-2"], "vol-2")
    assert first.snapshots == (("snap-1", "vol-2"),)
    second = await listed(volumes, "vol-2", 2)
    assert ([each.name for each in second.images], second.until, second.snapshots) == (["vol-3"], "", ())


async def test_what_is_mended_is_gone(volumes):
    await mend(volumes, Finding(line="", action=Action.delete_snapshot, id="snap-1", volume="vol-2"))
    await mend(volumes, Finding(line="", action=Action.delete_volume, id="vol-3"))
    found = await listed(volumes)
    assert [each.name for each in found.images] == ["vol-1", "vol-2"]
    assert found.snapshots == ()
    assert (volumes.volumes.keys(), volumes.snapshots) == ({"vol-1", "vol-2"}, set())


async def test_a_pool_that_cannot_be_listed(volumes):
    volumes.pool = object()
    with pytest.raises(HostError, match="cannot do list-pool"):
        await listed(volumes)
