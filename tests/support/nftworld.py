"""A packet's way through a cloud of one host, by the rules and routes that gureum would program.

Routing is read from plans (``VpcPlan.tables``), filters and translations from ``Table`` values.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Network, ip_address, ip_network

import msgspec

from gureum.hostspec import NetworkSpec, PortKind
from gureum.network.filters import filter_table
from gureum.network.guard import guard_table
from gureum.network.names import PEERINGS, UPLINK, Names
from gureum.network.plan import VpcPlan, make_plan
from gureum.network.portplan import PortPlan
from gureum.network.ruleset import Table
from gureum.network.ways import NOWHERE, Hop

from . import nft

PUBLIC = IPv4Network("198.18.0.0/22")
LINK = "198.19.0.3"
HOPS_MAX = 8
NUMBERS = {"tcp": 6, "udp": 17, "icmp": 1, "icmpv6": 58}
ANSWERS = {(1, 8): 0, (58, 128): 129}

Change = Callable[[Table], Table]
"""Plants a mistake in a filter table."""


class Flow(msgspec.Struct, frozen=True):
    """A packet. ``port`` is the destination's, or the ICMP type."""

    source: str
    target: str
    protocol: int
    source_port: int
    port: int
    established: bool = False

    def answer(self, at: Flow) -> Flow:
        """To this packet, if ``at`` is what became of it when it arrived."""
        port = ANSWERS.get((self.protocol, self.port), self.port)
        if self.protocol in (6, 17):
            port = self.source_port
        return Flow(at.target, at.source, self.protocol, self.port, port, True)

    def fields(self) -> dict[str, int | str]:
        six = ":" in self.source
        family = "ip6" if six else "ip"
        found: dict[str, int | str] = {
            "meta nfproto": 10 if six else 2,
            "ether type": 0x86DD if six else 0x0800,
            f"{family} saddr": int(ip_address(self.source)),
            f"{family} daddr": int(ip_address(self.target)),
            "meta l4proto": self.protocol,
            "ct state": 1 if self.established else 3,
        }
        if self.protocol in (6, 17):
            found |= {"th sport": self.source_port, "th dport": self.port}
        if self.protocol in (1, 58):
            found |= {"icmpv6 type": self.port, "icmp type": self.port, "th sport": self.port * 256}
        return found


class Arrival(msgspec.Struct, frozen=True):
    """Where it came to: a port, or "" for the Internet; and as what. ``by``: the NAT gateways it passed."""

    port: str
    flow: Flow
    by: tuple[tuple[int, PortPlan, Flow], ...] = ()


class World:
    """``change`` is applied to the filter of each VPC."""

    def __init__(self, spec: NetworkSpec, change: Change | None = None) -> None:
        self.plans = make_plan(spec, PUBLIC)
        self.networks6 = spec.networks6
        self.guards = {id: guard_table(plan) for id, plan in self.plans.items()}
        tables = {id: filter_table(plan, Names(0), LINK) for id, plan in self.plans.items()}
        self.filters = {id: change(table) if change else table for id, table in tables.items()}
        self.ports = {port.id: (id, port) for id, plan in self.plans.items() for port in plan.ports.values()}

    def passes(self, source: str, target: str, protocol: str, port: int, source_port: int = 49152) -> bool:
        """Whether a flow of a port gets through, with its answers."""
        network_id, own = self.ports[source]
        address = own.ipv6[0] if ":" in target else own.private_ip
        first = Flow(address, target, NUMBERS[protocol], source_port, port)
        came = self.send(network_id, own, first)
        return came is not None and self._answered(came, first)

    def _answered(self, came: Arrival, first: Flow) -> bool:
        answer = first.answer(came.flow)
        back = self.send(*self.ports[came.port], answer) if came.port else self._from_uplink(answer)
        for network_id, gateway, before in reversed(came.by):
            # It comes to the gateway's public address, which finds out whose it is.
            if back is None or (back.port and back.port != gateway.id):
                return False
            inner = msgspec.structs.replace(first.answer(came.flow), target=before.source)
            back = self._forward(network_id, gateway.tap, inner)
        return back is not None

    def send(self, network_id: int, port: PortPlan, flow: Flow) -> Arrival | None:
        packet = {**flow.fields(), "iifname": port.tap, "ether saddr": int(port.mac.replace(":", ""), 16)}
        if nft.run(self.guards[network_id], f"in_{port.tap}", packet) != "accept":
            return None
        return self._forward(network_id, port.tap, flow)

    def _forward(self, network_id: int, device: str, flow: Flow, depth: int = 0) -> Arrival | None:
        """From a device of a VPC to another."""
        if depth > HOPS_MAX:
            return None
        plan, table = self.plans[network_id], self.filters[network_id]
        mark = int(table.sets["tables"].elements.get(f'"{device}"', "0"))
        hop = route(plan, mark, flow.target)
        packet = {
            **flow.fields(),
            "iifname": device,
            "oifname": hop.device,
            "fib oifname": hop.device,
            "ct status": int(device == UPLINK and ":" not in flow.target),
        }
        if device == UPLINK:
            # As the filter marks it: with the table of the port that it is for.
            packet["meta mark"] = int(table.sets["tables"].elements.get(f'"{hop.device}"', "0"))
        if hop == NOWHERE or not nft.hook(table, "filter hook prerouting", packet):
            return None
        if not nft.hook(table, "filter hook forward", packet):
            return None
        if hop.device.startswith(PEERINGS):
            peering = next(each for each in plan.peerings.values() if each.device == hop.device)
            return self._forward(peering.peer, hop.device, flow, depth + 1)
        if hop.device == UPLINK:
            if ":" in flow.target and not hop.via:
                return None
            return self._to_uplink(table, flow)
        port = next(each for each in plan.ports.values() if each.tap == hop.device)
        return self._at_port(network_id, port, flow, depth)

    def _at_port(self, network_id: int, port: PortPlan, flow: Flow, depth: int) -> Arrival | None:
        if port.kind is not PortKind.nat:
            return Arrival(port.id, flow)
        if flow.established:
            return Arrival(port.id, flow)
        if flow.target in port.private or not flow.source.startswith(_prefix(self.plans[network_id])):
            return None
        outside = msgspec.structs.replace(flow, source=port.public_ip or port.private_ip)
        if port.public_ip:
            came: Arrival | None = Arrival("", outside)
            if ip_address(flow.target) in PUBLIC:
                came = self._from_uplink(outside)
        else:
            came = self._forward(network_id, port.tap, outside, depth + 1)
        if came is None:
            return None
        return msgspec.structs.replace(came, by=((network_id, port, flow), *came.by))

    def _to_uplink(self, table: Table, flow: Flow) -> Arrival | None:
        if ":" in flow.source:
            packet = {**flow.fields(), "oifname": UPLINK}
            if not nft.hook(table, "filter hook postrouting", packet):
                return None
            inside = any(ip_address(flow.target) in ip_network(each) for each in self.networks6)
            return self._from_uplink(flow) if inside else Arrival("", flow)
        public = table.sets["private"].elements.get(flow.source)
        if public is None:
            return None
        outside = msgspec.structs.replace(flow, source=public)
        return self._from_uplink(outside) if ip_address(flow.target) in PUBLIC else Arrival("", outside)

    def _from_uplink(self, flow: Flow) -> Arrival | None:
        if ":" in flow.target:
            found = [id for id, plan in self.plans.items() if plan.outside6 and flow.target in plan.owners]
            return self._forward(found[0], UPLINK, flow) if found else None
        for network_id, table in self.filters.items():
            private = table.sets["public"].elements.get(flow.target)
            if private is not None:
                inner = msgspec.structs.replace(flow, target=private)
                return self._forward(network_id, UPLINK, inner)
        gateways = [port for _, port in self.ports.values() if port.public_ip == flow.target]
        return Arrival(gateways[0].id, flow) if gateways and flow.established else None


def _prefix(plan: VpcPlan) -> str:
    return plan.cidr.split(".0", 1)[0] + "."


def route(plan: VpcPlan, mark: int, target: str) -> Hop:
    """As the kernel would: the longest prefix of the marked table, where local networks lead to main."""
    address = ip_address(target)
    hops: dict[str, Hop | None] = dict(plan.tables.get(mark, {}))
    hops |= dict.fromkeys((*plan.cidrs, *plan.cidrs6))
    fitting = [network for network in hops if address in ip_network(network)]
    best = max(fitting, key=lambda network: ip_network(network).prefixlen, default="")
    if best and (hop := hops[best]) is not None:
        return hop
    if not best:
        return NOWHERE
    return next((Hop(port.tap) for port in plan.ports.values() if target in port.private), NOWHERE)
