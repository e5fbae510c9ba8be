from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..conftest import Rig

NOBODY = "vol-0123456789abcdef0"


async def test_auto_enable_io_is_kept(rig: Rig) -> None:
    id = await rig.volume()
    for value in (True, False):
        await rig.call("ModifyVolumeAttribute", VolumeId=id, AutoEnableIO={"Value": value})
        shown = await rig.call("DescribeVolumeAttribute", VolumeId=id, Attribute="autoEnableIO")
        assert shown["AutoEnableIO"] == {"Value": value}
    await rig.fails("MissingParameter", "ModifyVolumeAttribute", VolumeId=id)
    await rig.fails("InvalidVolume.NotFound", "ModifyVolumeAttribute", VolumeId=NOBODY, AutoEnableIO={})
