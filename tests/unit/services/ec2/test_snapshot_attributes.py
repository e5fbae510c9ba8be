from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from gureum.resources import Snapshot

if TYPE_CHECKING:
    from ..conftest import Rig

PERMISSION = "createVolumePermission"


async def shown(rig: Rig, id: str) -> list[dict[str, str]]:
    answer = await rig.call("DescribeSnapshotAttribute", SnapshotId=id, Attribute=PERMISSION)
    permissions: list[dict[str, str]] = answer["CreateVolumePermissions"]
    return permissions


async def test_permissions_come_and_go(rig: Rig) -> None:
    id = await rig.snapshot(await rig.volume())
    assert await shown(rig, id) == []
    add = {"Add": [{"UserId": "111111111111"}, {"Group": "all"}]}
    await rig.call("ModifySnapshotAttribute", SnapshotId=id, CreateVolumePermission=add)
    assert await shown(rig, id) == [{"Group": "all"}, {"UserId": "111111111111"}]
    remove = {"Remove": [{"Group": "all"}]}
    await rig.call("ModifySnapshotAttribute", SnapshotId=id, CreateVolumePermission=remove)
    assert await shown(rig, id) == [{"UserId": "111111111111"}]
    await rig.call(
        "ModifySnapshotAttribute",
        SnapshotId=id,
        Attribute=PERMISSION,
        OperationType="add",
        UserIds=["222222222222", "111111111111"],
        GroupNames=["all"],
    )
    users = [{"UserId": "111111111111"}, {"UserId": "222222222222"}]
    assert await shown(rig, id) == [{"Group": "all"}, *users]
    await rig.call("ResetSnapshotAttribute", SnapshotId=id, Attribute=PERMISSION)
    assert await shown(rig, id) == []


async def test_product_codes(rig: Rig) -> None:
    id = await rig.snapshot(await rig.volume())
    answer = await rig.call("DescribeSnapshotAttribute", SnapshotId=id, Attribute="productCodes")
    assert answer == {"SnapshotId": id, "ProductCodes": []}


@pytest.mark.parametrize(
    ("code", "input"),
    [
        ("MissingParameter", {"Attribute": PERMISSION, "UserIds": ["111111111111"]}),
        ("InvalidParameterValue", {"Attribute": "productCodes", "OperationType": "add"}),
        ("InvalidAMIAttributeItemValue", {"CreateVolumePermission": {"Add": [{"UserId": "me"}]}}),
        ("InvalidAMIAttributeItemValue", {"OperationType": "add", "GroupNames": ["some"]}),
        (
            "InvalidParameterCombination",
            {"CreateVolumePermission": {"Add": [{"Group": "all"}]}, "OperationType": "add"},
        ),
    ],
)
async def test_refuses(rig: Rig, code: str, input: dict[str, Any]) -> None:
    id = await rig.snapshot(await rig.volume())
    await rig.fails(code, "ModifySnapshotAttribute", SnapshotId=id, **input)


async def test_of_somebody_else_or_encrypted(rig: Rig) -> None:
    id = await rig.snapshot(await rig.volume(Encrypted=True))
    everybody = {"Add": [{"Group": "all"}]}
    await rig.fails(
        "InvalidParameterCombination",
        "ModifySnapshotAttribute",
        SnapshotId=id,
        CreateVolumePermission=everybody,
    )
    await rig.change(Snapshot, id, account="")
    await rig.fails(
        "UnauthorizedOperation", "ModifySnapshotAttribute", SnapshotId=id, CreateVolumePermission=everybody
    )
    await rig.fails("UnauthorizedOperation", "ResetSnapshotAttribute", SnapshotId=id, Attribute=PERMISSION)
