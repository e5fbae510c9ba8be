"""Volumes and snapshots of running instances, through boto3 and from inside the guests."""

from __future__ import annotations

import pytest

from .realcloud import GIB, RealCloud, refused

pytestmark = [pytest.mark.qemu, pytest.mark.root, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def guest(cloud: RealCloud) -> str:
    [id] = cloud.launch()
    cloud.waiter("instance_running", InstanceIds=[id])
    cloud.wait_ssh(id)
    return id


def disks(cloud: RealCloud, guest: str) -> list[str]:
    return cloud.ssh(guest, "ls /dev/vd*").split()


def detach(cloud: RealCloud, volume: str) -> None:
    cloud.ec2.detach_volume(VolumeId=volume)
    cloud.waiter("volume_available", VolumeIds=[volume])


def delete(cloud: RealCloud, *volumes: str) -> None:
    for volume in volumes:
        cloud.ec2.delete_volume(VolumeId=volume)
    cloud.waiter("volume_deleted", VolumeIds=list(volumes))
    cloud.wait_clean()


def test_root_file_system_has_the_size_that_was_asked_for(cloud: RealCloud) -> None:
    mapping = {"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": 3}}
    [id] = cloud.launch(BlockDeviceMappings=[mapping])
    size = cloud.wait("the file system to be grown", lambda: grown(cloud, id))
    assert 2700 < size <= 3072
    cloud.ec2.terminate_instances(InstanceIds=[id])
    cloud.waiter("instance_terminated", InstanceIds=[id])


def grown(cloud: RealCloud, id: str) -> int:
    """MiB of the root file system, 0 while it still has its first size."""
    size = cloud.try_ssh(id, "df -m / | tail -n 1 | awk '{print $2}'")
    return int(size) if size and int(size) > 1024 else 0


def test_volume_is_plugged_and_unplugged_while_the_guest_runs(cloud: RealCloud, guest: str) -> None:
    before = disks(cloud, guest)
    volume = cloud.create_volume(Size=1, VolumeType="gp3")
    cloud.attach(volume, guest)
    cloud.waiter("volume_in_use", VolumeIds=[volume])
    device = cloud.device(guest, volume)
    assert disks(cloud, guest) == [*before, device]
    with refused("VolumeInUse"):
        cloud.ec2.delete_volume(VolumeId=volume)
    with refused("VolumeInUse"):
        cloud.ec2.attach_volume(VolumeId=volume, InstanceId=guest, Device="/dev/sdz")
    text = cloud.ssh(
        guest,
        f"mkfs.ext4 -q {device} && mount {device} /mnt && echo kept >/mnt/file && umount /mnt && sync",
    )
    assert text == ""
    detach(cloud, volume)
    cloud.wait("the disk to go", lambda: disks(cloud, guest) == before)
    cloud.attach(volume, guest, "/dev/sdh")
    device = cloud.device(guest, volume)
    assert cloud.ssh(guest, f"mount {device} /mnt && cat /mnt/file && umount /mnt") == "kept"
    detach(cloud, volume)
    delete(cloud, volume)


def test_volume_grows_under_the_guest(cloud: RealCloud, guest: str) -> None:
    volume = cloud.create_volume(Size=1)
    cloud.attach(volume, guest)
    device = cloud.device(guest, volume)
    cloud.ssh(guest, f"mkfs.ext4 -q {device} && mount {device} /mnt && echo kept >/mnt/file")
    with refused("InvalidParameterValue"):
        cloud.ec2.modify_volume(VolumeId=volume, Size=0)
    cloud.ec2.modify_volume(VolumeId=volume, Size=2)
    size = f"cat /sys/block/{device.removeprefix('/dev/')}/size"
    cloud.wait("the guest to see it", lambda: int(cloud.ssh(guest, size)) * 512 == 2 * GIB)
    cloud.wait("the modification", lambda: modification(cloud, volume) == "completed")
    assert cloud.volume(volume)["Size"] == 2
    mib = cloud.ssh(guest, f"resize2fs {device} >/dev/null 2>&1; df -m /mnt | tail -n 1 | awk '{{print $2}}'")
    assert int(mib) > 1800
    assert cloud.ssh(guest, "cat /mnt/file && umount /mnt") == "kept"
    detach(cloud, volume)
    delete(cloud, volume)


def modification(cloud: RealCloud, volume: str) -> str:
    found = cloud.ec2.describe_volumes_modifications(VolumeIds=[volume])["VolumesModifications"]
    return str(found[0]["ModificationState"])


def test_snapshot_of_a_disk_in_use_holds_its_moment(cloud: RealCloud, guest: str) -> None:
    volume = cloud.create_volume(Size=1)
    cloud.attach(volume, guest)
    device = cloud.device(guest, volume)
    digest = f"head -c 8388608 {device} | sha256sum"
    fill = f"dd if=/dev/urandom of={device} bs=1M count=8 conv=fsync 2>/dev/null"
    sums, snapshots = [], []
    for _ in range(2):
        cloud.ssh(guest, fill)
        sums.append(cloud.ssh(guest, digest))
        taken = cloud.ec2.create_snapshot(VolumeId=volume, Description="of a disk in use")
        assert taken["VolumeSize"] == 1
        cloud.wait_snapshot(taken["SnapshotId"])
        snapshots.append(taken["SnapshotId"])
    cloud.ssh(guest, fill)
    # The first may go: the second and the volume do not need it.
    copies = [cloud.create_volume(SnapshotId=snapshot) for snapshot in snapshots]
    cloud.ec2.delete_snapshot(SnapshotId=snapshots[0])
    for copy, wanted in zip(copies, sums, strict=True):
        cloud.attach(copy, guest, "/dev/sdg")
        found = cloud.ssh(guest, digest.replace(device, cloud.device(guest, copy)))
        assert found.split() == wanted.split()
        detach(cloud, copy)
    assert cloud.ssh(guest, digest) not in sums
    cloud.ec2.delete_snapshot(SnapshotId=snapshots[1])
    detach(cloud, volume)
    delete(cloud, volume, *copies)


def test_boot_from_a_snapshot_of_a_running_root_disk(cloud: RealCloud, guest: str) -> None:
    """Crash-consistent: the copy boots, and has what was synced."""
    cloud.ssh(guest, "echo synced >/root/copied && sync")
    snapshot = cloud.ec2.create_snapshot(VolumeId=cloud.root_volume(guest))["SnapshotId"]
    cloud.wait_snapshot(snapshot)
    mapping = {"DeviceName": "/dev/sdf", "Ebs": {"SnapshotId": snapshot, "DeleteOnTermination": True}}
    [id] = cloud.launch(BlockDeviceMappings=[mapping])
    copy = cloud.wait("its second volume", lambda: second_volume(cloud, id))
    device = cloud.device(id, copy)
    assert cloud.wait_ssh(id, f"mount {device} /mnt && cat /mnt/root/copied && umount /mnt") == "synced"
    cloud.ec2.terminate_instances(InstanceIds=[id])
    cloud.waiter("instance_terminated", InstanceIds=[id])
    cloud.ec2.delete_snapshot(SnapshotId=snapshot)
    cloud.wait_clean()


def second_volume(cloud: RealCloud, id: str) -> str:
    found = cloud.instance(id)["BlockDeviceMappings"]
    return str(found[1]["Ebs"]["VolumeId"]) if len(found) > 1 else ""


def test_volume_of_a_stopped_instance(cloud: RealCloud) -> None:
    """Attached, detached and grown while there is no guest; seen by it at its next boot."""
    [id] = cloud.launch()
    cloud.wait_ssh(id)
    cloud.ec2.stop_instances(InstanceIds=[id])
    cloud.waiter("instance_stopped", InstanceIds=[id])
    one, two = cloud.create_volume(Size=1), cloud.create_volume(Size=1)
    cloud.attach(one, id, "/dev/sdf")
    cloud.attach(two, id, "/dev/sdg")
    detach(cloud, one)
    cloud.ec2.modify_volume(VolumeId=two, Size=2)
    cloud.wait("the modification", lambda: modification(cloud, two) == "completed")
    cloud.ec2.start_instances(InstanceIds=[id])
    cloud.waiter("instance_running", InstanceIds=[id])
    name = cloud.device(id, two).removeprefix("/dev/")
    assert int(cloud.ssh(id, f"cat /sys/block/{name}/size")) * 512 == 2 * GIB
    assert disks(cloud, id) == ["/dev/vda", f"/dev/{name}"]
    cloud.ec2.terminate_instances(InstanceIds=[id])
    cloud.waiter("instance_terminated", InstanceIds=[id])
    cloud.waiter("volume_available", VolumeIds=[two])
    delete(cloud, one, two)
