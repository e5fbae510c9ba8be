from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from gureum.resources import Address, CidrAssociation, Instance, NetworkInterface, SecurityGroup, Subnet

if TYPE_CHECKING:
    from ..conftest import Rig

ONE = {"ImageId": "ami-00000000000000001", "MinCount": 1, "MaxCount": 1}


async def subnet_of(rig: Rig, zone: str = "us-east-1a") -> Subnet:
    return (await rig.find(Subnet, zone=zone))[0]


async def created(rig: Rig, zone: str = "us-east-1a", **input: Any) -> str:
    subnet = (await subnet_of(rig, zone)).id
    answer = await rig.call("CreateNetworkInterface", SubnetId=subnet, **input)
    id: str = answer["NetworkInterface"]["NetworkInterfaceId"]
    return id


async def test_several_interfaces(rig: Rig) -> None:
    subnet = await subnet_of(rig)
    group = (await rig.call("CreateSecurityGroup", GroupName="g", Description="d"))["GroupId"]
    answer = await rig.call(
        "RunInstances",
        **{**ONE, "MinCount": 2, "MaxCount": 2},
        InstanceType="t3.small",
        NetworkInterfaces=[
            {
                "DeviceIndex": 2,
                "SubnetId": subnet.id,
                "Groups": [group],
                "SecondaryPrivateIpAddressCount": 2,
                "DeleteOnTermination": False,
                "Description": "back",
            },
            {"DeviceIndex": 0, "SubnetId": subnet.id},
        ],
    )
    taken = []
    for shown in answer["Instances"]:
        first, second = shown["NetworkInterfaces"]
        assert first["Attachment"]["DeviceIndex"] == 0
        assert "Association" not in first  # as on EC2: none with several interfaces
        assert second["Attachment"]["DeviceIndex"] == 2
        assert not second["Attachment"]["DeleteOnTermination"]
        assert (second["Description"], second["Groups"][0]["GroupId"]) == ("back", group)
        assert len(second["PrivateIpAddresses"]) == 3
        assert shown["PrivateIpAddress"] == first["PrivateIpAddress"]
        taken += [each["PrivateIpAddress"] for card in (first, second) for each in card["PrivateIpAddresses"]]
    assert len(set(taken)) == 8


async def test_an_interface_that_there_is(rig: Rig) -> None:
    interface = await created(rig, PrivateIpAddress="172.31.0.50", SecondaryPrivateIpAddressCount=1)
    await rig.call(
        "ModifyNetworkInterfaceAttribute", NetworkInterfaceId=interface, SourceDestCheck={"Value": False}
    )
    allocation = (await rig.call("AllocateAddress"))["AllocationId"]
    await rig.call("AssociateAddress", AllocationId=allocation, NetworkInterfaceId=interface)
    shown = await rig.launch(
        NetworkInterfaces=[{"DeviceIndex": 0, "NetworkInterfaceId": interface}, {"DeviceIndex": 1}]
    )
    record = await rig.get(NetworkInterface, interface)
    assert (record.instance, record.delete_on_termination) == (shown["InstanceId"], False)
    assert shown["PrivateIpAddress"] == "172.31.0.50"
    assert shown["SourceDestCheck"] is False
    assert shown["PublicIpAddress"] == (await rig.get(Address, allocation)).public_ip
    assert (await rig.get(Address, allocation)).instance == shown["InstanceId"]
    assert shown["NetworkInterfaces"][1]["SubnetId"] == record.subnet
    assert (await rig.get(Instance, shown["InstanceId"])).subnet == record.subnet


async def test_ipv6(rig: Rig) -> None:
    subnet = await subnet_of(rig)
    ipv6 = CidrAssociation(id="subnet-cidr-assoc-1", cidr="fd00::/64")
    await rig.change(Subnet, subnet.id, ipv6=ipv6)
    shown = await rig.launch(Ipv6AddressCount=2, SubnetId=subnet.id)
    addresses = [each["Ipv6Address"] for each in shown["NetworkInterfaces"][0]["Ipv6Addresses"]]
    assert len(addresses) == 2
    assert shown["Ipv6Address"] == addresses[0]
    shown = await rig.launch(Ipv6Addresses=[{"Ipv6Address": "fd00::9"}], SubnetId=subnet.id)
    assert shown["Ipv6Address"] == "fd00::9"
    await rig.change(Subnet, subnet.id, assign_ipv6=True)
    shown = await rig.launch(NetworkInterfaces=[{"DeviceIndex": 0, "SubnetId": subnet.id}])
    assert "Ipv6Address" in shown
    shown = await rig.launch(Ipv6AddressCount=0, SubnetId=subnet.id)
    assert "Ipv6Address" not in shown


@pytest.mark.parametrize(
    ("code", "specs"),
    [
        ("InvalidParameterValue", [{"DeviceIndex": 0}, {"DeviceIndex": 0}]),
        ("InvalidParameterValue", [{"DeviceIndex": 0}, {"DeviceIndex": 40}]),
        ("InvalidParameterValue", [{"DeviceIndex": 1}]),
        (
            "InvalidParameterCombination",
            [{"DeviceIndex": 0, "AssociatePublicIpAddress": True}, {"DeviceIndex": 1}],
        ),
        (
            "InvalidParameterCombination",
            [{"DeviceIndex": 0}, {"DeviceIndex": 1, "AssociatePublicIpAddress": True}],
        ),
        ("InvalidParameterCombination", [{"DeviceIndex": 0, "NetworkInterfaceId": "eni-1", "SubnetId": "x"}]),
        ("InvalidNetworkInterfaceID.NotFound", [{"DeviceIndex": 0, "NetworkInterfaceId": "eni-00000001"}]),
        ("AttachmentLimitExceeded", [{"DeviceIndex": 0}, {"DeviceIndex": 1}, {"DeviceIndex": 2}]),
        ("PrivateIpAddressLimitExceeded", [{"DeviceIndex": 0, "SecondaryPrivateIpAddressCount": 2}]),
        ("InvalidParameterValue", [{"DeviceIndex": 0, "Ipv6AddressCount": 1}]),
        (
            "InvalidParameterValue",
            [
                {"DeviceIndex": 0, "PrivateIpAddress": "172.31.0.9"},
                {"DeviceIndex": 1, "PrivateIpAddress": "172.31.0.9"},
            ],
        ),
    ],
)
async def test_refuses(rig: Rig, code: str, specs: list[dict[str, Any]]) -> None:
    await rig.fails(code, "RunInstances", **ONE, NetworkInterfaces=specs)


async def test_refuses_what_does_not_fit_together(rig: Rig) -> None:
    here, there = await created(rig), await created(rig, zone="us-east-1b")
    used = (await rig.get(Instance, await rig.running())).interfaces[0]
    both = [{"DeviceIndex": 0, "NetworkInterfaceId": here}, {"DeviceIndex": 1, "NetworkInterfaceId": there}]
    await rig.fails("InvalidParameterCombination", "RunInstances", **ONE, NetworkInterfaces=both)
    twice = [{"DeviceIndex": n, "NetworkInterfaceId": here} for n in range(2)]
    await rig.fails("InvalidParameterValue", "RunInstances", **ONE, NetworkInterfaces=twice)
    await rig.fails(
        "InvalidNetworkInterface.InUse",
        "RunInstances",
        **ONE,
        NetworkInterfaces=[{"DeviceIndex": 0, "NetworkInterfaceId": used}],
    )
    await rig.fails(
        "InvalidParameterCombination",
        "RunInstances",
        **{**ONE, "MaxCount": 2},
        NetworkInterfaces=[{"DeviceIndex": 0, "NetworkInterfaceId": here}],
    )


async def test_in_another_vpc(rig: Rig) -> None:
    """The VPC's own group is the default, and groups have no names there."""
    vpc = (await rig.call("CreateVpc", CidrBlock="10.0.0.0/16"))["Vpc"]["VpcId"]
    made = await rig.call("CreateSubnet", VpcId=vpc, CidrBlock="10.0.0.0/24", AvailabilityZone="us-east-1a")
    subnet = made["Subnet"]["SubnetId"]
    shown = await rig.launch(SubnetId=subnet)
    [group] = await rig.find(SecurityGroup, vpc=vpc)
    assert [each["GroupId"] for each in shown["SecurityGroups"]] == [group.id]
    assert (shown["PrivateIpAddress"], "PublicIpAddress" in shown) == ("10.0.0.4", False)
    named = {"SubnetId": subnet, "SecurityGroups": ["default"]}
    await rig.fails("InvalidParameterCombination", "RunInstances", **ONE, **named)
    [foreign] = await rig.find(SecurityGroup, vpc=(await subnet_of(rig)).vpc)
    await rig.fails("InvalidParameter", "RunInstances", **ONE, SubnetId=subnet, SecurityGroupIds=[foreign.id])
    allocation = (await rig.call("AllocateAddress"))["AllocationId"]
    interface = shown["NetworkInterfaces"][0]["NetworkInterfaceId"]
    message = await rig.fails(
        "Gateway.NotAttached", "AssociateAddress", AllocationId=allocation, NetworkInterfaceId=interface
    )
    assert message == f"Network {vpc} is not attached to any internet gateway"
