from __future__ import annotations

from ipaddress import IPv4Network

import msgspec
import pytest

from gureum.errors import NetworkError
from gureum.hostspec import (
    AclEntrySpec,
    AclSpec,
    AddressSpec,
    DhcpSpec,
    FlowLogSpec,
    GroupSpec,
    NetworkSpec,
    PeerHostSpec,
    PeeringSpec,
    PortSpec,
    RemoteSpec,
    RouteTableSpec,
    RuleSpec,
    SubnetSpec,
    VpcSpec,
)
from gureum.network.plan import make_plan

PUBLIC = IPv4Network("198.18.0.0/24")
VPC = VpcSpec(
    id="vpc-1",
    network_id=7,
    cidr="172.31.0.0/16",
    subnets=(SubnetSpec(id="subnet-1", cidr="172.31.16.0/20"),),
)
PORT = PortSpec(
    id="eni-1",
    instance="i-1",
    vpc="vpc-1",
    subnet="subnet-1",
    mac="06:00:00:00:00:01",
    private_ip="172.31.16.4",
    public_ip="198.18.0.9",
    hostname="ip-172-31-16-4.ec2.internal",
    groups=("sg-1",),
)
GROUP = GroupSpec(id="sg-1", rules=(RuleSpec(protocol="tcp", from_port=1, to_port=2, group="sg-2"),))


def changed(**fields: object) -> NetworkSpec:
    return NetworkSpec(vpcs=(VPC,), ports=(msgspec.structs.replace(PORT, **fields),), groups=(GROUP,))


def test_plan() -> None:
    spec = NetworkSpec(
        vpcs=(VPC,),
        ports=(PORT,),
        groups=(GROUP, GroupSpec(id="sg-9")),
        members={"sg-2": ("172.31.16.9", "172.31.16.4", "fd00::1"), "sg-8": ("1.2.3.4",)},
    )
    plan = make_plan(spec, PUBLIC)[7]
    assert (plan.gateways, plan.dns) == (("172.31.16.1",), "172.31.0.2")
    assert list(plan.groups) == ["sg-1"]
    assert plan.members == {"sg-2": ("172.31.16.4", "172.31.16.9")}
    port = plan.ports["eni-1"]
    assert (port.gateway, port.prefix, port.hostname) == ("172.31.16.1", 20, "ip-172-31-16-4")


def test_a_group_without_rules_denies() -> None:
    assert make_plan(changed(groups=("sg-unknown",)), PUBLIC)[7].groups["sg-unknown"].rules == ()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"vpc": "vpc-2"}, "vpc-2"),
        ({"subnet": "subnet-2"}, "subnet-2"),
        ({"private_ip": "172.31.0.4"}, "not in its subnet"),
        ({"private_ip": "172.31.16.400"}, "172.31.16.400"),
        ({"private_ip": "172.31.16.4; reboot"}, "reboot"),
        ({"public_ip": "192.0.2.1"}, "not one of this cloud's"),
        ({"mac": "07:00:00:00:00:01"}, "no MAC"),
        ({"mac": "06:00:00:00:00"}, "no MAC"),
        ({"mac": "06:00:00:00:00:01 accept"}, "no MAC"),
        ({"hostname": "a b"}, "no host name"),
        ({"groups": ("sg 1",)}, "no id"),
        ({"id": "eni-1\nflush ruleset"}, "no id"),
    ],
)
def test_nonsense_is_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(NetworkError, match=message):
        make_plan(changed(**fields), PUBLIC)


@pytest.mark.parametrize(
    "fields",
    [
        {"domain": "ec2.internal --conf-file=x"},
        {"domain": ""},
        {"cidr": "172.31.0.1/16"},
        {"cidr": "fd00::/8"},
        {"network_id": -1},
        {"id": "vpc 1"},
    ],
)
def test_nonsense_vpcs_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(NetworkError):
        make_plan(NetworkSpec(vpcs=(msgspec.structs.replace(VPC, **fields),)), PUBLIC)


@pytest.mark.parametrize(
    "fields",
    [
        {"id": "eni-2"},
        {"private_ip": "172.31.16.5", "public_ip": ""},
        {"id": "eni-2", "private_ip": "172.31.16.5"},
    ],
)
def test_nothing_is_there_twice(fields: dict[str, object]) -> None:
    other = msgspec.structs.replace(PORT, **fields)
    with pytest.raises(NetworkError):
        make_plan(NetworkSpec(vpcs=(VPC,), ports=(PORT, other)), PUBLIC)


def test_network_ids_are_unique() -> None:
    with pytest.raises(NetworkError, match="network id"):
        make_plan(NetworkSpec(vpcs=(VPC, msgspec.structs.replace(VPC, id="vpc-2"))), PUBLIC)


def everything() -> NetworkSpec:
    vpc = msgspec.structs.replace(
        VPC,
        cidrs=("10.9.0.0/16", "fd00:1::/56"),
        subnets=(
            SubnetSpec(
                id="subnet-1",
                cidr="172.31.16.0/20",
                cidr6="fd00:1::/64",
                route_table="rtb-1",
                acl="acl-1",
            ),
        ),
        route_tables=(RouteTableSpec(id="rtb-1", number=3),),
        acls=(
            AclSpec(
                id="acl-1",
                entries=(AclEntrySpec(number=200, cidr="::/0"), AclEntrySpec(number=100, cidr="0.0.0.0/0")),
            ),
        ),
    )
    port = msgspec.structs.replace(
        PORT,
        secondary=(AddressSpec(private_ip="172.31.16.5", public_ip="198.18.0.10"),),
        ipv6=("fd00:1:0::0005",),
    )
    return NetworkSpec(
        number=1,
        mtu=1450,
        hosts=(PeerHostSpec(id="host-2", number=2, address="192.0.2.2"),),
        vpcs=(vpc, VpcSpec(id="vpc-2", network_id=8, cidr="10.2.0.0/16")),
        ports=(port,),
        remotes=(
            RemoteSpec(
                id="eni-2", vpc="vpc-1", host="host-2", addresses=(AddressSpec(private_ip="172.31.16.9"),)
            ),
        ),
        peerings=(PeeringSpec(id="pcx-1", number=4, vpcs=("vpc-1", "vpc-2")),),
        groups=(GROUP,),
        members={"sg-2": ("172.31.16.9", "fd00:1::9")},
        flow_logs=(
            FlowLogSpec(
                id="fl-1",
                account="1" * 12,
                ports=("eni-1", "eni-elsewhere"),
                traffic="ALL",
                interval_seconds=60,
            ),
        ),
    )


def test_all_of_it() -> None:
    plan = make_plan(everything(), PUBLIC)[7]
    port = plan.ports["eni-1"]
    assert port.private == ("172.31.16.4", "172.31.16.5", "fd00:1::5")
    assert port.table == plan.subnets["subnet-1"].table == 3
    assert [entry.number for entry in plan.acls["acl-1"].entries] == [100, 200]
    assert (plan.cidrs, plan.cidrs6) == (("172.31.0.0/16", "10.9.0.0/16"), ("fd00:1::/56",))
    assert [(host.number, host.address) for host in plan.hosts] == [(2, "192.0.2.2")]
    assert plan.remotes["eni-2"].host == 2
    assert plan.peerings[4].networks == ("10.2.0.0/16",)
    assert (plan.members, plan.members6) == ({"sg-2": ("172.31.16.9",)}, {"sg-2": ("fd00:1::9",)})
    assert plan.flow_logs[0].ports == ("eni-1",)
    assert plan.owners["172.31.16.9"] == "eni-2"
    assert plan.mtu == 1450
    # The peer sends to no host: nothing of it is anywhere else.
    assert make_plan(everything(), PUBLIC)[8].hosts == ()


LOG = FlowLogSpec(id="fl-1", account="", ports=(), traffic="ALL", interval_seconds=1)
HOST = PeerHostSpec(id="host-2", number=2, address="192.0.2.2")
ENTRY = AclEntrySpec(number=1, cidr="0.0.0.0/0")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"number": 16384}, "number of a host"),
        ({"mtu": 100}, "MTU"),
        ({"hosts": (HOST, msgspec.structs.replace(HOST, id="host-3"))}, "same number"),
        ({"hosts": (msgspec.structs.replace(HOST, address="192.0.2.2 dev x"),)}, "192.0.2.2 dev x"),
        ({"hosts": (msgspec.structs.replace(HOST, number=0),)}, "number of a host"),
        ({"peerings": (PeeringSpec(id="pcx-1", number=4, vpcs=("vpc-1", "vpc-9")),)}, "pcx-1"),
        ({"peerings": (PeeringSpec(id="pcx-1", number=-4, vpcs=("vpc-1", "vpc-2")),)}, "pcx-1"),
        (
            {"flow_logs": (FlowLogSpec(id="fl 1", account="", ports=(), traffic="ALL", interval_seconds=1),)},
            "id",
        ),
        (
            {"flow_logs": (FlowLogSpec(id="fl-1", account="", ports=(), traffic="", interval_seconds=1),)},
            "traffic",
        ),
    ],
)
def test_nonsense_beside_vpcs_is_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(NetworkError, match=message):
        make_plan(msgspec.structs.replace(everything(), **fields), PUBLIC)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"addresses": (AddressSpec(private_ip="172.31.16.4"),)}, "twice"),
        ({"addresses": (AddressSpec(private_ip="172.31.16.400"),)}, "172.31.16.400"),
        ({"ipv6": ("fe80::1%up",)}, "scope"),
        ({"id": "eni-1"}, "here and on another host"),
        ({"vpc": "vpc-9"}, "vpc-9"),
    ],
)
def test_nonsense_remotes_are_refused(fields: dict[str, object], message: str) -> None:
    spec = everything()
    remotes = (msgspec.structs.replace(spec.remotes[0], **fields),)
    with pytest.raises(NetworkError, match=message):
        make_plan(msgspec.structs.replace(spec, remotes=remotes), PUBLIC)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"cidrs": ("10.9.0.0/16 accept",)}, "16 accept"),
        ({"route_tables": (RouteTableSpec(id="rtb-1", number=0),)}, "rtb-1"),
        ({"route_tables": (RouteTableSpec(id="rtb-1", number=65536),)}, "rtb-1"),
        ({"route_tables": ()}, "rtb-1"),
        ({"acls": ()}, "acl-1"),
        ({"acls": (AclSpec(id="acl-1", entries=(msgspec.structs.replace(ENTRY, cidr="any"),)),)}, "any"),
        (
            {"acls": (AclSpec(id="acl-1", entries=(msgspec.structs.replace(ENTRY, protocol="x"),)),)},
            "protocol",
        ),
        ({"acls": (AclSpec(id="acl-1", entries=(msgspec.structs.replace(ENTRY, to_port=65536),)),)}, "range"),
        ({"acls": (AclSpec(id="acl-1", entries=(msgspec.structs.replace(ENTRY, number=0),)),)}, "number"),
        ({"dhcp": DhcpSpec(ntp=("1.2.3.4 ; x",))}, "1.2.3.4 ; x"),
        ({"dhcp": DhcpSpec(domain="a b")}, "domain"),
    ],
)
def test_nonsense_in_a_vpc_is_refused(fields: dict[str, object], message: str) -> None:
    spec = everything()
    vpcs = (msgspec.structs.replace(spec.vpcs[0], **fields), *spec.vpcs[1:])
    with pytest.raises(NetworkError, match=message):
        make_plan(msgspec.structs.replace(spec, vpcs=vpcs), PUBLIC)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"secondary": (AddressSpec(private_ip="172.31.99.1"),)}, "not in its subnet"),
        ({"secondary": (AddressSpec(private_ip="172.31.16.4"),)}, "twice"),
        ({"secondary": (AddressSpec(private_ip="172.31.16.6", public_ip="198.18.0.9"),)}, "in use"),
        ({"ipv6": ("fd00:2::1",)}, "not in its subnet"),
    ],
)
def test_nonsense_addresses_are_refused(fields: dict[str, object], message: str) -> None:
    spec = everything()
    ports = (msgspec.structs.replace(spec.ports[0], **fields),)
    with pytest.raises(NetworkError, match=message):
        make_plan(msgspec.structs.replace(spec, ports=ports), PUBLIC)
