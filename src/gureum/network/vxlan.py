"""The VXLAN device of a VPC: its way to the VPC's ports on other hosts.

Its packets are the host's (it is made from the host's namespace), its inner side is in the VPC's. It floods
nothing and learns nothing: every next hop and every host behind it is programmed (``routes``). It carries the
packet's mark (GBP), so that the receiving host goes on in the same route table.
"""

from __future__ import annotations

import socket

import msgspec

from gureum.errors import NetworkError
from gureum.network.links import read_json
from gureum.network.names import VXLAN, VXLAN_PORT, vxlan_mac
from gureum.network.namespaces import ip_batch, visit

OVERHEAD_BYTES = 50


class Underlay(msgspec.Struct, frozen=True):
    """What carries VXLAN packets: this host's address, and the device's MTU. No address: there is none."""

    address: str = ""
    mtu: int = 1500


def inner_mtu(underlay: Underlay, number: int) -> int:
    """What fits into a packet for another host, 0 where there are none."""
    if not number or not underlay.address:
        return 0
    return underlay.mtu - OVERHEAD_BYTES - (20 if ":" in underlay.address else 0)


def ensure(namespace: str, network_id: int, number: int, underlay: Underlay, new: bool) -> None:
    """Have the device as it should be, or none. In the host's namespace. Repeats harmlessly.

    ``new``: the VPC's namespace has none.
    """
    wanted = underlay.address if number else ""
    found = None if new else visit(namespace, _find)
    if found and found != (network_id, wanted, vxlan_mac(number)):
        visit(namespace, lambda: ip_batch([f"link delete {VXLAN}"]))
        found = None
    if not wanted:
        return
    if found is None:
        # Made there from here: its socket is this namespace's.
        ip_batch(
            [
                f"link add {VXLAN} netns {namespace} address {vxlan_mac(number)} type vxlan id {network_id} "
                f"dstport {VXLAN_PORT} local {wanted} nolearning gbp ttl 64"
            ]
        )
    try:
        mtu = inner_mtu(underlay, number)
        visit(namespace, lambda: ip_batch([f"link set dev {VXLAN} mtu {mtu} addrgenmode none up"]))
    except NetworkError as error:
        if "in use" in str(error):
            raise NetworkError(f"another program on this host uses UDP port {VXLAN_PORT} (VXLAN)") from None
        raise


def devices() -> list[str]:
    """Of the calling thread's namespace: one, or none."""
    try:
        socket.if_nametoindex(VXLAN)
    except OSError:
        return []
    return [VXLAN]


def _find() -> tuple[int, str, str] | None:
    """(network id, local address, Ethernet address) of the device of the calling thread's namespace."""
    for link in read_json("-d", "link", "show", "type", "vxlan"):
        if link["ifname"] == VXLAN:
            data = link["linkinfo"]["info_data"]
            return data.get("id", 0), data.get("local", data.get("local6", "")), link["address"]
    return None
