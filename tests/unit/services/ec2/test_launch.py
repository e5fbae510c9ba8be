from __future__ import annotations

import asyncio
import base64
from typing import TYPE_CHECKING

import pytest

from gureum.resources import (
    AttachmentState,
    Host,
    HostState,
    Image,
    ImageState,
    Instance,
    InstanceState,
    NetworkInterface,
    SecurityGroup,
    Subnet,
    Volume,
    VolumeState,
)
from gureum.services.ec2 import limits

if TYPE_CHECKING:
    from ..conftest import Rig

IMAGE = "ami-00000000000000001"
ONE = {"ImageId": IMAGE, "MinCount": 1, "MaxCount": 1}


async def test_writes_the_records_of_the_instance(rig: Rig) -> None:
    answer = await rig.call("RunInstances", **ONE, InstanceType="t3.nano")
    [shown] = answer["Instances"]
    instance = await rig.get(Instance, shown["InstanceId"])
    [interface] = await rig.find(NetworkInterface)
    [volume] = await rig.find(Volume)
    assert instance.state is InstanceState.pending
    assert (instance.type, instance.generation, instance.reboots, instance.host) == ("t3.nano", 1, 0, None)
    assert instance.zone == "us-east-1a"
    assert instance.interfaces == (interface.id,)
    assert instance.private_ip == interface.private_ip
    assert interface.instance == instance.id
    assert interface.private_ip == "172.31.0.4"
    assert interface.auto_public
    assert interface.public_ip.startswith("198.18.0.")
    assert [device.volume for device in instance.devices] == [volume.id]
    assert volume.state is VolumeState.creating
    assert (volume.source, volume.snapshot) == (IMAGE, "snap-00000000000000001")
    assert volume.size_bytes == 2 << 30
    [attachment] = volume.attachments
    assert attachment.instance == instance.id
    assert attachment.state is AttachmentState.attaching
    assert attachment.delete_on_termination


async def test_answer_is_what_clients_expect(rig: Rig) -> None:
    shown = await rig.launch(ClientToken="abc")
    assert shown["State"] == {"Code": 0, "Name": "pending"}
    assert shown["StateReason"] == {"Code": "pending", "Message": "pending"}
    assert shown["InstanceType"] == "t3.micro"
    assert shown["PrivateDnsName"] == "ip-172-31-0-4.ec2.internal"
    assert shown["ClientToken"] == "abc"
    assert shown["Placement"]["AvailabilityZone"] == "us-east-1a"
    assert shown["SecurityGroups"][0]["GroupName"] == "default"
    assert shown["MetadataOptions"]["HttpTokens"] == "required"
    assert "KeyName" not in shown
    assert "Tags" not in shown


async def test_several_instances_share_a_reservation(rig: Rig) -> None:
    answer = await rig.call("RunInstances", ImageId=IMAGE, MinCount=2, MaxCount=3)
    instances = answer["Instances"]
    assert [each["AmiLaunchIndex"] for each in instances] == [0, 1, 2]
    assert len({each["PrivateIpAddress"] for each in instances}) == 3
    assert len({each["PublicIpAddress"] for each in instances}) == 3
    assert len({each["NetworkInterfaces"][0]["MacAddress"] for each in instances}) == 3
    assert {each.reservation for each in await rig.find(Instance)} == {answer["ReservationId"]}


async def test_tags_go_where_they_are_specified(rig: Rig) -> None:
    specifications = [
        {"ResourceType": type, "Tags": [{"Key": "for", "Value": type}]}
        for type in ("instance", "volume", "network-interface")
    ]
    await rig.launch(TagSpecifications=specifications)
    assert (await rig.find(Instance))[0].tags == {"for": "instance"}
    assert (await rig.find(Volume))[0].tags == {"for": "volume"}
    assert (await rig.find(NetworkInterface))[0].tags == {"for": "network-interface"}


async def test_options_reach_the_record(rig: Rig) -> None:
    shown = await rig.launch(
        UserData=base64.b64encode(b"#!/bin/sh\n").decode(),
        DisableApiTermination=True,
        DisableApiStop=True,
        InstanceInitiatedShutdownBehavior="terminate",
        EbsOptimized=True,
        Monitoring={"Enabled": True},
        MetadataOptions={"HttpTokens": "optional", "HttpPutResponseHopLimit": 3},
    )
    instance = await rig.get(Instance, shown["InstanceId"])
    assert instance.user_data == b"#!/bin/sh\n"
    assert instance.disable_api_termination
    assert instance.disable_api_stop
    assert instance.shutdown_behavior == "terminate"
    assert instance.ebs_optimized
    assert instance.monitoring
    assert (instance.metadata.tokens_required, instance.metadata.hop_limit) == (False, 3)


async def test_harmless_options_are_accepted(rig: Rig) -> None:
    await rig.launch(
        PrivateDnsNameOptions={"HostnameType": "ip-name", "EnableResourceNameDnsARecord": False},
        CreditSpecification={"CpuCredits": "unlimited"},
        HibernationOptions={"Configured": False},
        EnclaveOptions={"Enabled": False},
        CpuOptions={"CoreCount": 1, "ThreadsPerCore": 2},
        Placement={"Tenancy": "default"},
        CapacityReservationSpecification={"CapacityReservationPreference": "open"},
    )


@pytest.mark.parametrize(
    "option",
    [
        {"IamInstanceProfile": {"Name": "x"}},
        {"LaunchTemplate": {"LaunchTemplateName": "x"}},
        {"InstanceMarketOptions": {"MarketType": "spot"}},
        {"CapacityReservationSpecification": {"CapacityReservationTarget": {"CapacityReservationId": "cr"}}},
        {"ElasticGpuSpecification": [{"Type": "x"}]},
        {"HibernationOptions": {"Configured": True}},
        {"EnclaveOptions": {"Enabled": True}},
        {"KernelId": "aki-1"},
        {"Placement": {"Tenancy": "host"}},
        {"Placement": {"HostId": "h-1"}},
        {"CpuOptions": {"CoreCount": 1, "ThreadsPerCore": 1}},
        {"MetadataOptions": {"HttpProtocolIpv6": "enabled"}},
        {"PrivateDnsNameOptions": {"HostnameType": "resource-name"}},
        {"BlockDeviceMappings": [{"DeviceName": "/dev/xvda", "Ebs": {"OutpostArn": "x"}}]},
        {"NetworkInterfaces": [{"DeviceIndex": 0, "Ipv4PrefixCount": 1}]},
        {"NetworkInterfaces": [{"DeviceIndex": 0, "NetworkCardIndex": 1}]},
        {"NetworkInterfaces": [{"DeviceIndex": 0, "InterfaceType": "efa"}]},
    ],
)
async def test_what_is_not_supported_is_refused(rig: Rig, option: dict[str, object]) -> None:
    await rig.fails("UnsupportedOperation", "RunInstances", **ONE, **option)


@pytest.mark.parametrize(
    ("code", "option"),
    [
        ("InvalidAMIID.NotFound", {"ImageId": "ami-0123456789abcdef0"}),
        ("InvalidAMIID.Malformed", {"ImageId": "foo"}),
        ("InvalidParameterValue", {"InstanceType": "t9.huge"}),
        ("InvalidParameterValue", {"MinCount": 0}),
        ("InvalidParameterValue", {"MinCount": 2}),
        ("InstanceLimitExceeded", {"MinCount": 1001, "MaxCount": 1001}),
        ("VcpuLimitExceeded", {"MinCount": 200, "MaxCount": 200, "InstanceType": "m5.24xlarge"}),
        ("InvalidKeyPair.NotFound", {"KeyName": "nobody"}),
        ("InvalidGroup.NotFound", {"SecurityGroupIds": ["sg-0123456789abcdef0"]}),
        ("InvalidGroupId.Malformed", {"SecurityGroupIds": ["web"]}),
        ("InvalidGroup.NotFound", {"SecurityGroups": ["web"]}),
        ("InvalidSubnetID.NotFound", {"SubnetId": "subnet-0123456789abcdef0"}),
        ("InvalidParameterValue", {"Placement": {"AvailabilityZone": "mars-1a"}}),
        ("InvalidParameterValue", {"PrivateIpAddress": "10.0.0.1"}),
        ("InvalidParameterValue", {"PrivateIpAddress": "172.31.0.3"}),
        ("InvalidParameterValue", {"PrivateIpAddress": "nonsense"}),
        ("InvalidParameterCombination", {"PrivateIpAddress": "172.31.0.9", "MaxCount": 2}),
        ("InvalidUserData.Malformed", {"UserData": "!"}),
        ("InvalidParameterValue", {"UserData": base64.b64encode(bytes(16385)).decode()}),
        ("InvalidParameterValue", {"MetadataOptions": {"HttpPutResponseHopLimit": 65}}),
        ("InvalidParameterCombination", {"NetworkInterfaces": [{"DeviceIndex": 0}], "SubnetId": "subnet-1"}),
        (
            "InvalidParameterCombination",
            {"NetworkInterfaces": [{"DeviceIndex": 0}], "SecurityGroupIds": ["sg-1"]},
        ),
        ("InvalidParameterValue", {"NetworkInterfaces": [{}]}),
        ("InvalidParameterValue", {"NetworkInterfaces": [{"DeviceIndex": 1}]}),
        ("InvalidParameterValue", {"TagSpecifications": [{"ResourceType": "vpc", "Tags": [{"Key": "a"}]}]}),
    ],
)
async def test_refuses_wrong_input(rig: Rig, code: str, option: dict[str, object]) -> None:
    await rig.fails(code, "RunInstances", **{**ONE, **option})


async def test_image_is_required_and_must_be_available(rig: Rig) -> None:
    await rig.fails("MissingParameter", "RunInstances", MinCount=1, MaxCount=1)
    await rig.image("ami-00000000000000002", name="b", state=ImageState.pending)
    await rig.fails("IncorrectState", "RunInstances", **{**ONE, "ImageId": "ami-00000000000000002"})
    await rig.change(Image, IMAGE, state=ImageState.deregistered)
    await rig.fails("InvalidAMIID.NotFound", "RunInstances", **ONE)


async def test_private_address_is_given_once(rig: Rig) -> None:
    await rig.launch(PrivateIpAddress="172.31.0.5")
    await rig.fails("InvalidIPAddress.InUse", "RunInstances", **ONE, PrivateIpAddress="172.31.0.5")
    addresses = [(await rig.launch())["PrivateIpAddress"] for _ in range(2)]
    assert addresses == ["172.31.0.4", "172.31.0.6"]


async def test_full_subnet(rig: Rig) -> None:
    subnet = (await rig.find(Subnet, zone="us-east-1a"))[0]
    await rig.put(
        Subnet(
            id="subnet-00000000000000009",
            account=subnet.account,
            vpc=subnet.vpc,
            zone=subnet.zone,
            cidr="172.31.200.0/28",
        )
    )
    place = {"SubnetId": "subnet-00000000000000009"}
    answer = await rig.call("RunInstances", **{**ONE, "MaxCount": 10}, **place)
    assert len(answer["Instances"]) == 10
    answer = await rig.call("RunInstances", **{**ONE, "MaxCount": 5}, **place)
    assert [each["PrivateIpAddress"] for each in answer["Instances"]] == ["172.31.200.14"]
    assert "PublicIpAddress" not in answer["Instances"][0]
    await rig.fails("InsufficientFreeAddressesInSubnet", "RunInstances", **ONE, **place)


async def test_public_addresses_run_out(rig: Rig) -> None:
    await rig.call("RunInstances", **{**ONE, "MaxCount": 254})
    assert len({each.public_ip for each in await rig.find(NetworkInterface)}) == 254
    await rig.fails("InsufficientAddressCapacity", "RunInstances", **ONE)
    await rig.launch(NetworkInterfaces=[{"DeviceIndex": 0, "AssociatePublicIpAddress": False}])


async def test_interface_specification(rig: Rig) -> None:
    subnet = (await rig.find(Subnet, zone="us-east-1b"))[0]
    group = (await rig.find(SecurityGroup))[0]
    shown = await rig.launch(
        NetworkInterfaces=[
            {
                "DeviceIndex": 0,
                "SubnetId": subnet.id,
                "Groups": [group.id],
                "AssociatePublicIpAddress": False,
                "DeleteOnTermination": False,
                "Description": "front",
                "PrivateIpAddress": "172.31.16.77",
            }
        ]
    )
    [interface] = shown["NetworkInterfaces"]
    assert shown["Placement"]["AvailabilityZone"] == "us-east-1b"
    assert interface["PrivateIpAddress"] == "172.31.16.77"
    assert interface["Description"] == "front"
    assert not interface["Attachment"]["DeleteOnTermination"]
    assert "Association" not in interface


async def test_zone_and_subnet_must_agree(rig: Rig) -> None:
    subnet = (await rig.find(Subnet, zone="us-east-1b"))[0]
    zone = {"AvailabilityZone": "us-east-1a"}
    await rig.fails("InvalidParameterValue", "RunInstances", **ONE, SubnetId=subnet.id, Placement=zone)
    shown = await rig.launch(Placement={"AvailabilityZone": "us-east-1c"})
    assert shown["Placement"]["AvailabilityZone"] == "us-east-1c"


async def test_group_of_another_vpc(rig: Rig) -> None:
    await rig.put(
        SecurityGroup(
            id="sg-00000000000000009", account="123456789012", name="x", description="x", vpc="vpc-other"
        )
    )
    await rig.fails("InvalidParameter", "RunInstances", **ONE, SecurityGroupIds=["sg-00000000000000009"])


async def test_block_devices(rig: Rig) -> None:
    source = await rig.snapshot(await rig.volume(Size=3))
    shown = await rig.launch(
        BlockDeviceMappings=[
            {"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": 8, "DeleteOnTermination": False}},
            {"DeviceName": "/dev/sdf", "Ebs": {"VolumeSize": 5, "VolumeType": "io2", "Iops": 500}},
            {"DeviceName": "/dev/sdg", "Ebs": {"SnapshotId": source}},
            {"DeviceName": "/dev/sdh", "NoDevice": ""},
            {"DeviceName": "/dev/sdi", "VirtualName": "ephemeral0"},
        ]
    )
    devices = {each["DeviceName"]: each["Ebs"] for each in shown["BlockDeviceMappings"]}
    volumes = {name: await rig.get(Volume, ebs["VolumeId"]) for name, ebs in devices.items()}
    assert list(devices) == ["/dev/xvda", "/dev/sdf", "/dev/sdg"]
    assert [v.size_bytes >> 30 for v in volumes.values()] == [8, 5, 3]
    assert [v.source for v in volumes.values()] == [IMAGE, "", source]
    assert (volumes["/dev/sdf"].type, volumes["/dev/sdf"].iops) == ("io2", 500)
    assert [ebs["DeleteOnTermination"] for ebs in devices.values()] == [False, True, True]


@pytest.mark.parametrize(
    ("code", "mappings"),
    [
        ("InvalidBlockDeviceMapping", [{"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": 1}}]),
        ("InvalidBlockDeviceMapping", [{"DeviceName": "/dev/xvda", "Ebs": {"SnapshotId": "snap-1"}}]),
        ("InvalidBlockDeviceMapping", [{"DeviceName": "/dev/xvda", "NoDevice": ""}]),
        ("InvalidBlockDeviceMapping", [{"DeviceName": "/dev/sdf"}]),
        ("InvalidBlockDeviceMapping", [{"DeviceName": "/etc/passwd", "Ebs": {"VolumeSize": 1}}]),
        ("InvalidBlockDeviceMapping", [{"DeviceName": "/dev/sdf", "Ebs": {"VolumeSize": 1}}] * 2),
        ("MissingParameter", [{"Ebs": {"VolumeSize": 1}}]),
        ("MissingParameter", [{"DeviceName": "/dev/sdf", "Ebs": {"VolumeType": "gp3"}}]),
        ("InvalidParameterValue", [{"DeviceName": "/dev/sdf", "Ebs": {"VolumeSize": 0}}]),
        (
            "InvalidParameterValue",
            [{"DeviceName": "/dev/sdf", "Ebs": {"VolumeSize": 1, "VolumeType": "gp9"}}],
        ),
        (
            "InvalidSnapshot.NotFound",
            [{"DeviceName": "/dev/sdf", "Ebs": {"SnapshotId": "snap-0123456789abcdef0"}}],
        ),
        (
            "AttachmentLimitExceeded",
            [
                {"DeviceName": f"/dev/xvdb{chr(97 + i % 26)}{i // 26 or ''}", "Ebs": {"VolumeSize": 1}}
                for i in range(28)
            ],
        ),
    ],
)
async def test_wrong_block_devices(rig: Rig, code: str, mappings: list[dict[str, object]]) -> None:
    await rig.fails(code, "RunInstances", **ONE, BlockDeviceMappings=mappings)


async def test_key_and_named_group(rig: Rig) -> None:
    key = await rig.call("CreateKeyPair", KeyName="me", KeyType="ed25519")
    group = await rig.call("CreateSecurityGroup", GroupName="web", Description="web")
    shown = await rig.launch(KeyName="me", SecurityGroups=["web"])
    assert shown["KeyName"] == "me"
    assert shown["SecurityGroups"] == [{"GroupId": group["GroupId"], "GroupName": "web"}]
    instance = await rig.get(Instance, shown["InstanceId"])
    assert instance.public_key.startswith("ssh-ed25519 ")
    assert key["KeyMaterial"]


async def test_without_a_default_vpc(empty: Rig) -> None:
    await empty.image()
    await empty.fails("VPCIdNotSpecified", "RunInstances", **ONE)


async def test_launches_at_once_do_not_share_addresses(rig: Rig) -> None:
    answers = await asyncio.gather(
        *(rig.call("RunInstances", ImageId=IMAGE, MinCount=3, MaxCount=3) for _ in range(10))
    )
    shown = [each for answer in answers for each in answer["Instances"]]
    assert len({each["PrivateIpAddress"] for each in shown}) == 30
    assert len({each["PublicIpAddress"] for each in shown}) == 30


async def test_without_a_zone_it_goes_where_a_host_is(rig: Rig) -> None:
    await rig.put(Host(id="host-c", state=HostState.up, zone="us-east-1c", cpus=4, memory_bytes=16 << 30))
    zones = [(await rig.launch())["Placement"]["AvailabilityZone"] for _ in range(4)]
    assert zones == ["us-east-1a", "us-east-1c"] * 2
    for host in await rig.find(Host):
        await rig.change(Host, host.id, state=HostState.down)
    assert (await rig.launch())["Placement"]["AvailabilityZone"] == "us-east-1a"


async def test_vcpu_limit_is_inclusive(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "VCPUS_PER_CALL_MAX", 4)
    answer = await rig.call("RunInstances", ImageId=IMAGE, MinCount=2, MaxCount=5, InstanceType="t3.nano")
    assert len(answer["Instances"]) == 2
    await rig.fails(
        "VcpuLimitExceeded", "RunInstances", ImageId=IMAGE, MinCount=3, MaxCount=3, InstanceType="t3.nano"
    )


async def test_instance_limit_counts_what_is_not_terminated(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "INSTANCES_MAX", 3)
    answer = await rig.call("RunInstances", ImageId=IMAGE, MinCount=1, MaxCount=9)
    assert len(answer["Instances"]) == 3
    await rig.fails("InstanceLimitExceeded", "RunInstances", **ONE)
    await rig.change(Instance, answer["Instances"][0]["InstanceId"], state=InstanceState.terminated)
    await rig.launch()
