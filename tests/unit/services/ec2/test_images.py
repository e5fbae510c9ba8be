from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gureum.resources import Image, ImageState

if TYPE_CHECKING:
    from ..conftest import Rig

OWN = "ami-00000000000000001"
SYSTEM = "ami-00000000000000002"


async def found(rig: Rig, **input: Any) -> list[str]:
    return [each["ImageId"] for each in (await rig.call("DescribeImages", **input))["Images"]]


async def test_describe(rig: Rig) -> None:
    [shown] = (await rig.call("DescribeImages"))["Images"]
    assert (shown["ImageId"], shown["Name"], shown["State"]) == (OWN, "tiny", "available")
    assert (shown["OwnerId"], shown["Public"]) == ("123456789012", False)
    assert shown["CreationDate"] == "2027-01-15T08:00:00.000Z"
    [device] = shown["BlockDeviceMappings"]
    assert device["DeviceName"] == shown["RootDeviceName"] == "/dev/xvda"
    assert device["Ebs"]["SnapshotId"] == "snap-00000000000000001"
    assert device["Ebs"]["VolumeSize"] == 2


async def test_owners(rig: Rig) -> None:
    await rig.image(SYSTEM, name="system", account="", public=True)
    assert await found(rig) == [OWN, SYSTEM]
    assert await found(rig, Owners=["self"]) == [OWN]
    assert await found(rig, Owners=["123456789012"]) == [OWN]
    assert await found(rig, Owners=["amazon"]) == [SYSTEM]
    assert await found(rig, Owners=["self", "amazon"]) == [OWN, SYSTEM]
    assert await found(rig, Owners=["aws-marketplace"]) == []
    assert await found(rig, Owners=["999999999999"]) == []
    assert await found(rig, Owners=["self"], ImageIds=[OWN, SYSTEM]) == [OWN]
    assert await found(rig, ExecutableUsers=["all"]) == [SYSTEM]
    assert await found(rig, ExecutableUsers=["self"]) == [OWN]
    assert await found(rig, Filters=[{"Name": "owner-alias", "Values": ["amazon"]}]) == [SYSTEM]
    for owner in ("me", "twelve-chars", "123"):
        await rig.fails("InvalidUserID.Malformed", "DescribeImages", Owners=[owner])


async def test_filters(rig: Rig) -> None:
    await rig.image(SYSTEM, name="debian-12", description="Debian 12", disk_bytes=1)
    for name, value in {
        "name": "deb*",
        "description": "Debian*",
        "image-id": SYSTEM,
        "block-device-mapping.volume-size": "1",
    }.items():
        assert await found(rig, Filters=[{"Name": name, "Values": [value]}]) == [SYSTEM], name
    for name, value in {
        "architecture": "x86_64",
        "state": "available",
        "virtualization-type": "hvm",
        "root-device-type": "ebs",
    }.items():
        assert await found(rig, Filters=[{"Name": name, "Values": [value]}]) == [OWN, SYSTEM], name
    await rig.fails("InvalidParameterValue", "DescribeImages", Filters=[{"Name": "x", "Values": ["y"]}])


async def test_unknown_and_deregistered(rig: Rig) -> None:
    message = await rig.fails("InvalidAMIID.NotFound", "DescribeImages", ImageIds=["ami-00000009"])
    assert message == "The image id '[ami-00000009]' does not exist"
    message = await rig.fails("InvalidAMIID.Malformed", "DescribeImages", ImageIds=["tiny"])
    assert message == 'Invalid id: "tiny" (expecting "ami-...")'
    await rig.change(Image, OWN, state=ImageState.deregistered)
    assert await found(rig) == []
    await rig.fails("InvalidAMIID.NotFound", "DescribeImages", ImageIds=[OWN])


async def test_an_image_of_another_account(rig: Rig) -> None:
    await rig.change(Image, OWN, account="999999999999")
    assert await found(rig) == []
