from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from gureum.resources import Image

if TYPE_CHECKING:
    from ..conftest import Rig

OWN = "ami-00000000000000001"


async def shown(rig: Rig, attribute: str) -> Any:
    answer = await rig.call("DescribeImageAttribute", ImageId=OWN, Attribute=attribute)
    assert answer.pop("ImageId") == OWN
    [value] = answer.values()
    return value


async def test_description(rig: Rig) -> None:
    await rig.call("ModifyImageAttribute", ImageId=OWN, Description={"Value": "new"})
    assert await shown(rig, "description") == {"Value": "new"}
    await rig.call("ModifyImageAttribute", ImageId=OWN, Attribute="description", Value="newer")
    assert await shown(rig, "description") == {"Value": "newer"}


async def test_launch_permission(rig: Rig) -> None:
    permission = {"Add": [{"UserId": "111111111111"}, {"Group": "all"}]}
    await rig.call("ModifyImageAttribute", ImageId=OWN, LaunchPermission=permission)
    assert await shown(rig, "launchPermission") == [{"Group": "all"}, {"UserId": "111111111111"}]
    [image] = (await rig.call("DescribeImages", ExecutableUsers=["all"]))["Images"]
    assert image["Public"]
    await rig.call(
        "ModifyImageAttribute",
        ImageId=OWN,
        Attribute="launchPermission",
        OperationType="remove",
        UserGroups=["all"],
    )
    assert await shown(rig, "launchPermission") == [{"UserId": "111111111111"}]
    await rig.call("ModifyImageAttribute", ImageId=OWN, OperationType="add", UserIds=["222222222222"])
    assert len(await shown(rig, "launchPermission")) == 2
    await rig.call("ResetImageAttribute", ImageId=OWN, Attribute="launchPermission")
    assert await shown(rig, "launchPermission") == []


async def test_others(rig: Rig) -> None:
    await rig.fails("AuthFailure", "DescribeImageAttribute", ImageId=OWN, Attribute="blockDeviceMapping")
    assert await shown(rig, "productCodes") == []
    assert await shown(rig, "bootMode") == {"Value": "legacy-bios"}
    assert await shown(rig, "kernel") == {}
    await rig.call("ModifyImageAttribute", ImageId=OWN, ImdsSupport={"Value": "v2.0"})
    assert await shown(rig, "imdsSupport") == {"Value": "v2.0"}


@pytest.mark.parametrize(
    ("code", "input"),
    [
        ("MissingParameter", {}),
        ("MissingParameter", {"Attribute": "description"}),
        ("InvalidParameterValue", {"Attribute": "bootMode", "Value": "uefi"}),
        ("InvalidParameterValue", {"Attribute": "description", "Value": "x" * 256}),
        ("InvalidParameterValue", {"ImdsSupport": {"Value": "v1"}}),
        ("InvalidParameterCombination", {"Description": {"Value": "x"}, "Attribute": "launchPermission"}),
        ("UnsupportedOperation", {"ProductCodes": ["x"]}),
        ("UnsupportedOperation", {"Attribute": "launchPermission", "OrganizationArns": ["x"]}),
        ("InvalidAMIAttributeItemValue", {"LaunchPermission": {"Add": [{"UserId": "me"}]}}),
        ("InvalidParameterValue", {"Attribute": "launchPermission", "OperationType": "set"}),
    ],
)
async def test_refuses(rig: Rig, code: str, input: dict[str, Any]) -> None:
    await rig.fails(code, "ModifyImageAttribute", ImageId=OWN, **input)


async def test_of_somebody_else(rig: Rig) -> None:
    await rig.change(Image, OWN, account="")
    await rig.fails("AuthFailure", "ModifyImageAttribute", ImageId=OWN, Description={"Value": "x"})
    await rig.fails("InvalidRequest", "DescribeImageAttribute", ImageId=OWN, Attribute="x")
