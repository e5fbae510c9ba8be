"""Who reaches whom: isolation, ways out, peering."""

from __future__ import annotations

import pytest

from ..realcloud import refused
from .guests import PORT, allow
from .outside import OUTSIDE_ADDRESS, ROUTER_ADDRESS, seen_from_outside
from .shells import PATIENT_SECONDS
from .world import World, member_of

pytestmark = [pytest.mark.root, pytest.mark.qemu, pytest.mark.timeout(600)]

ANYWHERE = "0.0.0.0/0"


# ---- isolation


def test_the_same_addresses_in_two_vpcs(world: World) -> None:
    """Each finds its own neighbour on the other host, and nobody else's."""
    for tenant in ("red", "blue"):
        near, far = world.guests[f"{tenant}-1"], world.guests[f"{tenant}-2"]
        assert world.shells.finds(near, far.private) == (far.name, near.private)
        assert world.shells.finds(far, near.private) == (near.name, far.private)
        assert world.shells.pings(near, far.private)


def test_vpcs_reach_each_other_by_public_address_only(world: World) -> None:
    red, green, amber = (world.guests[f"{name}-1"] for name in ("red", "green", "amber"))
    for one, other in ((red, green), (red, amber), (green, amber)):
        found = world.shells.reached(one, [other.private, other.public])
        assert found == {other.public: (other.name, one.public)}
        assert not world.shells.pings(one, other.private)


def test_way_out_and_in(world: World) -> None:
    red, far = world.guests["red-1"], world.guests["red-2"]
    assert world.shells.finds(red, OUTSIDE_ADDRESS) == ("outside", ROUTER_ADDRESS)
    assert seen_from_outside(red.public, PATIENT_SECONDS) == ("red-1", OUTSIDE_ADDRESS)
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
    assert world.shells.reached(far, [OUTSIDE_ADDRESS, green.public], PATIENT_SECONDS) == {
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
    assert world.shells.finds(near, far.private) == ("red-2", near.private)


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
    red, green, amber = (world.vpcs[name] for name in ("red", "green", "amber"))
    near, far, peer, third = (world.guests[name] for name in ("red-1", "red-2", "green-1", "amber-1"))

    def route(table: str, cidr: str, peering: str) -> None:
        ec2.create_route(RouteTableId=table, DestinationCidrBlock=cidr, VpcPeeringConnectionId=peering)

    first = peered(world, "red", "green")
    route(red.table, green.cidr, first)
    assert sh.sees(near, peer.private) is None  # no way back yet
    route(green.table, red.cidr, first)
    world.cloud.wait("the peer", lambda: sh.sees(near, peer.private) == ("green-1", near.private))
    assert sh.finds(peer, near.private) == ("red-1", peer.private)
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
    with member_of(world, peer, servers):
        world.cloud.wait("the stranger to be shut out", lambda: not sh.sees(near, peer.private))
        with member_of(world, far, red.group, members):
            world.cloud.wait("the member to be let in", lambda: sh.sees(far, peer.private))
            assert sh.sees(near, peer.private) is None
        world.cloud.wait("no member any more", lambda: not sh.sees(far, peer.private))
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
