"""Two pools in one cluster, to which the types of volumes lead, and a third on the host's own disk."""

from __future__ import annotations

import errno
import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from gureum.cli import storage
from gureum.images.manifest import ImageManifest
from gureum.san.settings import SanSettings

from ..realcloud import WAIT_SECONDS
from .ceph_cluster import OSD_BYTES
from .moving import check, killed_at_each_step, move_of, moved, problems
from .san_cloud import SanCloud, opened
from .writer import SOME, WRITE_SECONDS, Writer

pytestmark = [pytest.mark.ceph, pytest.mark.qemu, pytest.mark.root, pytest.mark.timeout(600)]

FIRST, BULK = "gureum", "bulk"
TYPES = {"st1": BULK, "sc1": BULK, "io1": BULK, "standard": "local"}
ST1_GIB = 125
"""The least that it has."""
LARGE_SECONDS = 300.0
"""So large a copy is made empty first, which takes minutes on a busy machine."""
IO1 = {"VolumeType": "io1", "Iops": 100}


@pytest.fixture(scope="module")
def cloud(tiny_image: ImageManifest) -> Iterator[SanCloud]:
    with opened(tiny_image, OSD_BYTES, types=TYPES) as made:
        made.start()
        yield made


def images(cloud: SanCloud, pool: str) -> set[str]:
    """What `rbd ls` says, without what only holds a snapshot."""

    def ask() -> str:
        try:
            return cloud.rbd("ls", "--long", "--format", "json", pool=pool)
        except subprocess.CalledProcessError as error:
            if error.returncode != errno.ENOENT:  # one of them has just gone
                raise
            return ""

    listed = json.loads(cloud.wait("what is in the pool", ask))
    return {each["image"] for each in listed if each["size"] and "snapshot" not in each}


def where(cloud: SanCloud, volume: str) -> set[str]:
    return {pool for pool in (FIRST, BULK) if volume in images(cloud, pool)}


def watchers(cloud: SanCloud, pool: str, volume: str) -> int:
    return cloud.rbd("status", "--format", "json", volume, pool=pool).count('"address"')


def delete(cloud: SanCloud, *volumes: str) -> None:
    for volume in volumes:
        cloud.ec2.delete_volume(VolumeId=volume)
    for volume in volumes:
        cloud.wait(f"{volume} to go", lambda volume=volume: cloud.gone(volume))


def modified(cloud: SanCloud, volume: str, seconds: float = WAIT_SECONDS, **wanted: Any) -> None:
    cloud.ec2.modify_volume(VolumeId=volume, **wanted)

    def done() -> bool:
        [found] = cloud.ec2.describe_volumes_modifications(VolumeIds=[volume])["VolumesModifications"]
        assert found["ModificationState"] in ("modifying", "completed"), found
        return bool(found["ModificationState"] == "completed" and not move_of(cloud, volume)["Cleaning"])

    cloud.wait(f"{volume} to be {wanted}", done, seconds)


def test_a_type_leads_to_its_pool(cloud: SanCloud) -> None:
    assert cloud.is_well()
    names = {each["PoolName"] for each in cloud.fleet("describe_pools")["Pools"]}
    assert names == {"local", FIRST, BULK}
    shown = {each["name"]: set(each["types"]) for each in cloud.san_status()["pools"]}
    assert shown == {FIRST: {"gp2", "gp3", "io2"}, BULK: {"io1", "st1", "sc1"}}
    [rights] = cloud.admin("auth get", entity="client.gureum")
    profiles = f"profile rbd pool={FIRST}, profile rbd pool={BULK}"
    assert rights["caps"] == {"mon": "profile rbd", "mgr": profiles, "osd": profiles}

    fast = cloud.create_volume(Size=1, VolumeType="gp3")
    slow = cloud.create_volume(Size=ST1_GIB, VolumeType="st1")
    old = cloud.create_volume(Size=1, VolumeType="standard")
    assert [where(cloud, volume) for volume in (fast, slow, old)] == [{FIRST}, {BULK}, set()]
    assert problems(cloud) == []

    for pool in (FIRST, BULK):
        cloud.wait("the image to be there", lambda pool=pool: cloud.image in images(cloud, pool))
    [image] = cloud.ec2.describe_images(ImageIds=[cloud.image])["Images"]
    snapshot = image["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"]
    copy = cloud.create_volume(Size=ST1_GIB, VolumeType="st1", SnapshotId=snapshot)
    assert where(cloud, copy) == where(cloud, slow) == {BULK}
    delete(cloud, fast, slow, old, copy)
    assert problems(cloud) == []


def test_a_disk_under_load_changes_its_type(cloud: SanCloud, writer: Writer) -> None:
    """With a snapshot in each pool, of which volumes are made that go to the pool of their own type."""
    volume = writer.volume
    with cloud.load(writer.id, volume) as load:
        load.wait_written(SOME, WRITE_SECONDS)
        early = cloud.ec2.create_snapshot(VolumeId=volume)["SnapshotId"]
        cloud.wait_snapshot(early)
        modified(cloud, volume, **IO1, Size=4)
        load.wait_written(SOME, WRITE_SECONDS)
        assert where(cloud, volume) == {BULK}
        assert watchers(cloud, BULK, volume) == 1
        late = cloud.ec2.create_snapshot(VolumeId=volume)["SnapshotId"]
        cloud.wait_snapshot(late)
        assert "still has snapshot" in cloud.refusal("modify_volume", VolumeId=volume, VolumeType="gp3")
        slow = cloud.create_volume(SnapshotId=early, Size=4, **IO1)
        fast = cloud.create_volume(SnapshotId=late, VolumeType="gp3")
        for copy, pool in ((slow, BULK), (fast, FIRST)):
            cloud.wait(
                "the copy to follow its type", lambda copy=copy, pool=pool: where(cloud, copy) == {pool}
            )
        cloud.ec2.delete_snapshot(SnapshotId=early)
        cloud.wait("the husk to go", lambda: volume not in cloud.rbd("ls", pool=FIRST).split())
        modified(cloud, volume, VolumeType="gp3")
        assert where(cloud, volume) == {FIRST}
        load.wait_written(SOME, WRITE_SECONDS)
    check(cloud, writer, load)
    cloud.ec2.delete_snapshot(SnapshotId=late)
    delete(cloud, slow, fast)
    cloud.wait("nothing to be left over", lambda: problems(cloud) == [])


def test_a_large_disk_under_load_becomes_slow(cloud: SanCloud, writer: Writer) -> None:
    before, writer.volume = writer.volume, cloud.create_volume(Size=1, VolumeType="gp3")
    cloud.attach(writer.volume, writer.id, "/dev/sdg")
    with cloud.load(writer.id, writer.volume) as load:
        load.wait_written(SOME, WRITE_SECONDS)
        modified(cloud, writer.volume, LARGE_SECONDS, VolumeType="st1", Size=ST1_GIB)
        assert where(cloud, writer.volume) == {BULK}
        load.wait_written(SOME, WRITE_SECONDS)
    check(cloud, writer, load)
    cloud.ec2.detach_volume(VolumeId=writer.volume)
    cloud.waiter("volume_available", VolumeIds=[writer.volume])
    delete(cloud, writer.volume)
    writer.volume = before


def test_the_agent_dies_at_each_step_between_two_shared_pools(cloud: SanCloud, writer: Writer) -> None:
    spare = killed_at_each_step(cloud, writer, FIRST, BULK, lambda load: check(cloud, writer, load))
    assert where(cloud, writer.volume) == where(cloud, spare) == {FIRST}
    delete(cloud, spare)
    cloud.wait("nothing to be left over", lambda: problems(cloud) == [])


def test_a_pool_stays_while_something_is_in_it(cloud: SanCloud, writer: Writer) -> None:
    old = cloud.create_volume(Size=4, **IO1)
    cloud.attach(old, writer.id, "/dev/sdh")
    cloud.stop()
    storage.choose(cloud.cloud, None, {})
    assert SanSettings.load(cloud.cloud.state_dir).pools == (FIRST, BULK)
    cloud.start()
    device = cloud.device(writer.id, old)
    cloud.ssh(writer.id, f"dd if=/dev/zero of={device} bs=1M count=4 conv=fsync 2>/dev/null")
    new = cloud.create_volume(Size=4, **IO1)
    assert (where(cloud, old), where(cloud, new)) == ({BULK}, {FIRST})
    moved(cloud, old, FIRST)
    cloud.ec2.terminate_instances(InstanceIds=[writer.id])
    cloud.waiter("instance_terminated", InstanceIds=[writer.id])
    delete(cloud, old, new)
    cloud.wait("nothing to be left over", lambda: problems(cloud) == [])
    cloud.stop()
    storage.choose(cloud.cloud, None, {})
    assert SanSettings.load(cloud.cloud.state_dir).pools == (FIRST,)
    cloud.start()
    assert cloud.is_well()
    [rights] = cloud.admin("auth get", entity="client.gureum")
    assert rights["caps"]["osd"] == f"profile rbd pool={FIRST}"
