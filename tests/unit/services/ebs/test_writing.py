from __future__ import annotations

import base64
import hashlib
from typing import TYPE_CHECKING, Any

import pytest

from gureum.errors import ApiError
from gureum.resources import Snapshot, SnapshotState, Volume, VolumeState
from gureum.services.ebs import writing
from gureum.services.ec2.uploads import UPLOADS
from gureum.transport.messages import BLOCK_BYTES

if TYPE_CHECKING:
    from ..conftest import Rig

A, B = b"a" * BLOCK_BYTES, b"b" * BLOCK_BYTES


class Payload:
    """What the gateway hands over for a streamed member."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    async def read(self, limit: int) -> bytes:
        if len(self.data) > limit:
            raise ApiError("RequestEntityTooLarge", "too large", 413)
        return self.data


def checksum(data: bytes) -> str:
    return base64.b64encode(hashlib.sha256(data).digest()).decode()


async def put(rig: Rig, id: str, index: int, data: bytes, **other: Any) -> Any:
    input = {
        "SnapshotId": id,
        "BlockIndex": index,
        "BlockData": Payload(data),
        "DataLength": len(data),
        "Checksum": checksum(data),
        "ChecksumAlgorithm": "SHA256",
        **other,
    }
    return await rig.call("PutSnapshotBlock", service="ebs", **input)


async def start(rig: Rig, **input: Any) -> str:
    id: str = (await rig.call("StartSnapshot", service="ebs", **{"VolumeSize": 1, **input}))["SnapshotId"]
    return id


async def reason(rig: Rig, operation: str, **input: Any) -> object:
    with pytest.raises(ApiError) as caught:
        await rig.call(operation, service="ebs", **input)
    assert caught.value.code == "ValidationException"
    return caught.value.fields["Reason"]


async def test_from_start_to_completion(rig: Rig) -> None:
    answer = await rig.call(
        "StartSnapshot",
        service="ebs",
        VolumeSize=3,
        Description="upload",
        Tags=[{"Key": "a", "Value": "b"}],
        Timeout=10,
    )
    id = answer["SnapshotId"]
    assert (answer["Status"], answer["VolumeSize"], answer["BlockSize"]) == ("pending", 3, BLOCK_BYTES)
    snapshot = await rig.get(Snapshot, id)
    assert (snapshot.size_bytes, snapshot.tags, snapshot.timeout_seconds) == (3 << 30, {"a": "b"}, 600.0)
    assert snapshot.held
    staged = await rig.get(Volume, snapshot.staging)
    assert (staged.staged, staged.state, staged.source) == (id, VolumeState.creating, "")
    assert (await put(rig, id, 6143, A))["Checksum"] == checksum(A)
    await put(rig, id, 0, B)
    await put(rig, id, 0, A)
    assert rig.hosts.blocks.data[id] == {0: A, 6143: A}
    whole = base64.b64encode(hashlib.sha256(2 * hashlib.sha256(A).digest()).digest()).decode()
    completion = {"SnapshotId": id, "ChangedBlocksCount": 2, "Checksum": whole}
    for wrong in ({"ChangedBlocksCount": 3}, {"Checksum": checksum(A)}, {"Checksum": "=="}):
        found = await reason(rig, "CompleteSnapshot", **{**completion, **wrong})
        assert found == "INVALID_PARAMETER_VALUE"
    completion |= {"ChecksumAlgorithm": "SHA256", "ChecksumAggregationMethod": "LINEAR"}
    assert await rig.call("CompleteSnapshot", service="ebs", **completion) == {"Status": "pending"}
    assert not (await rig.get(Snapshot, id)).held
    await rig.change(Snapshot, id, state=SnapshotState.completed)
    assert await rig.call("CompleteSnapshot", service="ebs", **completion) == {"Status": "completed"}
    with pytest.raises(ApiError, match="takes no blocks"):
        await put(rig, id, 0, A)


async def test_a_manager_that_started_meanwhile_cannot_count(rig: Rig) -> None:
    id = await start(rig)
    UPLOADS.forget(id)
    await put(rig, id, 0, A)
    await rig.call("CompleteSnapshot", service="ebs", SnapshotId=id, ChangedBlocksCount=7)


async def test_an_encrypted_parent_is_not_added_to(rig: Rig) -> None:
    parent = await rig.snapshot(await rig.volume(Size=2, Encrypted=True))
    wrong = {"VolumeSize": 3, "ParentSnapshotId": parent}
    assert await reason(rig, "StartSnapshot", **wrong) == "INVALID_VOLUME_SIZE"


async def test_of_a_parent(rig: Rig) -> None:
    parent = await rig.snapshot(await rig.volume(Size=2))
    answer = await rig.call("StartSnapshot", service="ebs", VolumeSize=4, ParentSnapshotId=parent)
    assert answer["ParentSnapshotId"] == parent
    snapshot = await rig.get(Snapshot, answer["SnapshotId"])
    assert (await rig.get(Volume, snapshot.staging)).source == parent
    wrong = {"VolumeSize": 1, "ParentSnapshotId": parent}
    assert await reason(rig, "StartSnapshot", **wrong) == "INVALID_VOLUME_SIZE"
    wrong = {"VolumeSize": 4, "ParentSnapshotId": parent, "Encrypted": False}
    assert await reason(rig, "StartSnapshot", **wrong) == "INVALID_PARAMETER_VALUE"
    await rig.change(Snapshot, snapshot.id, state=SnapshotState.error)
    wrong = {"VolumeSize": 4, "ParentSnapshotId": snapshot.id}
    assert await reason(rig, "StartSnapshot", **wrong) == "INVALID_SNAPSHOT_ID"


async def encryption_of(rig: Rig, **input: Any) -> tuple[bool, str]:
    """Of a snapshot that is started so: whether it is encrypted, and its key."""
    answer = await rig.call("StartSnapshot", service="ebs", **{"VolumeSize": 1, **input})
    snapshot = await rig.get(Snapshot, answer["SnapshotId"])
    staged = await rig.get(Volume, snapshot.staging)
    assert (staged.encrypted, staged.key, staged.encrypts) == (snapshot.encrypted, snapshot.key, False)
    assert answer["SseType"] == ("sse-kms" if snapshot.encrypted else "none")
    assert ("KmsKeyArn" in answer) == snapshot.encrypted == bool(snapshot.key)
    return snapshot.encrypted, snapshot.key


async def test_encrypted_uploads(rig: Rig) -> None:
    parent = await rig.snapshot(await rig.volume(Encrypted=True))
    plain = await rig.snapshot(await rig.volume())
    key = (await rig.get(Snapshot, parent)).key
    assert await encryption_of(rig) == (False, "")
    assert await encryption_of(rig, ParentSnapshotId=plain) == (False, "")
    assert await encryption_of(rig, ParentSnapshotId=parent) == (True, key)
    asked = {"Encrypted": True, "KmsKeyArn": "alias/aws/ebs"}
    one, other = await encryption_of(rig, Encrypted=True), await encryption_of(rig, **asked)
    assert one[0]
    assert other[0]
    assert len({one[1], other[1], key}) == 3
    for id in (parent, plain):
        wrong = {"VolumeSize": 1, "ParentSnapshotId": id, "KmsKeyArn": "alias/aws/ebs"}
        assert await reason(rig, "StartSnapshot", **wrong) == "INVALID_PARAMETER_VALUE"
    await rig.call("EnableEbsEncryptionByDefault")
    assert (await encryption_of(rig))[0]
    assert await encryption_of(rig, ParentSnapshotId=parent) == (True, key)
    wrong = {"VolumeSize": 1, "ParentSnapshotId": plain}
    assert await reason(rig, "StartSnapshot", **wrong) == "INVALID_PARAMETER_VALUE"


@pytest.mark.parametrize(
    ("reason_", "input"),
    [
        ("INVALID_VOLUME_SIZE", {"VolumeSize": 65537}),
        ("INVALID_TAG", {"Tags": [{"Key": "aws:x", "Value": ""}]}),
        ("INVALID_TAG", {"Tags": [{"Key": "x"}, {"Key": "x"}]}),
        ("INVALID_CUSTOMER_KEY", {"KmsKeyArn": "alias/aws/ebs"}),
        ("INVALID_CUSTOMER_KEY", {"Encrypted": True, "KmsKeyArn": "arn:aws:kms:us-east-1:1:key/mine"}),
    ],
)
async def test_start_refuses(rig: Rig, reason_: str, input: dict[str, Any]) -> None:
    assert await reason(rig, "StartSnapshot", **{"VolumeSize": 1, **input}) == reason_


async def test_not_too_many_at_once(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "UPLOADS_MAX", 1)
    await start(rig)
    await rig.fails("ConcurrentLimitExceededException", "StartSnapshot", service="ebs", VolumeSize=1)


async def test_put_refuses(rig: Rig) -> None:
    id = await start(rig)
    for expected, index, data, other in (
        ("INVALID_BLOCK", 2048, A, {}),
        ("INVALID_BLOCK", 0, A[:-1], {}),
        ("INVALID_BLOCK", 0, A[:-1], {"DataLength": BLOCK_BYTES}),
        ("INVALID_BLOCK", 0, A, {"Checksum": checksum(B)}),
        ("INVALID_PARAMETER_VALUE", 0, A, {"Checksum": "not base64"}),
        ("INVALID_PARAMETER_VALUE", 0, A, {"ChecksumAlgorithm": "MD5"}),
    ):
        with pytest.raises(ApiError) as caught:
            await put(rig, id, index, data, **other)
        assert caught.value.fields["Reason"] == expected
    assert rig.hosts.blocks.data.get(id, {}) == {}
    ordinary = await rig.snapshot(await rig.volume())
    with pytest.raises(ApiError, match="takes no blocks"):
        await put(rig, ordinary, 0, A)
    rig.hosts.blocks.down = True
    with pytest.raises(ApiError, match="InternalServerException"):
        await put(rig, id, 0, A)
