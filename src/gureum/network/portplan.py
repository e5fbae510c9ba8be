"""What a port, its subnet and other hosts' ports are, out of a NetworkSpec and checked."""

from __future__ import annotations

import msgspec

from gureum.errors import NetworkError
from gureum.hostspec import AddressSpec, PeerHostSpec, PortKind, PortSpec, RemoteSpec, SubnetSpec, VpcSpec
from gureum.network import checks
from gureum.network.names import HOST_NUMBER_MAX, tap_name, wireguard_address


class SubnetPlan(msgspec.Struct, frozen=True, kw_only=True):
    """``gateway``: its router's IPv4 address. ``table`` is the number of its route table, 0 for none.

    ``acl`` is an id in the VPC's ``acls``, "" for none.
    """

    id: str
    cidr: str
    cidr6: str
    gateway: str
    prefix: int
    table: int
    acl: str


class PortPlan(msgspec.Struct, frozen=True, kw_only=True):
    """``prefix`` is the length of the subnet's mask; ``gateway`` its router's address; ``table`` the number
    of its route table, 0 for none. ``secondary``: further private addresses with their public ones.
    """

    id: str
    kind: PortKind = PortKind.machine
    instance: str
    tap: str
    mac: str
    private_ip: str
    public_ip: str
    secondary: tuple[AddressSpec, ...] = ()
    ipv6: tuple[str, ...] = ()
    hostname: str
    gateway: str
    prefix: int
    subnet: str
    table: int = 0
    groups: tuple[str, ...]
    source_check: bool

    @property
    def addresses(self) -> tuple[AddressSpec, ...]:
        """All IPv4 addresses, the first one first."""
        return (AddressSpec(private_ip=self.private_ip, public_ip=self.public_ip), *self.secondary)

    @property
    def private(self) -> tuple[str, ...]:
        """All addresses inside the VPC, IPv4 and IPv6."""
        return (self.private_ip, *(each.private_ip for each in self.secondary), *self.ipv6)


class HostPlan(msgspec.Struct, frozen=True, kw_only=True):
    """Another host. ``address``: where VXLAN packets for it go; ``outer``: its own on the network between
    hosts, the same without encryption. ``key``: its WireGuard public key.
    """

    id: str
    number: int
    address: str
    outer: str
    key: str


class RemotePlan(msgspec.Struct, frozen=True, kw_only=True):
    """``host`` is the number of the host that has it, 0 if that is not known."""

    id: str
    host: int
    addresses: tuple[AddressSpec, ...]
    ipv6: tuple[str, ...]

    @property
    def private(self) -> tuple[str, ...]:
        return (*(each.private_ip for each in self.addresses), *self.ipv6)


def plan_host(host: PeerHostSpec, encrypted: bool) -> HostPlan:
    if not 0 < host.number <= HOST_NUMBER_MAX:
        raise NetworkError(f"{host.number} is no number of a host")
    outer = str(checks.address(host.address))
    inner = wireguard_address(host.number) if encrypted else outer
    return HostPlan(id=checks.name(host.id), number=host.number, address=inner, outer=outer, key=host.key)


def plan_subnet(vpc: VpcSpec, subnet: SubnetSpec) -> SubnetPlan:
    network = checks.network(subnet.cidr)
    numbers = {table.id: table.number for table in vpc.route_tables}
    if subnet.route_table and subnet.route_table not in numbers:
        raise NetworkError(
            f"subnet {subnet.id} has route table {subnet.route_table}, which is not in VPC {vpc.id}"
        )
    if subnet.acl and subnet.acl not in {acl.id for acl in vpc.acls}:
        raise NetworkError(f"subnet {subnet.id} has network ACL {subnet.acl}, which is not in VPC {vpc.id}")
    return SubnetPlan(
        id=checks.name(subnet.id),
        cidr=str(network),
        cidr6=str(checks.network6(subnet.cidr6)) if subnet.cidr6 else "",
        gateway=str(network.network_address + 1),
        prefix=network.prefixlen,
        table=numbers.get(subnet.route_table, 0),
        acl=subnet.acl,
    )


def _address(spec: AddressSpec) -> AddressSpec:
    return AddressSpec(
        private_ip=str(checks.address(spec.private_ip)),
        public_ip=str(checks.address(spec.public_ip)) if spec.public_ip else "",
    )


def plan_port(port: PortSpec, subnet: SubnetPlan) -> PortPlan:
    first = _address(AddressSpec(private_ip=port.private_ip, public_ip=port.public_ip))
    secondary = tuple(_address(each) for each in port.secondary)
    for each in (first, *secondary):
        if checks.address(each.private_ip) not in checks.network(subnet.cidr):
            raise NetworkError(f"port {port.id}: {each.private_ip} is not in its subnet {subnet.cidr}")
    ipv6 = tuple(str(checks.address6(each)) for each in port.ipv6)
    for text in ipv6:
        if not subnet.cidr6 or checks.address6(text) not in checks.network6(subnet.cidr6):
            raise NetworkError(f"port {port.id}: {text} is not in its subnet {subnet.cidr6 or subnet.cidr}")
    hostname = port.hostname.partition(".")[0]
    if hostname and not checks.is_name(hostname):
        raise NetworkError(f"port {port.id}: {port.hostname!r} is no host name")
    return PortPlan(
        id=checks.name(port.id),
        kind=port.kind,
        instance=port.instance,
        tap=tap_name(port.id),
        mac=checks.mac(port.mac),
        private_ip=first.private_ip,
        public_ip=first.public_ip,
        secondary=secondary,
        ipv6=ipv6,
        hostname=hostname or f"ip-{first.private_ip.replace('.', '-')}",
        gateway=subnet.gateway,
        prefix=subnet.prefix,
        subnet=subnet.id,
        table=subnet.table,
        groups=tuple(sorted({checks.name(id) for id in port.groups})),
        source_check=port.source_dest_check and port.kind is not PortKind.nat,
    )


def plan_remote(remote: RemoteSpec, host: HostPlan | None) -> RemotePlan:
    return RemotePlan(
        id=checks.name(remote.id),
        host=host.number if host else 0,
        addresses=tuple(_address(each) for each in remote.addresses),
        ipv6=tuple(str(checks.address6(each)) for each in remote.ipv6),
    )
