"""What a cloud that has ended has left on the machine, as the kernel shows it."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import suppress
from ipaddress import IPv4Network
from pathlib import Path

from gureum.cli.cloud import Cloud

COMMAND_SECONDS = 30


def leftovers(cloud: Cloud) -> list[str]:
    """Guests, other processes, networks, devices, tables of the packet filter, routes: a line for each."""
    config = cloud.config()
    index = config.index
    left = [f"guest {id}" for id in cloud.guests()]
    left += [f"process {pid}" for pid in processes(cloud)]
    left += [f"namespace {path.name}" for path in namespaces(cloud, "gm", "gn", "gh")]
    for pattern in (f"gu{index}-*", f"gv{index}-*", f"gb{index}"):
        left += [f"link {path.name}" for path in Path("/sys/class/net").glob(pattern)]
    tables = (f"gureum_{index}", f"gureum_fabric_{index}")
    left += [f"table {line}" for line in _lines("nft", "list", "tables") if line.split()[-1] in tables]
    routes = _lines("ip", "route", "show", "table", "all")
    return left + [f"route {line}" for line in routes if is_within(line, config.public_cidr)]


def namespaces(cloud: Cloud, *kinds: str) -> list[Path]:
    """The network namespaces of the cloud's VPCs (gm), NAT gateways (gn) and hosts (gh)."""
    index = cloud.config().index
    patterns = [f"{kind}{index}{separator}*" for kind in kinds for separator in "-."]
    return [path for pattern in patterns for path in Path("/run/netns").glob(pattern)]


def processes(cloud: Cloud) -> list[int]:
    """Everything on the machine that was started with this cloud's directory on its command line."""
    mark = str(cloud.state_dir).encode()
    return [pid for pid, command in command_lines() if mark in command]


def difference(kind: str, wanted: Iterable[str], there: Iterable[str]) -> list[str]:
    wanted, there = set(wanted), set(there)
    return [f"{kind} {name} is missing" for name in sorted(wanted - there)] + [
        f"{kind} {name} should not be there" for name in sorted(there - wanted)
    ]


def command_lines() -> Iterator[tuple[int, bytes]]:
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            yield int(path.name), (path / "cmdline").read_bytes()


def is_within(route: str, network: str) -> bool:
    """Whether a line of `ip route` is about addresses of the network."""
    found = re.search(r"\d+\.\d+\.\d+\.\d+(/\d+)?", route)
    return found is not None and IPv4Network(found[0], strict=False).subnet_of(IPv4Network(network))


def _lines(*command: str) -> list[str]:
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=COMMAND_SECONDS)
    return done.stdout.splitlines()
