"""Would a packet get there? TraceNetworkPath asks the reference model of the network, and sends nothing."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address, ip_network
from typing import Any

from msgspec.structs import replace

from gureum.control.networks import Networks
from gureum.errors import ApiError
from gureum.hostspec import NetworkSpec
from gureum.network.reach import EPHEMERAL, NUMBERS, Hop, Path, trace
from gureum.resources import Host, HostState, Instance, NetworkInterface
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
    six = ":" in (input["Source"] if source is None else input["Destination"]) or protocol == "icmpv6"
    if source is None and target is not None and not _outer(target, six):
        return _answer(_not_public(target), _ip(input["Source"]), target.private_ip)
    destination = _address(source, target, six) if target is not None else _ip(input["Destination"])
    holders = await _with_address(ctx, destination)
    if source is None and target is None and not holders:
        raise invalid("Source or Destination has to be something of this cloud.")
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
    return _answer(await _with_ends(ctx, path, source, target, destination), begin, destination)


async def _with_ends(
    ctx: Context, path: Path, source: NetworkInterface | None, target: NetworkInterface | None, to: str
) -> Path:
    """With where it begins, and where it ends, if it passes. To the model all hosts are one."""
    first = () if source is None else (await _place(ctx, source, "sender"),)
    if not all(hop.passes for hop in path.hops):
        return replace(path, hops=(*first, *path.hops))
    arrived = await ctx.tx.get(NetworkInterface, path.arrives) if path.arrives else None
    if target is not None and path.arrives != target.id:
        last = Hop(at=target.id, step="receiver", passes=False, why=_elsewhere(target, to))
    elif arrived is None:
        why = f"to {to}; gureum does not know what is on the way there"
        last = Hop(at="outside", step="receiver", passes=True, why=why)
    else:
        last = await _place(ctx, arrived, "receiver", source.host if source is not None else None)
    return replace(path, hops=(*first, *path.hops, last), answer=path.answer if last.passes else ())


async def _place(ctx: Context, interface: NetworkInterface, step: str, sender: str | None = None) -> Hop:
    """``sender``: the host that packets come from."""
    host = await ctx.tx.get(Host, interface.host or "")
    down = " (which is down)" if host is not None and host.state is HostState.down else ""
    by = f", by VXLAN from {sender}" if sender not in (None, interface.host) else ""
    why = f"{interface.instance or 'NAT gateway'} on {interface.host}{down}{by}"
    return Hop(at=interface.id, step=step, passes=True, why=why)


def _elsewhere(target: NetworkInterface, to: str) -> str:
    public = f", or ask for its public address {target.public_ip}" if target.public_ip else ""
    return (
        f"not reached: {to} is its address inside of {target.vpc}, and the way above leads elsewhere. "
        f"Peer the VPCs and route to each other{public}"
    )


def _answer(path: Path, source: str, destination: str) -> Output:
    decision = path.decided_by
    passed = "Every hop lets it pass."
    if path.passes and not path.arrives:
        passed = "Every hop lets it pass, and out of the cloud."
    return {
        "Reachable": path.passes,
        "Source": source,
        "Destination": destination,
        "Hops": _hops(path.hops),
        "AnswerHops": _hops(path.answer),
        "Explanation": passed if path.passes else f"{decision.at}: {decision.why}",
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


def _address(source: NetworkInterface | None, target: NetworkInterface, six: bool) -> str:
    """From inside its private address; from outside its public one. Of IPv6 there is one for both."""
    if six and target.ipv6:
        return target.ipv6[0]
    return target.private_ip if source is not None else target.public_ip


def _outer(target: NetworkInterface, six: bool) -> str:
    """The address at which it may be reached from outside, "" for none."""
    return (target.ipv6[0] if target.ipv6 else "") if six else target.public_ip


async def _with_address(ctx: Context, address: str) -> list[NetworkInterface]:
    """Who has this address for those outside."""
    if ":" in address:
        return await ctx.tx.find(NetworkInterface, addresses=address)
    return await ctx.tx.find(NetworkInterface, publics=address)


def _not_public(target: NetworkInterface) -> Path:
    """From outside."""
    why = "it has no public address, so it is not reached from outside"
    return Path(hops=(Hop(at=target.id, step="address", passes=False, why=why),))


def _ip(text: str) -> str:
    try:
        return str(ip_address(text))
    except ValueError:
        raise invalid(
            f"{text!r} is no id of an instance or interface, and no address (names are not looked up)."
        ) from None


def _is_service(world: NetworkSpec, source: NetworkInterface, destination: str) -> bool:
    """Link-local, the resolver (also the VPC's base address + 2), or the router of a subnet of the VPC."""
    address = ip_address(destination)
    if address.is_link_local or destination == RESOLVER_IPV6:
        return True
    vpc = next(each for each in world.vpcs if each.id == source.vpc)
    routers = (ip_network(subnet.cidr)[1] for subnet in vpc.subnets)
    return address == ip_network(vpc.cidr)[2] or address in routers


def _hops(hops: Iterable[Hop]) -> list[dict[str, Any]]:
    return [
        {"ComponentId": hop.at, "Step": hop.step, "Passes": hop.passes, "Explanation": hop.why}
        for hop in hops
    ]
