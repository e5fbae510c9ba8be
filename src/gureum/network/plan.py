"""A NetworkSpec, checked and resolved: per VPC what its namespace has to hold.

Everything here ends up in commands, so nothing passes that is not an address, a number or a plain name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import AddressValueError, IPv4Address, IPv4Network, NetmaskValueError

import msgspec

from gureum.errors import NetworkError
from gureum.hostspec import GroupSpec, NetworkSpec, PortSpec, VpcSpec
from gureum.network.names import NETWORK_ID_MAX, tap_name

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,63}")
_DOMAIN = re.compile(r"(?=.{1,253}$)[a-z0-9-]{1,63}(\.[a-z0-9-]{1,63})*")
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")


class PortPlan(msgspec.Struct, frozen=True, kw_only=True):
    """``prefix`` is the length of the subnet's mask; ``gateway`` its router's address."""

    id: str
    instance: str
    tap: str
    mac: str
    private_ip: str
    public_ip: str
    hostname: str
    gateway: str
    prefix: int
    groups: tuple[str, ...]
    source_check: bool


class VpcPlan(msgspec.Struct, frozen=True, kw_only=True):
    """``gateways`` are the router's addresses, one a subnet; ``dns`` is the resolver's (the base address +
    2).
    """

    id: str
    network_id: int
    cidr: str
    gateways: tuple[str, ...]
    dns: str
    internet: bool
    domain: str
    dns_support: bool
    ports: dict[str, PortPlan]
    groups: dict[str, GroupSpec]
    members: dict[str, tuple[str, ...]]


def make_plan(spec: NetworkSpec, public: IPv4Network) -> dict[int, VpcPlan]:
    """The plans by network id. Raises NetworkError for a spec that contradicts itself or is no network."""
    ports: dict[str, list[PortSpec]] = {vpc.id: [] for vpc in spec.vpcs}
    for port in spec.ports:
        if port.vpc not in ports:
            raise NetworkError(f"port {port.id} is in VPC {port.vpc}, which the spec does not have")
        ports[port.vpc].append(port)
    groups = {_name(group.id): group for group in spec.groups}
    plans: dict[int, VpcPlan] = {}
    publics: set[str] = set()
    for vpc in spec.vpcs:
        if vpc.network_id in plans or not 0 <= vpc.network_id <= NETWORK_ID_MAX:
            raise NetworkError(f"VPC {vpc.id} has no network id of its own: {vpc.network_id}")
        plan = _plan_vpc(vpc, ports[vpc.id], groups, spec.members)
        for port_plan in plan.ports.values():
            _check_public(port_plan, public, publics)
        plans[vpc.network_id] = plan
    return plans


def _plan_vpc(
    vpc: VpcSpec, ports: list[PortSpec], groups: dict[str, GroupSpec], members: dict[str, tuple[str, ...]]
) -> VpcPlan:
    network = _network(vpc.cidr)
    subnets = {subnet.id: _network(subnet.cidr) for subnet in vpc.subnets}
    if not _DOMAIN.fullmatch(vpc.domain):
        raise NetworkError(f"VPC {vpc.id}: {vpc.domain!r} is no domain name")
    plans: dict[str, PortPlan] = {}
    addresses: set[str] = set()
    taps: set[str] = set()
    for port in ports:
        if port.subnet not in subnets:
            raise NetworkError(f"port {port.id} is in subnet {port.subnet}, which VPC {vpc.id} does not have")
        plan = _plan_port(port, subnets[port.subnet])
        if plan.private_ip in addresses or plan.id in plans or plan.tap in taps:
            raise NetworkError(f"port {port.id} or its address {plan.private_ip} is twice in VPC {vpc.id}")
        addresses.add(plan.private_ip)
        taps.add(plan.tap)
        plans[port.id] = plan
    own = {id for port in ports for id in port.groups}
    own_groups = {id: groups.get(id, GroupSpec(id=_name(id))) for id in sorted(own)}
    referenced = {_name(rule.group) for group in own_groups.values() for rule in group.rules if rule.group}
    return VpcPlan(
        id=_name(vpc.id),
        network_id=vpc.network_id,
        cidr=str(network),
        gateways=tuple(str(subnet.network_address + 1) for subnet in subnets.values()),
        dns=str(network.network_address + 2),
        internet=vpc.internet,
        domain=vpc.domain,
        dns_support=vpc.dns_support,
        ports=plans,
        groups=own_groups,
        members={id: _addresses(members.get(id, ())) for id in sorted(referenced)},
    )


def _plan_port(port: PortSpec, subnet: IPv4Network) -> PortPlan:
    address = _address(port.private_ip)
    if address not in subnet:
        raise NetworkError(f"port {port.id}: {address} is not in its subnet {subnet}")
    if not _MAC.fullmatch(port.mac) or int(port.mac[:2], 16) & 1:
        raise NetworkError(f"port {port.id}: {port.mac!r} is no MAC address")
    hostname = port.hostname.partition(".")[0]
    if hostname and not _NAME.fullmatch(hostname):
        raise NetworkError(f"port {port.id}: {port.hostname!r} is no host name")
    return PortPlan(
        id=_name(port.id),
        instance=port.instance,
        tap=tap_name(port.id),
        mac=port.mac,
        private_ip=str(address),
        public_ip=str(_address(port.public_ip)) if port.public_ip else "",
        hostname=hostname or f"ip-{str(address).replace('.', '-')}",
        gateway=str(subnet.network_address + 1),
        prefix=subnet.prefixlen,
        groups=tuple(sorted({_name(id) for id in port.groups})),
        source_check=port.source_dest_check,
    )


def _check_public(port: PortPlan, public: IPv4Network, seen: set[str]) -> None:
    if not port.public_ip:
        return
    if IPv4Address(port.public_ip) not in public:
        raise NetworkError(f"port {port.id}: {port.public_ip} is not one of this cloud's addresses, {public}")
    if port.public_ip in seen:
        raise NetworkError(f"port {port.id}: {port.public_ip} is in use by another port")
    seen.add(port.public_ip)


def _name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise NetworkError(f"{text!r} is no id")
    return text


@lru_cache(maxsize=8192)
def _address(text: str) -> IPv4Address:
    try:
        return IPv4Address(text)
    except AddressValueError as error:
        raise NetworkError(str(error)) from None


@lru_cache(maxsize=1024)
def _network(text: str) -> IPv4Network:
    try:
        return IPv4Network(text)
    except (AddressValueError, NetmaskValueError, ValueError) as error:
        raise NetworkError(str(error)) from None


def _addresses(texts: Iterable[str]) -> tuple[str, ...]:
    """Sorted IPv4 addresses, each once; others are left out (there is no IPv6 yet)."""
    return tuple(sorted({str(_address(text)) for text in texts if ":" not in text}))
