"""What should be on a host's network: its NetworkSpec, read out of the store in one snapshot."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from typing import TypeVar

import msgspec

from gureum.control.neighbours import Neighbours, secondary
from gureum.dns import private_name
from gureum.hostspec import (
    AclEntrySpec,
    AclSpec,
    DhcpSpec,
    FlowLogSpec,
    NetworkSpec,
    PeerHostSpec,
    PeeringSpec,
    PortKind,
    PortSpec,
    RouteKind,
    RouteSpec,
    RouteTableSpec,
    SubnetSpec,
    VpcSpec,
)
from gureum.resources import (
    DhcpOptions,
    EgressGateway,
    FlowLog,
    Host,
    InternetGateway,
    NatGateway,
    NetworkAcl,
    NetworkInterface,
    PeeringConnection,
    PeeringState,
    PrefixList,
    Record,
    RouteTable,
    SecurityGroup,
    Subnet,
    Vpc,
)
from gureum.services.ec2.networks6 import hidden6, networks6
from gureum.services.ec2.routing import Targets, expand, resolve
from gureum.services.ec2.zones import zone_ids
from gureum.services.operation import Cloud
from gureum.store.base import Reader

R = TypeVar("R", bound=Record)

GUEST_MTU = 1500
VXLAN_BYTES = 50
WIREGUARD_BYTES = 100
"""What the outer headers take of a packet between hosts: 80 are its own, and VXLAN over IPv6 has 20 more."""
RESOLVER = "AmazonProvidedDNS"
NAT_INTERFACE = "nat_gateway"
_OUTWARDS = (RouteKind.internet, RouteKind.egress)
EVERYWHERE = ""
"""In place of a host: all of them."""


class Networks(msgspec.Struct, frozen=True, kw_only=True):
    """The records that the network of one host is made of, each read once.

    ``ports``: those of the host. ``targets``: those that routes lead to. ``neighbours``: those of all
    hosts, at least in the VPCs that have a port here or are peers of one that has.
    """

    cloud: Cloud
    host: str
    hosts: dict[str, Host]
    vpcs: dict[str, Vpc]
    subnets: dict[str, Subnet]
    gateways: list[InternetGateway]
    egress: list[EgressGateway]
    tables: list[RouteTable]
    acls: list[NetworkAcl]
    options: dict[str, DhcpOptions]
    peerings: list[PeeringConnection]
    nats: list[NatGateway]
    ports: tuple[PortSpec, ...]
    targets: list[NetworkInterface]
    neighbours: Neighbours
    groups: dict[str, SecurityGroup]
    prefixes: dict[str, PrefixList]
    flow_logs: list[FlowLog]

    @classmethod
    async def load(
        cls,
        reader: Reader,
        cloud: Cloud,
        host: str,
        neighbours: Neighbours | None = None,
        ports: tuple[PortSpec, ...] | None = None,
    ) -> Networks:
        """What ``host`` has to know; ``neighbours``: those of all VPCs, and ``ports``: those of the host, if
        they are known.
        """
        if ports is None:
            here = await reader.find(NetworkInterface, host=host)
            ports = tuple(_port(each, cloud) for each in here)
        return await cls._around(reader, cloud, host, {each.vpc for each in ports}, ports, neighbours)

    @classmethod
    async def whole(cls, reader: Reader, cloud: Cloud, vpcs: Collection[str]) -> Networks:
        """VPCs and their peers as if all hosts were one."""
        return await cls._around(reader, cloud, EVERYWHERE, set(vpcs), None, None)

    @classmethod
    async def _around(
        cls,
        reader: Reader,
        cloud: Cloud,
        host: str,
        own: set[str],
        ports: tuple[PortSpec, ...] | None,
        neighbours: Neighbours | None,
    ) -> Networks:
        peerings = await reader.find(PeeringConnection, vpcs=own, state=str(PeeringState.active))
        ids = own.union(*(peering.vpcs for peering in peerings))
        vpcs = await reader.get_many(Vpc, ids)
        tables = await reader.find(RouteTable, vpc=ids)
        if ports is None or neighbours is None:
            interfaces = [each for each in await reader.find(NetworkInterface, vpc=ids) if each.host]
            neighbours = Neighbours(interfaces)
            ports = tuple(_port(each, cloud) for each in interfaces) if ports is None else ports
        targets = {route.target for table in tables for route in table.routes}
        groups = await reader.get_many(SecurityGroup, {group for each in ports for group in each.groups})
        lists = {id for group in groups for id in group.prefix_lists}
        destinations = {route.destination for table in tables for route in table.routes}
        lists |= {each for each in destinations if each.startswith("pl-")}
        logged = {id for each in ports for id in (each.id, each.subnet, each.vpc)}
        return cls(
            cloud=cloud,
            host=host,
            hosts=by_id(await reader.find(Host)),
            vpcs=by_id(vpcs),
            subnets=by_id(await reader.find(Subnet, vpc=ids)),
            gateways=await reader.find(InternetGateway, vpc=ids),
            egress=await reader.find(EgressGateway, vpc=ids),
            tables=tables,
            acls=await reader.find(NetworkAcl, vpc=ids),
            options=by_id(await reader.get_many(DhcpOptions, {vpc.dhcp_options for vpc in vpcs})),
            peerings=peerings,
            nats=await reader.find(NatGateway, vpc=ids),
            ports=ports,
            targets=await reader.get_many(NetworkInterface, {id for id in targets if id.startswith("eni-")}),
            neighbours=neighbours,
            groups=by_id(groups),
            prefixes=by_id(await reader.get_many(PrefixList, lists)),
            flow_logs=await reader.find(FlowLog, resource=logged),
        )

    def spec(self) -> NetworkSpec:
        me = self.hosts.get(self.host)
        spans = me is not None and bool(me.address)
        targets = Targets(
            gateways=self.gateways,
            egress=self.egress,
            nats=self.nats,
            interfaces=self.targets,
            peerings=self.peerings,
        )
        return NetworkSpec(
            number=me.number if me is not None and spans else 0,
            hosts=tuple(self._peer_hosts()) if spans else (),
            mtu=self._mtu() if spans else GUEST_MTU,
            encrypted=self.cloud.encrypted,
            networks6=tuple(map(str, networks6(self.cloud))),
            hidden6=tuple(map(str, hidden6(self.cloud))),
            vpcs=tuple(self._vpc(vpc, targets) for vpc in self.vpcs.values()),
            ports=self.ports,
            remotes=self.neighbours.remotes(self.vpcs, self.host) if self.host != EVERYWHERE else (),
            peerings=tuple(
                PeeringSpec(id=each.id, number=each.number, vpcs=each.vpcs) for each in self.peerings
            ),
            groups=tuple(self.neighbours.rules(group) for group in self.groups.values()),
            members=self._members(),
            prefixes=self._prefixes(),
            flow_logs=tuple(self._flow_logs()),
        )

    def _peer_hosts(self) -> Iterator[PeerHostSpec]:
        for host in self.hosts.values():
            if host.id != self.host and host.address:
                yield PeerHostSpec(
                    id=host.id, number=host.number, address=host.address, key=host.wireguard_key
                )

    def _mtu(self) -> int:
        """The largest that crosses between any two hosts, so that a guest that moves keeps it."""
        smallest = min(host.uplink_mtu for host in self.hosts.values() if host.address)
        around = VXLAN_BYTES + (WIREGUARD_BYTES if self.cloud.encrypted else 0)
        return min(GUEST_MTU, smallest - around)

    def _vpc(self, vpc: Vpc, targets: Targets) -> VpcSpec:
        tables = [table for table in self.tables if table.vpc == vpc.id]
        main = next((table.id for table in tables if table.main), "")
        return VpcSpec(
            id=vpc.id,
            network_id=vpc.network_id,
            cidr=vpc.cidr,
            cidrs=tuple(each.cidr for each in vpc.associations),
            subnets=tuple(
                SubnetSpec(
                    id=subnet.id,
                    cidr=subnet.cidr,
                    cidr6=subnet.ipv6.cidr if subnet.ipv6 else "",
                    route_table=subnet.route_table or main,
                    acl=subnet.acl,
                )
                for subnet in self.subnets.values()
                if subnet.vpc == vpc.id
            ),
            route_tables=tuple(
                RouteTableSpec(
                    id=table.id, number=table.number, routes=tuple(self._routes(table, vpc, targets))
                )
                for table in tables
            ),
            acls=tuple(_acl(acl) for acl in self.acls if acl.vpc == vpc.id),
            internet=any(gateway.vpc == vpc.id for gateway in self.gateways),
            domain=self.cloud.dns_domain,
            dns_support=vpc.dns_support,
            dns_hostnames=vpc.dns_hostnames,
            dhcp=self._dhcp(vpc),
        )

    def _routes(self, table: RouteTable, vpc: Vpc, targets: Targets) -> Iterator[RouteSpec]:
        for destination, route in expand(table, vpc, self.prefixes):
            target = resolve(route, vpc.id, targets)
            kind = target.kind if target is not None else RouteKind.blackhole
            yield RouteSpec(
                destination=destination,
                kind=kind,
                target=target.id if target is not None and kind not in _OUTWARDS else "",
            )

    def _dhcp(self, vpc: Vpc) -> DhcpSpec:
        found = self.options.get(vpc.dhcp_options)
        if found is None:
            # "default": associated with no set at all, as EC2 has it: then the guests are told nothing.
            return DhcpSpec(servers=())
        options = found.options
        [domain, *_] = options.get("domain-name") or ("",)
        return DhcpSpec(
            domain=domain,
            servers=tuple(
                "" if each == RESOLVER else each for each in options.get("domain-name-servers", ())
            ),
            ntp=options.get("ntp-servers", ()),
            netbios=options.get("netbios-name-servers", ()),
            netbios_type=int(next(iter(options.get("netbios-node-type", ())), 0)),
        )

    def _members(self) -> dict[str, tuple[str, ...]]:
        named = sorted({id for group in self.groups.values() for id in group.referenced})
        return {id: self.neighbours.members(id, self.vpcs) for id in named}

    def _prefixes(self) -> dict[str, tuple[str, ...]]:
        """Once each, however many rules name it: a list may have a thousand networks."""
        named = sorted({id for group in self.groups.values() for id in group.prefix_lists})
        return {
            id: tuple(entry.cidr for entry in self.prefixes[id].entries)
            for id in named
            if id in self.prefixes
        }

    def _flow_logs(self) -> Iterator[FlowLogSpec]:
        ports: dict[str, list[str]] = defaultdict(list)
        for port in self.ports:
            for resource in (port.id, port.subnet, port.vpc):
                ports[resource].append(port.id)
        ids = zone_ids(self.cloud)
        zones = {port.id: self.subnets[port.subnet].zone for port in self.ports if self.flow_logs}
        for log in self.flow_logs:
            yield FlowLogSpec(
                id=log.id,
                account=log.account,
                ports=tuple(ports[log.resource]),
                traffic=log.traffic,
                interval_seconds=log.interval_seconds,
                format=log.format,
                region=self.cloud.region,
                zone_ids={id: ids.get(zones[id], "") for id in ports[log.resource]},
            )


def by_id(records: Iterable[R]) -> dict[str, R]:
    return {record.id: record for record in records}


def _port(interface: NetworkInterface, cloud: Cloud) -> PortSpec:
    return PortSpec(
        id=interface.id,
        kind=PortKind.nat if interface.type == NAT_INTERFACE else PortKind.machine,
        instance=interface.instance or "",
        vpc=interface.vpc,
        subnet=interface.subnet,
        mac=interface.mac,
        private_ip=interface.private_ip,
        public_ip=interface.public_ip,
        secondary=secondary(interface),
        ipv6=interface.ipv6,
        hostname=private_name(interface.private_ip, cloud.dns_domain).partition(".")[0],
        groups=interface.groups,
        source_dest_check=interface.source_dest_check,
    )


def _acl(acl: NetworkAcl) -> AclSpec:
    return AclSpec(
        id=acl.id,
        entries=tuple(
            AclEntrySpec(
                number=entry.number,
                egress=entry.egress,
                protocol=entry.protocol,
                allow=entry.allow,
                cidr=entry.cidr,
                from_port=entry.from_port,
                to_port=entry.to_port,
            )
            for entry in sorted(acl.entries, key=lambda entry: entry.number)
        ),
    )
