from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from gureum.errors import ApiError
from gureum.resources import Snapshot, SnapshotState
from gureum.transport.messages import BLOCK_BYTES

if TYPE_CHECKING:
    from ..conftest import Rig

OF_IMAGE = "snap-00000000000000001"
NOBODY = "snap-0123456789abcdef0"


async def with_blocks(rig: Rig, *indexes: int, volume: str = "") -> str:
    """The id of a new snapshot that has data in these blocks."""
    id = await rig.snapshot(volume or await rig.volume())
    rig.hosts.blocks.data[id] = {index: bytes([index % 251 + 1]) * BLOCK_BYTES for index in indexes}
    return id


async def failure(rig: Rig, operation: str, **input: Any) -> tuple[str, object]:
    with pytest.raises(ApiError) as caught:
        await rig.call(operation, service="ebs", **input)
    return caught.value.code, caught.value.fields.get("Reason")


async def test_list_and_get(rig: Rig) -> None:
    id = await with_blocks(rig, 0, 7)
    listed = await rig.call("ListSnapshotBlocks", service="ebs", SnapshotId=id)
    assert [each["BlockIndex"] for each in listed["Blocks"]] == [0, 7]
    assert (listed["VolumeSize"], listed["BlockSize"]) == (1, 524288)
    assert listed["ExpiryTime"].timestamp() == rig.time + 7 * 24 * 3600
    assert "NextToken" not in listed
    for block in listed["Blocks"]:
        got = await rig.call("GetSnapshotBlock", service="ebs", SnapshotId=id, **block)
        data = rig.hosts.blocks.data[id][block["BlockIndex"]]
        assert got["BlockData"] == data
        assert got["Checksum"] == base64.b64encode(hashlib.sha256(data).digest()).decode()
        assert (got["DataLength"], got["ChecksumAlgorithm"]) == (BLOCK_BYTES, "SHA256")


async def test_pages(rig: Rig) -> None:
    id = await with_blocks(rig, *range(0, 500, 2))
    found: list[int] = []
    input: dict[str, Any] = {"SnapshotId": id, "MaxResults": 100}
    for count in (100, 100, 50):
        page = await rig.call("ListSnapshotBlocks", service="ebs", **input)
        assert len(page["Blocks"]) == count
        found += [each["BlockIndex"] for each in page["Blocks"]]
        input["NextToken"] = page.get("NextToken")
    assert input["NextToken"] is None
    assert found == list(range(0, 500, 2))
    page = await rig.call("ListSnapshotBlocks", service="ebs", SnapshotId=id, StartingBlockIndex=451)
    assert [each["BlockIndex"] for each in page["Blocks"]] == list(range(452, 500, 2))


async def test_tokens_of_pages_and_blocks_are_bound(rig: Rig) -> None:
    id, other = await with_blocks(rig, *range(200)), await with_blocks(rig, *range(200))
    page = await rig.call("ListSnapshotBlocks", service="ebs", SnapshotId=id, MaxResults=100)
    wrong = {"SnapshotId": other, "NextToken": page["NextToken"]}
    invalid_page = ("ValidationException", "INVALID_PAGE_TOKEN")
    assert await failure(rig, "ListSnapshotBlocks", **wrong) == invalid_page
    assert await failure(rig, "ListSnapshotBlocks", SnapshotId=id, NextToken="AAAA") == invalid_page
    assert await failure(rig, "ListSnapshotBlocks", SnapshotId=id, NextToken="=") == invalid_page
    token = page["Blocks"][3]["BlockToken"]
    invalid_block = ("ValidationException", "INVALID_BLOCK_TOKEN")
    for snapshot, index, given in ((id, 4, token), (other, 3, token), (id, 3, token[:-4]), (id, 3, "x")):
        input = {"SnapshotId": snapshot, "BlockIndex": index, "BlockToken": given}
        assert await failure(rig, "GetSnapshotBlock", **input) == invalid_block


async def test_tokens_expire(rig: Rig, at: Callable[[float], None]) -> None:
    id = await with_blocks(rig, 0)
    [block] = (await rig.call("ListSnapshotBlocks", service="ebs", SnapshotId=id))["Blocks"]
    at(7 * 24 * 3600)
    await rig.call("GetSnapshotBlock", service="ebs", SnapshotId=id, **block)
    at(1)
    assert (await failure(rig, "GetSnapshotBlock", SnapshotId=id, **block))[1] == "INVALID_BLOCK_TOKEN"


async def test_changed_blocks(rig: Rig) -> None:
    volume = await rig.volume()
    first, second = await with_blocks(rig, 0, 1, volume=volume), await with_blocks(rig, 1, 2, volume=volume)
    answer = await rig.call(
        "ListChangedBlocks", service="ebs", FirstSnapshotId=first, SecondSnapshotId=second
    )
    gone, new = answer["ChangedBlocks"]
    assert (gone["BlockIndex"], "FirstBlockToken" in gone, "SecondBlockToken" in gone) == (0, True, False)
    assert (new["BlockIndex"], "FirstBlockToken" in new, "SecondBlockToken" in new) == (2, False, True)
    input = {"SnapshotId": second, "BlockIndex": 2, "BlockToken": new["SecondBlockToken"]}
    await rig.call("GetSnapshotBlock", service="ebs", **input)
    everything = await rig.call("ListChangedBlocks", service="ebs", SecondSnapshotId=second)
    assert [each["BlockIndex"] for each in everything["ChangedBlocks"]] == [1, 2]
    other = await with_blocks(rig, 0)
    input = {"FirstSnapshotId": first, "SecondSnapshotId": other}
    assert (await failure(rig, "ListChangedBlocks", **input))[1] == "UNRELATED_SNAPSHOTS"


async def test_refuses(rig: Rig) -> None:
    id = await with_blocks(rig, 0)
    found = {
        ("ResourceNotFoundException", "SNAPSHOT_NOT_FOUND"): {"SnapshotId": NOBODY},
        ("ValidationException", "INVALID_SNAPSHOT_ID"): {"SnapshotId": "snap-1"},
    }
    for expected, input in found.items():
        assert await failure(rig, "ListSnapshotBlocks", **input) == expected
    assert (await failure(rig, "ListSnapshotBlocks", SnapshotId=OF_IMAGE))[1] == "INVALID_SNAPSHOT_ID"
    await rig.change(Snapshot, id, state=SnapshotState.deleting)
    assert (await failure(rig, "ListSnapshotBlocks", SnapshotId=id))[0] == "ResourceNotFoundException"


async def test_a_host_that_does_not_answer(rig: Rig) -> None:
    id = await with_blocks(rig, 0)
    [block] = (await rig.call("ListSnapshotBlocks", service="ebs", SnapshotId=id))["Blocks"]
    rig.hosts.blocks.down = True
    assert await failure(rig, "ListSnapshotBlocks", SnapshotId=id) == ("InternalServerException", None)
    assert await failure(rig, "GetSnapshotBlock", SnapshotId=id, **block) == ("InternalServerException", None)


async def test_encrypted_ones_are_read_in_clear(rig: Rig) -> None:
    id = await with_blocks(rig, 0, 7, volume=await rig.volume(Encrypted=True))
    [block, _] = (await rig.call("ListSnapshotBlocks", service="ebs", SnapshotId=id))["Blocks"]
    got = await rig.call("GetSnapshotBlock", service="ebs", SnapshotId=id, **block)
    assert got["BlockData"] == rig.hosts.blocks.data[id][0]
    rig.hosts.blocks.locked = True
    refused = await failure(rig, "GetSnapshotBlock", SnapshotId=id, **block)
    assert refused == ("ValidationException", "INVALID_CUSTOMER_KEY")
