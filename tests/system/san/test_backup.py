"""Volumes go to files and into another cloud: from Ceph to local disks and back, and on after kill -9.

And `gureum san check` of real pools.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gureum.bench.clouds import launcher
from gureum.cli.backup_files import BLOCK_BYTES, Directory, part_of
from gureum.cli.backups import Api
from gureum.images.manifest import ImageManifest

from .. import realcloud
from ..realcloud import RealCloud
from .san_cloud import SanCloud, opened

pytestmark = [pytest.mark.ceph, pytest.mark.qemu, pytest.mark.root, pytest.mark.timeout(600)]

OSD_BYTES = 6 << 30
BLOCKS = 100
"""Several times what is flushed at once."""
DEADLINE_S = 60.0


@pytest.fixture(scope="module")
def ceph_cloud(tiny_image: ImageManifest) -> Iterator[SanCloud]:
    with opened(tiny_image, OSD_BYTES) as made:
        made.start()
        yield made


@pytest.fixture(scope="module")
def local_cloud(tiny_image: ImageManifest) -> Iterator[RealCloud]:
    with realcloud.opened(tiny_image) as made:
        made.start()
        yield made


def command(cloud: RealCloud, *words: str) -> list[str]:
    return [*launcher(), "san", *words, "--state-dir", str(cloud.cloud.state_dir), "--json"]


def san(cloud: RealCloud, *words: str, code: int = 0) -> dict[str, Any]:
    done = subprocess.run(command(cloud, *words), capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == code, done.stderr
    found: dict[str, Any] = json.loads(done.stdout) if done.stdout else {"error": done.stderr}
    return found


def written(cloud: RealCloud) -> str:
    """A snapshot with BLOCKS blocks of data, written by the API."""
    api = Api(None, cloud.cloud.state_dir)
    id: str = api.ebs.start_snapshot(VolumeSize=1)["SnapshotId"]
    source = random.Random(7)
    for at in range(BLOCKS):
        api.write(id, 3 * at, source.randbytes(BLOCK_BYTES))
    api.ebs.complete_snapshot(SnapshotId=id, ChangedBlocksCount=BLOCKS)
    api.wait_completed(id)
    return id


def problems(said: dict[str, Any]) -> list[dict[str, Any]]:
    return [each for each in said["Findings"] if each["Problem"]]


def wait_available(cloud: RealCloud, volume: str) -> None:
    cloud.wait("the volume", lambda: cloud.volume(volume)["State"] == "available")


def contents(directory: Path) -> dict[int, bytes]:
    """Checksums of the blocks of the last point."""
    with Directory(directory) as files:
        manifest = files.manifest()
        assert manifest is not None
        where = files.where(files.chain(manifest, manifest.points[-1].snapshot))
        return {at: digest for at, (_, _, digest) in where.items()}


def entries(directory: Path) -> int:
    """How many blocks were looked at for the last point: some of them had only zeros."""
    with Directory(directory) as files:
        manifest = files.manifest()
        assert manifest is not None
        return manifest.points[-1].entries


def killed_when(words: list[str], begun: Path) -> None:
    """Run it, and end it by SIGKILL once this file has something in it."""
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + DEADLINE_S
    while not (begun.exists() and begun.stat().st_size):
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def test_from_ceph_to_local_disks_and_back(
    ceph_cloud: SanCloud, local_cloud: RealCloud, tmp_path: Path
) -> None:
    snapshot = written(ceph_cloud)
    one, two, three = (tmp_path / name for name in ("one", "two", "three"))
    backup = command(ceph_cloud, "backup", snapshot, str(one))
    killed_when(backup, part_of(one / f"{snapshot}.index"))
    assert part_of(one / f"{snapshot}.blocks").exists()
    first = san(ceph_cloud, "backup", snapshot, str(one))
    assert (first["Blocks"], first["Bytes"]) == (BLOCKS, BLOCKS * BLOCK_BYTES)
    assert first["BytesRead"] < entries(one) * BLOCK_BYTES  # it went on

    restore = command(local_cloud, "restore", str(one))
    killed_when(restore, one / "restore.json")
    begun = json.loads((one / "restore.json").read_text())["id"]
    there = str(san(local_cloud, "restore", str(one))["SnapshotId"])
    assert there == begun
    san(local_cloud, "backup", there, str(two))
    back = str(san(ceph_cloud, "restore", str(two))["SnapshotId"])
    san(ceph_cloud, "backup", back, str(three))
    assert contents(one) == contents(two) == contents(three)
    assert len(contents(one)) == BLOCKS


def test_only_what_changed_is_read_again(ceph_cloud: SanCloud, tmp_path: Path) -> None:
    snapshot = written(ceph_cloud)
    volume = ceph_cloud.ec2.create_volume(
        SnapshotId=snapshot, AvailabilityZone=ceph_cloud.config.zones[0], VolumeType="gp3"
    )["VolumeId"]
    wait_available(ceph_cloud, volume)
    whole = san(ceph_cloud, "backup", volume, str(tmp_path / "b"))
    assert whole["Blocks"] == BLOCKS
    ceph_cloud.rbd("bench", "--io-type", "write", "--io-size", "512K", "--io-total", "1M", volume)
    changed = san(ceph_cloud, "backup", volume, str(tmp_path / "b"))
    assert changed["Parent"] == whole["SnapshotId"]
    assert 0 < changed["Blocks"] < 20
    ids = {each["SnapshotId"] for each in ceph_cloud.ec2.describe_snapshots(OwnerIds=["self"])["Snapshots"]}
    assert changed["SnapshotId"] in ids
    assert whole["SnapshotId"] not in ids  # only the last is needed for the next time
    assert san(ceph_cloud, "restore", str(tmp_path / "b"), "--verify")["Whole"]


def test_a_damaged_backup_makes_nothing(local_cloud: RealCloud, tmp_path: Path) -> None:
    snapshot = written(local_cloud)
    san(local_cloud, "backup", snapshot, str(tmp_path))
    with open(tmp_path / f"{snapshot}.blocks", "r+b") as file:
        file.seek(5 * BLOCK_BYTES)
        file.write(b"damaged")
    before = local_cloud.ec2.describe_snapshots(OwnerIds=["self"])["Snapshots"]
    error = str(san(local_cloud, "restore", str(tmp_path), code=1)["error"])
    assert f"{snapshot}.blocks is damaged: block 5" in error
    assert local_cloud.ec2.describe_snapshots(OwnerIds=["self"])["Snapshots"] == before


def booted(cloud: RealCloud) -> str:
    [id] = cloud.launch()
    cloud.wait_ssh(id)
    return id


def plugged(cloud: RealCloud, guest: str, **parameters: Any) -> tuple[str, str]:
    """A new volume of a guest's, and the device that it is there."""
    volume = cloud.create_volume(VolumeType="gp3", **parameters)
    cloud.attach(volume, guest)
    return volume, cloud.device(guest, volume)


def unplug(cloud: RealCloud, *volumes: str) -> None:
    for volume in volumes:
        cloud.ec2.detach_volume(VolumeId=volume)
        cloud.waiter("volume_available", VolumeIds=[volume])
        cloud.ec2.delete_volume(VolumeId=volume)


@pytest.mark.parametrize("name", ["local_cloud", "ceph_cloud"])
def test_encrypted_snapshots_by_the_api(name: str, request: pytest.FixtureRequest) -> None:
    """What is put is what a guest has, what is not put is zeros there; and what a guest wrote is got."""
    cloud: RealCloud = request.getfixturevalue(name)
    api = Api(None, cloud.cloud.state_dir)
    id: str = api.ebs.start_snapshot(VolumeSize=1, Encrypted=True)["SnapshotId"]
    source = random.Random(8)
    put = {at: source.randbytes(BLOCK_BYTES) for at in (0, 9, 2047)}
    for at, data in put.items():
        api.write(id, at, data)
    api.ebs.complete_snapshot(SnapshotId=id, ChangedBlocksCount=len(put))
    api.wait_completed(id)
    listed = dict(api.blocks(id, ""))
    for at in (*put, 8, 10, 1000):
        assert api.read(id, at, listed.get(at, "")) == put.get(at, bytes(BLOCK_BYTES)), at

    guest = booted(cloud)
    volume, device = plugged(cloud, guest, SnapshotId=id)
    for at in (*put, 8, 10, 1000):
        seen = cloud.ssh(guest, f"dd if={device} bs=512k skip={at} count=1 2>/dev/null | sha256sum")
        assert seen.split()[0] == hashlib.sha256(put.get(at, bytes(BLOCK_BYTES))).hexdigest(), at
    first = cloud.ec2.create_snapshot(VolumeId=volume)["SnapshotId"]
    cloud.wait_snapshot(first)
    said = cloud.ssh(
        guest,
        "yes gureum | head -c 524288 >/tmp/x; sha256sum /tmp/x; "
        f"dd if=/tmp/x of={device} bs=512k seek=500 conv=fsync 2>/dev/null; "
        f"dd if=/dev/zero of={device} bs=512k seek=9 count=1 conv=fsync 2>/dev/null",
    )
    second = cloud.ec2.create_snapshot(VolumeId=volume)["SnapshotId"]
    cloud.wait_snapshot(second)
    changed = dict(api.blocks(second, first))
    assert {9, 500} <= changed.keys() <= {8, 9, 10, 499, 500, 501} | set(range(496, 512)) | set(range(16))
    assert hashlib.sha256(api.read(second, 500, changed[500])).hexdigest() == said.split()[0]
    assert api.read(second, 9, changed[9]) == bytes(BLOCK_BYTES)
    unplug(cloud, volume)
    cloud.ec2.terminate_instances(InstanceIds=[guest])
    for snapshot in (id, first, second):
        cloud.ec2.delete_snapshot(SnapshotId=snapshot)


def test_an_encrypted_volume_goes_to_another_cloud(
    ceph_cloud: SanCloud, local_cloud: RealCloud, tmp_path: Path
) -> None:
    """Whose master key is another: a file system of a guest's, and what was written to it since."""
    directory, key = tmp_path / "b", tmp_path / "keys" / "key"
    guest = booted(local_cloud)
    volume, device = plugged(local_cloud, guest, Size=1, Encrypted=True)
    local_cloud.ssh(guest, f"mkfs.ext4 -q {device} && mount {device} /mnt && seq 1 200000 >/mnt/one && sync")
    assert "--key-file" in str(san(local_cloud, "backup", volume, str(directory), code=1)["error"])
    words = ("backup", volume, str(directory), "--key-file", str(key))
    whole = san(local_cloud, *words)
    assert whole["Encrypted"]
    local_cloud.ssh(guest, "seq 200000 300000 >/mnt/two && sync")
    changed = san(local_cloud, *words)
    assert changed["Parent"] == whole["SnapshotId"]
    assert 0 < changed["Bytes"] < whole["Bytes"]
    sums = local_cloud.ssh(guest, "cd /mnt && md5sum one two")
    clear = b"199998\n199999\n"
    assert not [path for path in directory.iterdir() if clear in path.read_bytes()]
    assert san(ceph_cloud, "restore", str(directory), "--verify")["Whole"]
    assert "encrypted backup" in str(san(ceph_cloud, "restore", str(directory), code=1)["error"])

    snapshot = san(ceph_cloud, "restore", str(directory), "--key-file", str(key))["SnapshotId"]
    [shown] = ceph_cloud.ec2.describe_snapshots(SnapshotIds=[snapshot])["Snapshots"]
    assert shown["Encrypted"]
    other = booted(ceph_cloud)
    there, device = plugged(ceph_cloud, other, SnapshotId=snapshot)
    assert ceph_cloud.ssh(other, f"mount {device} /mnt && cd /mnt && md5sum one two") == sums
    assert ceph_cloud.ssh(other, f"umount /mnt && e2fsck -fn {device} >/dev/null 2>&1; echo $?") == "0"
    used = sum(each["length"] for each in json.loads(ceph_cloud.rbd("diff", "--format", "json", there)))
    assert used < 300 << 20  # of a GiB
    assert clear not in ceph_cloud.exported(there, 1 << 30)
    left = ceph_cloud.ec2.describe_snapshots(OwnerIds=["self"])["Snapshots"]
    assert not [each for each in left if each["Description"].startswith("empty")]
    unplug(ceph_cloud, there)
    unplug(local_cloud, volume)
    ceph_cloud.ec2.terminate_instances(InstanceIds=[other])
    local_cloud.ec2.terminate_instances(InstanceIds=[guest])


def test_check_finds_and_repairs(ceph_cloud: SanCloud) -> None:
    volume = ceph_cloud.ec2.create_volume(
        Size=1, AvailabilityZone=ceph_cloud.config.zones[0], VolumeType="gp3"
    )["VolumeId"]
    wait_available(ceph_cloud, volume)
    assert san(ceph_cloud, "check")["Clean"]
    mark = ceph_cloud.rbd("image-meta", "get", volume, "gureum").strip()
    orphan, stray = "vol-0aaaaaaaaaaaaaaa1", "snap-0bbbbbbbbbbbbbbb1"
    ceph_cloud.rbd("create", "--size", "64", orphan)
    ceph_cloud.rbd("image-meta", "set", orphan, "gureum", mark)
    ceph_cloud.rbd("snap", "create", f"{volume}@{stray}")
    found = san(ceph_cloud, "check", code=1)
    assert {each["ResourceId"]: each["Repair"] for each in problems(found)} == {
        orphan: "delete the volume",
        stray: "delete the snapshot",
    }
    assert san(ceph_cloud, "check", "--repair")["Clean"]
    assert orphan not in ceph_cloud.rbd("ls").split()
    assert san(ceph_cloud, "check")["Clean"]
    ceph_cloud.rbd("rm", volume)
    said = san(ceph_cloud, "check", "--repair", code=1)
    lost = [each for each in problems(said) if each["ResourceId"] == volume]
    assert ["its data is lost" in each["Message"] for each in lost] == [True]
    assert len(problems(said)) == 1
    ceph_cloud.ec2.delete_volume(VolumeId=volume)


def test_check_of_local_pools(local_cloud: RealCloud) -> None:
    assert san(local_cloud, "check")["Clean"]
