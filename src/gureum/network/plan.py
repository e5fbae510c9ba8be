"""A NetworkSpec, checked and resolved: per VPC what its namespace has to hold."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Network

import msgspec

from gureum.errors import NetworkError
from gureum.hostspec import (
    AclSpec,
    DhcpSpec,
    FlowLogSpec,
    GroupSpec,
    NetworkSpec,
    PortKind,
    PortSpec,
    RemoteSpec,
    RouteKind,
    RouteSpec,
    VpcSpec,
)
from gureum.network import checks
from gureum.network.groups import expanded
from gureum.network.names import (
    HOST_NUMBER_MAX,
    NEIGHBOUR,
    NEIGHBOUR6,
    NETWORK_ID_MAX,
    UPLINK,
    VXLAN,
    next_hop,
    peering_device,
)
from gureum.network.portplan import (
    HostPlan,
    PortPlan,
    RemotePlan,
    SubnetPlan,
    plan_host,
    plan_port,
    plan_remote,
    plan_subnet,
)
from gureum.network.ways import NOWHERE, Hop, all_networks, goes_out6, inbound6

PEERING_NUMBER_MAX = 10**9
TABLE_NUMBER_MAX = 65535
"""It has to fit into the mark that VXLAN carries."""
SERVERS_MAX = 16
"""Of one kind, in a set of DHCP options: an option has 255 bytes."""
MTU_MIN, MTU_MAX = 1280, 9000
TRAFFIC = ("ALL", "ACCEPT", "REJECT")


class PeeringPlan(msgspec.Struct, frozen=True, kw_only=True):
    """``peer`` is the network id of the other VPC, ``networks`` are its networks, IPv4 and IPv6."""

    number: int
    peer: int
    networks: tuple[str, ...]

    @property
    def device(self) -> str:
        return peering_device(self.number)


class VpcPlan(msgspec.Struct, frozen=True, kw_only=True):
    """``gateways`` are the router's addresses, one a subnet; ``dns`` is the resolver's (the base address +
    2). ``cidrs`` and ``cidrs6`` are all networks, ``cidr`` is the first of them.

    ``public`` are the cloud's public addresses. ``number`` is this host's, 0 for the only one. ``hosts`` are
    those that have something of this VPC. ``tables``: by number, the routes by destination, without the local
    ones. ``standby``: ports that are still another host's, of which there is a tap to be opened, and what
    their packets will pass; nothing leads to either. ``inbound6``: by number, the networks outside from which
    connections may come in by IPv6; empty where it has no way out by IPv6.
    """

    id: str
    network_id: int
    number: int = 0
    mtu: int = 1500
    hosts: tuple[HostPlan, ...] = ()
    cidr: str
    cidrs: tuple[str, ...]
    cidrs6: tuple[str, ...] = ()
    gateways: tuple[str, ...]
    dns: str
    public: str
    internet: bool
    domain: str
    dns_support: bool
    dns_hostnames: bool = True
    dhcp: DhcpSpec = DhcpSpec()
    subnets: dict[str, SubnetPlan]
    tables: dict[int, dict[str, Hop]]
    acls: dict[str, AclSpec]
    ports: dict[str, PortPlan]
    standby: dict[str, PortPlan] = {}
    remotes: dict[str, RemotePlan]
    inbound6: dict[int, tuple[str, ...]] = {}
    peerings: dict[int, PeeringPlan]
    groups: dict[str, GroupSpec]
    members: dict[str, tuple[str, ...]]
    members6: dict[str, tuple[str, ...]]
    flow_logs: tuple[FlowLogSpec, ...] = ()

    def has_ipv6(self, port: PortPlan) -> bool:
        """Whether its guest is told of IPv6: its subnet has it."""
        return bool(self.subnets[port.subnet].cidr6)

    @property
    def outside6(self) -> bool:
        """Whether it has a way out by IPv6."""
        return bool(self.inbound6)

    @property
    def owners(self) -> dict[str, str]:
        """Which interface has each address inside the VPC, on whatever host."""
        return {address: each.id for each in interfaces(self) for address in each.private}


def interfaces(vpc: VpcPlan) -> Iterator[PortPlan | RemotePlan]:
    """All of the VPC that are known here."""
    yield from vpc.ports.values()
    yield from vpc.remotes.values()


PortPlans = dict[str, tuple[PortSpec, SubnetPlan, PortPlan]]
"""By port, what it was made from, and the plan."""


def make_plan(spec: NetworkSpec, public: IPv4Network, known: PortPlans | None = None) -> dict[int, VpcPlan]:
    """The plans by network id. Raises NetworkError for a spec that contradicts itself or is no network.

    ``known``: plans of ports that need not be made anew; then those of this spec.
    """
    planner = _Planner(spec, public, known or {})
    plans = planner.plan()
    if known is not None:
        known.clear()
        known.update(planner.made)
    return plans


def referenced(group: GroupSpec) -> set[str]:
    """The groups that its rules name."""
    return {checks.name(rule.group) for rule in group.rules if rule.group}


def plan_hosts(spec: NetworkSpec) -> dict[str, HostPlan]:
    """The other hosts by id."""
    if not 0 <= spec.number <= HOST_NUMBER_MAX or not MTU_MIN <= spec.mtu <= MTU_MAX:
        raise NetworkError(f"{spec.number} is no number of a host, or {spec.mtu} no MTU")
    hosts = {host.id: plan_host(host, spec.encrypted) for host in spec.hosts if host.number != spec.number}
    if len({host.number for host in hosts.values()}) != len(hosts):
        raise NetworkError("two hosts have the same number")
    return hosts


class _Planner:
    """Reads one spec; nothing is left of it but plans."""

    def __init__(self, spec: NetworkSpec, public: IPv4Network, known: PortPlans) -> None:
        self._spec = spec
        self._public = public
        self._known = known
        self.made: PortPlans = {}
        self._hosts = plan_hosts(spec)
        self._groups = {checks.name(group.id): expanded(group, spec.prefixes) for group in spec.groups}
        self._vpcs = {checks.name(vpc.id): vpc for vpc in spec.vpcs}
        self._publics: set[str] = set()
        self._ports: dict[str, list[PortSpec]] = {}
        self._standby: dict[str, list[PortSpec]] = {}
        self._remotes: dict[str, list[RemoteSpec]] = {}
        for port in spec.ports:
            self._ports.setdefault(port.vpc, []).append(port)
        for port in spec.standby:
            self._standby.setdefault(port.vpc, []).append(port)
        for remote in spec.remotes:
            self._remotes.setdefault(remote.vpc, []).append(remote)
        for id in (*self._ports, *self._standby, *self._remotes):
            if id not in self._vpcs:
                raise NetworkError(f"a port is in VPC {id}, which the spec does not have")
        for log in spec.flow_logs:
            checks.name(log.id)
            if log.traffic not in TRAFFIC or log.interval_seconds <= 0:
                raise NetworkError(f"flow log {log.id} has no such traffic or interval")

    def plan(self) -> dict[int, VpcPlan]:
        plans: dict[int, VpcPlan] = {}
        for vpc in self._spec.vpcs:
            if vpc.network_id in plans or not 0 <= vpc.network_id <= NETWORK_ID_MAX:
                raise NetworkError(f"VPC {vpc.id} has no network id of its own: {vpc.network_id}")
            plans[vpc.network_id] = self._vpc(vpc)
        return plans

    def _vpc(self, vpc: VpcSpec) -> VpcPlan:
        network = checks.network(vpc.cidr)
        cidrs, cidrs6 = all_networks(vpc)
        subnets = {subnet.id: plan_subnet(vpc, subnet) for subnet in vpc.subnets}
        ports = self._plan_ports(vpc, subnets)
        standby = self._plan_standby(vpc, subnets, ports)
        remotes = {
            remote.id: plan_remote(remote, self._hosts.get(remote.host))
            for remote in self._remotes.get(vpc.id, ())
        }
        _check_addresses(vpc, ports, remotes)
        peerings = self._peerings(vpc)
        tables = _tables(vpc, ports, remotes, peerings, goes_out6(vpc, self._spec.networks6))
        hosts = {remote.host for remote in remotes.values()}
        groups = {
            id: self._groups.get(id, GroupSpec(id=id))
            for id in sorted(
                {id for each in (ports, standby) for port in each.values() for id in port.groups}
            )
        }
        named = {id for group in groups.values() for id in referenced(group)}
        members = {id: checks.addresses(self._spec.members.get(id, ())) for id in sorted(named)}
        return VpcPlan(
            id=vpc.id,
            network_id=vpc.network_id,
            number=self._spec.number,
            mtu=self._spec.mtu,
            hosts=tuple(
                sorted(
                    (host for host in self._hosts.values() if host.number in hosts), key=lambda h: h.number
                )
            ),
            cidr=str(network),
            cidrs=cidrs,
            cidrs6=cidrs6,
            gateways=tuple(subnet.gateway for subnet in subnets.values()),
            dns=str(network.network_address + 2),
            public=str(self._public),
            internet=vpc.internet,
            domain=checks.domain(vpc.domain),
            dns_support=vpc.dns_support,
            dns_hostnames=vpc.dns_hostnames,
            dhcp=_dhcp(vpc.dhcp),
            subnets=subnets,
            tables=tables,
            inbound6=inbound6(tables),
            acls={acl.id: checks.acl(acl) for acl in vpc.acls},
            ports=ports,
            standby=standby,
            remotes=remotes,
            peerings={peering.number: peering for peering in peerings.values()},
            groups=groups,
            members={id: pair[0] for id, pair in members.items()},
            members6={id: pair[1] for id, pair in members.items()},
            flow_logs=tuple(
                msgspec.structs.replace(log, ports=own)
                for log in self._spec.flow_logs
                if (own := tuple(id for id in log.ports if id in ports))
            ),
        )

    def _plan_ports(self, vpc: VpcSpec, subnets: dict[str, SubnetPlan]) -> dict[str, PortPlan]:
        plans: dict[str, PortPlan] = {}
        taps: set[str] = set()
        for port in self._ports.get(vpc.id, ()):
            if port.subnet not in subnets:
                raise NetworkError(
                    f"port {port.id} is in subnet {port.subnet}, which VPC {vpc.id} does not have"
                )
            plan = self._plan_port(port, subnets[port.subnet])
            if plan.id in plans or plan.tap in taps:
                raise NetworkError(f"port {port.id} is twice in VPC {vpc.id}")
            if plan.public_ip or plan.secondary:
                for address in plan.addresses:
                    self._check_public(plan.id, address.public_ip)
            taps.add(plan.tap)
            plans[port.id] = plan
        return plans

    def _plan_standby(
        self, vpc: VpcSpec, subnets: dict[str, SubnetPlan], ports: dict[str, PortPlan]
    ) -> dict[str, PortPlan]:
        """Their addresses are those of remotes: nothing of them is looked at but the tap."""
        plans: dict[str, PortPlan] = {}
        for port in self._standby.get(vpc.id, ()):
            if port.id in ports or port.subnet not in subnets or port.kind is not PortKind.machine:
                raise NetworkError(f"port {port.id} is here, or can be in no port's place in VPC {vpc.id}")
            plans[port.id] = self._plan_port(port, subnets[port.subnet])
        return plans

    def _plan_port(self, port: PortSpec, subnet: SubnetPlan) -> PortPlan:
        found = self._known.get(port.id)
        if found is None or found[0] is not port or found[1] != subnet:
            found = port, subnet, plan_port(port, subnet)
        self.made[port.id] = found
        return found[2]

    def _check_public(self, port: str, address: str) -> None:
        if not address:
            return
        if checks.address(address) not in self._public:
            raise NetworkError(f"port {port}: {address} is not one of this cloud's addresses, {self._public}")
        if address in self._publics:
            raise NetworkError(f"port {port}: {address} is in use by another port")
        self._publics.add(address)

    def _peerings(self, vpc: VpcSpec) -> dict[str, PeeringPlan]:
        """By id. Of two with the same VPC there is only one at a time."""
        found: dict[str, PeeringPlan] = {}
        for peering in self._spec.peerings:
            if vpc.id not in peering.vpcs:
                continue
            other = peering.vpcs[peering.vpcs[0] == vpc.id]
            if other not in self._vpcs or other == vpc.id or not 0 <= peering.number <= PEERING_NUMBER_MAX:
                raise NetworkError(f"peering {peering.id} has no two VPCs of the spec, or no number")
            peer = self._vpcs[other]
            found[peering.id] = PeeringPlan(
                number=peering.number,
                peer=peer.network_id,
                networks=tuple(text for texts in all_networks(peer) for text in texts),
            )
        return found


def _check_addresses(vpc: VpcSpec, ports: dict[str, PortPlan], remotes: dict[str, RemotePlan]) -> None:
    """An address is one interface's, and an interface is in one place."""
    if both := ports.keys() & remotes.keys():
        raise NetworkError(f"port {min(both)} is here and on another host")
    pairs = [(each.id, address) for each in ports.values() for address in each.private]
    pairs += [(each.id, address) for each in remotes.values() for address in each.private]
    seen: set[str] = set()
    for id, address in pairs:
        if address in seen:
            raise NetworkError(f"port {id}: its address {address} is twice in VPC {vpc.id}")
        seen.add(address)


def _dhcp(dhcp: DhcpSpec) -> DhcpSpec:
    """With the domain as DHCP has it: without the final dot that it may have in the API."""
    if max(len(dhcp.servers), len(dhcp.ntp), len(dhcp.netbios)) > SERVERS_MAX:
        raise NetworkError(f"a set of DHCP options names more than {SERVERS_MAX} servers")
    if not 0 <= dhcp.netbios_type <= 8:
        raise NetworkError(f"{dhcp.netbios_type} is no type of a NetBIOS node")
    for text in (*dhcp.servers, *dhcp.ntp, *dhcp.netbios):
        if text:
            checks.address(text)
    domain = dhcp.domain.removesuffix(".").lower()
    return msgspec.structs.replace(dhcp, domain=checks.domain(domain) if domain else "")


def _tables(
    vpc: VpcSpec,
    ports: dict[str, PortPlan],
    remotes: dict[str, RemotePlan],
    peerings: dict[str, PeeringPlan],
    outside6: bool,
) -> dict[int, dict[str, Hop]]:
    tables: dict[int, dict[str, Hop]] = {}
    for table in vpc.route_tables:
        if not 0 < table.number <= TABLE_NUMBER_MAX or table.number in tables:
            raise NetworkError(f"route table {table.id} has no number of its own: {table.number}")
        hops = tables[table.number] = {}
        for route in table.routes:
            destination = str(checks.any_network(route.destination))
            hops[destination] = _hop(vpc, route, ports, remotes, peerings, outside6)
    return tables


def _hop(
    vpc: VpcSpec,
    route: RouteSpec,
    ports: dict[str, PortPlan],
    remotes: dict[str, RemotePlan],
    peerings: dict[str, PeeringPlan],
    outside6: bool,
) -> Hop:
    """Nowhere for a target that is not there, as EC2's blackhole; so for a port that takes only what is sent
    to itself.
    """
    six = ":" in route.destination
    if route.kind is RouteKind.internet and vpc.internet:
        return Hop(UPLINK, NEIGHBOUR6 if six and outside6 else "")
    if route.kind is RouteKind.egress and six:
        return Hop(UPLINK, NEIGHBOUR6 if outside6 else "", egress_only=True)
    if route.kind is RouteKind.peering and route.target in peerings:
        return Hop(peerings[route.target].device, NEIGHBOUR6 if six else NEIGHBOUR)
    if route.kind is RouteKind.port and route.target in remotes and remotes[route.target].host:
        return Hop(VXLAN, next_hop(remotes[route.target].host)[six])
    if route.kind is RouteKind.port and route.target in ports:
        port = ports[route.target]
        addresses = port.ipv6 if six else (port.private_ip,)
        # A NAT gateway translates IPv4 only.
        if addresses and not port.source_check and not (six and port.kind is PortKind.nat):
            return Hop(port.tap, addresses[0])
    return NOWHERE
