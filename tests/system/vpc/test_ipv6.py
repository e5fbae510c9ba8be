"""IPv6 between guests on two hosts: given while they run, decided by groups, and nobody else's."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv6Network, ip_address
from typing import NamedTuple

import pytest

from ..realcloud import Item
from .guests import Guest
from .outside import OUTSIDE_ADDRESS6, ROUTER_ADDRESS6, pinged_from_outside
from .test_attacks import spoofed
from .world import World

pytestmark = [pytest.mark.root, pytest.mark.qemu, pytest.mark.timeout(600)]


class Six(NamedTuple):
    """The addresses of red-1 and red-2, and a network of their VPC."""

    near: str
    far: str
    network: IPv6Network


@pytest.fixture
def six(world: World) -> Iterator[Six]:
    """Red has IPv6 while a test runs."""
    ec2, red = world.cloud.ec2, world.vpcs["red"]
    guests = world.guests["red-1"], world.guests["red-2"]
    made = ec2.associate_vpc_cidr_block(VpcId=red.id, AmazonProvidedIpv6CidrBlock=True)
    of_vpc: str = made["Ipv6CidrBlockAssociation"]["AssociationId"]
    [block] = ec2.describe_vpcs(VpcIds=[red.id])["Vpcs"][0]["Ipv6CidrBlockAssociationSet"]
    networks = list(IPv6Network(block["Ipv6CidrBlock"]).subnets(new_prefix=64))[:2]
    of_subnets = [
        ec2.associate_subnet_cidr_block(SubnetId=subnet, Ipv6CidrBlock=str(network))
        for subnet, network in zip(red.subnets, networks, strict=True)
    ]
    addresses = [given(world, guest) for guest in guests]
    yield Six(addresses[0], addresses[1], networks[0])
    for guest, address in zip(guests, addresses, strict=True):
        ec2.unassign_ipv6_addresses(NetworkInterfaceId=guest.interface, Ipv6Addresses=[address])
    for each in of_subnets:
        ec2.disassociate_subnet_cidr_block(AssociationId=each["Ipv6CidrBlockAssociation"]["AssociationId"])
    ec2.disassociate_vpc_cidr_block(AssociationId=of_vpc)
    for guest in guests:
        world.cloud.wait(f"{guest.name} to have none", lambda guest=guest: not asked_anew(world, guest))


def given(world: World, guest: Guest) -> str:
    """An address more, once the guest has it."""
    made = world.cloud.ec2.assign_ipv6_addresses(NetworkInterfaceId=guest.interface, Ipv6AddressCount=1)
    [address] = made["AssignedIpv6Addresses"]
    world.cloud.wait(f"{guest.name} to have {address}", lambda: address in asked_anew(world, guest))
    return str(ip_address(address))


def asked_anew(world: World, guest: Guest) -> str:
    """Its addresses of IPv6 but link-local ones, after it has asked for them."""
    return world.shells.run(
        guest, "/lib/gureum/network refresh >/dev/null 2>&1; ip -6 -o addr show dev eth0 scope global"
    )


def everywhere(protocol: str) -> list[Item]:
    return [{"IpProtocol": protocol, "FromPort": -1, "ToPort": -1, "Ipv6Ranges": [{"CidrIpv6": "::/0"}]}]


def test_groups_decide_between_hosts(world: World, six: Six) -> None:
    ec2, sh, group = world.cloud.ec2, world.shells, world.vpcs["red"].group
    near, far = world.guests["red-1"], world.guests["red-2"]
    # All members of the default group reach each other.
    world.cloud.wait("an answer", lambda: sh.pings(near, six.far))
    assert sh.pings(far, six.near)
    members = {"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": group}]}
    ec2.revoke_security_group_ingress(GroupId=group, IpPermissions=[members])
    try:
        world.cloud.wait("silence", lambda: not sh.pings(near, six.far))
        assert not sh.pings(far, six.near)
        assert sh.finds(near, far.private) == ("red-2", near.private)
        ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=everywhere("icmpv6"))
        world.cloud.wait("an answer", lambda: sh.pings(near, six.far))
        assert sh.pings(far, six.near)
        ec2.revoke_security_group_ingress(GroupId=group, IpPermissions=everywhere("icmpv6"))
        world.cloud.wait("silence", lambda: not sh.pings(near, six.far))
    finally:
        ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[members])


def test_an_address_that_is_not_its_own(world: World, six: Six) -> None:
    sh, near, far = world.shells, world.guests["red-1"], world.guests["red-2"]
    world.cloud.wait("an answer", lambda: sh.pings(near, six.far))
    before = echoes(world, far)
    for stranger in (six.network[0x77], six.network[1]):
        dropped = spoofed(world, near)
        sh.run(
            near,
            "echo 0 >/proc/sys/net/ipv6/conf/eth0/accept_dad; "
            f"ip addr add {stranger}/128 dev eth0; "
            f"ping -c 2 -i 0.2 -W 1 -I {stranger} {six.far} >/dev/null 2>&1; "
            f"ip addr del {stranger}/128 dev eth0",
        )
        assert spoofed(world, near) >= dropped + 2
    assert echoes(world, far) == before
    assert sh.pings(near, six.far)
    assert echoes(world, far) > before


def test_the_world_outside(world: World, six: Six) -> None:
    """Red-1 by an Internet gateway, red-2 by an egress-only one."""
    ec2, sh, red = world.cloud.ec2, world.shells, world.vpcs["red"]
    near, far = world.guests["red-1"], world.guests["red-2"]
    assert not sh.pings(near, OUTSIDE_ADDRESS6)
    everywhere6 = {"DestinationIpv6CidrBlock": "::/0"}
    made = ec2.create_egress_only_internet_gateway(VpcId=red.id)
    egress = made["EgressOnlyInternetGateway"]["EgressOnlyInternetGatewayId"]
    try:
        ec2.create_route(RouteTableId=red.table, **everywhere6, GatewayId=red.gateway)
        ec2.create_route(RouteTableId=world.private_table, **everywhere6, EgressOnlyInternetGatewayId=egress)
        world.cloud.wait("an answer", lambda: sh.pings(near, OUTSIDE_ADDRESS6))
        world.cloud.wait("an answer", lambda: sh.pings(far, OUTSIDE_ADDRESS6))
        assert not pinged_from_outside(six.near)
        ec2.authorize_security_group_ingress(GroupId=red.group, IpPermissions=everywhere("icmpv6"))
        world.cloud.wait("an answer", lambda: pinged_from_outside(six.near))
        assert not pinged_from_outside(six.far)
        assert not sh.pings(near, ROUTER_ADDRESS6)
    finally:
        for table in (red.table, world.private_table):
            ec2.delete_route(RouteTableId=table, **everywhere6)
        ec2.delete_egress_only_internet_gateway(EgressOnlyInternetGatewayId=egress)
        ec2.revoke_security_group_ingress(GroupId=red.group, IpPermissions=everywhere("icmpv6"))


def echoes(world: World, guest: Guest) -> int:
    """How many echo requests of IPv6 the guest has had."""
    shown = world.shells.run(guest, "grep -w Icmp6InEchos /proc/net/snmp6")
    return int(shown.split()[1])
