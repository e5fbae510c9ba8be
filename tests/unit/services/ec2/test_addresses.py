from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from gureum.resources import Address, Instance, InstanceState, NetworkInterface
from gureum.services.ec2 import limits

if TYPE_CHECKING:
    from ..conftest import Rig

NOBODY = "eipalloc-0123456789abcdef0"


async def allocated(rig: Rig) -> str:
    id: str = (await rig.call("AllocateAddress", Domain="vpc"))["AllocationId"]
    return id


async def interface_of(rig: Rig, instance: str) -> NetworkInterface:
    return (await rig.find(NetworkInterface, instance=instance))[0]


async def test_allocate(rig: Rig) -> None:
    tags = [{"ResourceType": "elastic-ip", "Tags": [{"Key": "a", "Value": "b"}]}]
    answer = await rig.call("AllocateAddress", TagSpecifications=tags)
    address = await rig.get(Address, answer["AllocationId"])
    assert address.public_ip == answer["PublicIp"]
    assert address.tags == {"a": "b"}
    assert (answer["Domain"], answer["NetworkBorderGroup"]) == ("vpc", "us-east-1")


async def test_allocate_a_given_address(rig: Rig) -> None:
    answer = await rig.call("AllocateAddress", Address="198.18.0.77")
    assert answer["PublicIp"] == "198.18.0.77"
    for taken in ("198.18.0.77", "198.18.0.0", "198.18.0.255", "8.8.8.8", "x"):
        await rig.fails("InvalidAddress.NotFound", "AllocateAddress", Address=taken)


async def test_allocated_addresses_are_not_given_to_instances(rig: Rig) -> None:
    taken = {(await rig.call("AllocateAddress"))["PublicIp"] for _ in range(100)}
    await rig.call("RunInstances", ImageId="ami-00000000000000001", MinCount=154, MaxCount=154)
    assert len({each.public_ip for each in await rig.find(NetworkInterface)} | taken) == 254
    await rig.fails("InsufficientAddressCapacity", "AllocateAddress")


@pytest.mark.parametrize(
    ("code", "input"),
    [
        ("UnsupportedOperation", {"Domain": "standard"}),
        ("InvalidParameterValue", {"Domain": "mars"}),
        ("UnsupportedOperation", {"IpamPoolId": "x"}),
        ("InvalidPublicIpv4PoolID.NotFound", {"PublicIpv4Pool": "ipv4pool-ec2-1"}),
        ("InvalidParameterValue", {"NetworkBorderGroup": "mars"}),
    ],
)
async def test_allocate_refuses(rig: Rig, code: str, input: dict[str, str]) -> None:
    await rig.fails(code, "AllocateAddress", **input)


async def test_limit(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ADDRESSES_MAX", 1)
    await allocated(rig)
    await rig.fails("AddressLimitExceeded", "AllocateAddress")


async def test_associate(rig: Rig) -> None:
    instance, id = await rig.running(), await allocated(rig)
    answer = await rig.call("AssociateAddress", AllocationId=id, InstanceId=instance)
    address = await rig.get(Address, id)
    interface = await interface_of(rig, instance)
    assert address.association == answer["AssociationId"]
    assert (address.interface, address.instance) == (interface.id, instance)
    assert address.private_ip == interface.private_ip
    assert (interface.public_ip, interface.address) == (address.public_ip, id)
    [shown] = (await rig.call("DescribeInstances"))["Reservations"][0]["Instances"]
    assert shown["PublicIpAddress"] == address.public_ip
    assert shown["NetworkInterfaces"][0]["Association"]["IpOwnerId"] == "123456789012"
    again = await rig.call("AssociateAddress", AllocationId=id, InstanceId=instance)
    assert again == answer


async def test_associate_with_an_interface(rig: Rig) -> None:
    interface = await interface_of(rig, await rig.running())
    id = await allocated(rig)
    await rig.call(
        "AssociateAddress",
        AllocationId=id,
        NetworkInterfaceId=interface.id,
        PrivateIpAddress=interface.private_ip,
    )
    assert (await rig.get(Address, id)).interface == interface.id


async def test_an_address_moves(rig: Rig) -> None:
    one, two, id = await rig.running(), await rig.running(), await allocated(rig)
    await rig.call("AssociateAddress", AllocationId=id, InstanceId=one)
    await rig.fails(
        "Resource.AlreadyAssociated",
        "AssociateAddress",
        AllocationId=id,
        InstanceId=two,
        AllowReassociation=False,
    )
    await rig.call("AssociateAddress", AllocationId=id, InstanceId=two)
    address = await rig.get(Address, id)
    left, right = await interface_of(rig, one), await interface_of(rig, two)
    assert address.instance == two
    assert right.public_ip == address.public_ip
    assert left.address == ""
    assert left.public_ip not in ("", address.public_ip)


async def test_an_address_takes_the_place_of_another(rig: Rig) -> None:
    instance, old, new = await rig.running(), await allocated(rig), await allocated(rig)
    await rig.call("AssociateAddress", AllocationId=old, InstanceId=instance)
    await rig.call("AssociateAddress", AllocationId=new, InstanceId=instance)
    assert (await rig.get(Address, old)).association == ""
    assert (await interface_of(rig, instance)).address == new
    await rig.call("ReleaseAddress", AllocationId=old)


@pytest.mark.parametrize(
    ("code", "input"),
    [
        ("MissingParameter", {"InstanceId": "i-00000001"}),
        ("MissingParameter", {"AllocationId": "own"}),
        ("InvalidAllocationID.NotFound", {"AllocationId": NOBODY, "InstanceId": "i-00000001"}),
        ("InvalidAddress.NotFound", {"PublicIp": "198.18.9.9", "InstanceId": "i-00000001"}),
        ("InvalidInstanceID.NotFound", {"AllocationId": "own", "InstanceId": "i-00000001"}),
        (
            "InvalidNetworkInterfaceID.NotFound",
            {"AllocationId": "own", "NetworkInterfaceId": "eni-00000001"},
        ),
        (
            "InvalidParameterCombination",
            {"AllocationId": "own", "InstanceId": "i-1", "NetworkInterfaceId": "eni-1"},
        ),
        ("InvalidParameterCombination", {"AllocationId": "own", "PublicIp": "198.18.0.1"}),
    ],
)
async def test_associate_refuses(rig: Rig, code: str, input: dict[str, Any]) -> None:
    own = await allocated(rig)
    if input.get("AllocationId") == "own":
        input = {**input, "AllocationId": own}
    await rig.fails(code, "AssociateAddress", **input)


async def test_associate_needs_an_instance_in_a_fit_state(rig: Rig) -> None:
    id, pending = await allocated(rig), (await rig.launch())["InstanceId"]
    await rig.fails("InvalidInstanceID", "AssociateAddress", AllocationId=id, InstanceId=pending)
    await rig.change(Instance, pending, state=InstanceState.terminated)
    await rig.fails("InvalidInstanceID", "AssociateAddress", AllocationId=id, InstanceId=pending)


async def test_associate_needs_the_private_address(rig: Rig) -> None:
    id, instance = await allocated(rig), await rig.running()
    await rig.fails(
        "InvalidParameterValue",
        "AssociateAddress",
        AllocationId=id,
        InstanceId=instance,
        PrivateIpAddress="172.31.0.99",
    )


async def test_disassociate(rig: Rig) -> None:
    instance, id = await rig.running(), await allocated(rig)
    association = (await rig.call("AssociateAddress", AllocationId=id, InstanceId=instance))["AssociationId"]
    address = await rig.get(Address, id)
    await rig.call("DisassociateAddress", AssociationId=association)
    interface = await interface_of(rig, instance)
    assert interface.address == ""
    assert interface.public_ip not in ("", address.public_ip)
    address = await rig.get(Address, id)
    assert (address.association, address.interface, address.instance) == ("", "", "")


async def test_disassociate_from_a_stopped_instance(rig: Rig) -> None:
    instance, id = await rig.stopped(), await allocated(rig)
    answer = await rig.call("AssociateAddress", AllocationId=id, InstanceId=instance)
    await rig.call("DisassociateAddress", AssociationId=answer["AssociationId"])
    assert (await interface_of(rig, instance)).public_ip == ""


async def test_disassociate_refuses(rig: Rig) -> None:
    await rig.fails("MissingParameter", "DisassociateAddress")
    await rig.fails("InvalidAssociationID.NotFound", "DisassociateAddress", AssociationId="eipassoc-00000001")
    await rig.fails("InvalidAddress.NotFound", "DisassociateAddress", PublicIp="198.18.0.9")
    await rig.fails(
        "InvalidParameterCombination", "DisassociateAddress", AssociationId="x", PublicIp="198.18.0.9"
    )


async def test_release(rig: Rig) -> None:
    instance, id = await rig.running(), await allocated(rig)
    await rig.call("AssociateAddress", AllocationId=id, InstanceId=instance)
    address = await rig.get(Address, id)
    message = await rig.fails("InvalidIPAddress.InUse", "ReleaseAddress", AllocationId=id)
    assert message == f"Address {address.public_ip} is in use."
    await rig.call("DisassociateAddress", AssociationId=address.association)
    assert await rig.call("ReleaseAddress", AllocationId=id) == {}
    await rig.fails("InvalidAllocationID.NotFound", "ReleaseAddress", AllocationId=id)
    await rig.fails("MissingParameter", "ReleaseAddress")


async def test_the_number_of_a_vpc_address_is_not_enough(rig: Rig) -> None:
    instance, id = await rig.running(), await allocated(rig)
    number = {"PublicIp": (await rig.get(Address, id)).public_ip}
    message = await rig.fails("InvalidParameterValue", "ReleaseAddress", **number)
    assert message == "You must specify an allocation id when releasing a VPC elastic IP address"
    message = await rig.fails("InvalidParameterValue", "DisassociateAddress", **number)
    assert message == "You must specify an association id when unmapping an address from a VPC instance"
    message = await rig.fails(
        "InvalidParameterCombination", "AssociateAddress", InstanceId=instance, **number
    )
    assert message == "You must specify an allocation id when mapping an address to a VPC instance"
    for operation in ("ReleaseAddress", "DisassociateAddress"):
        await rig.fails("InvalidAddress.NotFound", operation, PublicIp="198.18.0.250")
        await rig.fails("InvalidParameterValue", operation, PublicIp="198.18.0")


async def test_describe(rig: Rig) -> None:
    instance, used, free = await rig.running(), await allocated(rig), await allocated(rig)
    await rig.call("AssociateAddress", AllocationId=used, InstanceId=instance)
    shown = {each["AllocationId"]: each for each in (await rig.call("DescribeAddresses"))["Addresses"]}
    interface = await interface_of(rig, instance)
    assert shown[used]["InstanceId"] == instance
    assert shown[used]["NetworkInterfaceId"] == interface.id
    assert shown[used]["SubnetId"] == interface.subnet
    assert "InstanceId" not in shown[free]
    for input in (
        {"AllocationIds": [used]},
        {"PublicIps": [shown[used]["PublicIp"]]},
        {"Filters": [{"Name": "instance-id", "Values": [instance]}]},
        {"Filters": [{"Name": "network-interface-owner-id", "Values": ["123*"]}]},
        {"Filters": [{"Name": "public-ip", "Values": [shown[used]["PublicIp"]]}]},
    ):
        assert (await rig.call("DescribeAddresses", **input))["Addresses"] == [shown[used]]
    both = await rig.call("DescribeAddresses", AllocationIds=[free], PublicIps=[shown[used]["PublicIp"]])
    assert {each["AllocationId"] for each in both["Addresses"]} == {used, free}
    await rig.fails("InvalidAllocationID.NotFound", "DescribeAddresses", AllocationIds=[NOBODY])
    await rig.fails("InvalidAddress.NotFound", "DescribeAddresses", PublicIps=["1.2.3.4"])
    await rig.fails("InvalidParameterValue", "DescribeAddresses", PublicIps=["here"])


async def test_describe_attribute(rig: Rig) -> None:
    id = await allocated(rig)
    answer = await rig.call("DescribeAddressesAttribute", AllocationIds=[id], Attribute="domain-name")
    assert answer == {"Addresses": []}


async def with_secondary(rig: Rig) -> NetworkInterface:
    instance = await rig.running(
        NetworkInterfaces=[{"DeviceIndex": 0, "SecondaryPrivateIpAddressCount": 1}], InstanceType="t3.small"
    )
    return await interface_of(rig, instance)


async def test_each_private_address_can_have_an_elastic_one(rig: Rig) -> None:
    interface, one, two = await with_secondary(rig), await allocated(rig), await allocated(rig)
    automatic = interface.public_ip
    [second] = interface.secondary
    target = {"NetworkInterfaceId": interface.id, "PrivateIpAddress": second.private_ip}
    await rig.call("AssociateAddress", AllocationId=two, **target)
    after = await rig.get(NetworkInterface, interface.id)
    address = await rig.get(Address, two)
    assert (after.public_ip, after.address) == (automatic, "")
    assert (after.secondary[0].public_ip, after.secondary[0].address) == (address.public_ip, two)
    assert address.private_ip == second.private_ip
    await rig.call("AssociateAddress", AllocationId=one, NetworkInterfaceId=interface.id)
    after = await rig.get(NetworkInterface, interface.id)
    assert (after.address, after.secondary[0].address) == (one, two)
    [shown] = (await rig.call("DescribeNetworkInterfaces"))["NetworkInterfaces"]
    allocations = [each["Association"]["AllocationId"] for each in shown["PrivateIpAddresses"]]
    assert allocations == [one, two]
    for allocation in (one, two):
        found = await rig.call(
            "DescribeNetworkInterfaces",
            Filters=[{"Name": "association.allocation-id", "Values": [allocation]}],
        )
        assert len(found["NetworkInterfaces"]) == 1
    await rig.call("DisassociateAddress", AssociationId=address.association)
    after = await rig.get(NetworkInterface, interface.id)
    assert (after.address, after.secondary[0].address, after.secondary[0].public_ip) == (one, "", "")


async def test_an_address_moves_within_an_interface(rig: Rig) -> None:
    interface, id = await with_secondary(rig), await allocated(rig)
    [second] = interface.secondary
    first = await rig.call("AssociateAddress", AllocationId=id, NetworkInterfaceId=interface.id)
    target = {"NetworkInterfaceId": interface.id, "PrivateIpAddress": second.private_ip}
    moved = await rig.call("AssociateAddress", AllocationId=id, **target)
    assert moved["AssociationId"] != first["AssociationId"]
    after = await rig.get(NetworkInterface, interface.id)
    assert (after.address, after.secondary[0].address) == ("", id)
    assert after.public_ip not in ("", after.secondary[0].public_ip)  # an automatic one again
    assert await rig.call("AssociateAddress", AllocationId=id, **target) == moved


async def test_an_address_takes_the_place_of_a_secondary_one(rig: Rig) -> None:
    interface, old, new = await with_secondary(rig), await allocated(rig), await allocated(rig)
    target = {
        "NetworkInterfaceId": interface.id,
        "PrivateIpAddress": interface.secondary[0].private_ip,
    }
    await rig.call("AssociateAddress", AllocationId=old, **target)
    await rig.call("AssociateAddress", AllocationId=new, **target)
    assert (await rig.get(Address, old)).association == ""
    assert (await rig.get(NetworkInterface, interface.id)).secondary[0].address == new


async def test_what_a_gateway_has_is_not_taken_from_it(rig: Rig) -> None:
    """The interface of a NAT gateway, and its address, are changed with the gateway only."""
    subnet = (await interface_of(rig, await rig.running())).subnet
    made = await rig.call("CreateNetworkInterface", SubnetId=subnet)
    id, managed = await allocated(rig), made["NetworkInterface"]["NetworkInterfaceId"]
    answer = await rig.call("AssociateAddress", AllocationId=id, NetworkInterfaceId=managed)
    await rig.change(
        NetworkInterface, managed, requester="nat-1", type="nat_gateway", attachment="ela-attach-1"
    )
    other = (await interface_of(rig, await rig.running())).id
    refused = ("OperationNotPermitted", "AssociateAddress")
    await rig.fails(*refused, AllocationId=await allocated(rig), NetworkInterfaceId=managed)
    await rig.fails(*refused, AllocationId=id, NetworkInterfaceId=other)
    await rig.fails("OperationNotPermitted", "DisassociateAddress", AssociationId=answer["AssociationId"])
    [shown] = (await rig.call("DescribeNetworkInterfaces", NetworkInterfaceIds=[managed]))[
        "NetworkInterfaces"
    ]
    assert (shown["InterfaceType"], shown["RequesterManaged"], shown["Status"]) == (
        "natGateway",
        True,
        "in-use",
    )
    assert shown["Attachment"]["AttachmentId"].startswith("ela-attach-")
