from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from gureum.resources import AttachmentState, Instance, Modification, Volume, VolumeState
from gureum.services.ec2 import multi_attach

if TYPE_CHECKING:
    from ..conftest import Rig

KIND = {"VolumeType": "io2", "Iops": 100, "Size": 4, "MultiAttachEnabled": True}


@pytest.fixture
def san(rig: Rig) -> Rig:
    """A cloud with a shared pool."""
    rig.cloud = replace(rig.cloud, pool="san")
    return rig


async def attach(rig: Rig, volume: str, count: int = 2) -> list[str]:
    instances = [await rig.running() for _ in range(count)]
    for instance in instances:
        await rig.call("AttachVolume", VolumeId=volume, InstanceId=instance, Device="/dev/sdf")
    await rig.attached(volume)
    return instances


async def test_create(san: Rig) -> None:
    for kind in ("io1", "io2"):
        id = await san.volume(**{**KIND, "VolumeType": kind})
        [shown] = (await san.call("DescribeVolumes", VolumeIds=[id]))["Volumes"]
        assert shown["MultiAttachEnabled"] is True
    plain = await san.volume()
    assert not (await san.get(Volume, plain)).multi_attach
    filters = [{"Name": "multi-attach-enabled", "Values": ["true"]}]
    found = await san.call("DescribeVolumes", Filters=filters)
    assert {each["VolumeType"] for each in found["Volumes"]} == {"io1", "io2"}


async def test_create_refuses(rig: Rig) -> None:
    zone = {"AvailabilityZone": "us-east-1a"}
    for kind in ({"VolumeType": "gp3"}, {"VolumeType": "st1", "Size": 125}, {}):
        asked = {**zone, "Size": 4, "MultiAttachEnabled": True, **kind}
        await rig.fails("InvalidParameterCombination", "CreateVolume", **asked)
    message = await rig.fails("UnsupportedOperation", "CreateVolume", **zone, **KIND)
    assert "choose a type whose pool is shared" in message


async def test_several_instances_have_it(san: Rig) -> None:
    volume = await san.volume(**KIND)
    one, two = await attach(san, volume)
    [shown] = (await san.call("DescribeVolumes", VolumeIds=[volume]))["Volumes"]
    assert [each["InstanceId"] for each in shown["Attachments"]] == [one, two]
    for instance in (one, two):
        filters = [{"Name": "attachment.instance-id", "Values": [instance]}]
        found = (await san.call("DescribeVolumes", Filters=filters))["Volumes"]
        assert volume in [each["VolumeId"] for each in found]
        [described] = (await san.call("DescribeInstances", InstanceIds=[instance]))["Reservations"]
        mappings = described["Instances"][0]["BlockDeviceMappings"]
        assert [each["Ebs"]["VolumeId"] for each in mappings][1:] == [volume]
    status = await san.call("DescribeVolumeStatus", VolumeIds=[volume])
    attached = status["VolumeStatuses"][0]["AttachmentStatuses"]
    assert [each["InstanceId"] for each in attached] == [one, two]
    assert volume in await san.fails("VolumeInUse", "DeleteVolume", VolumeId=volume)


async def test_attach_refuses(san: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    volume = await san.volume(**KIND)
    [one] = await attach(san, volume, 1)
    both = {"VolumeId": volume, "InstanceId": one}
    assert one in await san.fails("VolumeInUse", "AttachVolume", **both, Device="/dev/sdg")
    stopped = await san.stopped()
    record = await san.get(Instance, stopped)
    await san.change(Instance, stopped, devices=())
    await san.fails(
        "OperationNotPermitted",
        "AttachVolume",
        VolumeId=volume,
        InstanceId=stopped,
        Device=record.root_device,
    )
    monkeypatch.setattr(multi_attach, "INSTANCES_MAX", 1)
    two = await san.running()
    await san.fails(
        "AttachmentLimitExceeded", "AttachVolume", VolumeId=volume, InstanceId=two, Device="/dev/sdg"
    )
    zone = await san.volume(**KIND, AvailabilityZone="us-east-1b")
    await san.fails(
        "InvalidVolume.ZoneMismatch", "AttachVolume", VolumeId=zone, InstanceId=two, Device="/dev/sdg"
    )
    modification = Modification(
        state="modifying",
        started=datetime(2026, 1, 1, tzinfo=UTC),
        original_size_bytes=1,
        original_type="io2",
    )
    free = await san.volume(**KIND)
    await san.change(Volume, free, modification=modification)
    await san.fails("IncorrectState", "AttachVolume", VolumeId=free, InstanceId=two, Device="/dev/sdg")


async def test_detach_names_its_instance(san: Rig) -> None:
    volume = await san.volume(**KIND)
    one, two = await attach(san, volume)
    assert one in await san.fails("MissingParameter", "DetachVolume", VolumeId=volume)
    other = await san.running()
    await san.fails("InvalidAttachment.NotFound", "DetachVolume", VolumeId=volume, InstanceId=other)
    shown = await san.call("DetachVolume", VolumeId=volume, InstanceId=two)
    assert (shown["InstanceId"], shown["State"]) == (two, "detaching")
    record = await san.get(Volume, volume)
    states = {each.instance: each.state for each in record.attachments}
    assert states == {one: AttachmentState.attached, two: AttachmentState.detaching}
    await san.put(record.without_attachment(two))
    assert (await san.call("DetachVolume", VolumeId=volume))["InstanceId"] == one


async def test_delete_on_termination_is_each_instances(san: Rig) -> None:
    volume = await san.volume(**KIND)
    one, two = await attach(san, volume)
    mappings = [{"DeviceName": "/dev/sdf", "Ebs": {"DeleteOnTermination": True}}]
    await san.call("ModifyInstanceAttribute", InstanceId=two, BlockDeviceMappings=mappings)
    record = await san.get(Volume, volume)
    deletes = {each.instance: each.delete_on_termination for each in record.attachments}
    assert deletes == {one: False, two: True}


async def test_modify(san: Rig) -> None:
    volume = await san.volume(**{**KIND, "MultiAttachEnabled": False})
    await san.call("ModifyVolume", VolumeId=volume, MultiAttachEnabled=True)
    record = await san.get(Volume, volume)
    assert record.multi_attach
    [shown] = (await san.call("DescribeVolumesModifications", VolumeIds=[volume]))["VolumesModifications"]
    assert (shown["OriginalMultiAttachEnabled"], shown["TargetMultiAttachEnabled"]) == (False, True)
    await san.put(replace(record, modification=None))
    await san.call("ModifyVolume", VolumeId=volume, MultiAttachEnabled=False, Size=5)
    assert not (await san.get(Volume, volume)).multi_attach


@pytest.mark.parametrize(
    ("code", "input"),
    [
        ("IncorrectState", {"MultiAttachEnabled": False}),
        ("InvalidParameterCombination", {"VolumeType": "gp3"}),
        ("UnsupportedOperation", {"Size": 5}),
    ],
)
async def test_modify_refuses_what_instances_have(san: Rig, code: str, input: dict[str, Any]) -> None:
    volume = await san.volume(**KIND)
    await attach(san, volume, 1)
    await san.fails(code, "ModifyVolume", VolumeId=volume, **input)


async def test_modify_refuses(san: Rig) -> None:
    one = await san.volume(**{**KIND, "VolumeType": "io1"})
    await san.fails("InvalidParameterCombination", "ModifyVolume", VolumeId=one, MultiAttachEnabled=False)
    await san.fails("InvalidParameterCombination", "ModifyVolume", VolumeId=one, Size=8)
    plain = await san.volume(**{**KIND, "MultiAttachEnabled": False})
    await attach(san, plain, 1)
    message = await san.fails("IncorrectState", "ModifyVolume", VolumeId=plain, MultiAttachEnabled=True)
    assert "Detach it first" in message
    local = await san.volume(**{**KIND, "MultiAttachEnabled": False})
    await san.change(Volume, local, pool="local", state=VolumeState.available)
    await san.fails("UnsupportedOperation", "ModifyVolume", VolumeId=local, MultiAttachEnabled=True)
