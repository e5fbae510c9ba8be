from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from msgspec.structs import replace

from gureum.control.networks import Networks
from gureum.hostspec import NetworkSpec, PortKind, RouteKind, RouteSpec
from gureum.resources import (
    AclEntry,
    CidrAssociation,
    DhcpOptions,
    EgressGateway,
    FlowLog,
    InternetGateway,
    NatGateway,
    NatGatewayState,
    NetworkAcl,
    PeeringConnection,
    PeeringState,
    Permission,
    PrefixEntry,
    PrefixList,
    Route,
    RouteTable,
    SecondaryAddress,
    SecurityGroup,
    Subnet,
    Vpc,
)
from gureum.services.operation import Cloud

CLOUD = Cloud(
    name="test",
    account="123456789012",
    region="us-east-1",
    zones=("us-east-1a",),
    public_cidr="198.18.0.0/24",
)
NOW = datetime(2026, 1, 1, tzinfo=UTC)
ZONE = "us-east-1a"


async def spec(bench: Any, host: str = "host-0", cloud: Cloud = CLOUD) -> NetworkSpec:
    async with bench.store.read() as reader:
        return (await Networks.load(reader, cloud, host)).spec()


def frame(number: int = 1, **vpc: Any) -> tuple[Vpc, Subnet]:
    """A VPC 10.NUMBER.0.0/16 with one subnet."""
    return (
        Vpc(id=f"vpc-{number}", cidr=f"10.{number}.0.0/16", network_id=number, **vpc),
        Subnet(
            id=f"subnet-{number}", vpc=f"vpc-{number}", zone=ZONE, cidr=f"10.{number}.1.0/24", acl="acl-1"
        ),
    )


def at(make: Any, id: str, ip: str, host: str | None = "host-0", vpc: int = 1, **values: Any) -> Any:
    return make.interface(id, vpc=f"vpc-{vpc}", subnet=f"subnet-{vpc}", private_ip=ip, host=host, **values)


async def test_a_host_gets_its_own_ports_and_where_the_others_are(bench: Any, make: Any) -> None:
    second = SecondaryAddress(private_ip="10.1.1.9", public_ip="198.18.0.9")
    await bench.put(
        *frame(),
        *frame(2),
        at(make, "eni-1", "10.1.1.4"),
        at(make, "eni-2", "10.1.1.5", host="host-1", secondary=(second,), ipv6=("fd00::5",)),
        at(make, "eni-3", "10.1.1.6", host=None),
        at(make, "eni-4", "10.2.1.4", host="host-1", vpc=2),
    )
    got = await spec(bench)
    assert [vpc.id for vpc in got.vpcs] == ["vpc-1"]
    assert [port.id for port in got.ports] == ["eni-1"]
    [remote] = got.remotes
    assert (remote.id, remote.host, remote.ipv6) == ("eni-2", "host-1", ("fd00::5",))
    assert [(each.private_ip, each.public_ip) for each in remote.addresses] == [
        ("10.1.1.5", ""),
        ("10.1.1.9", "198.18.0.9"),
    ]


async def test_hosts_know_each_other_once_they_have_addresses(bench: Any, make: Any) -> None:
    await bench.put(make.host("host-0", number=1), *frame(), at(make, "eni-1", "10.1.1.4"))
    alone = await spec(bench)
    assert (alone.number, alone.hosts, alone.mtu) == (0, (), 1500)
    await bench.put(
        make.host("host-1", number=2, address="198.19.64.11", uplink_mtu=1500),
        make.host("host-2", number=3, address="198.19.64.12", uplink_mtu=9000),
    )
    got = await spec(bench, "host-1")
    assert got.number == 2
    assert [(each.id, each.number, each.address) for each in got.hosts] == [("host-2", 3, "198.19.64.12")]
    assert got.mtu == 1450
    assert (await spec(bench, "host-1", _encrypted())).mtu == 1350


def _encrypted() -> Cloud:
    return Cloud(**{**{name: getattr(CLOUD, name) for name in CLOUD.__struct_fields__}, "encrypted": True})


async def test_routes_lead_where_their_targets_are(bench: Any, make: Any) -> None:
    routes = (
        Route(destination="0.0.0.0/0", target="igw-1"),
        Route(destination="8.0.0.0/8", target="igw-2"),
        Route(destination="9.0.0.0/8", target="nat-1"),
        Route(destination="10.9.0.0/16", target="eni-1"),
        Route(destination="10.8.0.0/16", target="eni-gone"),
        Route(destination="pl-1", target="pcx-1"),
    )
    peers = {"requester_account": "1", "accepter_account": "1"}
    await bench.put(
        *frame(),
        *frame(2),
        InternetGateway(id="igw-1", vpc="vpc-1"),
        InternetGateway(id="igw-2", vpc="vpc-2"),
        RouteTable(id="rtb-1", vpc="vpc-1", number=7, main=True, routes=routes),
        PrefixList(
            id="pl-1",
            name="x",
            max_entries=2,
            entries=(PrefixEntry(cidr="10.2.0.0/17"), PrefixEntry(cidr="10.2.128.0/17")),
        ),
        PeeringConnection(
            id="pcx-1", number=4, requester="vpc-1", accepter="vpc-2", state=PeeringState.active, **peers
        ),
        NatGateway(
            id="nat-1",
            vpc="vpc-1",
            subnet="subnet-1",
            zone=ZONE,
            interface="eni-nat",
            state=NatGatewayState.available,
            created=NOW,
        ),
        at(make, "eni-1", "10.1.1.4"),
        at(make, "eni-nat", "10.1.1.5", host="host-1", type="nat_gateway", instance=None),
    )
    got = await spec(bench)
    [vpc, peer] = got.vpcs
    assert (vpc.internet, peer.internet) == (True, True)
    assert vpc.subnets[0].route_table == "rtb-1"
    assert [(table.number, table.routes) for table in vpc.route_tables] == [
        (
            7,
            (
                RouteSpec(destination="0.0.0.0/0", kind=RouteKind.internet),
                RouteSpec(destination="8.0.0.0/8", kind=RouteKind.blackhole),
                RouteSpec(destination="9.0.0.0/8", kind=RouteKind.port, target="eni-nat"),
                RouteSpec(destination="10.9.0.0/16", kind=RouteKind.port, target="eni-1"),
                RouteSpec(destination="10.8.0.0/16", kind=RouteKind.blackhole),
                RouteSpec(destination="10.2.0.0/17", kind=RouteKind.peering, target="pcx-1"),
                RouteSpec(destination="10.2.128.0/17", kind=RouteKind.peering, target="pcx-1"),
            ),
        )
    ]
    [peering] = got.peerings
    assert (peering.number, peering.vpcs) == (4, ("vpc-1", "vpc-2"))
    [nat] = (await spec(bench, "host-1")).ports
    assert (nat.id, nat.kind, nat.instance) == ("eni-nat", PortKind.nat, "")


async def test_ways_out_by_ipv6(bench: Any, make: Any) -> None:
    await bench.put(
        *frame(),
        EgressGateway(id="eigw-1", vpc="vpc-1"),
        RouteTable(
            id="rtb-1",
            vpc="vpc-1",
            number=7,
            main=True,
            routes=(
                Route(destination="::/0", target="eigw-1"),
                Route(destination="2001:db8::/32", target="eigw-2"),
            ),
        ),
        at(make, "eni-1", "10.1.1.4"),
    )
    got = await spec(bench)
    assert got.vpcs[0].route_tables[0].routes == (
        RouteSpec(destination="::/0", kind=RouteKind.egress),
        RouteSpec(destination="2001:db8::/32", kind=RouteKind.blackhole),
    )
    [own] = got.networks6
    assert own.startswith("fd")
    assert got.hidden6 == (own,)
    led = replace(CLOUD, ipv6_prefix="2001:db8:7::/48")
    got = await spec(bench, cloud=led)
    assert (got.networks6, got.hidden6) == ((own, "2001:db8:7::/48"), (own,))
    # The machine hides them.
    assert (await spec(bench, cloud=replace(led, one_machine=True))).hidden6 == ()


async def test_a_peering_that_is_not_active_brings_nothing(bench: Any, make: Any) -> None:
    await bench.put(
        *frame(),
        *frame(2),
        PeeringConnection(
            id="pcx-1",
            number=4,
            requester="vpc-1",
            accepter="vpc-2",
            requester_account="1",
            accepter_account="1",
        ),
        at(make, "eni-1", "10.1.1.4"),
    )
    got = await spec(bench)
    assert ([vpc.id for vpc in got.vpcs], got.peerings) == (["vpc-1"], ())


async def test_members_are_those_that_have_a_port_anywhere(bench: Any, make: Any) -> None:
    rules = (
        Permission(id="sgr-1", protocol="-1", group="sg-2"),
        Permission(id="sgr-2", protocol="tcp", from_port=1, to_port=2, prefix_list="pl-1"),
        Permission(id="sgr-3", protocol="-1", cidr6="::/0"),
    )
    await bench.put(
        *frame(),
        SecurityGroup(id="sg-1", name="a", description="", vpc="vpc-1", rules=rules),
        PrefixList(id="pl-1", name="x", max_entries=2, entries=(PrefixEntry(cidr="10.2.0.0/17"),)),
        at(make, "eni-1", "10.1.1.4", groups=("sg-1",)),
        at(make, "eni-2", "10.1.1.5", host="host-1", groups=("sg-2",), ipv6=("fd00::5",)),
        at(make, "eni-3", "10.1.1.6", host=None, groups=("sg-2",)),
    )
    got = await spec(bench)
    assert got.members == {"sg-2": ("10.1.1.5", "fd00::5")}
    assert [(rule.cidr, rule.group, rule.prefix_list) for rule in got.groups[0].rules] == [
        ("", "sg-2", ""),
        ("", "", "pl-1"),
        ("::/0", "", ""),
    ]
    assert got.prefixes == {"pl-1": ("10.2.0.0/17",)}


async def test_what_the_subnets_guests_are_told_and_allowed(bench: Any, make: Any) -> None:
    options = {"domain-name": ("a.b",), "domain-name-servers": ("AmazonProvidedDNS", "1.1.1.1")}
    second = CidrAssociation(id="vpc-cidr-assoc-1", cidr="10.7.0.0/16")
    entries = (
        AclEntry(number=200, cidr="0.0.0.0/0"),
        AclEntry(number=100, cidr="1.0.0.0/8", allow=False, protocol="6", from_port=1, to_port=2),
    )
    await bench.put(
        *frame(dhcp_options="dopt-1", associations=(second,)),
        *frame(2),
        DhcpOptions(id="dopt-1", options=options),
        NetworkAcl(id="acl-1", vpc="vpc-1", entries=entries),
        FlowLog(id="fl-1", resource="subnet-1", traffic="ALL", created=NOW),
        FlowLog(id="fl-2", resource="subnet-2", traffic="ALL", created=NOW),
        at(make, "eni-1", "10.1.1.4"),
        at(make, "eni-2", "10.1.1.5", host="host-1"),
        at(make, "eni-3", "10.2.1.4", vpc=2),
    )
    got = await spec(bench)
    [first, other] = got.vpcs
    assert first.cidrs == ("10.7.0.0/16",)
    assert (first.dhcp.domain, first.dhcp.servers) == ("a.b", ("", "1.1.1.1"))
    assert (other.dhcp.domain, other.dhcp.servers) == ("", ())
    assert [entry.number for entry in first.acls[0].entries] == [100, 200]
    assert [(log.id, log.ports) for log in got.flow_logs] == [("fl-1", ("eni-1",)), ("fl-2", ("eni-3",))]
    assert [(log.region, log.zone_ids) for log in got.flow_logs] == [
        ("us-east-1", {"eni-1": "use1-az1"}),
        ("us-east-1", {"eni-3": "use1-az1"}),
    ]
