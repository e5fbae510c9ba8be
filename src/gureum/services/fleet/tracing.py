"""Would a packet get there? TraceNetworkPath asks the reference model of the network, and sends nothing."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address, ip_network
from typing import Any

from gureum.control.networks import Networks
from gureum.errors import ApiError
from gureum.hostspec import NetworkSpec
from gureum.network.reach import EPHEMERAL, NUMBERS, Hop, Path, trace
from gureum.resources import Instance, NetworkInterface
from gureum.services.ec2 import lookup
from gureum.services.fleet.faults import invalid
from gureum.services.operation import Context, Input, Output, operation

ECHO = {"icmp": 8, "icmpv6": 128}
PORT_MAX = 65535
RESOLVER_IPV6 = "fd00:ec2::253"
"""The resolver's address in VPCs with IPv6, as on EC2."""


@operation("fleet", "TraceNetworkPath")
async def trace_network_path(ctx: Context, input: Input) -> Output:
    protocol, port = _traffic(input)
    source = await _interface(ctx, input["Source"])
    target = await _interface(ctx, input["Destination"])
    if source is None and target is None and not await _is_public(ctx, input["Destination"]):
        raise invalid("Source or Destination has to be something of this cloud.")
    if source is None and target is not None and not target.public_ip:
        return _answer(_not_public(target), _ip(input["Source"]), target.private_ip)
    destination = _address(source, target) if target is not None else _ip(input["Destination"])
    holders = await ctx.tx.find(NetworkInterface, publics=destination)
    vpcs = {each.vpc for each in (source, target, *holders) if each is not None}
    world = (await Networks.whole(ctx.tx, ctx.cloud, vpcs)).spec()
    if source is not None and _is_service(world, source, destination):
        raise invalid(
            f"{destination} is served by the instance's own host (metadata, names, router): "
            "no group, ACL or route is asked on the way there, so there is nothing to trace."
        )
    begin = source.id if source is not None else _ip(input["Source"])
    try:
        path = trace(
            world, begin, destination, protocol, port, source_port=input.get("SourcePort") or EPHEMERAL
        )
    except ValueError as error:
        raise invalid(str(error)) from None
    return _answer(path, begin, destination)


def _answer(path: Path, source: str, destination: str) -> Output:
    decision = path.decided_by
    return {
        "Reachable": path.passes,
        "Source": source,
        "Destination": destination,
        "Hops": _hops(path.hops),
        "AnswerHops": _hops(path.answer),
        "Explanation": f"{decision.at}: {decision.why}" if not path.passes else "Every hop lets it pass.",
    }


def _traffic(input: Input) -> tuple[str, int]:
    protocol = (input.get("Protocol") or "tcp").lower()
    if protocol not in NUMBERS and not (protocol.isdecimal() and int(protocol) <= 255):
        raise invalid(f"{protocol!r} is no protocol. Expected: tcp, udp, icmp, icmpv6, or a number.")
    port = input.get("Port")
    if protocol in ("tcp", "udp"):
        if port is None:
            raise invalid(f"For {protocol} a Port is needed.")
        if not 0 <= port <= PORT_MAX:
            raise invalid(f"Port is {port}. Expected: 0 to {PORT_MAX}.")
        return protocol, port
    if port is not None:
        raise invalid(f"{protocol} has no ports.")
    return protocol, ECHO.get(protocol, -1)


async def _interface(ctx: Context, text: str) -> NetworkInterface | None:
    """The interface that an id of one or of an instance stands for; None for an address."""
    if text.startswith("eni-"):
        found = await lookup.one(ctx, lookup.INTERFACE, text)
    elif text.startswith("i-"):
        found = await _primary(ctx, await lookup.one(ctx, lookup.INSTANCE, text))
    else:
        return None
    if found.host is None:
        raise ApiError("InvalidStateException", f"{text} is not running, so no packet gets there or away.")
    return found


async def _primary(ctx: Context, instance: Instance) -> NetworkInterface:
    found = await ctx.tx.get_many(NetworkInterface, instance.interfaces)
    if not found:
        raise ApiError("InvalidStateException", f"{instance.id} has no network interface.")
    return min(found, key=lambda each: each.device_index)


def _address(source: NetworkInterface | None, target: NetworkInterface) -> str:
    """From inside its private address; from outside its public one."""
    return target.private_ip if source is not None else target.public_ip


def _not_public(target: NetworkInterface) -> Path:
    """From outside."""
    why = "it has no public address, so it is not reached from outside"
    return Path(hops=(Hop(at=target.id, step="address", passes=False, why=why),))


def _ip(text: str) -> str:
    try:
        return str(ip_address(text))
    except ValueError:
        raise invalid(f"{text!r} is no id of an instance or interface, and no address.") from None


def _is_service(world: NetworkSpec, source: NetworkInterface, destination: str) -> bool:
    """Link-local, the resolver (also the VPC's base address + 2), or the router of a subnet of the VPC."""
    address = ip_address(destination)
    if address.is_link_local or destination == RESOLVER_IPV6:
        return True
    vpc = next(each for each in world.vpcs if each.id == source.vpc)
    routers = (ip_network(subnet.cidr)[1] for subnet in vpc.subnets)
    return address == ip_network(vpc.cidr)[2] or address in routers


async def _is_public(ctx: Context, text: str) -> bool:
    return bool(await ctx.tx.count(NetworkInterface, publics=_ip(text)))


def _hops(hops: Iterable[Hop]) -> list[dict[str, Any]]:
    return [
        {"ComponentId": hop.at, "Step": hop.step, "Passes": hop.passes, "Explanation": hop.why}
        for hop in hops
    ]
