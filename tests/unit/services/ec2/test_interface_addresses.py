from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from gureum.resources import Address, CidrAssociation, NetworkInterface, Subnet

if TYPE_CHECKING:
    from ..conftest import Rig


async def created(rig: Rig, **input: Any) -> str:
    subnet = (await rig.find(Subnet, zone="us-east-1a"))[0].id
    answer = await rig.call("CreateNetworkInterface", SubnetId=subnet, **input)
    id: str = answer["NetworkInterface"]["NetworkInterfaceId"]
    return id


async def secondary(rig: Rig, id: str) -> list[str]:
    return [each.private_ip for each in (await rig.get(NetworkInterface, id)).secondary]


async def test_assign(rig: Rig) -> None:
    id = await created(rig)
    answer = await rig.call(
        "AssignPrivateIpAddresses", NetworkInterfaceId=id, SecondaryPrivateIpAddressCount=2
    )
    assert answer["AssignedPrivateIpAddresses"] == [
        {"PrivateIpAddress": "172.31.0.5"},
        {"PrivateIpAddress": "172.31.0.6"},
    ]
    await rig.call(
        "AssignPrivateIpAddresses", NetworkInterfaceId=id, PrivateIpAddresses=["172.31.0.9", "172.31.0.5"]
    )
    assert await secondary(rig, id) == ["172.31.0.5", "172.31.0.6", "172.31.0.9"]
    await rig.call("UnassignPrivateIpAddresses", NetworkInterfaceId=id, PrivateIpAddresses=["172.31.0.6"])
    assert await secondary(rig, id) == ["172.31.0.5", "172.31.0.9"]
    found = await rig.call(
        "DescribeNetworkInterfaces", Filters=[{"Name": "private-ip-address", "Values": ["172.31.0.9"]}]
    )
    assert [each["NetworkInterfaceId"] for each in found["NetworkInterfaces"]] == [id]


async def test_an_address_moves_with_its_elastic_one(rig: Rig) -> None:
    instance = await rig.running()
    [primary] = await rig.find(NetworkInterface, instance=instance)
    holder = await created(rig, SecondaryPrivateIpAddressCount=1)
    [private_ip] = await secondary(rig, holder)
    allocation = (await rig.call("AllocateAddress"))["AllocationId"]
    association = await rig.call(
        "AssociateAddress", AllocationId=allocation, NetworkInterfaceId=holder, PrivateIpAddress=private_ip
    )
    await rig.fails(
        "InvalidIPAddress.InUse",
        "AssignPrivateIpAddresses",
        NetworkInterfaceId=primary.id,
        PrivateIpAddresses=[private_ip],
    )
    await rig.call(
        "AssignPrivateIpAddresses",
        NetworkInterfaceId=primary.id,
        PrivateIpAddresses=[private_ip],
        AllowReassignment=True,
    )
    assert await secondary(rig, holder) == []
    [moved] = (await rig.get(NetworkInterface, primary.id)).secondary
    address = await rig.get(Address, allocation)
    assert (moved.private_ip, moved.address, moved.public_ip) == (private_ip, allocation, address.public_ip)
    assert (address.interface, address.instance, address.association) == (
        primary.id,
        instance,
        association["AssociationId"],
    )
    await rig.fails(
        "InvalidIPAddress.InUse",
        "AssignPrivateIpAddresses",
        NetworkInterfaceId=holder,
        PrivateIpAddresses=[primary.private_ip],
        AllowReassignment=True,
    )


async def test_unassign_lets_go_of_an_elastic_address(rig: Rig) -> None:
    id = await created(rig, SecondaryPrivateIpAddressCount=1)
    [private_ip] = await secondary(rig, id)
    allocation = (await rig.call("AllocateAddress"))["AllocationId"]
    await rig.call(
        "AssociateAddress", AllocationId=allocation, NetworkInterfaceId=id, PrivateIpAddress=private_ip
    )
    await rig.call("UnassignPrivateIpAddresses", NetworkInterfaceId=id, PrivateIpAddresses=[private_ip])
    address = await rig.get(Address, allocation)
    assert (address.association, address.interface, address.private_ip) == ("", "", "")


@pytest.mark.parametrize(
    ("code", "input"),
    [
        ("MissingParameter", {}),
        (
            "InvalidParameterCombination",
            {"PrivateIpAddresses": ["172.31.0.9"], "SecondaryPrivateIpAddressCount": 1},
        ),
        ("InvalidParameterValue", {"PrivateIpAddresses": ["172.31.0.9", "172.31.0.9"]}),
        ("InvalidParameterValue", {"PrivateIpAddresses": ["10.0.0.9"]}),
        ("InvalidParameterValue", {"SecondaryPrivateIpAddressCount": -1}),
        ("PrivateIpAddressLimitExceeded", {"SecondaryPrivateIpAddressCount": 50}),
        ("UnsupportedOperation", {"Ipv4PrefixCount": 1}),
        ("InvalidNetworkInterfaceID.NotFound", {"NetworkInterfaceId": "eni-00000001"}),
    ],
)
async def test_assign_refuses(rig: Rig, code: str, input: dict[str, Any]) -> None:
    given = {"NetworkInterfaceId": await created(rig), **input}
    await rig.fails(code, "AssignPrivateIpAddresses", **given)


async def test_the_type_of_the_instance_limits(rig: Rig) -> None:
    instance = await rig.running(InstanceType="t3.micro")
    [primary] = await rig.find(NetworkInterface, instance=instance)
    for count, fits in ((2, False), (1, True), (1, False)):
        input = {"NetworkInterfaceId": primary.id, "SecondaryPrivateIpAddressCount": count}
        if fits:
            await rig.call("AssignPrivateIpAddresses", **input)
        else:
            await rig.fails("PrivateIpAddressLimitExceeded", "AssignPrivateIpAddresses", **input)


async def test_unassign_refuses(rig: Rig) -> None:
    id = await created(rig, PrivateIpAddress="172.31.0.7")
    for code, addresses in (
        ("MissingParameter", []),
        ("InvalidParameterValue", ["172.31.0.7"]),
        ("InvalidParameterValue", ["172.31.0.9"]),
    ):
        await rig.fails(
            code, "UnassignPrivateIpAddresses", NetworkInterfaceId=id, PrivateIpAddresses=addresses
        )


async def test_ipv6(rig: Rig) -> None:
    subnet = (await rig.find(Subnet, zone="us-east-1a"))[0]
    id = await created(rig)
    await rig.fails("InvalidParameterValue", "AssignIpv6Addresses", NetworkInterfaceId=id, Ipv6AddressCount=1)
    ipv6 = CidrAssociation(id="subnet-cidr-assoc-1", cidr="fd00::/64")
    await rig.change(Subnet, subnet.id, ipv6=ipv6)
    answer = await rig.call("AssignIpv6Addresses", NetworkInterfaceId=id, Ipv6AddressCount=2)
    assert len(answer["AssignedIpv6Addresses"]) == 2
    answer = await rig.call("AssignIpv6Addresses", NetworkInterfaceId=id, Ipv6Addresses=["fd00::00AA"])
    assert answer["AssignedIpv6Addresses"] == ["fd00::aa"]
    await rig.fails(
        "InvalidIPAddress.InUse", "AssignIpv6Addresses", NetworkInterfaceId=id, Ipv6Addresses=["fd00::aa"]
    )
    answer = await rig.call("UnassignIpv6Addresses", NetworkInterfaceId=id, Ipv6Addresses=["fd00:0::aa"])
    assert answer["UnassignedIpv6Addresses"] == ["fd00::aa"]
    assert len((await rig.get(NetworkInterface, id)).ipv6) == 2
    for zoned in ("fd00::ab%eth0", "fd00::ab%x; flush ruleset"):
        await rig.fails(
            "InvalidParameterValue", "AssignIpv6Addresses", NetworkInterfaceId=id, Ipv6Addresses=[zoned]
        )
    for addresses in (["fd00::aa"], ["x"]):
        await rig.fails(
            "InvalidParameterValue", "UnassignIpv6Addresses", NetworkInterfaceId=id, Ipv6Addresses=addresses
        )
