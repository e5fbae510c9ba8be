"""Volumes that go from pool to pool, and what is checked of them."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Callable
from typing import Any

from botocore.exceptions import ClientError

from gureum.bench.checked_load import AREA_BYTES, CheckedLoad

from .san_cloud import SanCloud
from .writer import SOME, WRITE_SECONDS, Writer

POINTS = (
    ("agent.move.begun", "agent.move.mirrored", "agent.move.complete"),
    ("agent.move.switched", "agent.move.left", "agent.move.cancelled", "agent.move.copied"),
)


def move_of(cloud: SanCloud, volume: str) -> dict[str, Any]:
    [found] = cloud.fleet("describe_volume_moves", VolumeIds=[volume])["VolumeMoves"]
    return dict(found)


def begun(cloud: SanCloud, volume: str, pool: str) -> None:
    cloud.fleet("move_volume", VolumeId=volume, PoolName=pool)


def moved(cloud: SanCloud, volume: str, pool: str) -> None:
    """Until nothing is left where it was."""
    begun(cloud, volume, pool)

    def there() -> bool:
        found = move_of(cloud, volume)
        assert found["State"] in ("moving", "completed"), found
        return found["State"] == "completed" and not found["Cleaning"]

    cloud.wait(f"{volume} to be in {pool}", there)
    assert move_of(cloud, volume)["PoolName"] == pool


def cancelled(cloud: SanCloud, volume: str, pool: str) -> bool:
    """Begun, and cancelled while it is copied; False if it was quicker."""
    begun(cloud, volume, pool)
    cloud.wait("some of it", lambda: move_of(cloud, volume).get("TotalBytes", 1))
    with contextlib.suppress(ClientError):
        cloud.fleet("cancel_volume_move", VolumeId=volume)
    done = bool(move_of(cloud, volume)["State"] == "cancelled")
    cloud.wait("one copy to be away", lambda: not move_of(cloud, volume)["Cleaning"])
    return done


def seen(cloud: SanCloud, writer: Writer) -> bytes:
    """What the load wrote, read from the disk by the guest."""
    device = cloud.device(writer.id, writer.volume)
    cloud.ssh(writer.id, "echo 3 >/proc/sys/vm/drop_caches")
    return base64.b64decode(cloud.ssh(writer.id, f"head -c {AREA_BYTES} {device} | base64"))


def check(cloud: SanCloud, writer: Writer, load: CheckedLoad) -> None:
    load.stop()
    assert load.check(seen(cloud, writer)) == []
    assert cloud.kernel_complaints(writer.id) == writer.complaints
    assert cloud.boot_id(writer.id) == writer.boot


def problems(cloud: SanCloud) -> list[str]:
    """What `gureum san check` finds, in both pools."""
    pools = cloud.fleet("describe_pools")["Pools"]
    checks = [cloud.fleet("check_pool", PoolName=pool["PoolName"], HostId=pool["HostId"]) for pool in pools]
    return [each["Message"] for found in checks for each in found["Findings"] if each["Problem"]]


def killed_at_each_step(
    cloud: SanCloud, writer: Writer, home: str, away: str, check: Callable[[CheckedLoad], None]
) -> str:
    """The writer's volume and another go away and come back, while the agent dies at each step once.

    The other one.
    """
    spare = cloud.create_volume(Size=1)
    device = cloud.device(writer.id, writer.volume)
    # So that copying it takes longer than to say that it is not to be.
    cloud.ssh(writer.id, f"dd if=/dev/urandom of={device} bs=1M seek=64 count=400 conv=fsync 2>/dev/null")
    for points in POINTS:
        cloud.stop()
        cloud.start(points, cloud.directory / "hit")
        with cloud.load(writer.id, writer.volume) as load:
            load.wait_written(SOME, WRITE_SECONDS)
            moved(cloud, writer.volume, away)
            load.wait_written(SOME, WRITE_SECONDS)
            while not cancelled(cloud, writer.volume, home):
                moved(cloud, writer.volume, away)
            moved(cloud, writer.volume, home)
            load.wait_written(SOME, WRITE_SECONDS)
        moved(cloud, spare, away)
        moved(cloud, spare, home)
        check(load)
    missed = [name for names in POINTS for name in names if not (cloud.directory / f"hit.{name}").exists()]
    assert missed == []
    return spare
