from __future__ import annotations

from typing import TYPE_CHECKING

from gureum.resources import Image, ImageState, Snapshot, Volume

if TYPE_CHECKING:
    from ..conftest import Rig

OWN = "ami-00000000000000001"
HERE = {"SourceRegion": "us-east-1", "SourceImageId": OWN}


async def test_copy(rig: Rig) -> None:
    await rig.change(Image, OWN, kernel="/k", tags={"a": "b"}, description="original")
    answer = await rig.call("CopyImage", Name="copy", CopyImageTags=True, **HERE)
    image = await rig.get(Image, answer["ImageId"])
    assert (image.state, image.kernel, image.disk, image.tags) == (ImageState.pending, "/k", "", {"a": "b"})
    [snapshot] = [await rig.get(Snapshot, id) for id in image.snapshots]
    assert OWN in snapshot.description
    assert image.id in snapshot.description
    assert (await rig.get(Volume, snapshot.staging)).source == OWN
    [shown] = (await rig.call("DescribeImages", ImageIds=[image.id]))["Images"]
    assert (shown["SourceImageId"], shown["SourceImageRegion"]) == (OWN, "us-east-1")


async def test_refuses(rig: Rig) -> None:
    await rig.fails("InvalidAMIName.Duplicate", "CopyImage", Name="tiny", **HERE)
    await rig.fails("InvalidParameterValue", "CopyImage", Name="new", **{**HERE, "SourceRegion": "x"})
    await rig.fails("UnsupportedOperation", "CopyImage", Name="new", DestinationOutpostArn="x", **HERE)
    missing = {**HERE, "SourceImageId": "ami-00000009"}
    await rig.fails("InvalidAMIID.NotFound", "CopyImage", Name="new", **missing)
