"""A reference model of the network: would a packet get there, and who decides?

It reads a NetworkSpec in which every port of the VPCs concerned is a port of "this host": to the model there
is one host. It shares nothing with what programs the kernel, so that the two can be held against each other,
and ``gureum net trace`` shows what it says.

A flow begins at a port (or outside) and is followed through what EC2 would ask, in EC2's order: the groups of
the sender's interface, its subnet's ACL, the route table, what the route leads to, the ACL and the groups of
the receiver. The answer then passes the groups, since they are stateful, and is asked the ACLs' and
the routes' opinion, since they are not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import msgspec

from gureum.hostspec import (
    AclEntrySpec,
    NetworkSpec,
    PortKind,
    PortSpec,
    RouteKind,
    RouteSpec,
    RuleSpec,
    SubnetSpec,
    VpcSpec,
)

NUMBERS = {"icmp": "1", "tcp": "6", "udp": "17", "icmpv6": "58"}
WITH_PORTS = ("6", "17")
ICMP = ("1", "58")
EPHEMERAL = 49152
"""Where answers go, if the source port is not given: the first of IANA's dynamic ports."""
HOPS_MAX = 4
_TARGETS = {
    str(RouteKind.internet): "internet-gateway",
    str(RouteKind.egress): "egress-only-internet-gateway",
    str(RouteKind.blackhole): "blackhole (its target is gone, or does not work)",
}

IpAddress = IPv4Address | IPv6Address


class Packet(msgspec.Struct, frozen=True, kw_only=True):
    """``protocol`` is a number as text. ``port`` is the destination's, or the ICMP type."""

    source: str
    destination: str
    protocol: str
    port: int = -1

    def answer(self, port: int) -> Packet:
        if self.protocol in ICMP:
            # An echo is answered by another type; for others the same one stands for the answer.
            port = {("1", 8): 0, ("58", 128): 129}.get((self.protocol, self.port), self.port)
        return Packet(source=self.destination, destination=self.source, protocol=self.protocol, port=port)


class Hop(msgspec.Struct, frozen=True, kw_only=True):
    """One decision. ``at`` is the id of what decides, ``why`` what it goes by, for people."""

    at: str
    step: str
    passes: bool
    why: str


class Path(msgspec.Struct, frozen=True, kw_only=True):
    """``answer`` is empty if the packet did not pass, or leaves the cloud. ``arrives``: the port it gets to,
    "" for none, or the outside.
    """

    hops: tuple[Hop, ...]
    answer: tuple[Hop, ...] = ()
    arrives: str = ""

    @property
    def passes(self) -> bool:
        return all(hop.passes for hop in (*self.hops, *self.answer))

    @property
    def decided_by(self) -> Hop:
        """The hop that stops it, or the last one."""
        hops = (*self.hops, *self.answer)
        return next((hop for hop in hops if not hop.passes), hops[-1])


def allows(spec: NetworkSpec, source: str, target: str, protocol: str, port: int = -1) -> bool:
    """Whether a flow between the private IPv4 addresses of two ports gets through, with its answers.

    ``protocol`` is tcp, udp, icmp or a number; ``port`` for icmp is the type.
    """
    address = next(each.private_ip for each in spec.ports if each.id == target)
    return trace(spec, source, address, protocol, port).passes


def trace(
    spec: NetworkSpec,
    source: str,
    destination: str,
    protocol: str,
    port: int = -1,
    source_port: int = EPHEMERAL,
) -> Path:
    """Follow a flow from a port (its id), or from an address outside, to an address.

    Raises ValueError if there is no such port, or it has no address of the destination's family.
    """
    world = _World(spec)
    number = NUMBERS.get(protocol, protocol)
    to = str(ip_address(destination))
    if source not in world.ports:
        start = Packet(source=str(ip_address(source)), destination=to, protocol=number, port=port)
        return _path(list(world.from_outside(start)), start, source_port, world)
    own = world.ports[source]
    start = Packet(source=_address(own, to), destination=to, protocol=number, port=port)
    return _path(list(world.leave(own, start)), start, source_port, world)


class _Step(msgspec.Struct, frozen=True):
    """A hop; and once for each port that is passed, which one it is, and with which packet."""

    hop: Hop
    port: PortSpec | None = None
    packet: Packet | None = None
    egress: bool = False


def _path(steps: list[_Step], start: Packet, source_port: int, world: _World) -> Path:
    hops = tuple(step.hop for step in steps)
    if not all(hop.passes for hop in hops):
        return Path(hops=hops)
    last = steps[-1]
    arrives = last.port.id if last.port is not None and not last.egress else ""
    return Path(hops=hops, answer=tuple(world.answers(steps, source_port)), arrives=arrives)


def _address(port: PortSpec, towards: str) -> str:
    if ip_address(towards).version == 4:
        return port.private_ip
    if not port.ipv6:
        raise ValueError(f"{port.id} has no IPv6 address")
    return port.ipv6[0]


class _World:
    def __init__(self, spec: NetworkSpec) -> None:
        self.spec = spec
        self.ports = {port.id: port for port in spec.ports}
        self.vpcs = {vpc.id: vpc for vpc in spec.vpcs}
        self.groups = {group.id: group for group in spec.groups}
        self.peerings = {peering.id: peering for peering in spec.peerings}
        self.by_private = {(port.vpc, address): port for port in spec.ports for address in _private(port)}
        self.by_public = {public: port for port in spec.ports for public, _ in _publics(port)}
        # Of IPv6 an address is the same inside and outside.
        self.by_public |= {address: port for port in spec.ports for address in port.ipv6}

    # A packet on its way

    def leave(self, port: PortSpec, packet: Packet, depth: int = 0) -> Iterator[_Step]:
        """From a port into its VPC."""
        if depth > HOPS_MAX:
            yield _Step(Hop(at=port.id, step="route", passes=False, why="it is sent round in circles"))
            return
        if port.kind is not PortKind.nat:
            yield self._group(port, packet, egress=True)
        yield from self._acl(port, packet, egress=True)
        yield from self._route(port, packet, depth)

    def _route(self, port: PortSpec, packet: Packet, depth: int) -> Iterator[_Step]:
        vpc, subnet = self.vpcs[port.vpc], self._subnet(port)
        route = self.best_route(vpc, subnet, packet.destination)
        if route is None:
            why = f"no route leads to {packet.destination}"
            yield _Step(_hop(subnet.route_table or vpc.id, "route", False, why))
            return
        destination, kind, target = route
        where = f"{destination} -> {target or _TARGETS.get(kind, kind)}"
        yield _Step(_hop(subnet.route_table or vpc.id, "route", kind != RouteKind.blackhole, where))
        if kind == "local":
            yield from self._arrive(vpc, packet)
        elif kind in (RouteKind.internet, RouteKind.egress) and ":" in packet.destination:
            yield from self._to_outside6(port, packet, kind)
        elif kind == RouteKind.internet:
            yield from self._to_internet(port, packet)
        elif kind == RouteKind.port:
            yield from self._through(self.ports.get(target), packet, target, depth)
        elif kind == RouteKind.peering:
            yield from self._cross(vpc, target, packet)

    def _arrive(self, vpc: VpcSpec, packet: Packet) -> Iterator[_Step]:
        """At whoever has the address in this VPC."""
        port = self.by_private.get((vpc.id, packet.destination))
        if port is None:
            yield _Step(_hop(vpc.id, "address", False, f"no interface has {packet.destination} here"))
        else:
            yield from self._enter(port, packet)

    def _enter(self, port: PortSpec, packet: Packet) -> Iterator[_Step]:
        yield from self._acl(port, packet, egress=False)
        if port.kind is PortKind.nat:
            yield _Step(_hop(port.id, "address", False, "a NAT gateway takes no connections"))
            return
        yield self._group(port, packet, egress=False)

    def _through(self, port: PortSpec | None, packet: Packet, id: str, depth: int) -> Iterator[_Step]:
        """By way of an interface: a NAT gateway, or a machine that passes it on as it likes."""
        if port is None:
            yield _Step(_hop(id, "interface", False, "it is on no host now"))
            return
        yield from self._acl(port, packet, egress=False)
        if port.kind is PortKind.nat:
            outer = port.public_ip or port.private_ip
            yield _Step(_hop(port.id, "nat", True, f"{packet.source} becomes {outer}"))
            inner = msgspec.structs.replace(packet, source=port.private_ip)
            yield from self.leave(port, inner, depth + 1)
            return
        if port.source_dest_check:
            why = f"its source/destination check refuses what is not for it: {packet.destination}"
            yield _Step(_hop(port.id, "source/dest check", False, why))
            return
        yield self._group(port, packet, egress=False)
        yield _Step(_hop(port.id, "interface", True, f"{port.instance} passes it on, or not"))

    def _cross(self, vpc: VpcSpec, id: str, packet: Packet) -> Iterator[_Step]:
        peering = self.peerings.get(id)
        other = None
        if peering is not None:
            other = self.vpcs.get(next(each for each in peering.vpcs if each != vpc.id))
        if other is None or not _within(packet.destination, _networks(other)):
            yield _Step(_hop(id, "peering", False, "the address is not in the peer's networks"))
            return
        if not _within(packet.source, _networks(vpc)):
            yield _Step(_hop(id, "peering", False, "it does not come from this VPC: no transit"))
            return
        yield _Step(_hop(id, "peering", True, f"to {other.id}"))
        yield from self._arrive(other, packet)

    def _to_internet(self, port: PortSpec, packet: Packet) -> Iterator[_Step]:
        outer = port.public_ip if port.kind is PortKind.nat else dict(_by_private(port)).get(packet.source)
        if not outer:
            yield _Step(_hop(port.id, "internet gateway", False, f"{packet.source} has no public address"))
            return
        yield _Step(_hop(port.vpc, "internet gateway", True, f"as {outer}"))
        if packet.destination in self.by_public:
            yield from self.from_outside(msgspec.structs.replace(packet, source=outer))

    def _to_outside6(self, port: PortSpec, packet: Packet, kind: str) -> Iterator[_Step]:
        vpc = self.vpcs[port.vpc]
        step = "internet gateway" if kind == RouteKind.internet else "egress-only gateway"
        own = [network for network in _networks(vpc) if ":" in network]
        if not all(_within(network.partition("/")[0], self.spec.networks6) for network in own):
            why = f"{', '.join(own)} is not of the cloud's IPv6 networks (any more): it is led nowhere"
            yield _Step(_hop(vpc.id, step, False, why))
            return
        if not _within(packet.source, own):
            yield _Step(_hop(vpc.id, step, False, f"{packet.source} is not of the VPC's networks"))
            return
        if packet.destination in self.by_public:
            yield _Step(_hop(vpc.id, step, True, f"as {packet.source}"))
            yield from self.from_outside(packet)
            return
        if _within(packet.destination, self.spec.networks6):
            yield _Step(_hop(vpc.id, step, False, f"no interface has {packet.destination}"))
            return
        hidden = _within(packet.source, self.spec.hidden6)
        outer = f"{packet.source}, hidden behind its host's address" if hidden else packet.source
        yield _Step(_hop(vpc.id, step, True, f"as {outer}"))

    def _from_outside6(self, port: PortSpec, packet: Packet) -> Iterator[_Step]:
        vpc, subnet = self.vpcs[port.vpc], self._subnet(port)
        route = self.best_route(vpc, subnet, packet.source)
        kind = route[1] if route is not None else ""
        if kind != RouteKind.internet or not vpc.internet:
            why = f"{subnet.id} has no route to an internet gateway by which answers go to {packet.source}"
            if kind == RouteKind.egress:
                why = f"{subnet.id} has a route to an egress-only one: nothing comes in by it"
            yield _Step(_hop(port.vpc, "internet gateway", False, why))
            return
        yield _Step(_hop(port.vpc, "internet gateway", True, f"{packet.destination} is of {port.id}"))
        yield from self._enter(port, packet)

    def from_outside(self, packet: Packet) -> Iterator[_Step]:
        """To a public address of the cloud."""
        port = self.by_public.get(packet.destination)
        if port is None:
            yield _Step(_hop("internet", "address", False, f"no interface has {packet.destination}"))
            return
        if ":" in packet.destination:
            yield from self._from_outside6(port, packet)
            return
        if not self.vpcs[port.vpc].internet:
            yield _Step(_hop(port.vpc, "internet gateway", False, "the VPC has no Internet gateway"))
            return
        inner = dict(_publics(port))[packet.destination]
        yield _Step(_hop(port.vpc, "internet gateway", True, f"{packet.destination} becomes {inner}"))
        yield from self._enter(port, msgspec.structs.replace(packet, destination=inner))

    # The answer

    def answers(self, steps: Sequence[_Step], source_port: int) -> Iterator[Hop]:
        """What ACLs and routes say to the answer, from the last port passed to the first."""
        for step in reversed(steps):
            if step.port is None or step.packet is None:
                continue
            answer = step.packet.answer(source_port)
            for hop in self._acl(step.port, answer, egress=not step.egress):
                yield msgspec.structs.replace(hop.hop, step=f"answer: {hop.hop.step}")
            if not step.egress and step.port.kind is not PortKind.nat:
                yield self._way_back(step.port, answer)

    def _way_back(self, port: PortSpec, answer: Packet) -> Hop:
        vpc, subnet = self.vpcs[port.vpc], self._subnet(port)
        route = self.best_route(vpc, subnet, answer.destination)
        at = subnet.route_table or vpc.id
        if route is None or route[1] == RouteKind.blackhole:
            return _hop(at, "answer: route", False, f"no route leads back to {answer.destination}")
        return _hop(
            at, "answer: route", True, f"{route[0]} -> {route[2] or _TARGETS.get(route[1], route[1])}"
        )

    # Who decides

    def best_route(self, vpc: VpcSpec, subnet: SubnetSpec, destination: str) -> tuple[str, str, str] | None:
        """(destination, kind, target) of the longest prefix; kind "local" for inside the VPC."""
        table = next((each for each in vpc.route_tables if each.id == subnet.route_table), None)
        own: Iterable[RouteSpec] = table.routes if table is not None else ()
        found = [(network, "local", "") for network in _networks(vpc)]
        found += [(route.destination, str(route.kind), route.target) for route in own]
        fitting = [each for each in found if _within(destination, (each[0],))]
        # Of the same length, the local route is the one that holds.
        return max(
            fitting, key=lambda each: (ip_network(each[0]).prefixlen, each[1] == "local"), default=None
        )

    def _group(self, port: PortSpec, packet: Packet, egress: bool) -> _Step:
        rule = self.group_rule(port, packet, egress)
        direction = "egress" if egress else "ingress"
        peer = f"to {packet.destination}" if egress else f"from {packet.source}"
        groups = ", ".join(port.groups) or "its groups"
        why = rule or f"no {direction} rule of {groups} allows {_packet_words(packet)} {peer}"
        hop = _hop(port.id, f"security groups, {direction}", rule is not None, why)
        return _Step(hop, port, packet, egress)

    def group_rule(self, port: PortSpec, packet: Packet, egress: bool) -> str | None:
        """The rule that lets it pass, in words; None if there is none."""
        peer = packet.destination if egress else packet.source
        for id in port.groups:
            group = self.groups.get(id)
            for rule in group.rules if group is not None else ():
                if rule.egress == egress and self._rule_matches(rule, peer, packet):
                    return f"{id}: {_rule_words(rule)}"
        return None

    def _rule_matches(self, rule: RuleSpec, peer: str, packet: Packet) -> bool:
        if rule.group:
            if peer not in self.spec.members.get(rule.group, ()):
                return False
        elif not _within(
            peer, self.spec.prefixes.get(rule.prefix_list, ()) if rule.prefix_list else (rule.cidr,)
        ):
            return False
        return _traffic_matches(rule.protocol, rule.from_port, rule.to_port, packet)

    def _acl(self, port: PortSpec, packet: Packet, egress: bool) -> Iterator[_Step]:
        """Its subnet's ACL: nothing inside the subnet passes it."""
        vpc, subnet = self.vpcs[port.vpc], self._subnet(port)
        acl = next((each for each in vpc.acls if each.id == subnet.acl), None)
        peer = packet.destination if egress else packet.source
        if acl is None or _within(peer, [each for each in (subnet.cidr, subnet.cidr6) if each]):
            return
        direction = "egress" if egress else "ingress"
        # A machine's port is noted with its groups.
        noted = port if port.kind is PortKind.nat else None
        for entry in acl.entries:
            if entry.egress == egress and _entry_matches(entry, peer, packet):
                why = f"rule {entry.number}: {'allow' if entry.allow else 'deny'} {entry.cidr}"
                yield _Step(
                    _hop(acl.id, f"network ACL, {direction}", entry.allow, why), noted, packet, egress
                )
                return
        why = "rule *: deny what no rule allows"
        yield _Step(_hop(acl.id, f"network ACL, {direction}", False, why), noted, packet, egress)

    def _subnet(self, port: PortSpec) -> SubnetSpec:
        return next(each for each in self.vpcs[port.vpc].subnets if each.id == port.subnet)


def _hop(at: str, step: str, passes: bool, why: str) -> Hop:
    return Hop(at=at, step=step, passes=passes, why=why)


def _private(port: PortSpec) -> tuple[str, ...]:
    return (port.private_ip, *(each.private_ip for each in port.secondary), *port.ipv6)


def _by_private(port: PortSpec) -> Iterator[tuple[str, str]]:
    """Private addresses with the public ones that they are translated to."""
    if port.public_ip:
        yield port.private_ip, port.public_ip
    for each in port.secondary:
        if each.public_ip:
            yield each.private_ip, each.public_ip


def _publics(port: PortSpec) -> Iterator[tuple[str, str]]:
    for private, public in _by_private(port):
        yield public, private


def _networks(vpc: VpcSpec) -> tuple[str, ...]:
    return (vpc.cidr, *vpc.cidrs)


def _within(address: str, networks: Iterable[str]) -> bool:
    number = ip_address(address)
    return any(number in ip_network(each, strict=False) for each in networks)


def _entry_matches(entry: AclEntrySpec, peer: str, packet: Packet) -> bool:
    return _within(peer, (entry.cidr,)) and _traffic_matches(
        entry.protocol, entry.from_port, entry.to_port, packet
    )


def _traffic_matches(protocol: str, first: int, last: int, packet: Packet) -> bool:
    number = NUMBERS.get(protocol, protocol)
    if number == "-1":
        return True
    if number != packet.protocol:
        return False
    if number in ICMP:
        # The codes of what is traced are 0.
        return first == -1 or (packet.port == first and last in (-1, 0))
    return number not in WITH_PORTS or first == -1 or first <= packet.port <= last


def _packet_words(packet: Packet) -> str:
    name = next((name for name, number in NUMBERS.items() if number == packet.protocol), packet.protocol)
    if (name, packet.port) in (("icmp", 8), ("icmpv6", 128)):
        return f"ping ({name})"
    return f"{name} {packet.port}" if packet.protocol in WITH_PORTS else f"protocol {name}"


def _rule_words(rule: RuleSpec) -> str:
    ports = ""
    if rule.from_port >= 0:
        ports = f" {rule.from_port}" + (f"-{rule.to_port}" if rule.to_port != rule.from_port else "")
    protocol = "all traffic" if rule.protocol == "-1" else f"{rule.protocol}{ports}"
    return f"{protocol} {'to' if rule.egress else 'from'} {rule.group or rule.prefix_list or rule.cidr}"
