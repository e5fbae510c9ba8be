"""The storage breaks under a guest that writes: nothing that was acknowledged is lost, and the guest only waits."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from collections.abc import Iterator

import pytest

from gureum.bench.checked_load import AREA_BYTES, CheckedLoad
from gureum.images.manifest import ImageManifest
from gureum.san.ceph.cluster import MGR, MON

from .san_cloud import SanCloud, opened

pytestmark = [pytest.mark.ceph, pytest.mark.qemu, pytest.mark.root, pytest.mark.timeout(300)]

OSD_BYTES = 6 << 30
OSDS = ("osd.0", "osd.1", "osd.2")
SOME = 10
WRITE_SECONDS = 60.0


@pytest.fixture(scope="module")
def cloud(tiny_image: ImageManifest) -> Iterator[SanCloud]:
    with opened(tiny_image, OSD_BYTES) as made:
        made.start()
        yield made


class Writer:
    """A guest with a volume, and the load on it."""

    def __init__(self, cloud: SanCloud) -> None:
        self.cloud = cloud
        [self.id] = cloud.launch()
        cloud.waiter("instance_running", InstanceIds=[self.id])
        cloud.wait_ssh(self.id)
        self.volume = cloud.create_volume(Size=1)
        cloud.attach(self.volume, self.id)
        self.boot = cloud.boot_id(self.id)
        self.complaints = cloud.kernel_complaints(self.id)

    def check(self, load: CheckedLoad) -> None:
        """After the load's end and the storage's recovery."""
        cloud = self.cloud
        load.stop()
        area = cloud.exported(self.volume)
        assert load.check(area) == []
        assert cloud.read_in_guest(self.id, self.volume) == hashlib.sha256(area).hexdigest()
        assert len(area) == AREA_BYTES
        assert cloud.kernel_complaints(self.id) == self.complaints
        assert cloud.boot_id(self.id) == self.boot
        cloud.wait("the instance to be well", lambda: cloud.told(self.id)[0] == "ok")
        cloud.wait("nothing to be left over", lambda: cloud.leaks() == [])


@pytest.fixture(scope="module")
def writer(cloud: SanCloud) -> Writer:
    return Writer(cloud)


def test_one_osd_killed(cloud: SanCloud, writer: Writer) -> None:
    cloud.wait_well()
    with cloud.load(writer.id, writer.volume) as load:
        load.wait_written(SOME, WRITE_SECONDS)
        began = time.monotonic()
        cloud.kill("osd.0")
        load.wait_written(5 * SOME, WRITE_SECONDS)
        print("one killed, stall", load.stall(began))
        cloud.wait_well()
        print("well after", time.monotonic() - began)
        began = time.monotonic()
        with cloud.held_down("osd.1"):
            load.wait_written(5 * SOME, WRITE_SECONDS)
            print("one down, stall", load.stall(began), cloud.told(writer.id))
        began = time.monotonic()
        cloud.wait_well()
        print("well after", time.monotonic() - began)
        load.wait_written(SOME, WRITE_SECONDS)
    writer.check(load)


def test_two_osds_down(cloud: SanCloud, writer: Writer) -> None:
    """Less copies than the pool writes with: writes wait."""
    with cloud.load(writer.id, writer.volume) as load:
        load.wait_written(SOME, WRITE_SECONDS)
        began = time.monotonic()
        with cloud.held_down("osd.1", "osd.2"):
            cloud.wait("it to be told", lambda: cloud.told(writer.id)[0] == "impaired", 60)
            print("told after", time.monotonic() - began, cloud.told(writer.id))
            print(cloud.ec2.describe_instance_status(InstanceIds=[writer.id])["InstanceStatuses"])
            print(cloud.ec2.describe_volume_status(VolumeIds=[writer.volume])["VolumeStatuses"])
            print(cloud.san_status())
            before = load.written
            time.sleep(3)
            assert load.written == before
        load.wait_written(SOME, WRITE_SECONDS)
        print("stall", load.stall(began))
        cloud.wait_well()
    writer.check(load)


def test_all_halted(cloud: SanCloud, writer: Writer) -> None:
    """As when the network to them is cut; an agent dies meanwhile, and the API is asked for all kinds of things."""
    with cloud.load(writer.id, writer.volume) as load:
        load.wait_written(SOME, WRITE_SECONDS)
        spare = cloud.create_volume(Size=1)
        began = time.monotonic()
        with cloud.halted(MON, MGR, *OSDS):
            cloud.wait("it to be told", lambda: cloud.told(writer.id)[0] == "impaired", 60)
            print("told after", time.monotonic() - began, cloud.told(writer.id))
            asked = time.monotonic()
            made = cloud.ec2.create_volume(AvailabilityZone=f"{cloud.config.region}a", Size=1)["VolumeId"]
            snapshot = cloud.ec2.create_snapshot(VolumeId=writer.volume)["SnapshotId"]
            cloud.ec2.delete_volume(VolumeId=spare)
            [second] = cloud.launch()
            print("four calls", time.monotonic() - asked)
            cloud.kill("agent")
            time.sleep(20)
            print(cloud.told(writer.id), cloud.state(second), cloud.volume(made)["State"])
        back = time.monotonic()
        load.wait_written(SOME, WRITE_SECONDS)
        print("writes again after", time.monotonic() - back)
        cloud.waiter("volume_available", VolumeIds=[made])
        cloud.wait_snapshot(snapshot)
        cloud.wait("the spare to go", lambda: cloud.gone(spare))
        cloud.waiter("instance_running", InstanceIds=[second])
        cloud.wait_well()
        print("converged after", time.monotonic() - back)
    cloud.ec2.terminate_instances(InstanceIds=[second])
    cloud.waiter("instance_terminated", InstanceIds=[second])
    cloud.ec2.delete_snapshot(SnapshotId=snapshot)
    cloud.ec2.delete_volume(VolumeId=made)
    cloud.wait("volume to go", lambda: cloud.gone(made))
    writer.check(load)


def test_all_killed(cloud: SanCloud, writer: Writer) -> None:
    with cloud.load(writer.id, writer.volume) as load:
        load.wait_written(SOME, WRITE_SECONDS)
        began = time.monotonic()
        cloud.kill(MON, MGR, *OSDS)
        cloud.wait("all to run again", lambda: len(cloud.cloud.running_daemons()) == 5)
        load.wait_written(SOME, WRITE_SECONDS)
        print("stall", load.stall(began))
        cloud.wait_well()
        print("well after", time.monotonic() - began)
    writer.check(load)
