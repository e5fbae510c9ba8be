"""Where packets of a VPC go: its routes, next hops and the tables for its subnets, as values.

The main table has the addresses inside the VPC, one route each: local ones by their taps, others by their
hosts. Each route table of the VPC is a kernel table, chosen by the mark that packets get from the port they
came from. In it the VPC's own networks are thrown to the main table, so that the longest prefix decides.
VXLAN carries the mark: the receiving host goes on in the same table.

A route that changes is replaced, in one step; there is no moment without it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from gureum.network.links import read_json
from gureum.network.names import (
    LINK_MACS,
    NEIGHBOUR,
    NEIGHBOUR6,
    ROUTER_MAC,
    UPLINK,
    VXLAN,
    next_hop,
    single,
    tap_name,
    vxlan_mac,
)
from gureum.network.namespaces import command, command_batch, has_ipv6, ip_batch
from gureum.network.plan import VpcPlan
from gureum.network.ways import NOWHERE, Hop

MAIN = 254
OWN_TABLE = 900
"""For what the namespace itself sends (its resolver): out by the link."""
FIRST_TABLE = 1000
NO_WAYS = ("blackhole", "throw", "unreachable")
TABLE_PRIORITY, OWN_PRIORITY = 100, 40000


class Rule(msgspec.Struct, frozen=True, order=True):
    """``mark`` 0: the rule for what the namespace itself sends."""

    six: bool
    mark: int

    @property
    def text(self) -> str:
        if self.mark:
            return f"fwmark {self.mark} lookup {FIRST_TABLE + self.mark} priority {TABLE_PRIORITY}"
        return f"iif lo lookup {OWN_TABLE} priority {OWN_PRIORITY}"


class Routing(msgspec.Struct, frozen=True):
    """``routes``: (table, destination) to the rest of the command. ``neighbours``: (device, address) to an
    Ethernet address. ``stations``: by Ethernet address, the host to which VXLAN sends.
    """

    routes: dict[tuple[int, str], str]
    neighbours: dict[tuple[str, str], str]
    stations: dict[str, str]
    rules: frozenset[Rule]


NOTHING = Routing({}, {}, {}, frozenset())


def wanted(vpc: VpcPlan, link: str) -> Routing:
    """What a VPC's plan says. ``link`` is the host's end of its link."""
    routes: dict[tuple[int, str], str] = {}
    neighbours: dict[tuple[str, str], str] = {}
    networks = (*vpc.cidrs, *vpc.cidrs6)
    for network in networks:
        routes[MAIN, network] = "blackhole"
    for remote in vpc.remotes.values():
        for address in remote.private:
            via = Hop(VXLAN, next_hop(remote.host)[":" in address]) if remote.host else NOWHERE
            routes[MAIN, single(address)] = _text(via, link)
    for port in vpc.ports.values():
        for address in port.private:
            routes[MAIN, single(address)] = f"dev {port.tap}"
            neighbours[port.tap, address] = port.mac
    routes[OWN_TABLE, "0.0.0.0/0"] = _text(Hop(UPLINK), link)
    for number, hops in vpc.tables.items():
        for network in networks:
            routes[FIRST_TABLE + number, network] = "throw"
        for destination, hop in hops.items():
            routes[FIRST_TABLE + number, destination] = _text(hop, link, ":" in destination)
    for host in vpc.hosts:
        for hop_address in next_hop(host.number)[: 1 + bool(vpc.cidrs6)]:
            neighbours[VXLAN, hop_address] = vxlan_mac(host.number)
    if vpc.outside6:
        neighbours[UPLINK, NEIGHBOUR6] = LINK_MACS[0]
    for peering in vpc.peerings.values():
        for neighbour in (NEIGHBOUR, NEIGHBOUR6)[: 1 + bool(vpc.cidrs6)]:
            neighbours[peering.device, neighbour] = ROUTER_MAC
    families = (False, True) if vpc.cidrs6 else (False,)
    return Routing(
        routes,
        neighbours,
        {vxlan_mac(host.number): host.address for host in vpc.hosts},
        frozenset([Rule(False, 0), *(Rule(six, mark) for six in families for mark in vpc.tables)]),
    )


def _text(hop: Hop, link: str, six: bool = False) -> str:
    if hop == NOWHERE:
        return "blackhole"
    if hop.device == UPLINK and six and not hop.via:
        # Told so, programs try IPv4 at once.
        return "unreachable"
    return f"via {hop.via or link} dev {hop.device} onlink"


def present() -> Routing:
    """What is in the calling thread's namespace. Of next hops only that they are there, not what they are."""
    routes: dict[tuple[int, str], str] = {}
    rules: set[Rule] = set()
    for six in (False, True) if has_ipv6() else (False,):
        family = "-6" if six else "-4"
        for route in read_json(family, "route", "show", "table", "all"):
            # What the kernel made has a protocol; what we make has the usual one, which is not shown.
            if "protocol" not in route:
                everywhere = "::/0" if six else "0.0.0.0/0"
                destination = everywhere if route["dst"] == "default" else route["dst"]
                table = MAIN if route.get("table", "main") == "main" else int(route["table"])
                destination = destination if "/" in destination else single(destination)
                routes[table, destination] = _found(route)
        for rule in read_json(family, "rule", "show"):
            if rule["priority"] == TABLE_PRIORITY:
                rules.add(Rule(six, int(rule["fwmark"], 16)))
            elif rule["priority"] == OWN_PRIORITY:
                rules.add(Rule(six, 0))
    neighbours = {
        (entry["dev"], entry["dst"]): "" for entry in read_json("neighbour", "show", "nud", "permanent")
    }
    return Routing(routes, neighbours, _stations(), frozenset(rules))


def _found(route: dict[str, Any]) -> str:
    """A route as ``wanted`` writes it; "" for one that it would not."""
    if route.get("type") in NO_WAYS:
        return str(route["type"])
    if "gateway" in route:
        return f"via {route['gateway']} dev {route['dev']} onlink" if "onlink" in route["flags"] else ""
    return f"dev {route['dev']}" if route.get("type", "unicast") == "unicast" and "via" not in route else ""


def orphans(found: Routing, vpc: VpcPlan) -> set[str]:
    """Addresses that led to a port, and belong to another interface now, or to none."""
    owners = vpc.owners
    led = {
        destination.partition("/")[0]: text.removeprefix("dev ")
        for (table, destination), text in found.routes.items()
        if table == MAIN and text.startswith("dev ")
    }
    return {
        address
        for address, device in led.items()
        if address not in owners or tap_name(owners[address]) != device
    }


def _stations() -> dict[str, str]:
    lines = command(["bridge", "fdb", "show", "dev", VXLAN], fails=True).splitlines()
    return {line.split()[0]: "" for line in lines if line.strip()}


class Change(msgspec.Struct, frozen=True):
    """Commands from one routing to another: what comes or is replaced, then what goes, and when there is time
    what nothing leads to any more (``stale``, ``bridge_stale``).

    ``bridge`` are for the ``bridge`` program, those with a 6 for ``ip -6``.
    """

    bridge: list[str]
    come: list[str]
    come6: list[str]
    go: list[str]
    go6: list[str]
    stale: list[str]
    bridge_stale: list[str]


def change(old: Routing, new: Routing) -> Change:
    """As long as the difference. A route's next hop is there before it, a table before its rule."""
    neighbours = [
        f"neighbour replace {address} lladdr {mac} dev {device} nud permanent"
        for (device, address), mac in new.neighbours.items()
        if old.neighbours.get((device, address)) != mac
    ]
    routes = [
        _replace(table, destination, rest)
        for (table, destination), rest in new.routes.items()
        if old.routes.get((table, destination)) != rest
    ]
    gone = [
        f"route delete {destination} table {table}"
        for table, destination in old.routes
        if (table, destination) not in new.routes
    ]
    forgotten = [
        f"neighbour delete {address} dev {device}"
        for device, address in old.neighbours
        if (device, address) not in new.neighbours
    ]
    return Change(
        bridge=[
            f"fdb replace {mac} dev {VXLAN} dst {host} self permanent"
            for mac, host in new.stations.items()
            if old.stations.get(mac) != host
        ],
        come=neighbours + routes + list(_rules("add", new.rules - old.rules, False)),
        come6=list(_rules("add", new.rules - old.rules, True)),
        go=[*_rules("delete", old.rules - new.rules, False), *gone],
        go6=list(_rules("delete", old.rules - new.rules, True)),
        stale=forgotten,
        bridge_stale=[
            f"fdb delete {mac} dev {VXLAN} self" for mac in old.stations if mac not in new.stations
        ],
    )


def apply(change: Change, devices: list[str]) -> None:
    """Make what comes, in the calling thread's namespace, after the commands for its devices."""
    command_batch("bridge", change.bridge)
    ip_batch(devices + change.come)
    command_batch("ip -6", change.come6)


def remove(change: Change) -> None:
    """Remove what goes; what went by itself with its device is gone."""
    command_batch("ip", change.go, gone=True)
    command_batch("ip -6", change.go6, gone=True)


def tidy(change: Change) -> None:
    """Remove what is only known for nothing: after ``remove``, and before another change."""
    command_batch("ip", change.stale, gone=True)
    command_batch("bridge", change.bridge_stale, gone=True)


def _rules(verb: str, rules: Iterable[Rule], six: bool) -> Iterator[str]:
    return (f"rule {verb} {rule.text}" for rule in sorted(rules) if rule.six is six)


def _replace(table: int, destination: str, rest: str) -> str:
    if rest in NO_WAYS:
        return f"route replace {rest} {destination} table {table}"
    return f"route replace {destination} {rest} table {table}"
