"""Where a storage cluster is, from its maps; and what an agent denies while it is away."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from gureum.agent import storage_addresses
from gureum.errors import PoolUnavailable
from gureum.san.settings import SanSettings

SETTINGS = SanSettings("ceph")


def vector(*addresses: str) -> dict[str, object]:
    return {"addrvec": [{"type": "v2", "addr": address, "nonce": 0} for address in addresses]}


def test_addresses_of_all_daemons_on_both_networks() -> None:
    mons = {"mons": [{"public_addrs": vector("10.1.0.1:3300", "10.1.0.1:6789")}]}
    osd = {
        "public_addrs": vector("10.1.0.2:6800"),
        "cluster_addrs": vector("10.2.0.2:6801", "[fd00::2]:6801"),
    }
    never_up = {"public_addrs": vector(":/0"), "cluster_addrs": vector("0.0.0.0:0")}
    assert storage_addresses.addresses(mons, {"osds": [osd, never_up, {}]}) == {
        "10.1.0.1",
        "10.1.0.2",
        "10.2.0.2",
        "fd00::2",
    }


def test_loopback_is_reached_by_no_guest_anyway() -> None:
    mons = {"mons": [{"public_addrs": vector("127.0.0.1:3300")}]}
    assert storage_addresses.addresses(mons, {}) == frozenset()


async def test_what_was_denied_stays_so_while_the_cluster_is_away(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    answers: list[frozenset[str]] = [frozenset({"10.1.0.1"})]

    def ask(_: SanSettings) -> frozenset[str]:
        if not answers:
            raise PoolUnavailable("no monitor answers")
        return answers.pop()

    monkeypatch.setattr(storage_addresses, "ask", ask)
    assert await denied(tmp_path, 2) == [[], ["10.1.0.1"]]
    assert await denied(tmp_path, 1) == [["10.1.0.1"]]


async def denied(run: Path, count: int) -> list[list[str]]:
    """The first of what a new agent denies."""
    found: list[list[str]] = []
    enough = asyncio.Event()

    async def deny(addresses: frozenset[str]) -> None:
        found.append(sorted(addresses))
        if len(found) == count:
            enough.set()

    watching = asyncio.create_task(storage_addresses.watch(SETTINGS, run, deny))
    await asyncio.wait_for(enough.wait(), 5)
    await asyncio.sleep(0.05)  # what follows the last denial: it is kept
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    return found
