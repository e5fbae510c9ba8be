"""Volumes go from Ceph to the host's own disk and back, while a guest writes to them and while none does."""

from __future__ import annotations

import json

import pytest

from gureum.bench.checked_load import CheckedLoad

from .moving import check, killed_at_each_step, moved, problems
from .san_cloud import SanCloud
from .writer import SOME, WRITE_SECONDS, Writer

pytestmark = [pytest.mark.ceph, pytest.mark.qemu, pytest.mark.root, pytest.mark.timeout(600)]

THIN_BYTES = 512 << 20
"""Half of the root disk, most of which was never written."""


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
    def check_all(load: CheckedLoad) -> None:
        check(cloud, writer, load)
        writer.check(load)

    spare = killed_at_each_step(cloud, writer, pool_of(cloud), "local", check_all)
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
    cloud.wait_clean()
    assert problems(cloud) == []
