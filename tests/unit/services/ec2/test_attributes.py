from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import pytest

from gureum.resources import Growth, Instance, InstanceState, NetworkInterface, Volume

if TYPE_CHECKING:
    from ..conftest import Rig


async def attribute(rig: Rig, id: str, name: str) -> Any:
    answer = await rig.call("DescribeInstanceAttribute", InstanceId=id, Attribute=name)
    assert answer.pop("InstanceId") == id
    [value] = answer.values()
    return value


async def test_describe(rig: Rig) -> None:
    data = base64.b64encode(b"#!/bin/sh").decode()
    id = await rig.running(UserData=data, DisableApiTermination=True)
    for name, value in {
        "instanceType": {"Value": "t3.micro"},
        "userData": {"Value": data},
        "disableApiTermination": {"Value": True},
        "disableApiStop": {"Value": False},
        "instanceInitiatedShutdownBehavior": {"Value": "stop"},
        "rootDeviceName": {"Value": "/dev/xvda"},
        "sourceDestCheck": {"Value": True},
        "ebsOptimized": {"Value": False},
        "enaSupport": {"Value": False},
        "kernel": {},
        "ramdisk": {},
        "sriovNetSupport": {},
        "productCodes": [],
        "enclaveOptions": {"Enabled": False},
    }.items():
        assert await attribute(rig, id, name) == value, name
    [device] = await attribute(rig, id, "blockDeviceMapping")
    assert device["DeviceName"] == "/dev/xvda"
    [group] = await attribute(rig, id, "groupSet")
    assert group["GroupName"] == "default"
    await rig.fails("InvalidParameterValue", "DescribeInstanceAttribute", InstanceId=id, Attribute="colour")
    await rig.fails(
        "InvalidInstanceID.NotFound",
        "DescribeInstanceAttribute",
        InstanceId="i-00000001",
        Attribute="userData",
    )


async def test_no_user_data(rig: Rig) -> None:
    assert await attribute(rig, await rig.running(), "userData") == {}


@pytest.mark.parametrize(
    ("input", "field", "value"),
    [
        ({"InstanceType": {"Value": "m5.large"}}, "type", "m5.large"),
        ({"Attribute": "instanceType", "Value": "m5.large"}, "type", "m5.large"),
        ({"UserData": {"Value": b"new"}}, "user_data", b"new"),
        ({"UserData": {}}, "user_data", b""),
        ({"Attribute": "userData", "Value": "bmV3"}, "user_data", b"new"),
        ({"DisableApiTermination": {"Value": True}}, "disable_api_termination", True),
        ({"Attribute": "disableApiTermination", "Value": "true"}, "disable_api_termination", True),
        ({"Attribute": "disableApiTermination", "Value": "True"}, "disable_api_termination", True),
        ({"DisableApiStop": {"Value": True}}, "disable_api_stop", True),
        (
            {"InstanceInitiatedShutdownBehavior": {"Value": "terminate"}},
            "shutdown_behavior",
            "terminate",
        ),
        ({"EbsOptimized": {"Value": True}}, "ebs_optimized", True),
        ({"SourceDestCheck": {"Value": False}}, "source_dest_check", False),
    ],
)
async def test_modify_while_stopped(rig: Rig, input: dict[str, Any], field: str, value: object) -> None:
    id = await rig.stopped()
    assert await rig.call("ModifyInstanceAttribute", InstanceId=id, **input) == {}
    assert getattr(await rig.get(Instance, id), field) == value


async def test_another_type_ends_what_waits_for_one(rig: Rig) -> None:
    id = await rig.stopped()
    await rig.change(Instance, id, growth=Growth(type="m5.xlarge", since=1.0))
    await rig.call("ModifyInstanceAttribute", InstanceId=id, InstanceType={"Value": "m5.large"})
    instance = await rig.get(Instance, id)
    assert (instance.type, instance.growth) == ("m5.large", None)


async def test_source_dest_check_reaches_the_interface(rig: Rig) -> None:
    id = await rig.running()
    await rig.call("ModifyInstanceAttribute", InstanceId=id, SourceDestCheck={"Value": False})
    [interface] = await rig.find(NetworkInterface, instance=id)
    assert not interface.source_dest_check


async def test_modify_groups(rig: Rig) -> None:
    id = await rig.running()
    group = (await rig.call("CreateSecurityGroup", GroupName="web", Description="web"))["GroupId"]
    await rig.call("ModifyInstanceAttribute", InstanceId=id, Groups=[group])
    [interface] = await rig.find(NetworkInterface, instance=id)
    assert interface.groups == (group,)
    assert await attribute(rig, id, "groupSet") == [{"GroupId": group, "GroupName": "web"}]
    await rig.fails("InvalidGroup.NotFound", "ModifyInstanceAttribute", InstanceId=id, Groups=["sg-00000001"])
    many = [f"sg-{i:017x}" for i in range(17)]
    await rig.fails("InvalidGroup.NotFound", "ModifyInstanceAttribute", InstanceId=id, Groups=many)


async def test_modify_block_devices(rig: Rig) -> None:
    id = await rig.running()

    def mapping(device: str, **ebs: Any) -> dict[str, Any]:
        return {"InstanceId": id, "BlockDeviceMappings": [{"DeviceName": device, "Ebs": ebs}]}

    await rig.call("ModifyInstanceAttribute", **mapping("/dev/xvda", DeleteOnTermination=False))
    [device] = (await rig.get(Instance, id)).devices
    assert not device.delete_on_termination
    [attachment] = (await rig.get(Volume, device.volume)).attachments
    assert attachment is not None
    assert not attachment.delete_on_termination
    await rig.fails(
        "InvalidInstanceAttributeValue",
        "ModifyInstanceAttribute",
        **mapping("/dev/sdf", DeleteOnTermination=True),
    )
    await rig.fails("MissingParameter", "ModifyInstanceAttribute", **mapping("/dev/xvda"))
    gone = [{"DeviceName": "/dev/xvda", "NoDevice": "", "Ebs": {"DeleteOnTermination": True}}]
    await rig.fails(
        "UnsupportedOperation", "ModifyInstanceAttribute", InstanceId=id, BlockDeviceMappings=gone
    )
    wrong = mapping("/dev/xvda", VolumeId="vol-00000001", DeleteOnTermination=True)
    await rig.fails("InvalidParameterValue", "ModifyInstanceAttribute", **wrong)


@pytest.mark.parametrize(
    "input",
    [
        {"InstanceType": {"Value": "m5.large"}},
        {"UserData": {"Value": b"new"}},
        {"EbsOptimized": {"Value": True}},
    ],
)
async def test_what_needs_a_stopped_instance(rig: Rig, input: dict[str, Any]) -> None:
    id = await rig.running()
    message = await rig.fails("IncorrectInstanceState", "ModifyInstanceAttribute", InstanceId=id, **input)
    assert message == f"The instance '{id}' is not in the 'stopped' state."


@pytest.mark.parametrize(
    ("code", "input"),
    [
        ("InvalidParameterCombination", {}),
        (
            "InvalidParameterCombination",
            {"DisableApiStop": {"Value": True}, "DisableApiTermination": {"Value": True}},
        ),
        ("InvalidParameterValue", {"InstanceType": {"Value": "t9.huge"}}),
        ("InvalidParameterValue", {"InstanceInitiatedShutdownBehavior": {"Value": "explode"}}),
        ("InvalidParameterValue", {"Attribute": "disableApiStop", "Value": "perhaps"}),
        ("InvalidParameterValue", {"UserData": {"Value": bytes(16385)}}),
        ("UnsupportedOperation", {"Attribute": "kernel", "Value": "aki-1"}),
        ("UnsupportedOperation", {"EnaSupport": {"Value": True}}),
        ("UnsupportedOperation", {"Kernel": {"Value": "aki-1"}}),
    ],
)
async def test_modify_refuses(rig: Rig, code: str, input: dict[str, Any]) -> None:
    id = await rig.stopped()
    await rig.fails(code, "ModifyInstanceAttribute", InstanceId=id, **input)


async def test_terminated_instances_stay_as_they_are(rig: Rig) -> None:
    id = await rig.running()
    await rig.change(Instance, id, state=InstanceState.terminated)
    stop = {"DisableApiStop": {"Value": True}}
    await rig.fails("IncorrectInstanceState", "ModifyInstanceAttribute", InstanceId=id, **stop)
    await rig.fails("IncorrectInstanceState", "ModifyInstanceMetadataOptions", InstanceId=id)


async def test_metadata_options(rig: Rig) -> None:
    id = await rig.running()
    answer = await rig.call("ModifyInstanceMetadataOptions", InstanceId=id, HttpTokens="optional")
    assert answer["InstanceMetadataOptions"]["State"] == "pending"
    assert answer["InstanceMetadataOptions"]["HttpTokens"] == "optional"
    await rig.call("ModifyInstanceMetadataOptions", InstanceId=id, HttpPutResponseHopLimit=4)
    await rig.call("ModifyInstanceMetadataOptions", InstanceId=id, InstanceMetadataTags="enabled")
    metadata = (await rig.get(Instance, id)).metadata
    assert (metadata.tokens_required, metadata.hop_limit, metadata.tags_enabled) == (False, 4, True)
    await rig.call("ModifyInstanceMetadataOptions", InstanceId=id, HttpEndpoint="disabled")
    assert not (await rig.get(Instance, id)).metadata.enabled
    await rig.fails(
        "InvalidParameterValue", "ModifyInstanceMetadataOptions", InstanceId=id, HttpTokens="never"
    )
    await rig.fails(
        "InvalidParameterCombination",
        "ModifyInstanceMetadataOptions",
        InstanceId=id,
        HttpEndpoint="disabled",
        HttpTokens="required",
    )
