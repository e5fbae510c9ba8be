"""What a port may not say though its addresses are its own: errors about flows of others, answers of DHCP.

Connection tracking calls an ICMP error related if it quotes a packet of a flow, and asks only whom it is for:
routers in between send them, too. As related it would pass no group. So a port may tell of its own flows
only, but for one that forwards for others.
"""

from __future__ import annotations

from gureum.hostspec import PortKind
from gureum.network.names import PEERINGS, UPLINK, VXLAN
from gureum.network.plan import VpcPlan
from gureum.network.ruleset import Chain, Set

COUNTER = "forged"
VERDICTS = "ct state vmap { established : accept, related : goto errors, invalid : drop }"
"""In place of the same with related accepted, for what ports send."""
_DROP = f"counter name {COUNTER} drop"
DHCP_ANSWERS = f"udp sport . udp dport {{ 67 . 68, 547 . 546 }} {_DROP}"
"""The router's alone. For new flows of ports."""
ERRORS = Chain(
    (
        # Looked at where they came in.
        f'iifname {{ "{UPLINK}", "{VXLAN}", "{PEERINGS}*" }} accept',
        f"icmp type redirect {_DROP}",
        "iifname @forwarders accept",
        *(
            f"iifname . ct {way} {family} saddr @{owned} accept"
            for family, owned in (("ip", "owned"), ("ip6", "owned6"))
            for way in ("original", "reply")
        ),
        _DROP,
    )
)


def sets(vpc: VpcPlan) -> dict[str, Set]:
    """Which addresses each port may speak of, and who may of all."""
    owned: dict[str, str] = {}
    owned6: dict[str, str] = {}
    forwarders: dict[str, str] = {}
    for port in vpc.ports.values():
        if not port.source_check or port.kind is PortKind.nat:
            forwarders[f'"{port.tap}"'] = ""
            continue
        for address in port.private:
            (owned6 if ":" in address else owned)[f'"{port.tap}" . {address}'] = ""
    return {
        "owned": Set("ifname . ipv4_addr", owned),
        "owned6": Set("ifname . ipv6_addr", owned6),
        "forwarders": Set("ifname", forwarders),
    }
