"""Where the storage cluster is, so that guests find nothing there: its daemons' addresses, from its own maps.

A cluster that was there before is on a network that the host forwards packets to. What is known is kept in a
file: an agent that starts while the cluster is away denies what it denied before.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from gureum.errors import GureumError
from gureum.files import write_atomically
from gureum.san.settings import SanSettings

log = logging.getLogger(__name__)

FILE = "storage-addresses.json"
EVERY_SECONDS = 60.0
ADDRESSES_MAX = 10_000

Deny = Callable[[frozenset[str]], Awaitable[None]]


async def watch(settings: SanSettings, run: Path, deny: Deny) -> None:
    """For ever."""
    path = run / FILE
    known = _kept(path)
    warned = ""
    while True:
        try:
            await deny(known)
            found = await asyncio.to_thread(ask, settings)
            if found != known:
                await deny(found)
                write_atomically(path, json.dumps(sorted(found)).encode())
                known = found
            warned = ""
        except (GureumError, OSError) as error:
            if str(error) != warned:
                log.warning("where the storage cluster is, is not known anew: %s", error)
            warned = str(error)
        await asyncio.sleep(EVERY_SECONDS)


def ask(settings: SanSettings) -> frozenset[str]:
    """Blocks. Raises PoolError."""
    from gureum.san.ceph.commands import Access, ask

    answers = ask(Access.of(settings), [{"prefix": "mon dump"}, {"prefix": "osd dump"}])
    return addresses(*(answer.document() for answer in answers))


def addresses(mons: dict[str, Any], osds: dict[str, Any]) -> frozenset[str]:
    """Of monitors and OSDs, on both of their networks. Not the host's loopback, and none that is unknown."""
    found = set[str]()
    for mon in mons.get("mons", ()):
        found.update(_of(mon.get("public_addrs")))
    for osd in osds.get("osds", ()):
        for kind in ("public_addrs", "cluster_addrs"):
            found.update(_of(osd.get(kind)))
    return frozenset(sorted(found)[:ADDRESSES_MAX])


def _of(vector: Any) -> Iterator[str]:
    """Addresses of an addrvec: "10.0.0.1:6789", "[fd00::1]:3300"."""
    for each in (vector or {}).get("addrvec", ()):
        text = str(each.get("addr", "")).rpartition(":")[0].strip("[]")
        try:
            address = ip_address(text)
        except ValueError:
            continue
        if not (address.is_loopback or address.is_unspecified):
            yield str(address)


def _kept(path: Path) -> frozenset[str]:
    try:
        found = json.loads(path.read_bytes())
        return frozenset(str(ip_address(each)) for each in found)
    except (OSError, ValueError, TypeError):
        return frozenset()
