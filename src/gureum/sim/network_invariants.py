"""What must hold of networks in a simulated cloud: always, and once it has come to rest."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator
from ipaddress import ip_address, ip_network
from typing import TypeVar

from gureum.control.instances import WANT_PORT
from gureum.control.specs import host_spec
from gureum.hostspec import NetworkSpec
from gureum.resources import (
    Address,
    Host,
    HostState,
    Instance,
    InstanceState,
    InterfaceAttachment,
    NatGateway,
    NatGatewayState,
    NetworkAcl,
    NetworkInterface,
    PeeringConnection,
    Record,
    RouteTable,
    SecurityGroup,
    Subnet,
    Vpc,
)
from gureum.sim.violation import Violation
from gureum.sim.world import CLOUD, World
from gureum.store.base import Reader

R = TypeVar("R", bound=Record)

PLACED_NATS = (NatGatewayState.pending, NatGatewayState.available)


async def always(world: World, reader: Reader) -> None:
    """Raise Violation if something is wrong that must not be wrong for a moment."""
    interfaces = await reader.find(NetworkInterface)
    for problem in (
        *_evident(world, interfaces),
        *_plugged(world, interfaces),
        *_silent(world, interfaces, await reader.find(Host)),
        *(await _recorded(reader, interfaces) if world.judged != reader.revision else ()),
    ):
        raise Violation(problem)
    world.judged = reader.revision


async def _recorded(reader: Reader, interfaces: list[NetworkInterface]) -> list[str]:
    """What the store alone says."""
    instances = {each.id: each for each in await reader.find(Instance)}
    nats = {each.interface: each for each in await reader.find(NatGateway)}
    addresses = await reader.find(Address)
    problems = [*_placed(interfaces, instances, nats), *_addresses(interfaces, addresses)]
    return problems + await _whole(reader)


def twice(what: str, values: Iterable[str]) -> Iterator[str]:
    double = sorted(value for value, count in Counter(values).items() if count > 1)
    if double:
        yield f"{what} given twice: {double}"


def _placed(
    interfaces: list[NetworkInterface], instances: dict[str, Instance], nats: dict[str, NatGateway]
) -> Iterator[str]:
    """An interface's port is where its machine is, or its NAT gateway."""
    for each in interfaces:
        if each.id in nats:
            nat = nats[each.id]
            expected = {nat.host} if nat.state in PLACED_NATS else {nat.host, None}
        elif each.instance is None:
            expected = {None}
        else:
            instance = instances.get(each.instance)
            wants = instance is not None and instance.state in WANT_PORT
            expected = {instance.host if instance is not None and wants else None}
            if instance is not None and instance.state is not InstanceState.running:
                expected.add(None)  # started but not stepped yet, perhaps not before its end
        if each.host not in expected:
            yield f"{each.id} is on {each.host} instead of {sorted(map(str, expected))}"


def _evident(world: World, interfaces: list[NetworkInterface]) -> Iterator[str]:
    """What a host says to be in effect is so: it has no port of an interface that had left by then."""
    if world.manager is None:
        return
    for host in world.hosts:
        if host.process is None:
            continue  # reports of one that died may be on their way
        revision = world.manager.observed.network_revision(host.name)
        ports = world.wires.ports.get(host.name, {})
        for each in interfaces:
            if each.id in ports and each.host != host.name and each.version <= revision:
                yield f"{host.name} has {each.id}, which left it at {each.version}, and says {revision}"


def _plugged(world: World, interfaces: list[NetworkInterface]) -> Iterator[str]:
    """What the store says to be detached is so: no machine has it."""
    owners = {each.id: each.instance for each in interfaces}
    for host in world.hosts:
        for id, machine in host.machines.machines.items():
            if machine.away or host.harmless(machine):
                continue
            for nic in machine.nics if machine.runs else ():
                if owners.get(nic) != id:
                    yield f"{id} has {nic}, which the store gives to {owners.get(nic)}"


def _silent(world: World, interfaces: list[NetworkInterface], known: list[Host]) -> Iterator[str]:
    """A host that is fenced does not answer for what is elsewhere."""
    fenced = {host.id for host in known if host.state is HostState.fenced}
    for host in world.hosts:
        ports = world.wires.ports.get(host.name, {})
        if host.name not in fenced or host.notes.silent or host.surprised() or host.paused:
            continue
        for each in interfaces:
            if each.id in ports and each.host not in (None, host.name) and any(each.publics):
                yield f"{host.name} is fenced and answers for {each.id}, which is on {each.host}"


def _addresses(interfaces: list[NetworkInterface], addresses: list[Address]) -> Iterator[str]:
    yield from twice("private address", (f"{e.vpc} {ip}" for e in interfaces for ip in e.addresses))
    yield from twice("MAC", (f"{each.vpc} {each.mac}" for each in interfaces))
    owned = {each.public_ip for each in addresses}
    yield from twice("elastic address", (each.public_ip for each in addresses))
    yield from twice("public address", (ip for each in interfaces for ip in each.publics))
    automatic = {each.public_ip for each in interfaces if each.public_ip and not each.address}
    if owned & automatic:
        yield f"addresses {sorted(owned & automatic)} are elastic and automatic"


async def _whole(reader: Reader) -> list[str]:
    """Records that refer to each other in a VPC."""
    vpcs, subnets = await reader.find(Vpc), await reader.find(Subnet)
    tables, acls = await reader.find(RouteTable), await reader.find(NetworkAcl)
    groups = await reader.find(SecurityGroup)
    known = {each.id for each in vpcs}
    parts: list[Subnet | RouteTable | NetworkAcl | SecurityGroup] = [*subnets, *tables, *acls, *groups]
    problems = [f"{each.id} is in {each.vpc}, which is gone" for each in parts if each.vpc not in known]
    problems += twice("network id", (str(vpc.network_id) for vpc in vpcs))
    problems += twice("route table number", (f"{each.vpc} {each.number}" for each in tables))
    problems += twice("peering number", (str(e.number) for e in await reader.find(PeeringConnection)))
    for vpc in vpcs:
        for what, count in (
            ("main route tables", sum(each.main for each in tables if each.vpc == vpc.id)),
            ("default ACLs", sum(each.default for each in acls if each.vpc == vpc.id)),
            ("default groups", sum(each.name == "default" for each in groups if each.vpc == vpc.id)),
        ):
            if count != 1:
                problems.append(f"{vpc.id} has {count} {what}")
    by_id = {each.id: each.vpc for each in parts}
    for subnet in subnets:
        if by_id.get(subnet.acl) != subnet.vpc or by_id.get(subnet.route_table or subnet.acl) != subnet.vpc:
            problems.append(f"{subnet.id} refers to an ACL or a route table that is gone")
    networks = {each.id: each for each in subnets}
    for each in await reader.find(NetworkInterface):
        network = networks.get(each.subnet)
        if network is None or ip_address(each.private_ip) not in ip_network(network.cidr):
            problems.append(f"{each.id} is not in its subnet")
        if any(by_id.get(group) != each.vpc for group in each.groups):
            problems.append(f"{each.id} is in a group that is gone")
    return problems


async def at_rest(world: World) -> AsyncIterator[str]:
    """What is not yet as it should be when nothing happens any more."""
    async with world.store.read() as reader:
        instances = {each.id: each for each in await reader.find(Instance)}
        interfaces = {each.id: each for each in await reader.find(NetworkInterface)}
        addresses = {each.id: each for each in await reader.find(Address)}
        nats = await reader.find(NatGateway)
        # A host that was removed gets no spec any more.
        specs = {host.name: NetworkSpec() for host in world.hosts}
        for known in await reader.find(Host):
            if known.park is not None and known.state is not HostState.up:
                continue  # it is off, and has none
            specs[known.id] = (await host_spec(reader, CLOUD, known.id)).network
    for nat in nats:
        if nat.state not in (NatGatewayState.available, NatGatewayState.deleted):
            yield f"{nat.id} is {nat.state}"
        if (nat.interface in interfaces) != (nat.state is NatGatewayState.available):
            yield f"{nat.id} is {nat.state}, but not so its interface {nat.interface}"
    for problem in _interfaces(interfaces.values(), instances, {nat.interface for nat in nats}):
        yield problem
    for problem in _associations(interfaces, addresses):
        yield problem
    for problem in _applied(world, interfaces, specs):
        yield problem


def _interfaces(
    interfaces: Iterable[NetworkInterface], instances: dict[str, Instance], of_nats: set[str]
) -> Iterator[str]:
    for each in interfaces:
        instance = instances.get(each.instance or "")
        if each.attachment_state is not InterfaceAttachment.attached:
            yield f"{each.id} is {each.attachment_state}"
        if each.requester and each.id not in of_nats:
            yield f"{each.id} belongs to {each.requester}, which is gone"
        if each.instance is None and not each.requester and each.public_ip and not each.address:
            yield f"{each.id}, which belongs to nobody, keeps {each.public_ip}"
        if instance is not None and each.id not in instance.interfaces:
            yield f"{each.id} belongs to {instance.id}, which does not have it"
    for instance in instances.values():
        has = {each.id for each in interfaces if each.instance == instance.id}
        if instance.state is not InstanceState.terminated and has != set(instance.interfaces):
            yield f"{instance.id} shows {sorted(instance.interfaces)} and has {sorted(has)}"


def _associations(interfaces: dict[str, NetworkInterface], addresses: dict[str, Address]) -> Iterator[str]:
    """Both sides of each elastic address's association say the same."""
    held = {(each.address, each.id, each.private_ip) for each in interfaces.values() if each.address}
    held |= {
        (second.address, each.id, second.private_ip)
        for each in interfaces.values()
        for second in each.secondary
        if second.address
    }
    given = {(each.id, each.interface, each.private_ip) for each in addresses.values() if each.association}
    if held != given:
        yield f"elastic addresses {sorted(held ^ given)} are associated on one side only"
    for address in addresses.values():
        if bool(address.association) != bool(address.interface):
            yield f"{address.id} is half associated"


def _applied(
    world: World, interfaces: dict[str, NetworkInterface], specs: dict[str, NetworkSpec]
) -> Iterator[str]:
    """Every host's network is what its spec says, and together they are what the store says."""
    where: dict[str, str] = {}
    for name, spec in specs.items():
        ports = world.wires.ports.get(name, {})
        for port in ports:
            if port in where:
                yield f"{port} is on {where[port]} and on {name}"
            where[port] = name
        if world.wires.rules.get(name, NetworkSpec()) != spec:
            yield f"the network of {name} is not what its spec says"
    wanted = {each.id: each.host for each in interfaces.values() if each.host is not None}
    if where != wanted:
        yield f"ports {sorted(set(where.items()) ^ set(wanted.items()))} are on one side only"
    everywhere = [port for ports in world.wires.ports.values() for port in ports.values()]
    yield from twice(
        "private address on hosts",
        (
            f"{port.vpc} {ip}"
            for port in everywhere
            for ip in (port.private_ip, *(second.private_ip for second in port.secondary), *port.ipv6)
        ),
    )
    public = (ip for port in everywhere for ip in (port.public_ip, *(e.public_ip for e in port.secondary)))
    yield from twice("public address on hosts", filter(None, public))
