"""What a cloud has in the kernel."""

from __future__ import annotations

import json
import re
import subprocess

from ..realcloud import RealCloud


def kernel(cloud: RealCloud) -> list[str]:
    """Everything of the cloud's hosts that VPCs could have left there."""
    index = cloud.config.index
    found = [f"namespace {path.name}" for path in cloud.namespaces("gm", "gn")]
    for host in range(cloud.config.hosts):
        inside = f"gh{index}-{host}"
        links = json.loads(_printed("ip", "-n", inside, "-j", "link"))
        found += [f"{inside}: link {link['ifname']}" for link in links]
        for words in ("route show table all", "-6 route show table all", "rule", "neighbour show proxy"):
            lines = _printed("ip", "-n", inside, *words.split()).splitlines()
            found += [f"{inside}: {words}: {' '.join(line.split())}" for line in lines]
        tables = _printed("ip", "netns", "exec", inside, "nft", "list", "tables").splitlines()
        found += [f"{inside}: {line}" for line in tables]
    # What the kernel itself has on a device, once it is up for a second, and once it is a router.
    return sorted(line for line in found if not re.search(r"((fe80|ff00):|anycast ).* dev uplink", line))


def prepared(cloud: RealCloud) -> list[str] | None:
    """The same, once the agents have made what each host has without any VPC; None before."""
    index, public = cloud.config.index, cloud.config.public_cidr
    found = kernel(cloud)
    for host in range(cloud.config.hosts):
        own = [line for line in found if line.startswith(f"gh{index}-{host}: ")]
        routed = any(f" {public} dev uplink" in line for line in own)
        if f"gh{index}-{host}: table inet gureum_{index}" not in own or not routed:
            return None
    return found


def _printed(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout
