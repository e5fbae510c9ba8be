from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from gureum.resources import Address, Host, HostState, NatGateway, NatGatewayState, NetworkInterface, Subnet


async def subnet_of(rig: Any) -> Subnet:
    return (await rig.find(Subnet))[0]


async def make(rig: Any, **values: Any) -> dict[str, Any]:
    subnet = await subnet_of(rig)
    if "ConnectivityType" not in values:
        allocated = await rig.call("AllocateAddress")
        values.setdefault("AllocationId", allocated["AllocationId"])
    answer = await rig.call("CreateNatGateway", SubnetId=subnet.id, **values)
    return answer["NatGateway"]  # type: ignore[no-any-return]


async def test_a_public_gateway_takes_its_address(rig: Any) -> None:
    made = await make(
        rig, TagSpecifications=[{"ResourceType": "natgateway", "Tags": [{"Key": "a", "Value": "b"}]}]
    )
    assert (made["State"], made["ConnectivityType"]) == ("pending", "public")
    [shown] = made["NatGatewayAddresses"]
    [address] = await rig.find(Address)
    assert shown["PublicIp"] == address.public_ip
    assert shown["AssociationId"] == address.association
    assert made["Tags"] == [{"Key": "a", "Value": "b"}]
    [interface] = await rig.find(NetworkInterface)
    assert (interface.type, interface.requester) == ("nat_gateway", made["NatGatewayId"])
    assert (interface.source_dest_check, interface.private_ip) == (False, shown["PrivateIp"])


async def test_a_private_gateway_has_further_addresses(rig: Any) -> None:
    subnet = await subnet_of(rig)
    wanted = subnet.cidr.replace("0.0/20", "0.9")
    made = await make(
        rig, ConnectivityType="private", PrivateIpAddress=wanted, SecondaryPrivateIpAddressCount=2
    )
    shown = made["NatGatewayAddresses"]
    assert [each["IsPrimary"] for each in shown] == [True, False, False]
    assert shown[0]["PrivateIp"] == wanted
    assert len({each["PrivateIp"] for each in shown}) == 3
    assert "PublicIp" not in shown[0]


async def test_each_private_address_once(rig: Any) -> None:
    subnet = await subnet_of(rig)
    one, two = (subnet.cidr.replace("0.0/20", end) for end in ("0.9", "0.10"))
    private: dict[str, Any] = {"SubnetId": subnet.id, "ConnectivityType": "private", "PrivateIpAddress": one}
    for others in ([one], [two, two]):
        twice = {**private, "SecondaryPrivateIpAddresses": others}
        await rig.fails("InvalidParameterValue", "CreateNatGateway", **twice)
    made = await make(rig, ConnectivityType="private", SecondaryPrivateIpAddresses=[one, two])
    assert [each["PrivateIp"] for each in made["NatGatewayAddresses"]][1:] == [one, two]


async def test_its_attachment_is_shown_by_the_id_that_it_is_found_with(rig: Any) -> None:
    made = await make(rig, ConnectivityType="private")
    id = made["NatGatewayAddresses"][0]["NetworkInterfaceId"]
    [shown] = (await rig.call("DescribeNetworkInterfaces", NetworkInterfaceIds=[id]))["NetworkInterfaces"]
    filters = [{"Name": "attachment.attachment-id", "Values": [shown["Attachment"]["AttachmentId"]]}]
    [same] = (await rig.call("DescribeNetworkInterfaces", Filters=filters))["NetworkInterfaces"]
    assert same["NetworkInterfaceId"] == id


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ({"AllocationId": None}, "MissingParameter"),
        ({"AllocationId": "eipalloc-0123456789abcdef0"}, "InvalidAllocationID.NotFound"),
        ({"ConnectivityType": "private", "AllocationId": "eipalloc-1"}, "InvalidParameterCombination"),
        ({"ConnectivityType": "some"}, "InvalidParameterValue"),
        ({"SecondaryPrivateIpAddressCount": 1}, "UnsupportedOperation"),
        ({"SecondaryAllocationIds": ["eipalloc-1"]}, "UnsupportedOperation"),
        ({"AvailabilityMode": "regional"}, "UnsupportedOperation"),
        ({"VpcId": "vpc-0123456789abcdef0"}, "InvalidParameterCombination"),
    ],
)
async def test_what_cannot_be_made(rig: Any, values: dict[str, Any], code: str) -> None:
    allocated = await rig.call("AllocateAddress")
    given = {"AllocationId": allocated["AllocationId"], **values}
    if "ConnectivityType" in values and "AllocationId" not in values:
        del given["AllocationId"]
    given = {name: value for name, value in given.items() if value is not None}
    await rig.fails(code, "CreateNatGateway", SubnetId=(await subnet_of(rig)).id, **given)
    assert not await rig.find(NatGateway)


async def test_an_address_in_use_is_refused(rig: Any) -> None:
    made = await make(rig)
    used = made["NatGatewayAddresses"][0]["AllocationId"]
    await rig.fails(
        "Resource.AlreadyAssociated", "CreateNatGateway", SubnetId=made["SubnetId"], AllocationId=used
    )


async def test_deletion_is_begun_and_its_states_are_shown(rig: Any) -> None:
    made = await make(rig)
    id = made["NatGatewayId"]
    assert (await rig.call("DeleteNatGateway", NatGatewayId=id)) == {"NatGatewayId": id}
    [shown] = (await rig.call("DescribeNatGateways", Filter=[{"Name": "state", "Values": ["deleting"]}]))[
        "NatGateways"
    ]
    assert shown["NatGatewayId"] == id
    [nat] = await rig.find(NatGateway)
    await rig.put(replace(nat, state=NatGatewayState.deleted))
    assert (await rig.call("DeleteNatGateway", NatGatewayId=id)) == {"NatGatewayId": id}
    await rig.fails("NatGatewayNotFound", "DeleteNatGateway", NatGatewayId="nat-0123456789abcdef0")


async def test_gateways_are_found_by_their_vpc(rig: Any) -> None:
    made = await make(rig)
    for name, value in (("vpc-id", made["VpcId"]), ("nat-gateway-id", made["NatGatewayId"])):
        found = await rig.call("DescribeNatGateways", Filter=[{"Name": name, "Values": [value]}])
        assert [each["NatGatewayId"] for each in found["NatGateways"]] == [made["NatGatewayId"]]
    none = await rig.call("DescribeNatGateways", Filter=[{"Name": "vpc-id", "Values": ["vpc-1"]}])
    assert none["NatGateways"] == []


async def test_it_says_why_it_does_not_work(rig: Any) -> None:
    made = await make(rig)
    [nat] = await rig.find(NatGateway)
    [host, *others] = await rig.find(Host)

    async def said() -> tuple[str, str | None]:
        [shown] = (await rig.call("DescribeNatGateways"))["NatGateways"]
        return shown["State"], shown.get("FailureMessage")

    assert "FailureMessage" not in made
    await rig.put(replace(nat, state=NatGatewayState.available, host=host.id))
    assert await said() == ("available", None)
    await rig.put(*(replace(each, state=HostState.down) for each in (host, *others)))
    state, message = await said()
    assert state == "available"
    assert message is not None
    assert message.startswith(f"Its host, {host.id}, is down")


async def test_it_waits_for_a_host(rig: Any) -> None:
    await rig.put(*(replace(each, state=HostState.down) for each in await rig.find(Host)))
    assert "is up: it waits for one" in (await make(rig))["FailureMessage"]
