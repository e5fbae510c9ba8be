"""What guests know of their addresses: several cards, further addresses, IPv6, names of both kinds."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from ipaddress import IPv6Network
from typing import NamedTuple

import pytest

from .realcloud import GuestError, Item, RealCloud

pytestmark = [pytest.mark.qemu, pytest.mark.root, pytest.mark.timeout(600)]


class Guests(NamedTuple):
    """``one`` has a card with a further address, ``two`` has two cards; each card has an IPv6 address."""

    one: str
    two: str


@pytest.fixture(scope="module")
def subnet(cloud: RealCloud) -> str:
    """With IPv6."""
    ec2 = cloud.ec2
    [subnet, *_] = ec2.describe_subnets()["Subnets"]
    made = ec2.associate_vpc_cidr_block(VpcId=subnet["VpcId"], AmazonProvidedIpv6CidrBlock=True)
    association = made["Ipv6CidrBlockAssociation"]["AssociationId"]

    def network() -> str:
        [vpc] = ec2.describe_vpcs(VpcIds=[subnet["VpcId"]])["Vpcs"]
        return next(
            (
                str(each["Ipv6CidrBlock"])
                for each in vpc["Ipv6CidrBlockAssociationSet"]
                if each["AssociationId"] == association
                and each["Ipv6CidrBlockState"]["State"] == "associated"
            ),
            "",
        )

    found = IPv6Network(cloud.wait("the VPC to have IPv6", network))
    first = next(found.subnets(new_prefix=64))
    ec2.associate_subnet_cidr_block(SubnetId=subnet["SubnetId"], Ipv6CidrBlock=str(first))
    return str(subnet["SubnetId"])


@pytest.fixture(scope="module")
def guests(cloud: RealCloud, subnet: str) -> Iterator[Guests]:
    address = cloud.ec2.allocate_address(Domain="vpc")
    card = {"SubnetId": subnet, "Ipv6AddressCount": 1}
    [one] = cloud.launch(
        NetworkInterfaces=[
            {**card, "DeviceIndex": 0, "SecondaryPrivateIpAddressCount": 1, "AssociatePublicIpAddress": True}
        ]
    )
    [two] = cloud.launch(
        InstanceType="t3.micro", NetworkInterfaces=[{**card, "DeviceIndex": number} for number in range(2)]
    )
    cloud.waiter("instance_running", InstanceIds=[one, two])
    cloud.ec2.associate_address(
        AllocationId=address["AllocationId"], NetworkInterfaceId=cards(cloud, two)[0]["NetworkInterfaceId"]
    )
    for each in (one, two):
        cloud.wait_ssh(each)
    yield Guests(one, two)
    cloud.ec2.terminate_instances(InstanceIds=[one, two])
    cloud.waiter("instance_terminated", InstanceIds=[one, two])
    cloud.ec2.release_address(AllocationId=address["AllocationId"])


def cards(cloud: RealCloud, id: str) -> list[Item]:
    found: list[Item] = cloud.instance(id)["NetworkInterfaces"]
    return sorted(found, key=lambda each: each["Attachment"]["DeviceIndex"])


def ipv6(card: Item) -> str:
    return str(card["Ipv6Addresses"][0]["Ipv6Address"])


def pings(cloud: RealCloud, guest: str, address: str, *options: str) -> bool:
    try:
        cloud.ssh(guest, f"ping -c 3 -i 0.3 -W 3 {' '.join(options)} {address}")
    except GuestError:
        return False
    return True


def test_further_addresses_are_those_of_the_guest(cloud: RealCloud, guests: Guests) -> None:
    [card] = cards(cloud, guests.one)
    first, second = [each["PrivateIpAddress"] for each in card["PrivateIpAddresses"]]
    assert first == card["PrivateIpAddress"]
    cloud.wait("the further address", lambda: second in cloud.ssh(guests.one, "ip addr show dev eth0"))
    assert pings(cloud, guests.two, second)

    def has(address: str) -> bool:
        return f"{address}/32" in cloud.ssh(guests.one, "/lib/gureum/network refresh; ip addr show").split()

    id = card["NetworkInterfaceId"]
    cloud.ec2.unassign_private_ip_addresses(NetworkInterfaceId=id, PrivateIpAddresses=[second])
    cloud.wait("it to go", lambda: not has(second))
    made = cloud.ec2.assign_private_ip_addresses(NetworkInterfaceId=id, SecondaryPrivateIpAddressCount=1)
    third = made["AssignedPrivateIpAddresses"][0]["PrivateIpAddress"]
    cloud.wait("another one", lambda: has(third))
    assert pings(cloud, guests.two, third)


def test_second_card_answers_as_itself(cloud: RealCloud, guests: Guests) -> None:
    """Its router takes nothing from it but its own address, so answers have to leave the way they came."""
    second = cards(cloud, guests.two)[1]["PrivateIpAddress"]
    cloud.wait("the second card", lambda: pings(cloud, guests.one, second))
    first = cards(cloud, guests.one)[0]["PrivateIpAddress"]
    assert pings(cloud, guests.two, first, "-I", second)
    assert pings(cloud, guests.two, first)


def test_metadata_of_all_cards(cloud: RealCloud, guests: Guests, subnet: str) -> None:
    shown = cards(cloud, guests.two)
    base = "latest/meta-data/network/interfaces/macs"
    for card in shown:
        asked = ("interface-id", "device-number", "ipv6s", "local-ipv4s", "subnet-id")
        found = cloud.ssh(
            guests.two, "; ".join(f"imds {base}/{card['MacAddress']}/{name}; echo" for name in asked)
        )
        assert found.split() == [
            card["NetworkInterfaceId"],
            str(card["Attachment"]["DeviceIndex"]),
            ipv6(card),
            card["PrivateIpAddress"],
            subnet,
        ]
    assert cloud.ssh(guests.two, "imds latest/meta-data/ipv6") == ipv6(shown[0])


def test_guests_talk_by_ipv6(cloud: RealCloud, guests: Guests) -> None:
    [card] = cards(cloud, guests.one)
    first, second = cards(cloud, guests.two)
    cloud.wait("IPv6", lambda: pings(cloud, guests.one, ipv6(first), "-6"))
    cloud.wait("IPv6 on the second card", lambda: pings(cloud, guests.one, ipv6(second), "-6"))
    assert pings(cloud, guests.two, ipv6(card), "-6")
    assert pings(cloud, guests.two, ipv6(card), "-6", "-I", ipv6(second))
    route = cloud.ssh(guests.one, "ip -6 route")
    assert "default via fe80::1 dev eth0" in route
    # The resolver answers by IPv6 too.
    assert first["PrivateIpAddress"] in cloud.ssh(
        guests.one, f"nslookup {first['PrivateDnsName']} fd00:ec2::253"
    )


def test_public_name_is_the_private_address_inside(cloud: RealCloud, guests: Guests) -> None:
    shown = cloud.instance(guests.one)
    name, private, public = shown["PublicDnsName"], shown["PrivateIpAddress"], shown["PublicIpAddress"]
    assert name

    def means(address: str) -> bool:
        return f"({address})" in cloud.ssh(guests.two, f"ping -c 1 -W 1 {name} | head -n 1")

    assert means(private)
    vpc = shown["VpcId"]
    cloud.ec2.modify_vpc_attribute(VpcId=vpc, EnableDnsHostnames={"Value": False})
    cloud.wait("the name to be the Internet's", lambda: means(public))
    cloud.ec2.modify_vpc_attribute(VpcId=vpc, EnableDnsHostnames={"Value": True})
    cloud.wait("the name to be the VPC's", lambda: means(private))


def rules_of_second(cloud: RealCloud, id: str) -> list[str]:
    """Those of the guest's routing rules that lead to its second card's table."""
    shown = cloud.ssh(id, "ip rule; ip -6 rule").splitlines()
    return [line for line in shown if line.split()[-1] == "101"]


def test_card_that_is_plugged_in_later(cloud: RealCloud, guests: Guests, subnet: str) -> None:
    """The guest sets it up by itself, and nothing of it is left when another takes its place."""
    for _ in range(2):
        card = cloud.ec2.create_network_interface(
            SubnetId=subnet, Ipv6AddressCount=1, SecondaryPrivateIpAddressCount=1
        )["NetworkInterface"]
        id = card["NetworkInterfaceId"]
        attachment = cloud.ec2.attach_network_interface(
            NetworkInterfaceId=id, InstanceId=guests.one, DeviceIndex=1
        )["AttachmentId"]
        addresses = [each["PrivateIpAddress"] for each in card["PrivateIpAddresses"]]
        assert len(addresses) == 2
        for address in addresses:
            cloud.wait(f"{address} to answer", partial(pings, cloud, guests.two, address))
        cloud.wait("IPv6", partial(pings, cloud, guests.two, ipv6(card), "-6"))
        assert len(rules_of_second(cloud, guests.one)) == 3
        cloud.ec2.detach_network_interface(AttachmentId=attachment)
        cloud.waiter("network_interface_available", NetworkInterfaceIds=[id])
        cloud.ec2.delete_network_interface(NetworkInterfaceId=id)
        cloud.wait("its rules to go", lambda: not rules_of_second(cloud, guests.one))
        assert cloud.ssh(guests.one, "ls /sys/class/net") == "eth0\nlo"
