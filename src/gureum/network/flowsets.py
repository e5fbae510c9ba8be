"""The kernel's side of flow logs: sets in which it counts the packets of each flow of the ports logged.

There are two generations of the sets. The rules count in one, and the other is read and emptied; so every
packet is in exactly one reading.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from gureum.network.acls import IN, OUT
from gureum.network.plan import VpcPlan
from gureum.network.ruleset import Chain, Set

ACCEPT, REJECT = "accept", "reject"
FLOWS_MAX = 16384
"""How many flows of a kind one reading of a VPC may have; of more it is known that there were some."""
TCP_FLAGS = "tcp-flags"
FLAGS = {
    "fin": (1, "tcp flags & fin == fin"),
    "syn": (2, "tcp flags & (syn | ack) == syn"),
    "rst": (4, "tcp flags & rst == rst"),
    "synack": (18, "tcp flags & (syn | ack) == (syn | ack)"),
}
"""TCP's flags as flow logs add them up, and what has them; in sets of their own, as nft has no room for more
than five parts in a key.
"""
_DEVICE = {IN: "oifname", OUT: "iifname"}
_ADDRESS = {"ip": "ipv4_addr", "ip6": "ipv6_addr"}
_COUNTED = {"tcp": "meta l4proto tcp", "udp": "meta l4proto udp", "plain": "meta l4proto != { tcp, udp }"}


def logged(vpc: VpcPlan) -> dict[str, str]:
    """Taps of the ports that some flow log covers, in order; with their ids."""
    return {
        vpc.ports[id].tap: id for id in dict.fromkeys(each for log in vpc.flow_logs for each in log.ports)
    }


def name(generation: int, verdict: str, direction: str, family: str, kind: str) -> str:
    """``kind``: tcp, udp, plain (of other protocols), or one of FLAGS."""
    return f"log{generation}_{verdict}_{direction}_{family}_{kind}"


def skipped(generation: int) -> str:
    return f"log{generation}_skipped"


def keys(flags: bool) -> Iterator[tuple[str, str, str, str]]:
    """(verdict, direction, family, kind) of all sets of flows; ``flags``: also those of TCP's flags."""
    return product((ACCEPT, REJECT), (IN, OUT), _ADDRESS, (*_COUNTED, *(FLAGS if flags else ())))


def with_flags(vpc: VpcPlan) -> bool:
    return any(TCP_FLAGS in log.format for log in vpc.flow_logs)


def sets(vpc: VpcPlan) -> dict[str, Set]:
    if not vpc.flow_logs:
        return {}
    found = {"logged": Set("ifname", {f'"{tap}"': "" for tap in logged(vpc)})}
    for generation in (0, 1):
        for key in keys(with_flags(vpc)):
            address = _ADDRESS[key[2]]
            last = "inet_proto" if key[3] == "plain" else "inet_service . inet_service"
            type = f"ifname . {address} . {address} . {last}"
            found[name(generation, *key)] = Set(type, flags="dynamic", size=FLOWS_MAX)
        found[skipped(generation)] = Set("ifname", flags="dynamic", size=FLOWS_MAX)
    return found


def chains(vpc: VpcPlan, generation: int) -> dict[str, Chain]:
    """What passes is noted when the port's own rules have let it pass: what a receiver refuses was accepted
    at the sender.
    """
    if not vpc.flow_logs:
        return {}
    hook = "type filter hook forward priority {}; policy accept;"
    found = {
        "passed_out": Chain((f"iifname @logged jump note_{ACCEPT}_{OUT}",), hook.format(-5)),
        "passed_in": Chain((f"oifname @logged jump note_{ACCEPT}_{IN}",), hook.format(5)),
    }
    for verdict, direction in product((ACCEPT, REJECT), (IN, OUT)):
        found[f"note_{verdict}_{direction}"] = Chain(tuple(_note(vpc, generation, verdict, direction)))
    return found


def note_refused(vpc: VpcPlan, direction: str) -> tuple[str, ...]:
    """The rules that stand before a drop."""
    return (f"{_DEVICE[direction]} @logged jump note_{REJECT}_{direction}",) if vpc.flow_logs else ()


def _note(vpc: VpcPlan, generation: int, verdict: str, direction: str) -> Iterator[str]:
    device = _DEVICE[direction]
    for family in _ADDRESS:
        ends = f"{device} . {family} saddr . {family} daddr"
        for kind, (_, match) in FLAGS.items() if with_flags(vpc) else ():
            where = name(generation, verdict, direction, family, kind)
            yield f"{match} update @{where} {{ {ends} . th sport . th dport }}"
        # A full set ends the rule: then the packet comes to the last one.
        for kind, match in _COUNTED.items():
            where = name(generation, verdict, direction, family, kind)
            last = "meta l4proto" if kind == "plain" else "th sport . th dport"
            yield f"{match} update @{where} {{ {ends} . {last} counter }} return"
    yield f"update @{skipped(generation)} {{ {device} counter }}"
