"""Guests on two hosts have one encrypted volume at the same time: each reads what the other has written."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from gureum.images.manifest import ImageManifest

from .san_cloud import SanCloud, opened

pytestmark = [pytest.mark.ceph, pytest.mark.qemu, pytest.mark.root, pytest.mark.timeout(600)]

OSD_BYTES = 4 << 30
BLOCKS = 24
KIND = {"VolumeType": "io2", "Iops": 100, "Size": 4, "MultiAttachEnabled": True, "Encrypted": True}
WRITE = (
    "i=0; while [ $i -lt {blocks} ]; do"
    " printf '%-2048s%2047s\\n' {word}-$i {word}-$i"
    " | dd of={device} bs=4096 seek=$(({first} + 2 * i)) iflag=fullblock conv=notrunc,fsync 2>/dev/null"
    " || exit 1; i=$((i + 1)); done"
)
READ = "echo 3 >/proc/sys/vm/drop_caches; head -c {bytes} {device} | tr -s ' \\n' '\\n'"


@pytest.fixture
def cloud(tiny_image: ImageManifest) -> Iterator[SanCloud]:
    with opened(tiny_image, OSD_BYTES, hosts=4) as made:
        made.start()
        yield made


def on_two_hosts(cloud: SanCloud) -> list[str]:
    """The first and the last of four hosts are in the first of three zones."""
    place = {"AvailabilityZone": f"{cloud.config.region}a"}
    [first], [second] = cloud.launch(Placement=place), cloud.launch(Placement=place)
    cloud.waiter("instance_running", InstanceIds=[first, second])
    assert {cloud.host_of(first), cloud.host_of(second)} == {0, 3}
    return [first, second]


def both_write(cloud: SanCloud, volume: str, guests: list[str], round: str) -> None:
    """At the same time, every other block each; then each reads all of it from the disk."""
    devices = {guest: cloud.device(guest, volume) for guest in guests}
    with ThreadPoolExecutor(len(guests)) as threads:
        for done in [
            threads.submit(
                cloud.ssh,
                guest,
                WRITE.format(blocks=BLOCKS, word=f"{round}{number}", device=devices[guest], first=number),
            )
            for number, guest in enumerate(guests)
        ]:
            done.result(120)
    expected = [f"{round}{number}-{i}" for i in range(BLOCKS) for number in range(2) for _ in range(2)]
    for guest in guests:
        read = cloud.ssh(guest, READ.format(bytes=2 * BLOCKS * 4096, device=devices[guest]))
        assert read.split() == expected


def attached(cloud: SanCloud, volume: str) -> dict[str, str]:
    return {each["InstanceId"]: each["State"] for each in cloud.volume(volume)["Attachments"]}


def test_two_guests_write_one_volume(cloud: SanCloud) -> None:
    guests = on_two_hosts(cloud)
    volume = cloud.create_volume(**KIND)
    for guest in guests:
        cloud.ec2.attach_volume(VolumeId=volume, InstanceId=guest, Device="/dev/sdf")
    cloud.wait("both to have it", lambda: attached(cloud, volume) == dict.fromkeys(guests, "attached"))
    assert len(cloud.watchers(volume)) == 2
    both_write(cloud, volume, guests, "a")
    assert cloud.refusal("detach_volume", VolumeId=volume).startswith("MissingParameter")
    assert cloud.steal(volume, 0)  # as one that nobody else is to have
    # Agents come back to machines that have it open.
    cloud.kill("agent-0", "agent-3")
    snapshot = cloud.ec2.create_snapshot(VolumeId=volume)["SnapshotId"]
    both_write(cloud, volume, guests, "b")
    cloud.wait_snapshot(snapshot)
    cloud.ec2.detach_volume(VolumeId=volume, InstanceId=guests[0])
    cloud.wait("one to have given it up", lambda: attached(cloud, volume) == {guests[1]: "attached"})
    assert len(cloud.watchers(volume)) == 1
    device = cloud.device(guests[1], volume)
    cloud.ssh(guests[1], WRITE.format(blocks=2, word="c", device=device, first=0))
    cloud.ec2.delete_snapshot(SnapshotId=snapshot)
    cloud.wait_clean()
    cloud.ec2.terminate_instances(InstanceIds=guests)
    cloud.waiter("instance_terminated", InstanceIds=guests)
    cloud.waiter("volume_available", VolumeIds=[volume])
    cloud.ec2.delete_volume(VolumeId=volume)
    cloud.wait_clean()
