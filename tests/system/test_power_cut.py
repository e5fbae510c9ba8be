"""The power of a whole machine goes: what was answered holds, what guests have flushed is there."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from faults.journal import Variant
from faults.medium import Medium, is_possible
from gureum.cli.processes import start_ticks
from gureum.hypervisors.qemu.record import boot_id
from gureum.images.manifest import ImageManifest

from .realcloud import RealCloud, opened

pytestmark = [
    pytest.mark.qemu,
    pytest.mark.root,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not is_possible(), reason="needs root and /dev/fuse"),
]


@contextlib.contextmanager
def on_medium(image: ImageManifest, folder: Path) -> Iterator[tuple[RealCloud, Medium]]:
    """A cloud, not yet started, whose state directory is on a medium that forgets."""
    medium = None
    try:
        with opened(image) as cloud:
            medium = Medium(cloud.cloud.state_dir, folder / "journal")
            cloud.pool_mount = cloud.cloud.state_dir
            medium.mount_over()
            yield cloud, medium
    finally:
        if medium is not None:
            medium.unmount()


def cut_power(cloud: RealCloud, medium: Medium, variant: Variant, seed: int = 0) -> None:
    """All that runs is gone, and what the kernel held for it; then the machine is on again."""
    ended = {*cloud.processes(), *cloud.qemu_pids().values()}
    medium.unmount()
    for pid in ended:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    cloud.wait("all processes to be gone", lambda: all(start_ticks(pid) is None for pid in ended))
    for path in Path("/run/netns").glob(f"gm{cloud.config.index}-*"):
        subprocess.run(("ip", "netns", "delete", path.name), check=True)
    for path in Path("/sys/class/net").glob(f"gu{cloud.config.index}-*"):
        subprocess.run(("ip", "link", "delete", path.name), check=False)
    medium.cut(variant, seed)
    for record in (cloud.cloud.run_dir / "machines").glob("*/machine.json"):
        record.write_bytes(record.read_bytes().replace(boot_id().encode(), b"before the cut"))


def tagged(cloud: RealCloud, value: str) -> set[str]:
    tags = cloud.ec2.describe_tags(Filters=[{"Name": "value", "Values": [value]}])["Tags"]
    return {tag["ResourceId"] for tag in tags}


def test_what_was_answered_holds(tiny_image: ImageManifest, tmp_path: Path) -> None:
    with on_medium(tiny_image, tmp_path) as (cloud, medium):
        cloud.start()
        [guest] = cloud.launch()
        volume = cloud.create_volume(Size=1)
        cloud.waiter("instance_running", InstanceIds=[guest])
        cloud.wait_ssh(guest)
        cloud.attach(volume, guest)
        device = cloud.device(guest, volume)
        cloud.ssh(guest, f"echo kept | dd of={device} bs=512 conv=sync,fsync; echo root > /root/kept; sync")
        snapshot = cloud.ec2.create_snapshot(VolumeId=volume)["SnapshotId"]
        cloud.wait_snapshot(snapshot)
        cloud.ssh(guest, f"echo later | dd of={device} bs=512 conv=sync,fsync")
        cloud.ec2.modify_volume(VolumeId=volume, Size=2)
        created = cloud.ec2.create_volume(AvailabilityZone=f"{cloud.config.region}a", Size=1)["VolumeId"]
        cloud.ec2.create_tags(Resources=[guest, volume], Tags=[{"Key": "last", "Value": "answer"}])

        # All that can be lost is lost.
        cut_power(cloud, medium, Variant.NONE)
        cloud.start()
        assert tagged(cloud, "answer") == {guest, volume}
        cloud.waiter("volume_available", VolumeIds=[created])
        cloud.wait_ssh(guest)
        assert cloud.state(guest) == "running"
        assert cloud.ssh(guest, "cat /root/kept") == "root"
        assert cloud.ssh(guest, f"head -c 5 {cloud.device(guest, volume)}") == "later"
        cloud.wait("the volume to be larger", lambda: cloud.volume(volume)["Size"] == 2)
        copy = cloud.create_volume(SnapshotId=snapshot)
        cloud.attach(copy, guest, "/dev/sdg")
        assert cloud.ssh(guest, f"head -c 4 {cloud.device(guest, copy)}") == "kept"
        cloud.wait_clean()

        # Anything may be lost, and what is written may be so in part.
        cloud.ec2.delete_volume(VolumeId=created)
        [second] = cloud.launch()
        cloud.ec2.create_tags(Resources=[second, copy], Tags=[{"Key": "last", "Value": "second answer"}])
        cut_power(cloud, medium, Variant.TORN, seed=1)
        cloud.start()
        assert tagged(cloud, "second answer") == {second, copy}
        cloud.waiter("volume_deleted", VolumeIds=[created])
        cloud.waiter("instance_running", InstanceIds=[guest, second])
        cloud.wait_clean()
        cloud.stop()
        assert cloud.check_pool() == []
