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
_DEVICE = {IN: "oifname", OUT: "iifname"}
_ADDRESS = {"ip": "ipv4_addr", "ip6": "ipv6_addr"}
_WITH_PORTS = "{ tcp, udp, sctp }"


def logged(vpc: VpcPlan) -> dict[str, str]:
    """Taps of the ports that some flow log covers, in order; with their ids."""
    return {
        vpc.ports[id].tap: id for id in dict.fromkeys(each for log in vpc.flow_logs for each in log.ports)
    }


def name(generation: int, verdict: str, direction: str, family: str, kind: str) -> str:
    """``kind``: ports (of flows that have some), plain (others) or flags (TCP's)."""
    return f"log{generation}_{verdict}_{direction}_{family}_{kind}"


def skipped(generation: int) -> str:
    return f"log{generation}_skipped"


def names(vpc: VpcPlan, generation: int) -> Iterator[str]:
    for verdict, direction, family, kind in product((ACCEPT, REJECT), (IN, OUT), _ADDRESS, _kinds(vpc)):
        yield name(generation, verdict, direction, family, kind)
    yield skipped(generation)


def _kinds(vpc: VpcPlan) -> tuple[str, ...]:
    flags = any(TCP_FLAGS in log.format for log in vpc.flow_logs)
    return ("ports", "plain", "flags") if flags else ("ports", "plain")


def sets(vpc: VpcPlan) -> dict[str, Set]:
    if not vpc.flow_logs:
        return {}
    found = {"logged": Set("ifname", {f'"{tap}"': "" for tap in logged(vpc)})}
    for generation in (0, 1):
        for verdict, direction, (family, address), kind in product(
            (ACCEPT, REJECT), (IN, OUT), _ADDRESS.items(), _kinds(vpc)
        ):
            ends = f"ifname . {address} . {address}"
            type = {
                "ports": f"{ends} . inet_proto . inet_service . inet_service",
                "plain": f"{ends} . inet_proto",
                "flags": f"{ends} . inet_service . inet_service . tcp_flag",
            }[kind]
            key = name(generation, verdict, direction, family, kind)
            found[key] = Set(type, flags="dynamic", size=FLOWS_MAX)
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
        ports = "th sport . th dport"
        where = {kind: f"@{name(generation, verdict, direction, family, kind)}" for kind in _kinds(vpc)}
        if "flags" in where:
            yield (
                "tcp flags & (fin | syn | rst) != 0 "
                f"update {where['flags']} {{ {ends} . {ports} . tcp flags }}"
            )
        # A full set ends the rule: then the packet comes to the last one.
        yield (
            f"meta l4proto {_WITH_PORTS} update {where['ports']} "
            f"{{ {ends} . meta l4proto . {ports} counter }} return"
        )
        yield (
            f"meta l4proto != {_WITH_PORTS} update {where['plain']} "
            f"{{ {ends} . meta l4proto counter }} return"
        )
    yield f"update @{skipped(generation)} {{ {device} counter }}"
