"""VPCs of several tenants on two hosts: who reaches whom, tried with real packets between real guests.

Red and blue have the same network and guests with the same addresses, on the same host and across hosts. Green
and amber can be peers of red.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from gureum.images.manifest import ImageManifest
from gureum.network.namespaces import visit

from .realcloud import GuestError, Item, RealCloud, opened, refused
from .vpcs import (
    OUTSIDE_ADDRESS,
    PORT,
    ROUTER_ADDRESS,
    TRY_SECONDS,
    Guest,
    Shells,
    Ticks,
    Vpc,
    allow,
    booted,
    launch,
    new_pings,
    outside_world,
    report,
    seen_from_outside,
    shells,
)

pytestmark = [pytest.mark.root, pytest.mark.qemu, pytest.mark.timeout(300)]

ANYWHERE = "0.0.0.0/0"
SAME_CIDR = "10.0.0.0/16"


class World(NamedTuple):
    cloud: RealCloud
    shells: Shells
    vpcs: dict[str, Vpc]
    guests: dict[str, Guest]
    private_subnet: str
    private_table: str


@pytest.fixture(scope="module")
def world(tiny_image: ImageManifest) -> Iterator[World]:
    with opened(tiny_image, hosts=2) as cloud, outside_world(), shells(cloud) as logins:
        cloud.start()
        cidrs = {"red": SAME_CIDR, "blue": SAME_CIDR, "green": "10.1.0.0/16", "amber": "10.2.0.0/16"}
        vpcs = {name: Vpc(cloud, cidr) for name, cidr in cidrs.items()}
        ids: dict[str, str] = {}
        tables: dict[str, str] = {}
        for name in ("red", "blue"):
            public, private = vpcs[name].subnet("10.0.1.0/24", "a"), vpcs[name].subnet("10.0.2.0/24", "b")
            tables[name] = vpcs[name].private_table(private)
            ids[f"{name}-1"] = launch(cloud, f"{name}-1", public, "10.0.1.10")
            ids[f"{name}-2"] = launch(cloud, f"{name}-2", private, "10.0.2.10", public=False)
        ids["green-1"] = launch(cloud, "green-1", vpcs["green"].subnet("10.1.1.0/24", "b"), "10.1.1.10")
        ids["amber-1"] = launch(cloud, "amber-1", vpcs["amber"].subnet("10.2.1.0/24", "a"), "10.2.1.10")
        guests = booted(cloud, ids, {"red-2": "red-1", "blue-2": "blue-1"})
        yield World(cloud, logins, vpcs, guests, vpcs["red"].subnets[1], tables["red"])


# ---- isolation


def test_the_same_addresses_in_two_vpcs(world: World) -> None:
    """Each finds its own neighbour on the other host, and nobody else's."""
    for tenant in ("red", "blue"):
        near, far = world.guests[f"{tenant}-1"], world.guests[f"{tenant}-2"]
        assert world.shells.sees(near, far.private) == (far.name, near.private)
        assert world.shells.sees(far, near.private) == (near.name, far.private)
        assert world.shells.pings(near, far.private)


def test_vpcs_reach_each_other_by_public_address_only(world: World) -> None:
    red, green, amber = (world.guests[f"{name}-1"] for name in ("red", "green", "amber"))
    for one, other in ((red, green), (red, amber), (green, amber)):
        found = world.shells.reached(one, [other.private, other.public])
        assert found == {other.public: (other.name, one.public)}
        assert not world.shells.pings(one, other.private)


def test_way_out_and_in(world: World) -> None:
    red, far = world.guests["red-1"], world.guests["red-2"]
    assert world.shells.sees(red, OUTSIDE_ADDRESS) == ("outside", ROUTER_ADDRESS)
    assert seen_from_outside(red.public) == ("red-1", OUTSIDE_ADDRESS)
    assert world.shells.sees(far, OUTSIDE_ADDRESS) is None


# ---- NAT gateway


def test_nat_gateway_is_the_private_subnets_way_out(world: World) -> None:
    ec2, red, far, green = (
        world.cloud.ec2,
        world.vpcs["red"],
        world.guests["red-2"],
        world.guests["green-1"],
    )
    address = ec2.allocate_address(Domain="vpc")
    nat = ec2.create_nat_gateway(SubnetId=red.subnets[0], AllocationId=address["AllocationId"])
    id = nat["NatGateway"]["NatGatewayId"]
    world.cloud.waiter("nat_gateway_available", NatGatewayIds=[id])
    default = {"RouteTableId": world.private_table, "DestinationCidrBlock": ANYWHERE}
    ec2.create_route(**default, NatGatewayId=id)
    world.cloud.wait("a way out", lambda: world.shells.sees(far, OUTSIDE_ADDRESS))
    assert world.shells.reached(far, [OUTSIDE_ADDRESS, green.public]) == {
        OUTSIDE_ADDRESS: ("outside", ROUTER_ADDRESS),
        green.public: ("green-1", address["PublicIp"]),
    }
    # Nobody comes in by it.
    assert seen_from_outside(address["PublicIp"]) is None
    assert world.shells.sees(green, address["PublicIp"]) is None

    ec2.delete_route(**default)
    world.cloud.wait("no way out", lambda: not world.shells.sees(far, OUTSIDE_ADDRESS))
    ec2.create_route(**default, NatGatewayId=id)
    world.cloud.wait("a way out again", lambda: world.shells.sees(far, OUTSIDE_ADDRESS))
    ec2.delete_nat_gateway(NatGatewayId=id)
    world.cloud.waiter("nat_gateway_deleted", NatGatewayIds=[id])
    assert world.shells.sees(far, OUTSIDE_ADDRESS) is None
    [table] = ec2.describe_route_tables(RouteTableIds=[world.private_table])["RouteTables"]
    assert {route["State"] for route in table["Routes"] if route.get("NatGatewayId") == id} == {"blackhole"}
    ec2.delete_route(**default)
    ec2.release_address(AllocationId=address["AllocationId"])
    near = world.guests["red-1"]
    assert world.shells.sees(near, far.private) == ("red-2", near.private)


# ---- peering


def peered(world: World, one: str, other: str) -> str:
    made = world.cloud.ec2.create_vpc_peering_connection(
        VpcId=world.vpcs[one].id, PeerVpcId=world.vpcs[other].id
    )
    id: str = made["VpcPeeringConnection"]["VpcPeeringConnectionId"]
    world.cloud.ec2.accept_vpc_peering_connection(VpcPeeringConnectionId=id)
    world.cloud.waiter("vpc_peering_connection_exists", VpcPeeringConnectionIds=[id])
    return id


def test_peering(world: World) -> None:
    ec2, sh = world.cloud.ec2, world.shells
    red, blue, green, amber = (world.vpcs[name] for name in ("red", "blue", "green", "amber"))
    near, far, peer, third = (world.guests[name] for name in ("red-1", "red-2", "green-1", "amber-1"))

    def route(table: str, cidr: str, peering: str) -> None:
        ec2.create_route(RouteTableId=table, DestinationCidrBlock=cidr, VpcPeeringConnectionId=peering)

    first = peered(world, "red", "green")
    route(red.table, green.cidr, first)
    assert sh.sees(near, peer.private) is None  # no way back yet
    route(green.table, red.cidr, first)
    world.cloud.wait("the peer", lambda: sh.sees(near, peer.private) == ("green-1", near.private))
    assert sh.sees(peer, near.private) == ("red-1", peer.private)
    # Of red's private subnet the table has no route.
    assert sh.reached(peer, [far.private, third.private]) == {}
    route(world.private_table, green.cidr, first)
    world.cloud.wait("the far one", lambda: sh.sees(peer, far.private) == ("red-2", peer.private))
    assert sh.sees(world.guests["blue-1"], peer.private) is None

    # Not through green to amber, whatever the routes say.
    second = peered(world, "green", "amber")
    route(green.table, amber.cidr, second)
    route(amber.table, green.cidr, second)
    route(red.table, amber.cidr, first)
    route(amber.table, red.cidr, second)
    world.cloud.wait("amber", lambda: sh.sees(peer, third.private) == ("amber-1", peer.private))
    assert sh.sees(near, third.private) is None
    assert sh.sees(third, near.private) is None
    assert not sh.pings(near, third.private)

    members = red.new_group("peer-members")
    servers = green.new_group(
        "peer-servers", allow("tcp", (22, 22), cidr=ANYWHERE), allow("tcp", (PORT, PORT), group=members)
    )
    ec2.modify_instance_attribute(InstanceId=peer.id, Groups=[servers])
    world.cloud.wait("the stranger to be shut out", lambda: not sh.sees(near, peer.private))
    ec2.modify_instance_attribute(InstanceId=far.id, Groups=[red.group, members])
    world.cloud.wait("the member to be let in", lambda: sh.sees(far, peer.private))
    assert sh.sees(near, peer.private) is None
    ec2.modify_instance_attribute(InstanceId=far.id, Groups=[red.group])
    world.cloud.wait("no member any more", lambda: not sh.sees(far, peer.private))
    ec2.modify_instance_attribute(InstanceId=peer.id, Groups=[green.group])
    world.cloud.wait("all to be let in", lambda: sh.sees(near, peer.private))
    with refused("DependencyViolation"):
        ec2.delete_security_group(GroupId=members)
    ec2.delete_security_group(GroupId=servers)
    ec2.delete_security_group(GroupId=members)

    for id in (first, second):
        ec2.delete_vpc_peering_connection(VpcPeeringConnectionId=id)
    world.cloud.wait("the peer to be cut off", lambda: not sh.sees(near, peer.private))
    assert sh.sees(peer, third.private) is None
    for vpc in (red, green, amber):
        drop_peering_routes(world, vpc.table)
    drop_peering_routes(world, world.private_table)


def drop_peering_routes(world: World, id: str) -> None:
    """They are blackholes by now."""
    [table] = world.cloud.ec2.describe_route_tables(RouteTableIds=[id])["RouteTables"]
    for route in table["Routes"]:
        if "VpcPeeringConnectionId" in route:
            assert route["State"] == "blackhole"
            world.cloud.ec2.delete_route(RouteTableId=id, DestinationCidrBlock=route["DestinationCidrBlock"])


# ---- network ACLs


@pytest.fixture
def acl(world: World) -> Iterator[str]:
    """An ACL for red's private subnet that lets everything through, as rule 100."""
    ec2 = world.cloud.ec2
    of_subnet = [{"Name": "association.subnet-id", "Values": [world.private_subnet]}]
    [default] = ec2.describe_network_acls(Filters=of_subnet)["NetworkAcls"]
    [association] = [each for each in default["Associations"] if each["SubnetId"] == world.private_subnet]
    id = ec2.create_network_acl(VpcId=world.vpcs["red"].id)["NetworkAcl"]["NetworkAclId"]
    for egress in (False, True):
        entry(world, id, 100, "allow", "-1", egress=egress)
    association = ec2.replace_network_acl_association(
        AssociationId=association["NetworkAclAssociationId"], NetworkAclId=id
    )
    yield id
    ec2.replace_network_acl_association(
        AssociationId=association["NewAssociationId"], NetworkAclId=default["NetworkAclId"]
    )
    ec2.delete_network_acl(NetworkAclId=id)


def entry(
    world: World,
    acl: str,
    number: int,
    action: str,
    protocol: str,
    ports: tuple[int, int] | None = None,
    egress: bool = False,
) -> None:
    more: Item = {"PortRange": {"From": ports[0], "To": ports[1]}} if ports else {}
    if protocol == "1":
        more["IcmpTypeCode"] = {"Type": -1, "Code": -1}
    world.cloud.ec2.create_network_acl_entry(
        NetworkAclId=acl,
        RuleNumber=number,
        Protocol=protocol,
        RuleAction=action,
        Egress=egress,
        CidrBlock=ANYWHERE,
        **more,
    )


def test_network_acl(world: World, acl: str) -> None:
    ec2, sh, wait = world.cloud.ec2, world.shells, world.cloud.wait
    near, far = world.guests["red-1"], world.guests["red-2"]
    assert sh.sees(near, far.private) == ("red-2", near.private)
    entry(world, acl, 50, "deny", "6", (PORT, PORT))
    wait("the port to be denied", lambda: not sh.sees(near, far.private))
    assert sh.pings(near, far.private)
    entry(world, acl, 40, "allow", "6", (PORT, PORT))
    wait("the lower number to win", lambda: sh.sees(near, far.private))
    ec2.delete_network_acl_entry(NetworkAclId=acl, RuleNumber=40, Egress=False)
    wait("the deny to hold again", lambda: not sh.sees(near, far.private))
    # Only what comes in is denied the port.
    assert sh.sees(far, near.private) == ("red-1", far.private)
    ec2.delete_network_acl_entry(NetworkAclId=acl, RuleNumber=50, Egress=False)
    wait("the port to be open again", lambda: sh.sees(near, far.private))
    # An answer is no exception: the rules know no flows.
    entry(world, acl, 50, "deny", "1", egress=True)
    wait("no answers", lambda: not sh.pings(near, far.private))
    assert sh.sees(near, far.private) == ("red-2", near.private)
    entry(world, acl, 60, "deny", "6", (32768, 65535), egress=True)
    wait("no answers of TCP either", lambda: not sh.sees(near, far.private))
    for number in (50, 60):
        ec2.delete_network_acl_entry(NetworkAclId=acl, RuleNumber=number, Egress=True)
    wait("answers", lambda: sh.sees(near, far.private))
    assert sh.pings(near, far.private)


# ---- security groups


def test_groups_follow_membership_across_hosts(world: World, request: pytest.FixtureRequest) -> None:
    ec2, red, near, far = (world.cloud.ec2, world.vpcs["red"], world.guests["red-1"], world.guests["red-2"])
    members = red.new_group("members")
    servers = red.new_group("servers", allow("tcp", (22, 22), cidr=ANYWHERE), allow("icmp", group=members))
    ec2.modify_instance_attribute(InstanceId=far.id, Groups=[servers])
    wait = world.cloud.wait
    wait("strangers to be shut out", lambda: not world.shells.pings(near, far.private))
    joined, left = [], []
    with world.shells.running(near, new_pings(far.private)) as pinging:
        ticks = Ticks(pinging.stdout)
        for _ in range(3):
            time.sleep(1.5)
            begin = time.monotonic()
            ec2.modify_instance_attribute(InstanceId=near.id, Groups=[red.group, members])
            joined.append(wait("the member to be let in", lambda begin=begin: ticks.after(begin))[0])
            begin = time.monotonic()
            ec2.modify_instance_attribute(InstanceId=near.id, Groups=[red.group])
            wait("it to be shut out", lambda: time.monotonic() > max(ticks.times) + TRY_SECONDS)
            left.append(max([0.0, *ticks.after(begin)]))
    report(request, joined_seconds=max(joined), left_seconds=max(left))
    ec2.modify_instance_attribute(InstanceId=far.id, Groups=[red.group])
    wait("all to be let in", lambda: world.shells.pings(near, far.private))
    for group in (servers, members):
        ec2.delete_security_group(GroupId=group)


def test_rule_is_revoked_while_traffic_flows(world: World) -> None:
    ec2, red, near, far = (world.cloud.ec2, world.vpcs["red"], world.guests["red-1"], world.guests["red-2"])
    rule = allow("tcp", (9000, 9001), cidr=SAME_CIDR)
    group = red.new_group("revoked", allow("tcp", (22, 22), cidr=ANYWHERE), rule)
    ec2.modify_instance_attribute(InstanceId=far.id, Groups=[group])
    wait, sh = world.cloud.wait, world.shells
    wait("others to be shut out", lambda: not sh.sees(near, far.private))
    serve = (
        "(nc -l -p 9000 >/tmp/stream &) >/dev/null 2>&1; nc -ll -p 9001 -e /bin/hostname >/dev/null 2>&1 &"
    )
    sh.run(far, serve)
    again = f"nc -w {TRY_SECONDS} {far.private} 9001 </dev/null 2>/dev/null || true"
    wait("a new flow", lambda: sh.run(near, again) == "ip-10-0-2-10")
    count = "i=0; while usleep 50000; do i=$((i+1)); echo $i; done"
    with sh.running(near, f"({count}) | nc {far.private} 9000"):
        wait("the stream to flow", lambda: numbers(sh, far))
        ec2.revoke_security_group_ingress(GroupId=group, IpPermissions=[rule])
        wait("new flows to be refused", lambda: sh.run(near, again) == "")
        after = numbers(sh, far)
        wait("the old one to go on", lambda: numbers(sh, far)[-1] > after[-1] + 20)
    found = numbers(sh, far)
    assert found == list(range(1, len(found) + 1))
    sh.run(near, "killall nc; true")
    sh.run(far, "killall nc; true")
    ec2.modify_instance_attribute(InstanceId=far.id, Groups=[red.group])
    wait("all to be let in", lambda: sh.sees(near, far.private))
    ec2.delete_security_group(GroupId=group)


def numbers(sh: Shells, guest: Guest) -> list[int]:
    """Whole lines of the stream that have come."""
    return [int(line) for line in sh.run(guest, "cat /tmp/stream; echo").splitlines()[:-1]]
