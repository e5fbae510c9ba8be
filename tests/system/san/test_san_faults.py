"""The storage breaks under a guest that writes: it waits, and nothing that was acknowledged is lost."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator

import pytest

from gureum.cli.config import ZONES
from gureum.images.manifest import ImageManifest
from gureum.san.ceph.cluster import MGR, MON

from .ceph_cluster import OSD_BYTES
from .san_cloud import SanCloud, opened
from .writer import SOME, WRITE_SECONDS, Writer

pytestmark = [pytest.mark.ceph, pytest.mark.qemu, pytest.mark.root, pytest.mark.timeout(600)]

long = pytest.mark.skipif("GUREUM_TEST_LONG" not in os.environ, reason="takes long: set GUREUM_TEST_LONG")
"""Those without which all of these take less than three minutes."""

OSDS = ("osd.0", "osd.1", "osd.2")


def test_one_osd_down(cloud: SanCloud, writer: Writer) -> None:
    """Started again at once, or not for a while: writes go on."""
    with cloud.load(writer.id, writer.volume) as load:
        load.wait_written(SOME, WRITE_SECONDS)
        cloud.kill("osd.0")
        load.wait_written(5 * SOME, WRITE_SECONDS)
        cloud.wait_well()
        with cloud.held_down("osd.1"):
            load.wait_written(5 * SOME, WRITE_SECONDS)
            assert cloud.told(writer.id) == ("ok", [])
        cloud.wait_well()
        load.wait_written(SOME, WRITE_SECONDS)
    writer.check(load)


def test_two_osds_down(cloud: SanCloud, writer: Writer) -> None:
    """Less copies than the pool writes with: writes wait."""
    with cloud.load(writer.id, writer.volume) as load:
        load.wait_written(SOME, WRITE_SECONDS)
        with cloud.held_down("osd.1", "osd.2"):
            cloud.wait("both to be missed", lambda: cloud.admin("status")["osdmap"]["num_up_osds"] == 1)
            cloud.wait("it to be said", lambda: cloud.san_status()["health"]["status"] == "error")
            before = load.written
            time.sleep(3)
            assert load.written == before
        load.wait_written(SOME, WRITE_SECONDS)
        cloud.wait_well()
    writer.check(load)


def test_all_halted(cloud: SanCloud, writer: Writer) -> None:
    """As when the network to them is cut. An agent dies meanwhile, and the API is asked for things."""
    with cloud.load(writer.id, writer.volume) as load:
        load.wait_written(SOME, WRITE_SECONDS)
        spare = cloud.create_volume(Size=1)
        with cloud.halted(MON, MGR, *OSDS):
            made = cloud.ec2.create_volume(AvailabilityZone=f"{cloud.config.region}a", Size=1)["VolumeId"]
            snapshot = cloud.ec2.create_snapshot(VolumeId=writer.volume)["SnapshotId"]
            cloud.ec2.delete_volume(VolumeId=spare)
            [second] = cloud.launch()
            cloud.wait("it to be told", lambda: cloud.told(writer.id)[0] == "impaired")
            [reason] = cloud.told(writer.id)[1]
            assert "does not answer" in reason
            assert "does not answer" in cloud.told_of_volume(writer.volume)
            cloud.kill("agent")
            assert cloud.volume(made)["State"] == "creating"
            assert cloud.state(second) == "pending"
        load.wait_written(SOME, WRITE_SECONDS)
        cloud.waiter("volume_available", VolumeIds=[made])
        cloud.wait_snapshot(snapshot)
        cloud.wait("the spare to go", lambda: cloud.gone(spare))
        cloud.waiter("instance_running", InstanceIds=[second])
        cloud.wait_well()
    cloud.ec2.terminate_instances(InstanceIds=[second])
    cloud.waiter("instance_terminated", InstanceIds=[second])
    cloud.ec2.delete_snapshot(SnapshotId=snapshot)
    cloud.ec2.delete_volume(VolumeId=made)
    cloud.wait("the volume to go", lambda: cloud.gone(made))
    writer.check(load)


@long
def test_all_killed(cloud: SanCloud, writer: Writer) -> None:
    with cloud.load(writer.id, writer.volume) as load:
        load.wait_written(SOME, WRITE_SECONDS)
        cloud.kill(MON, MGR, *OSDS)
        cloud.wait("all to run again", lambda: len(cloud.cloud.running_daemons()) == len(cloud.cloud.daemons))
        load.wait_written(SOME, WRITE_SECONDS)
        cloud.wait_well()
    writer.check(load)


STAGES = (
    ("agent.machine.start", "agent.volume.created", "agent.disk.attach", "agent.disk.attached"),
    ("agent.volume.resized", "agent.snapshot.created", "agent.disk.detached", "agent.volume.released"),
    ("agent.snapshot.deleted", "agent.volume.deleted"),
)


@long
def test_the_agent_dies_after_each_step(cloud: SanCloud) -> None:
    """Anew for each stage, so that the supervisor's growing delay starts from its smallest."""
    cloud.stop()
    cloud.start(STAGES[0], cloud.directory / "hit")
    [id] = cloud.launch()
    volume = cloud.create_volume(Size=1)
    cloud.waiter("instance_running", InstanceIds=[id])
    cloud.attach(volume, id)
    cloud.wait_ssh(id)
    device = cloud.device(id, volume)
    cloud.ssh(id, f"echo kept | dd of={device} bs=4096 conv=sync,fsync 2>/dev/null")

    cloud.stop()
    cloud.start(STAGES[1], cloud.directory / "hit")
    cloud.ec2.modify_volume(VolumeId=volume, Size=2)
    snapshot = cloud.ec2.create_snapshot(VolumeId=volume)["SnapshotId"]
    cloud.wait_snapshot(snapshot)
    cloud.wait_ssh(id, f"grep -x 4194304 /sys/block/{device.removeprefix('/dev/')}/size")
    cloud.ec2.detach_volume(VolumeId=volume)
    cloud.waiter("volume_available", VolumeIds=[volume])
    assert cloud.exported(volume, 4) == b"kept"

    cloud.stop()
    cloud.start(STAGES[2], cloud.directory / "hit")
    copy = cloud.create_volume(SnapshotId=snapshot)
    assert cloud.exported(copy, 4) == b"kept"
    cloud.ec2.delete_snapshot(SnapshotId=snapshot)
    for each in (volume, copy):
        cloud.ec2.delete_volume(VolumeId=each)
        cloud.wait("the volume to go", lambda each=each: cloud.gone(each))
    cloud.ec2.terminate_instances(InstanceIds=[id])
    cloud.waiter("instance_terminated", InstanceIds=[id])
    missed = [name for names in STAGES for name in names if not (cloud.directory / f"hit.{name}").exists()]
    assert missed == []
    cloud.wait_clean()


@long
def test_workers_die_in_the_middle(cloud: SanCloud, writer: Writer) -> None:
    """Of each thing that is done to the pool, at a moment by chance."""
    chance = random.Random(3)
    with cloud.load(writer.id, writer.volume) as load:
        for _ in range(2):
            volume = cloud.ec2.create_volume(AvailabilityZone=f"{cloud.config.region}a", Size=1)["VolumeId"]
            cloud.kill_workers(chance.random() / 4)
            cloud.waiter("volume_available", VolumeIds=[volume])
            snapshot = cloud.ec2.create_snapshot(VolumeId=writer.volume)["SnapshotId"]
            cloud.kill_workers(chance.random() / 4)
            cloud.wait_snapshot(snapshot)
            copy = cloud.ec2.create_volume(
                AvailabilityZone=f"{cloud.config.region}a", SnapshotId=snapshot, Size=2
            )["VolumeId"]
            cloud.kill_workers(chance.random() / 4)
            cloud.waiter("volume_available", VolumeIds=[copy])
            cloud.ec2.delete_snapshot(SnapshotId=snapshot)
            for each in (volume, copy):
                cloud.ec2.delete_volume(VolumeId=each)
            cloud.kill_workers(chance.random() / 4)
            for each in (volume, copy):
                cloud.wait("the volume to go", lambda each=each: cloud.gone(each))
    writer.check(load)


def test_an_osd_whose_disk_is_lost(cloud: SanCloud, writer: Writer) -> None:
    """The last one: it finds nothing there when it starts, and its copies are lost for good."""
    with cloud.load(writer.id, writer.volume) as load:
        load.wait_written(SOME, WRITE_SECONDS)
        os.truncate(cloud.cluster.daemon_dir("osd.2") / "block", 0)
        cloud.kill("osd.2")
        cloud.wait("it to be seen", lambda: "OSD_DOWN" in cloud.admin("health")["checks"])
        load.wait_written(5 * SOME, WRITE_SECONDS)
        found = {each["code"]: each["text"] for each in cloud.san_status()["health"]["findings"]}
        assert found["OSD_DOWN"].startswith("osd.2 is down")
    writer.check(load)


SMALL_OSD_BYTES = 1536 << 20
NEARFULL_SHARE = 0.87


@pytest.fixture
def small_cloud(tiny_image: ImageManifest) -> Iterator[SanCloud]:
    with opened(tiny_image, SMALL_OSD_BYTES) as made:
        made.start()
        yield made


def test_full(small_cloud: SanCloud) -> None:
    cloud = small_cloud
    writer = Writer(cloud)
    filled = cloud.create_volume(Size=1)
    zone = f"{cloud.config.region}a"
    launch = {"ImageId": cloud.image, "InstanceType": "t3.nano", "MinCount": 1, "MaxCount": 1}
    with cloud.load(writer.id, writer.volume) as load:
        load.wait_written(SOME, WRITE_SECONDS)
        cloud.fill_volume(filled, NEARFULL_SHARE)
        cloud.wait("that to be known", lambda: "OSD_NEARFULL" in cloud.admin("health")["checks"])
        # Before guests suffer.
        cloud.wait(
            "no volume to be made any more",
            lambda: (
                "InsufficientVolumeCapacity"
                in cloud.refusal("create_volume", AvailabilityZone=zone, Size=1, DryRun=True)
            ),
        )
        assert cloud.refusal("run_instances", **launch).startswith("InsufficientVolumeCapacity: ")
        # Which reason comes first depends on how fast it fills.
        cloud.wait(
            "that to be the reason",
            lambda: "the storage cluster is nearly full" in cloud.refusal("run_instances", **launch),
        )
        load.wait_written(SOME, WRITE_SECONDS)
        cloud.fill("OSD_FULL")
        cloud.wait("writes to wait", lambda: load.waits(3.0))
        assert cloud.san_status()["health"]["status"] == "error"
        # What makes room can be done.
        cloud.ec2.delete_volume(VolumeId=filled)
        cloud.wait("the volume to go", lambda: cloud.gone(filled))
        load.wait_written(SOME, WRITE_SECONDS)
        cloud.wait_well()
        # The pool's figures come some seconds after the cluster's state.
        cloud.wait(
            "volumes to be made again",
            lambda: (
                "DryRunOperation"
                in cloud.refusal("create_volume", AvailabilityZone=zone, Size=1, DryRun=True)
            ),
        )
        fresh = cloud.create_volume(Size=1)
        cloud.ec2.delete_volume(VolumeId=fresh)
    writer.check(load)


LAST_HOST = len(ZONES)


@pytest.fixture(scope="module")
def two_hosts(tiny_image: ImageManifest) -> Iterator[SanCloud]:
    """Of one zone: those with the first and the last number."""
    with opened(tiny_image, OSD_BYTES, hosts=LAST_HOST + 1) as made:
        made.start()
        yield made


def wait_up(cloud: SanCloud) -> None:
    """Until all hosts are there, those too that the supervisor does not start anew at once."""
    for role in cloud.cloud.roles:
        cloud.wait_process(role)
    cloud.wait(
        "all hosts to be there",
        lambda: (
            [host["State"] for host in cloud.fleet("describe_hosts")["Hosts"]] == ["up"] * (LAST_HOST + 1)
        ),
    )


@pytest.fixture(scope="module")
def pair(two_hosts: SanCloud) -> tuple[str, str]:
    """A guest on each of two hosts."""
    cloud = two_hosts
    wait_up(cloud)
    found: dict[int, str] = {}
    for _ in range(4):
        [id] = cloud.launch(Placement={"AvailabilityZone": f"{cloud.config.region}a"})
        cloud.waiter("instance_running", InstanceIds=[id])
        host = cloud.host_of(id)
        if host in found:
            cloud.ec2.terminate_instances(InstanceIds=[id])
        found.setdefault(host, id)
        if len(found) == 2:
            break
    for id in found.values():
        cloud.wait_ssh(id)
    return found[0], found[LAST_HOST]


def test_one_volume_never_has_two_writers(two_hosts: SanCloud, pair: tuple[str, str]) -> None:
    """Given from host to host and back, while agents die at any moment of it."""
    cloud = two_hosts
    volume = cloud.create_volume(Size=1)
    chance = random.Random(7)
    written = ""
    with cloud.watched(volume) as most:
        for number in range(4):
            instance = pair[number % 2]
            cloud.ec2.attach_volume(VolumeId=volume, InstanceId=instance, Device="/dev/sdf")
            time.sleep(chance.random())
            cloud.kill_ready(f"agent-{chance.choice((0, LAST_HOST))}")
            cloud.wait_attached(volume)
            # A host whose agents die too often is given up: then the instance is on the other one.
            other = 0 if cloud.host_of(instance) else LAST_HOST
            assert "is in use by another host" in cloud.steal(volume, other)
            device = cloud.device(instance, volume)
            assert cloud.ssh(instance, f"head -c 64 {device} | tr -d '\\0'").strip() == written
            written = f"round {number}"
            cloud.ssh(instance, f"echo {written} | dd of={device} bs=4096 conv=sync,fsync 2>/dev/null")
            cloud.ec2.detach_volume(VolumeId=volume)
            time.sleep(chance.random() / 2)
            cloud.kill_ready(f"agent-{chance.choice((0, LAST_HOST))}")
            cloud.waiter("volume_available", VolumeIds=[volume])
    assert most() == 1
    cloud.ec2.delete_volume(VolumeId=volume)
    cloud.wait("the volume to go", lambda: cloud.gone(volume))
    wait_up(cloud)
    for id in pair:
        cloud.waiter("instance_running", InstanceIds=[id])
        cloud.wait_ssh(id)
    cloud.wait_clean()


@long
def test_a_host_cut_from_its_storage(two_hosts: SanCloud, pair: tuple[str, str]) -> None:
    cloud = two_hosts
    cut, other = Writer(cloud, pair[0]), Writer(cloud, pair[1])
    with cloud.load(cut.id, cut.volume) as waits, cloud.load(other.id, other.volume) as goes_on:
        waits.wait_written(SOME, WRITE_SECONDS)
        with cloud.cut(cloud.host_of(cut.id)):
            cloud.wait("it to be told", lambda: cloud.told(cut.id)[0] == "impaired")
            assert "does not answer" in cloud.told_of_volume(cut.volume)
            goes_on.wait_written(SOME, WRITE_SECONDS)
            assert cloud.told(other.id) == ("ok", [])
        waits.wait_written(SOME, WRITE_SECONDS)
    cut.check(waits)
    other.check(goes_on)


def test_a_machine_killed_while_its_host_is_cut_off(two_hosts: SanCloud, pair: tuple[str, str]) -> None:
    """Its disks are still its host's, until that can say to the storage that it has let go of them."""
    cloud = two_hosts
    id = pair[0]
    with cloud.cut(cloud.host_of(id)):
        cloud.ec2.stop_instances(InstanceIds=[id], Force=True)
        cloud.wait("its process to end", lambda: id not in cloud.qemu_pids())
        time.sleep(3)
        assert cloud.state(id) == "stopping"
        said = cloud.refusal("start_instances", InstanceIds=[id])
        assert said.startswith("IncorrectInstanceState")
    cloud.waiter("instance_stopped", InstanceIds=[id])
    cloud.ec2.start_instances(InstanceIds=[id])
    cloud.waiter("instance_running", InstanceIds=[id])
    cloud.wait_ssh(id)
    cloud.wait_clean()
