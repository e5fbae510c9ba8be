from __future__ import annotations

from ipaddress import IPv4Network

import msgspec

from gureum.hostspec import (
    AddressSpec,
    NetworkSpec,
    PeerHostSpec,
    PeeringSpec,
    PortSpec,
    RemoteSpec,
    RouteKind,
    RouteSpec,
    RouteTableSpec,
    SubnetSpec,
    VpcSpec,
)
from gureum.network.plan import VpcPlan, make_plan
from gureum.network.routes import NOTHING, Change, change, orphans, wanted

LINK = "198.19.0.2"


def port(number: int, **fields: object) -> PortSpec:
    values: dict[str, object] = {
        "id": f"eni-{number:017x}",
        "instance": f"i-{number}",
        "vpc": "vpc-1",
        "subnet": "subnet-1",
        "mac": f"06:00:00:00:00:{number:02x}",
        "private_ip": f"10.0.0.{number}",
        **fields,
    }
    return PortSpec(**values)  # type: ignore[arg-type]


def remote(number: int, host: str = "host-2") -> RemoteSpec:
    third, last = divmod(number, 250)
    addresses = (AddressSpec(private_ip=f"10.0.{third + 1}.{last}"),)
    return RemoteSpec(id=f"eni-r{number}", vpc="vpc-1", host=host, addresses=addresses)


def plan(
    *remotes: RemoteSpec, ports: tuple[PortSpec, ...] = (), routes: tuple[RouteSpec, ...] = ()
) -> VpcPlan:
    peer = VpcSpec(id="vpc-2", network_id=2, cidr="10.2.0.0/16", cidrs=("10.3.0.0/16",))
    vpc = VpcSpec(
        id="vpc-1",
        network_id=1,
        cidr="10.0.0.0/16",
        cidrs=("fd00:1::/56",),
        subnets=(
            SubnetSpec(id="subnet-1", cidr="10.0.0.0/24", cidr6="fd00:1::/64", route_table="rtb-1"),
            SubnetSpec(id="subnet-2", cidr="10.0.128.0/24"),
        ),
        route_tables=(RouteTableSpec(id="rtb-1", number=5, routes=routes),),
    )
    spec = NetworkSpec(
        number=1,
        hosts=(
            PeerHostSpec(id="host-2", number=2, address="192.0.2.2"),
            PeerHostSpec(id="host-300", number=300, address="192.0.2.3"),
        ),
        vpcs=(vpc, peer),
        ports=ports,
        remotes=remotes,
        peerings=(PeeringSpec(id="pcx-1", number=9, vpcs=("vpc-2", "vpc-1")),),
    )
    return make_plan(spec, IPv4Network("198.18.0.0/24"))[1]


def commands(old: VpcPlan | None, new: VpcPlan) -> Change:
    return change(wanted(old, LINK) if old else NOTHING, wanted(new, LINK))


def route(destination: str, kind: RouteKind, target: str = "") -> RouteSpec:
    return RouteSpec(destination=destination, kind=kind, target=target)


def test_the_first_time() -> None:
    found = commands(None, plan(remote(4), ports=(port(4, ipv6=("fd00:1::4",)),)))
    assert found.bridge == ["fdb replace 02:67:76:00:00:02 dev vx dst 192.0.2.2 self permanent"]
    tap = "t00000000000004"
    assert set(found.come) == {
        f"neighbour replace 10.0.0.4 lladdr 06:00:00:00:00:04 dev {tap} nud permanent",
        f"neighbour replace fd00:1::4 lladdr 06:00:00:00:00:04 dev {tap} nud permanent",
        "neighbour replace 169.254.64.2 lladdr 02:67:76:00:00:02 dev vx nud permanent",
        "neighbour replace fe80::2 lladdr 02:67:76:00:00:02 dev vx nud permanent",
        "neighbour replace 169.254.1.1 lladdr 02:67:75:72:75:6d dev pr9 nud permanent",
        "neighbour replace fe80::1 lladdr 02:67:75:72:75:6d dev pr9 nud permanent",
        "route replace blackhole 10.0.0.0/16 table 254",
        "route replace blackhole fd00:1::/56 table 254",
        "route replace 10.0.1.4/32 via 169.254.64.2 dev vx onlink table 254",
        f"route replace 10.0.0.4/32 dev {tap} table 254",
        f"route replace fd00:1::4/128 dev {tap} table 254",
        f"route replace 0.0.0.0/0 via {LINK} dev up onlink table 900",
        "route replace throw 10.0.0.0/16 table 1005",
        "route replace throw fd00:1::/56 table 1005",
        "rule add iif lo lookup 900 priority 40000",
        "rule add fwmark 5 lookup 1005 priority 100",
    }
    assert found.come6 == ["rule add fwmark 5 lookup 1005 priority 100"]
    assert not found.go + found.go6 + found.stale + found.bridge_stale


def test_one_remote_more_is_one_command_however_many_there_are() -> None:
    many = [remote(number) for number in range(3000)]
    found = commands(plan(*many), plan(*many, remote(3001)))
    assert found == Change(
        [], ["route replace 10.0.13.1/32 via 169.254.64.2 dev vx onlink table 254"], [], [], [], [], []
    )


def test_a_move_between_others_is_one_route_replaced() -> None:
    others = [remote(1), remote(2, "host-300")]
    found = commands(plan(remote(4), *others), plan(remote(4, "host-300"), *others))
    assert found.come == ["route replace 10.0.1.4/32 via 169.254.65.44 dev vx onlink table 254"]
    assert found == Change([], found.come, [], [], [], [], [])


def test_a_move_from_here_replaces_the_route_before_anything_goes() -> None:
    here = port(4)
    there = RemoteSpec(
        id=here.id, vpc="vpc-1", host="host-2", addresses=(AddressSpec(private_ip="10.0.0.4"),)
    )
    found = commands(plan(remote(9), ports=(here,)), plan(remote(9), there))
    assert found.come == ["route replace 10.0.0.4/32 via 169.254.64.2 dev vx onlink table 254"]
    assert (found.go, found.stale) == ([], ["neighbour delete 10.0.0.4 dev t00000000000004"])


def test_the_last_remote_of_a_host_takes_its_entries_along() -> None:
    found = commands(plan(remote(1), remote(2, "host-300")), plan(remote(1)))
    assert found.bridge_stale == ["fdb delete 02:67:76:00:01:2c dev vx self"]
    assert found.go == ["route delete 10.0.1.2/32 table 254"]
    assert set(found.stale) == {"neighbour delete 169.254.65.44 dev vx", "neighbour delete fe80::12c dev vx"}


def test_routes_by_kind() -> None:
    free = port(4, source_dest_check=False, ipv6=("fd00:1::4",))
    found = plan(
        remote(1),
        ports=(free, port(5)),
        routes=(
            route("0.0.0.0/0", RouteKind.internet),
            route("::/0", RouteKind.internet),
            route("10.2.0.0/16", RouteKind.peering, "pcx-1"),
            route("fd00:2::/56", RouteKind.peering, "pcx-1"),
            route("10.5.0.0/16", RouteKind.port, free.id),
            route("fd00:5::/56", RouteKind.port, free.id),
            route("10.6.0.0/16", RouteKind.port, "eni-r1"),
            route("fd00:6::/56", RouteKind.port, "eni-r1"),
            route("10.7.0.0/16", RouteKind.port, port(5).id),
            route("10.8.0.0/16", RouteKind.port, "eni-gone"),
            route("10.9.0.0/16", RouteKind.blackhole),
            route("10.10.0.0/16", RouteKind.peering, "pcx-gone"),
        ),
    )
    texts = {key[1]: text for key, text in wanted(found, LINK).routes.items() if key[0] == 1005}
    tap = "t00000000000004"
    assert texts == {
        "10.0.0.0/16": "throw",
        "fd00:1::/56": "throw",
        "0.0.0.0/0": f"via {LINK} dev up onlink",
        "::/0": "unreachable",
        "10.2.0.0/16": "via 169.254.1.1 dev pr9 onlink",
        "fd00:2::/56": "via fe80::1 dev pr9 onlink",
        "10.5.0.0/16": f"via 10.0.0.4 dev {tap} onlink",
        "fd00:5::/56": f"via fd00:1::4 dev {tap} onlink",
        "10.6.0.0/16": "via 169.254.64.2 dev vx onlink",
        "fd00:6::/56": "via fe80::2 dev vx onlink",
        "10.7.0.0/16": "blackhole",
        "10.8.0.0/16": "blackhole",
        "10.9.0.0/16": "blackhole",
        "10.10.0.0/16": "blackhole",
    }


def test_a_route_that_changes_is_replaced_in_one_step() -> None:
    one = plan(routes=(route("0.0.0.0/0", RouteKind.internet),))
    other = plan(routes=(route("0.0.0.0/0", RouteKind.blackhole),))
    assert commands(one, other).come == ["route replace blackhole 0.0.0.0/0 table 1005"]
    assert not commands(one, other).go
    assert commands(other, plan()).go == ["route delete 0.0.0.0/0 table 1005"]


def test_a_remote_of_an_unknown_host_is_nowhere() -> None:
    found = wanted(plan(remote(1, "host-77")), LINK)
    assert found.routes[254, "10.0.1.1/32"] == "blackhole"
    assert not found.stations


def test_addresses_that_changed_hands_while_nobody_looked() -> None:
    had = wanted(plan(ports=(port(4), port(5), port(6), port(7))), LINK)
    moved = RemoteSpec(
        id=port(5).id, vpc="vpc-1", host="host-2", addresses=(AddressSpec(private_ip="10.0.0.5"),)
    )
    other = msgspec.structs.replace(port(6), id="eni-0000000000000f006")
    assert orphans(had, plan(moved, ports=(port(4), other))) == {"10.0.0.6", "10.0.0.7"}
