"""Backups and restores against a cloud in memory: what is read, what is kept, and how they go on."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from gureum.cli.backup_files import BLOCK_BYTES, Directory
from gureum.cli.backups import Api, Backup, Restore
from gureum.cli.output import CliError

Blocks = dict[int, bytes]


def block(number: int) -> bytes:
    return bytes([number]) * BLOCK_BYTES


def checksum(data: bytes) -> str:
    return base64.b64encode(hashlib.sha256(data).digest()).decode()


class Ended(Exception):
    """As kill -9 would."""


class CloudInMemory:
    """Both APIs. ``left``: so many blocks are read or written before the client ends."""

    def __init__(self) -> None:
        self.volume: Blocks = {}
        self.snapshots: dict[str, Blocks] = {}
        self.tags: dict[str, str] = {}
        self.open: dict[str, dict[str, Any]] = {}
        self.encrypted = False
        self.left = 1 << 30
        self.damaged = 0
        self.reads: list[int] = []

    def take(self) -> str:
        id = f"snap-{len(self.snapshots) + len(self.open) + 1}"
        self.snapshots[id] = dict(self.volume)
        return id

    def step(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Ended

    # EC2

    def describe_snapshots(self, **asked: Any) -> dict[str, Any]:
        if "Filters" in asked:
            wanted = asked["Filters"][0]["Values"][0]
            return {"Snapshots": [{"SnapshotId": id} for id, tag in self.tags.items() if tag == wanted]}
        return {"Snapshots": [self.described(id) for id in asked["SnapshotIds"]]}

    def described(self, id: str) -> dict[str, Any]:
        return {
            "SnapshotId": id,
            "State": "pending" if id in self.open else "completed",
            "VolumeId": "vol-1",
            "VolumeSize": 1,
            "StartTime": datetime(2027, 1, 1, tzinfo=UTC),
            "Encrypted": self.encrypted,
        }

    def create_snapshot(self, **asked: Any) -> dict[str, Any]:
        id = self.take()
        self.tags[id] = asked["TagSpecifications"][0]["Tags"][0]["Value"]
        return {"SnapshotId": id}

    def delete_snapshot(self, **asked: Any) -> None:
        del self.snapshots[asked["SnapshotId"]]

    # EBS

    def list_snapshot_blocks(self, **asked: Any) -> dict[str, Any]:
        found = [{"BlockIndex": at, "BlockToken": "t"} for at in sorted(self.snapshots[asked["SnapshotId"]])]
        return self.page("Blocks", found, asked)

    def list_changed_blocks(self, **asked: Any) -> dict[str, Any]:
        first, second = (self.snapshots[asked[key]] for key in ("FirstSnapshotId", "SecondSnapshotId"))
        changed = [at for at in sorted({*first, *second}) if first.get(at) != second.get(at)]
        found = [{"BlockIndex": at, **({"SecondBlockToken": "t"} if at in second else {})} for at in changed]
        return self.page("ChangedBlocks", found, asked)

    @staticmethod
    def page(name: str, found: list[Any], asked: dict[str, Any]) -> dict[str, Any]:
        begin = int(asked.get("NextToken", 0))
        more = {"NextToken": str(begin + 40)} if begin + 40 < len(found) else {}
        return {name: found[begin : begin + 40], "BlockSize": BLOCK_BYTES, **more}

    def get_snapshot_block(self, **asked: Any) -> dict[str, Any]:
        self.step()
        self.reads.append(asked["BlockIndex"])
        data = self.snapshots[asked["SnapshotId"]][asked["BlockIndex"]]
        said = checksum(data)
        if self.damaged:
            self.damaged -= 1
            data = b"x" + data[1:]
        return {"BlockData": BytesIO(data), "Checksum": said}

    def start_snapshot(self, **asked: Any) -> dict[str, Any]:
        id = f"snap-{len(self.snapshots) + len(self.open) + 1}"
        self.open[id] = {"blocks": {}, **asked}
        return {"SnapshotId": id}

    def put_snapshot_block(self, **asked: Any) -> None:
        self.step()
        assert checksum(asked["BlockData"]) == asked["Checksum"]
        self.open[asked["SnapshotId"]]["blocks"][asked["BlockIndex"]] = asked["BlockData"]

    def complete_snapshot(self, **asked: Any) -> None:
        blocks = self.open.pop(asked["SnapshotId"])["blocks"]
        assert len(blocks) == asked["ChangedBlocksCount"]
        digests = b"".join(hashlib.sha256(blocks[at]).digest() for at in sorted(blocks))
        assert checksum(digests) == asked.get("Checksum", checksum(b""))
        self.snapshots[asked["SnapshotId"]] = blocks


class FakeApi(Api):
    def __init__(self, cloud: CloudInMemory) -> None:
        self.endpoint = "http://fake"
        self.ec2 = self.ebs = cloud

    def state(self, id: str) -> str:
        return "pending" if id in self.ec2.open else "completed" if id in self.ec2.snapshots else ""


@pytest.fixture
def cloud() -> CloudInMemory:
    made = CloudInMemory()
    made.volume = {at: block(at % 250 + 1) for at in range(0, 300, 3)}
    return made


@pytest.fixture
def files(tmp_path: Path) -> Iterator[Directory]:
    with Directory(tmp_path / "b") as made:
        yield made


def backup(cloud: CloudInMemory, files: Directory, source: str = "vol-1") -> Any:
    return Backup(FakeApi(cloud), files).run(source)[0]


def restored(cloud: CloudInMemory, files: Directory, snapshot: str = "", clear: bool = False) -> Blocks:
    plan = Restore(files, snapshot)
    plan.verify()
    return cloud.snapshots[plan.run(FakeApi(cloud), clear)]


def test_there_and_back(cloud: CloudInMemory, files: Directory) -> None:
    cloud.volume[1] = bytes(BLOCK_BYTES)
    point = backup(cloud, files)
    assert (point.entries, point.data_blocks, point.parent) == (101, 100, "")
    del cloud.volume[1]
    assert restored(CloudInMemory(), files) == cloud.volume


def test_only_what_changed_and_only_the_last_snapshot_stays(cloud: CloudInMemory, files: Directory) -> None:
    first = backup(cloud, files)
    before = dict(cloud.volume)
    cloud.reads.clear()
    cloud.volume[0] = block(7)
    cloud.volume[1000] = block(8)
    del cloud.volume[3]
    second = backup(cloud, files)
    assert sorted(cloud.reads) == [0, 1000]
    assert second.parent == first.snapshot
    assert list(cloud.snapshots) == [second.snapshot]
    other = CloudInMemory()
    assert restored(other, files) == cloud.volume
    assert restored(other, files, first.snapshot) == before


def test_without_the_snapshot_before_all_is_read(cloud: CloudInMemory, files: Directory) -> None:
    first = backup(cloud, files)
    del cloud.snapshots[first.snapshot]
    cloud.volume[0] = block(9)
    cloud.snapshots["snap-x"] = {}  # so that no id comes twice
    assert backup(cloud, files).parent == ""
    assert restored(CloudInMemory(), files) == cloud.volume


@pytest.mark.parametrize("left", [0, 1, 31, 33, 70, 99])
def test_a_backup_goes_on(cloud: CloudInMemory, files: Directory, left: int) -> None:
    cloud.left = left
    with pytest.raises(Ended):
        backup(cloud, files)
    cloud.left = 1 << 30
    cloud.reads.clear()
    backup(cloud, files)
    assert len(cloud.snapshots) == 1
    assert len(cloud.reads) <= 100 - left // 32 * 32 + 32
    assert restored(CloudInMemory(), files) == cloud.volume


def test_a_part_whose_snapshot_is_gone_is_given_up(cloud: CloudInMemory, files: Directory) -> None:
    cloud.left = 50
    with pytest.raises(Ended):
        backup(cloud, files)
    cloud.left = 1 << 30
    cloud.snapshots = {"snap-x": {}}
    cloud.volume[0] = block(9)
    backup(cloud, files)
    assert restored(CloudInMemory(), files) == cloud.volume


@pytest.mark.parametrize("left", [0, 1, 33, 70, 99])
def test_a_restore_goes_on(cloud: CloudInMemory, files: Directory, left: int) -> None:
    backup(cloud, files)
    other = CloudInMemory()
    other.left = left
    with pytest.raises(Ended):
        restored(other, files)
    other.left = 1 << 30
    assert restored(other, files) == cloud.volume
    assert not other.open
    assert len(other.snapshots) == 1
    restored(other, files)
    assert len(other.snapshots) == 2  # asked again, it is another


def test_what_comes_damaged_is_read_again(cloud: CloudInMemory, files: Directory) -> None:
    cloud.damaged = 2
    backup(cloud, files)
    assert restored(CloudInMemory(), files) == cloud.volume
    cloud.damaged = 1 << 30
    cloud.volume[0] = block(9)
    with pytest.raises(CliError, match="came damaged three times"):
        backup(cloud, files)


def test_an_encrypted_snapshot_is_restored_as_one(
    cloud: CloudInMemory, files: Directory, capsys: pytest.CaptureFixture[str]
) -> None:
    cloud.encrypted = True
    backup(cloud, files)
    assert "NOT" in capsys.readouterr().err
    for clear in (False, True):
        other = CloudInMemory()
        other.left = 0
        with pytest.raises(Ended):
            restored(other, files, clear=clear)
        (begun,) = other.open.values()
        assert ("Encrypted" in begun) is not clear


def test_a_directory_is_of_one_volume(cloud: CloudInMemory, files: Directory) -> None:
    backup(cloud, files)
    with pytest.raises(CliError, match="is a backup of vol-1, not of vol-2"):
        backup(cloud, files, "vol-2")


def test_nothing_to_restore(files: Directory) -> None:
    with pytest.raises(CliError, match="no complete backup"):
        Restore(files, "")
