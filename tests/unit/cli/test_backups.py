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
from botocore.exceptions import ClientError
from msgspec.structs import replace

from gureum.cli import restores
from gureum.cli.backup_files import BLOCK_BYTES, Damaged, Directory, decoded, stored_bytes
from gureum.cli.backups import Api, Backup, reported
from gureum.cli.output import CliError
from gureum.cli.restores import Restore

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
        self.ids = 0
        self.volume: Blocks = {}
        self.snapshots: dict[str, Blocks] = {}
        self.tags: dict[str, str] = {}
        self.open: dict[str, dict[str, Any]] = {}
        self.encrypted = False
        self.empty: dict[str, str] = {}
        """By volume that was made empty, its tag."""
        self.checked = False
        """That the last upload was whole, by a checksum over it."""
        self.used: set[str] = set()
        """Snapshots that can be deleted at the second try."""
        self.left = 1 << 30
        self.damaged = 0
        self.reads: list[int] = []

    def take(self, data: Blocks) -> str:
        id = self.new_id()
        self.snapshots[id] = dict(data)
        return id

    def new_id(self) -> str:
        self.ids += 1
        return f"snap-{self.ids}"

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
        if asked["VolumeId"] in self.empty:
            self.step()
        id = self.take({} if asked["VolumeId"] in self.empty else self.volume)
        self.tags[id] = asked["TagSpecifications"][0]["Tags"][0]["Value"]
        return {"SnapshotId": id}

    def delete_snapshot(self, **asked: Any) -> None:
        id = asked["SnapshotId"]
        if id in self.used:
            self.used.remove(id)
            raise refusal("InvalidSnapshot.InUse")
        if id not in self.snapshots:
            raise refusal("InvalidSnapshot.NotFound")
        del self.snapshots[id]
        self.tags.pop(id, None)

    def describe_availability_zones(self) -> dict[str, Any]:
        return {"AvailabilityZones": [{"ZoneName": "z"}]}

    def describe_volumes(self, **asked: Any) -> dict[str, Any]:
        if "Filters" in asked:
            wanted = asked["Filters"][0]["Values"][0]
            return {"Volumes": [{"VolumeId": id} for id, tag in self.empty.items() if tag == wanted]}
        return {"Volumes": [{"State": "available", "Encrypted": self.encrypted}]}

    def create_volume(self, **asked: Any) -> dict[str, Any]:
        assert asked["Encrypted"]
        self.empty["vol-empty"] = asked["TagSpecifications"][0]["Tags"][0]["Value"]
        self.step()
        return {"VolumeId": "vol-empty"}

    def delete_volume(self, **asked: Any) -> None:
        del self.empty[asked["VolumeId"]]

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
        id = self.new_id()
        self.open[id] = {"blocks": {}, **asked}
        if "ParentSnapshotId" in asked:
            self.used.add(asked["ParentSnapshotId"])
        return {"SnapshotId": id}

    def put_snapshot_block(self, **asked: Any) -> None:
        self.step()
        assert checksum(asked["BlockData"]) == asked["Checksum"]
        self.open[asked["SnapshotId"]]["blocks"][asked["BlockIndex"]] = asked["BlockData"]

    def complete_snapshot(self, **asked: Any) -> None:
        blocks = self.open.pop(asked["SnapshotId"])["blocks"]
        assert len(blocks) == asked["ChangedBlocksCount"]
        digests = b"".join(hashlib.sha256(blocks[at]).digest() for at in sorted(blocks))
        self.checked = "Checksum" in asked
        assert not self.checked or checksum(digests) == asked["Checksum"]
        self.snapshots[asked["SnapshotId"]] = blocks


def refusal(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": ""}}, "")


class FakeApi(Api):
    def __init__(self, cloud: CloudInMemory) -> None:
        self.endpoint = "http://fake"
        self.own = True
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


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restores, "LOOK_SECONDS", 0.0)


def backup(
    cloud: CloudInMemory,
    files: Directory,
    source: str = "vol-1",
    key_file: Path | None = None,
    clear: bool = False,
) -> Any:
    return Backup(FakeApi(cloud), files, key_file, clear).run(source)[0]


def restored(
    cloud: CloudInMemory,
    files: Directory,
    snapshot: str = "",
    clear: bool = False,
    key_file: Path | None = None,
) -> Blocks:
    plan = Restore(files, snapshot)
    plan.unlock(key_file)
    plan.verify()
    return cloud.snapshots[plan.run(FakeApi(cloud), clear)]


def test_there_and_back(cloud: CloudInMemory, files: Directory) -> None:
    cloud.volume[1] = bytes(BLOCK_BYTES)
    point = backup(cloud, files)
    assert (point.entries, point.data_blocks, point.parent) == (101, 100, "")
    del cloud.volume[1]
    other = CloudInMemory()
    assert restored(other, files) == cloud.volume
    assert other.checked


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


def test_what_is_encrypted_is_not_written_in_clear_by_chance(
    cloud: CloudInMemory, files: Directory, capsys: pytest.CaptureFixture[str]
) -> None:
    cloud.encrypted = True
    with pytest.raises(CliError, match="is encrypted, and a backup in") as caught:
        backup(cloud, files)
    assert "--key-file FILE" in caught.value.next_step
    assert not cloud.snapshots
    backup(cloud, files, clear=True)
    assert "NOT" in capsys.readouterr().err
    assert restored(CloudInMemory(), files, clear=True) == cloud.volume
    with pytest.raises(CliError, match="would not be"):
        backup(cloud, files)


def test_an_encrypted_backup(cloud: CloudInMemory, files: Directory, tmp_path: Path) -> None:
    cloud.encrypted = True
    key = tmp_path / "keys" / "key"
    first = backup(cloud, files, key_file=key)
    before = dict(cloud.volume)
    assert key.stat().st_mode & 0o777 == 0o600
    cloud.volume[0] = b"a secret".ljust(BLOCK_BYTES, b"!")
    del cloud.volume[3]
    second = backup(cloud, files, key_file=key)
    assert second.parent == first.snapshot
    for path in files.path.iterdir():
        assert b"a secret" not in path.read_bytes()
        assert block(7)[:64] not in path.read_bytes()
    Restore(files, "").verify()  # without a key
    for wrong, message in ((None, "is an encrypted backup"), (tmp_path / "no", "No such file")):
        with pytest.raises(CliError, match=message):
            restored(CloudInMemory(), files, key_file=wrong)
    other = tmp_path / "other"
    with Directory(tmp_path / "c") as others:
        backup(cloud, others, key_file=other)
    for act in (restored, backup):
        with pytest.raises(CliError, match="is not the key of"):
            act(CloudInMemory(), files, key_file=other)
    assert restored(CloudInMemory(), files, clear=True, key_file=key) == cloud.volume
    assert restored(CloudInMemory(), files, first.snapshot, True, key) == before


def test_blocks_of_an_encrypted_backup_cannot_be_exchanged(
    cloud: CloudInMemory, files: Directory, tmp_path: Path
) -> None:
    """By somebody who can write to it, and makes the checksums right."""
    key = tmp_path / "key"
    backup(cloud, files, key_file=key)
    files.seal = None
    plan = Restore(files, "")
    plan.where[0], plan.where[3] = plan.where[3], plan.where[0]
    plan.verify()
    plan.unlock(key)
    with pytest.raises(Damaged, match="block 1 is not block 0 of the volume"):
        plan.verify()


@pytest.mark.parametrize("change", ["encrypted", "volume_size", "index_sha256", "proof"])
def test_what_an_encrypted_backup_says_of_itself_is_proved(
    cloud: CloudInMemory, files: Directory, tmp_path: Path, change: str
) -> None:
    """Else it could be restored in clear, or without the blocks that somebody took out of the index."""
    cloud.encrypted = True
    key = tmp_path / "key"
    for number in (1, 2):
        cloud.volume[0] = block(number)
        backup(cloud, files, key_file=key)
    manifest = files.manifest()
    assert manifest is not None
    first, last = manifest.points
    if change == "index_sha256":
        index = files.path / f"{first.snapshot}.index"
        raw = index.read_bytes()
        index.write_bytes(raw[:8] + bytes(32) + raw[40:])
        digest = hashlib.sha256(index.read_bytes()).hexdigest()
        with open(files.path / f"{first.snapshot}.blocks", "r+b") as blocks:
            blocks.truncate((first.data_blocks - 1) * stored_bytes(manifest))
        forged = replace(first, index_sha256=digest, data_blocks=first.data_blocks - 1)
    else:
        forged = replace(
            first, **{change: {"encrypted": False, "volume_size": 9, "proof": last.proof}[change]}
        )
    files.save(replace(manifest, points=(forged, last)))
    files.seal = None
    for act in (restored, backup):
        with pytest.raises(Damaged, match=f"what it says of {first.snapshot} was not written with"):
            act(cloud, files, key_file=key)


def test_nobody_else_says_that_blocks_of_an_encrypted_backup_are_zeros(
    cloud: CloudInMemory, files: Directory, tmp_path: Path
) -> None:
    """In what an interrupted one has left, and the same command goes on with."""
    key = tmp_path / "key"
    cloud.left = 70
    with pytest.raises(Ended):
        backup(cloud, files, key_file=key)
    cloud.left = 1 << 30
    [index] = files.path.glob("*.index.part")
    raw = index.read_bytes()
    last = max(cloud.volume)
    assert last not in {entry.at for entry in decoded(raw)}
    index.write_bytes(raw + last.to_bytes(8, "big") + bytes(32))
    backup(cloud, files, key_file=key)
    assert restored(CloudInMemory(), files, key_file=key) == cloud.volume


def test_a_key_that_another_backup_has_just_made_is_not_replaced(
    cloud: CloudInMemory, files: Directory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two first backups at the same time, with a new file for both."""
    key = tmp_path / "key"
    exists = Path.exists
    with Directory(tmp_path / "c") as others:

        def not_yet(path: Path) -> bool:
            there = exists(path)
            if path == key and not there:
                monkeypatch.setattr(Path, "exists", exists)
                backup(cloud, others, key_file=key)
            return there

        monkeypatch.setattr(Path, "exists", not_yet)
        backup(cloud, files, key_file=key)
        for each in (files, others):
            each.seal = None
            assert restored(CloudInMemory(), each, key_file=key) == cloud.volume


def test_a_backup_is_encrypted_or_not(cloud: CloudInMemory, files: Directory, tmp_path: Path) -> None:
    with pytest.raises(CliError, match="is in the backup that it opens"):
        backup(cloud, files, key_file=files.path / "key")
    key = tmp_path / "key"
    key.write_text("not a key")
    with pytest.raises(CliError, match="is no key of a backup"):
        backup(cloud, files, key_file=key)
    backup(cloud, files)
    key.unlink()
    with pytest.raises(CliError, match="is a backup that is not encrypted"):
        backup(cloud, files, "snap-9", key_file=key)
    assert not key.exists()
    with pytest.raises(CliError, match="is not encrypted"):
        restored(CloudInMemory(), files, key_file=key)


@pytest.mark.parametrize("left", [0, 1, 33, 70, 99])
def test_an_encrypted_backup_goes_on(
    cloud: CloudInMemory, files: Directory, tmp_path: Path, left: int
) -> None:
    cloud.left = left
    with pytest.raises(Ended):
        backup(cloud, files, key_file=tmp_path / "key")
    cloud.left = 1 << 30
    backup(cloud, files, key_file=tmp_path / "key")
    assert restored(CloudInMemory(), files, key_file=tmp_path / "key") == cloud.volume


@pytest.mark.parametrize("left", [0, 1, 2, 3, 50, 102, 1 << 30])
def test_an_encrypted_snapshot_is_restored_as_one(
    cloud: CloudInMemory, files: Directory, tmp_path: Path, left: int
) -> None:
    """Made of an empty one; blocks of zeros are written, since there would be noise. Nothing is left."""
    cloud.encrypted = True
    cloud.volume[1] = bytes(BLOCK_BYTES)
    key = tmp_path / "key"
    backup(cloud, files, key_file=key)
    cloud.volume[4] = block(4)
    del cloud.volume[3]
    backup(cloud, files, key_file=key)
    other = CloudInMemory()
    other.left = left
    if left < 1 << 30:
        with pytest.raises(Ended):
            restored(other, files, key_file=key)
        other.left = 1 << 30
    assert restored(other, files, key_file=key) == {**cloud.volume, 3: bytes(BLOCK_BYTES)}
    assert not other.open
    assert len(other.snapshots) == 1
    assert not other.empty


@pytest.mark.parametrize(("own", "to"), [(True, "aws"), (False, "http://fake")])
def test_to_aws_and_from_there(cloud: CloudInMemory, files: Directory, own: bool, to: str) -> None:
    """There it is zeros where nothing was written, also if it is encrypted."""
    cloud.encrypted = True
    source = FakeApi(cloud)
    source.own = own
    Backup(source, files, clear=True).run("vol-1")
    other = CloudInMemory()
    other.left = 0
    api = FakeApi(other)
    api.endpoint = to
    with pytest.raises(Ended):
        Restore(files, "").run(api, clear=False)
    (begun,) = other.open.values()
    assert begun["Encrypted"]
    assert "ParentSnapshotId" not in begun


def test_a_directory_is_of_one_volume(cloud: CloudInMemory, files: Directory) -> None:
    backup(cloud, files)
    with pytest.raises(CliError, match="is a backup of vol-1, not of vol-2"):
        backup(cloud, files, "vol-2")


def test_nothing_to_restore(files: Directory) -> None:
    with pytest.raises(CliError, match="no complete backup"):
        Restore(files, "")


@pytest.mark.parametrize(
    ("code", "status", "again"),
    [
        ("InvalidVolume.NotFound", 400, False),
        ("InvalidParameterValue", 400, False),
        ("ResourceNotFoundException", 404, False),
        ("InternalError", 500, True),
        ("RequestThrottledException", 400, True),
        ("RequestLimitExceeded", 503, True),
        ("SlowDown", 429, True),
    ],
)
def test_only_what_may_pass_is_to_be_tried_again(code: str, status: int, again: bool) -> None:
    answer: Any = {"Error": {"Code": code, "Message": ""}, "ResponseMetadata": {"HTTPStatusCode": status}}
    with pytest.raises(CliError) as caught, reported():
        raise ClientError(answer, "")
    assert bool(caught.value.next_step) is again
