"""Peering connections: a veth between two VPCs' namespaces, on each host that has ports of either.

Both ends have the router's Ethernet address and no other; who is at the other end is programmed (``routes``).
What may come out of one is the peer's packets for this VPC (``filters``).
"""

from __future__ import annotations

from collections.abc import Iterable

from gureum.network.links import devices
from gureum.network.names import PEERINGS, ROUTER_MAC, Names
from gureum.network.namespaces import command_batch, ip_batch, visit
from gureum.network.plan import PeeringPlan, VpcPlan


def ensure(names: Names, vpc: VpcPlan, peering: PeeringPlan) -> None:
    """Have the pair. Both namespaces are there. Repeats harmlessly."""
    own, other = names.namespace(vpc.network_id), names.namespace(peering.peer)
    device = peering.device
    if device not in visit(own, _devices):
        # A name that was another pair's before is not taken over.
        if device in visit(other, _devices):
            visit(other, lambda: ip_batch([f"link delete {device}"]))
        ip_batch(
            [
                f"link add {device} netns {own} address {ROUTER_MAC} type veth "
                f"peer name {device} netns {other} address {ROUTER_MAC}"
            ]
        )
    for namespace in (own, other):
        visit(namespace, lambda: ip_batch([f"link set dev {device} mtu {vpc.mtu} addrgenmode none up"]))


def remove(namespace: str, kept: Iterable[str]) -> None:
    """Remove those of a namespace that are not ``kept``, with their other ends."""

    def work() -> None:
        lines = [f"link delete {device}" for device in sorted(_devices() - set(kept))]
        command_batch("ip", lines, gone=True)

    visit(namespace, work)


def _devices() -> set[str]:
    return devices(PEERINGS)
