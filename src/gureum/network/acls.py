"""Network ACLs as chains: stateless, in order, for what crosses a subnet's border.

A chain of an ACL returns what is allowed. Chains of subnets stand before it, which return what stays in the
subnet: a port is led to its subnet's by a map. Subnets whose ACL lets everything pass have none.
"""

from __future__ import annotations

from collections.abc import Iterator

from gureum.hostspec import AclEntrySpec, AclSpec, PortKind
from gureum.network.groups import FOUR, SIX, WITH_PORTS, keys
from gureum.network.plan import VpcPlan
from gureum.network.portplan import PortPlan, SubnetPlan
from gureum.network.ruleset import Chain

IN, OUT = "in", "out"


def refusal(direction: str, by: str = "group") -> str:
    """The name of the chain that counts and drops what groups or ACLs refuse."""
    return f"refuse_{direction}_{by}"


def acl_maps(vpc: VpcPlan) -> tuple[dict[str, str], dict[str, str]]:
    """By device, where its packets go first: those that the port sends, those that it gets."""
    subnets = _bordered(vpc)
    ports = [port for port in vpc.ports.values() if port.subnet in subnets] if subnets else []
    sent = {f'"{port.tap}"': f"jump {_prefix(port)}_out_{port.subnet}" for port in ports}
    got = {f'"{port.tap}"': f"jump {_prefix(port)}_in_{port.subnet}" for port in ports}
    return sent, got


def acl_chains(vpc: VpcPlan) -> dict[str, Chain]:
    """For the maps of ``acl_maps`` to lead to."""
    chains: dict[str, Chain] = {}
    for id, subnet in _bordered(vpc).items():
        acl = vpc.acls[subnet.acl]
        chains[f"acl_in_{acl.id}"] = Chain(tuple(_rules(acl, egress=False)))
        chains[f"acl_out_{acl.id}"] = Chain(tuple(_rules(acl, egress=True)))
        chains[f"border_in_{id}"] = Chain(_border(subnet, "saddr", f"goto acl_in_{acl.id}"))
        chains[f"border_out_{id}"] = Chain(_border(subnet, "daddr", f"goto acl_out_{acl.id}"))
        # What a NAT gateway translates passes the border twice: here, and by its own link to the Internet,
        # with the same peer.
        both = Chain((f"jump border_in_{id}", f"jump border_out_{id}"))
        chains[f"border_nat_in_{id}"] = chains[f"border_nat_out_{id}"] = both
    return chains


def _bordered(vpc: VpcPlan) -> dict[str, SubnetPlan]:
    """The subnets with ports here, or that come here, whose ACLs can refuse something."""
    ports = (*vpc.ports.values(), *vpc.standby.values())
    here = {port.subnet for port in ports} if vpc.acls else ()
    found = {id: vpc.subnets[id] for id in sorted(here)}
    return {
        id: subnet
        for id, subnet in found.items()
        if subnet.acl and not all(_allows_all(vpc, subnet.acl, egress) for egress in (False, True))
    }


def _prefix(port: PortPlan) -> str:
    return "border_nat" if port.kind is PortKind.nat and port.public_ip else "border"


def _border(subnet: SubnetPlan, side: str, then: str) -> tuple[str, ...]:
    inside6 = (f"ip6 {side} {subnet.cidr6} return",) if subnet.cidr6 else ()
    return (f"ip {side} {subnet.cidr} return", *inside6, then)


def _allows_all(vpc: VpcPlan, id: str, egress: bool) -> bool:
    """Whether the first entry of each family that the VPC has allows everything."""
    for family in (FOUR, SIX) if vpc.cidrs6 else (FOUR,):
        entries = [
            entry
            for entry in vpc.acls[id].entries
            if entry.egress == egress and (":" in entry.cidr) == (family is SIX)
        ]
        if not entries:
            return False
        first = entries[0]
        if (first.allow, first.protocol, first.cidr) != (True, "-1", family.everywhere):
            return False
    return True


def _rules(acl: AclSpec, egress: bool) -> Iterator[str]:
    refused = f"goto {refusal(OUT if egress else IN, 'acl')}"
    for entry in acl.entries:
        if entry.egress == egress:
            yield f"{_match(entry, egress)} {'return' if entry.allow else refused}"
    yield refused


def _match(entry: AclEntrySpec, egress: bool) -> str:
    family = SIX if ":" in entry.cidr else FOUR
    peer = f"{family.field} {'daddr' if egress else 'saddr'} {entry.cidr}"
    match = family.match if entry.cidr == family.everywhere else peer
    protocol, first, last = keys(entry.protocol, entry.from_port, entry.to_port)
    if protocol is None:
        return match if (first, last) == (0, 255) else f"{match} meta l4proto {first}"
    place = "dport" if protocol in WITH_PORTS else "sport"
    ports = f" th {place} {first}-{last}" if (first, last) != (0, 65535) else ""
    return f"{match} meta l4proto {protocol}{ports}"
