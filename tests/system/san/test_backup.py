"""Volumes go to files and into another cloud: from Ceph to local disks and back, and on after kill -9.

And `gureum san check` of real pools.
"""

from __future__ import annotations

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

pytestmark = [pytest.mark.ceph, pytest.mark.qemu, pytest.mark.root, pytest.mark.timeout(300)]

OSD_BYTES = 3 << 30
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
