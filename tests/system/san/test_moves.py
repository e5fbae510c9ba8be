"""Volumes go from Ceph to the host's own disk and back, while a guest writes to them and while none does."""

from __future__ import annotations

import base64
import contextlib
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError

from gureum.bench.checked_load import AREA_BYTES, CheckedLoad
from gureum.images.manifest import ImageManifest

from .san_cloud import SanCloud, opened
from .test_san_faults import Writer

pytestmark = [pytest.mark.ceph, pytest.mark.qemu, pytest.mark.root, pytest.mark.timeout(300)]

OSD_BYTES = 6 << 30
SOME = 10
WRITE_SECONDS = 60.0
THIN_BYTES = 512 << 20
"""Half of the root disk, most of which was never written."""
POINTS = (
    ("agent.move.begun", "agent.move.mirrored", "agent.move.complete"),
    ("agent.move.switched", "agent.move.left", "agent.move.cancelled", "agent.move.copied"),
)


@pytest.fixture(scope="module")
def cloud(tiny_image: ImageManifest) -> Iterator[SanCloud]:
    with opened(tiny_image, OSD_BYTES) as made:
        made.start()
        yield made


@pytest.fixture(scope="module")
def writer(cloud: SanCloud) -> Writer:
    return Writer(cloud)


def move_of(cloud: SanCloud, volume: str) -> dict[str, Any]:
    [found] = cloud.fleet("describe_volume_moves", VolumeIds=[volume])["VolumeMoves"]
    return dict(found)


def begun(cloud: SanCloud, volume: str, pool: str) -> None:
    cloud.fleet("move_volume", VolumeId=volume, PoolName=pool)


def moved(cloud: SanCloud, volume: str, pool: str) -> float:
    """How long it took, in seconds, until nothing was left where it was."""
    began = time.monotonic()
    begun(cloud, volume, pool)

    def there() -> bool:
        found = move_of(cloud, volume)
        assert found["State"] in ("moving", "completed"), found
        return found["State"] == "completed" and not found["Cleaning"]

    cloud.wait(f"{volume} to be in {pool}", there)
    assert move_of(cloud, volume)["PoolName"] == pool
    return time.monotonic() - began


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


def pool_of(cloud: SanCloud) -> str:
    return cloud.cluster.settings().pool


def in_pools(cloud: SanCloud, volume: str) -> set[str]:
    ceph = {image.name for image in cloud.listing().images if not image.deleted}
    local = {path.name.partition(".")[0] for path in (cloud.cloud.state_dir / "pool/layers").iterdir()}
    return {name for name, there in (("ceph", ceph), ("local", local)) if volume in there}


def used_bytes(cloud: SanCloud, volume: str) -> dict[str, int]:
    """What it takes up, by pool."""
    if "ceph" in in_pools(cloud, volume):
        [image] = json.loads(cloud.rbd("du", "--format", "json", volume))["images"]
        return {"ceph": image["used_size"]}
    layers = (cloud.cloud.state_dir / "pool/layers").glob(f"{volume}.*")
    return {"local": sum(path.stat().st_blocks * 512 for path in layers)}


def problems(cloud: SanCloud) -> list[str]:
    """What `gureum san check` finds, in both pools."""
    pools = cloud.fleet("describe_pools")["Pools"]
    checks = [cloud.fleet("check_pool", PoolName=pool["PoolName"], HostId=pool["HostId"]) for pool in pools]
    return [each["Message"] for found in checks for each in found["Findings"] if each["Problem"]]


def test_a_disk_under_load_goes_and_comes_back(cloud: SanCloud, writer: Writer) -> None:
    """Twice with a snapshot in each pool, the second time to the root disk, too. Both stay readable."""
    root = cloud.root_volume(writer.id)
    with cloud.load(writer.id, writer.volume) as load:
        load.wait_written(SOME, WRITE_SECONDS)
        moved(cloud, writer.volume, "local")
        load.wait_written(SOME, WRITE_SECONDS)
        assert in_pools(cloud, writer.volume) == {"local"}
        local = cloud.ec2.create_snapshot(VolumeId=writer.volume)["SnapshotId"]
        cloud.wait_snapshot(local)
        moved(cloud, root, "local")
        assert 0 < used_bytes(cloud, root)["local"] < THIN_BYTES
        moved(cloud, writer.volume, pool_of(cloud))
        moved(cloud, root, pool_of(cloud))
        assert 0 < used_bytes(cloud, root)["ceph"] < THIN_BYTES
        load.wait_written(SOME, WRITE_SECONDS)
    check(cloud, writer, load)
    copy = cloud.create_volume(SnapshotId=local)
    cloud.wait("the copy to follow its type", lambda: in_pools(cloud, copy) == {"ceph"})
    cloud.ec2.delete_snapshot(SnapshotId=local)
    cloud.ec2.delete_volume(VolumeId=copy)
    cloud.wait("the copy to go", lambda: cloud.gone(copy))
    writer.check(load)
    assert problems(cloud) == []


def test_the_agent_dies_at_each_step(cloud: SanCloud, writer: Writer) -> None:
    spare = cloud.create_volume(Size=1)
    device = cloud.device(writer.id, writer.volume)
    # So that copying it takes longer than to say that it is not to be.
    cloud.ssh(writer.id, f"dd if=/dev/urandom of={device} bs=1M seek=64 count=400 conv=fsync 2>/dev/null")
    for points in POINTS:
        cloud.stop()
        cloud.start(points, cloud.directory / "hit")
        with cloud.load(writer.id, writer.volume) as load:
            load.wait_written(SOME, WRITE_SECONDS)
            moved(cloud, writer.volume, "local")
            load.wait_written(SOME, WRITE_SECONDS)
            while not cancelled(cloud, writer.volume, pool_of(cloud)):
                moved(cloud, writer.volume, "local")
            moved(cloud, writer.volume, pool_of(cloud))
            load.wait_written(SOME, WRITE_SECONDS)
        moved(cloud, spare, "local")
        moved(cloud, spare, pool_of(cloud))
        check(cloud, writer, load)
        writer.check(load)
    missed = [name for names in POINTS for name in names if not (cloud.directory / f"hit.{name}").exists()]
    assert missed == []
    cloud.ec2.delete_volume(VolumeId=spare)
    cloud.wait("the spare to go", lambda: cloud.gone(spare))


def test_no_machine_has_it_open(cloud: SanCloud, writer: Writer) -> None:
    """What was written before the machine stopped is there when it starts; encrypted ones, too."""
    secret = cloud.create_volume(Size=1, Encrypted=True)
    cloud.attach(secret, writer.id, "/dev/sdg")
    for volume in (writer.volume, secret):
        device = cloud.device(writer.id, volume)
        cloud.ssh(writer.id, f"(echo of {volume}; head -c 9000000 /dev/urandom) >/tmp/data")
        cloud.ssh(writer.id, f"dd if=/tmp/data of={device} bs=64k seek=5 conv=fsync 2>/dev/null")

    def sums() -> list[str]:
        found = []
        for volume in (writer.volume, secret):
            device = cloud.device(writer.id, volume)
            found.append(cloud.ssh(writer.id, f"head -c 20000000 {device} | sha256sum"))
        return found

    before = sums()
    moved(cloud, secret, "local")
    assert sums() == before
    cloud.ec2.stop_instances(InstanceIds=[writer.id])
    cloud.waiter("instance_stopped", InstanceIds=[writer.id])
    for volume in (writer.volume, secret):
        pool = "local" if volume == writer.volume else pool_of(cloud)
        moved(cloud, volume, pool)
    cloud.ec2.start_instances(InstanceIds=[writer.id])
    cloud.wait_ssh(writer.id)
    assert sums() == before
    moved(cloud, writer.volume, pool_of(cloud))
    assert sums() == before
    cloud.ec2.terminate_instances(InstanceIds=[writer.id])
    cloud.waiter("instance_terminated", InstanceIds=[writer.id])
    for volume in (writer.volume, secret):
        cloud.ec2.delete_volume(VolumeId=volume)
        cloud.wait("the volume to go", lambda volume=volume: cloud.gone(volume))
    cloud.wait("nothing to be left over", lambda: cloud.leaks() == [])
    assert problems(cloud) == []
