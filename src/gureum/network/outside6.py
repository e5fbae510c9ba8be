"""What the host does for IPv6 between its VPCs and the outside.

Where no other machine leads the VPCs' networks here, guests go out with the host's own address, as IPv4 does
it. Where a router leads them to the network between hosts, the host that has an address answers neighbour
discovery for it.

A host that forwards IPv6 takes no more router advertisements, and forgets its default route, unless it is
told to take them nonetheless (accept_ra 2): so that is done first. All of it only once a VPC has a way out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gureum.hostspec import NetworkSpec
from gureum.network.hostfilter import NOWHERE6, Outside6
from gureum.network.links import read_json
from gureum.network.names import Names
from gureum.network.namespaces import command_batch, has_ipv6, ip_batch, write_sysctl
from gureum.network.ways import goes_out6

_SETTINGS = Path("/proc/sys/net/ipv6/conf")


def wanted(spec: NetworkSpec, uplink: str) -> Outside6:
    if not has_ipv6():
        return NOWHERE6
    guests = [
        cidr for vpc in spec.vpcs if goes_out6(vpc, spec.networks6) for cidr in vpc.cidrs if ":" in cidr
    ]
    return Outside6(
        networks=spec.networks6,
        hidden=spec.hidden6,
        guests=tuple(sorted(guests)),
        gateways=_gateways(uplink) if uplink and spec.hidden6 and guests else (),
    )


def _gateways(uplink: str) -> tuple[str, ...]:
    found = {route.get("gateway", "") for route in read_json("-6", "route", "show", "dev", uplink)}
    return tuple(sorted(each for each in found if each and not each.startswith("fe80:")))


def prepare(names: Names, networks: tuple[str, ...], uplink: str) -> None:
    """Forward IPv6, and have the networks led to the uplink, or those of their addresses that are not here
    nowhere. In the host's namespace; repeats harmlessly.
    """
    forward()
    on_link = bool(uplink) and _read(f"{uplink}/disable_ipv6") == "0"
    if on_link:
        write_sysctl(f"ipv6/conf/{uplink}/proxy_ndp", "1")
        write_sysctl(f"ipv6/neigh/{uplink}/proxy_delay", "0")
    metric = names.metric6
    ip_batch(
        [
            f"route replace {network} dev {uplink} metric {metric}"
            if on_link
            else f"route replace unreachable {network} metric {metric}"
            for network in networks
        ]
    )
    _remove([route for route in _ours(names) if route["dst"] not in networks])


def forward() -> None:
    """In the calling thread's namespace."""
    if _read("all/forwarding") == "1":
        return
    for device in _SETTINGS.iterdir():
        if device.name not in ("all", "default") and _read(f"{device.name}/accept_ra") == "1":
            write_sysctl(f"ipv6/conf/{device.name}/accept_ra", "2")
    write_sysctl("ipv6/conf/all/forwarding", "1")


def _read(setting: str) -> str:
    """Of the calling thread's namespace; "" if there is none: a device can go at any time."""
    try:
        return (_SETTINGS / setting).read_text().strip()
    except OSError:
        return ""


def has_way() -> bool:
    """Whether the host has a default route of IPv6."""
    return any(route.get("type") != "unreachable" for route in read_json("-6", "route", "show", "default"))


def led(names: Names) -> list[str]:
    """The networks that ``prepare`` has led somewhere."""
    return [route["dst"] for route in _ours(names)]


def clear(names: Names) -> None:
    """Remove the routes to whole networks. That the host forwards stays so."""
    _remove(_ours(names))


def _ours(names: Names) -> list[dict[str, Any]]:
    if not has_ipv6():
        return []
    return [route for route in read_json("-6", "route", "show") if route.get("metric") == names.metric6]


def _remove(routes: list[dict[str, Any]]) -> None:
    command_batch(
        "ip -6",
        [f"route delete {route['dst']} metric {route['metric']}" for route in routes],
        gone=True,
    )
