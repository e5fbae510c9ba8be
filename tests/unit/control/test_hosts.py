from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from msgspec.structs import replace

from gureum.control.hosts import LEASE_SECONDS, Hosts
from gureum.errors import TransportError
from gureum.hostspec import HostReport
from gureum.resources import Host, HostCertificate, HostState
from gureum.sim.loop import run
from gureum.store.base import Change
from gureum.store.sqlite import SqliteStore

KEY = "A" * 43 + "="


def report(host: str, **said: Any) -> HostReport:
    return HostReport(cloud="c", host=host, boot_id="b", revision=0, **said)


def with_hosts(test: Callable[[Hosts, SqliteStore], Awaitable[None]]) -> None:
    async def main() -> None:
        store = SqliteStore.open(":memory:", threaded=False)
        await test(Hosts(store, "1"), store)
        await store.close()

    run(main())


async def get(store: SqliteStore, id: str) -> Host:
    async with store.read() as reader:
        host = await reader.get(Host, id)
    assert host is not None
    return host


def test_each_host_has_a_number_of_its_own_for_ever() -> None:
    async def test(hosts: Hosts, store: SqliteStore) -> None:
        for name in ("a", "b", "c"):
            assert await hosts.note(report(name))
        assert [(await get(store, name)).number for name in ("a", "b", "c")] == [1, 2, 3]
        second = await get(store, "b")
        await store.transact(lambda tx: tx.delete(second))
        assert await hosts.note(report("d"))
        assert (await get(store, "d")).number == 2
        assert not await hosts.note(report("d"))
        assert (await get(store, "c")).number == 3

    with_hosts(test)


def test_a_host_of_an_older_store_gets_its_number() -> None:
    async def test(hosts: Hosts, store: SqliteStore) -> None:
        await store.transact(lambda tx: tx.put(Host(id="a", account="1", zone="", state=HostState.up)))
        await hosts.note(report("a"))
        assert (await get(store, "a")).number == 1

    with_hosts(test)


def test_the_uplink_is_noted() -> None:
    async def test(hosts: Hosts, store: SqliteStore) -> None:
        await hosts.note(report("a", address="198.19.64.10", uplink_mtu=9000, wireguard_key=KEY))
        host = await get(store, "a")
        assert (host.address, host.uplink_mtu, host.wireguard_key) == ("198.19.64.10", 9000, KEY)

    with_hosts(test)


def test_others_hear_of_places_only() -> None:
    async def test(hosts: Hosts, store: SqliteStore) -> None:
        def changed(host: Host | None) -> bool:
            return hosts.changed(Change(1, "host", "a", host))

        alone = Host(id="a", zone="", number=1)
        assert not changed(alone)
        there = Host(id="a", zone="", number=1, address="10.0.0.1")
        assert changed(there)
        assert not changed(Host(id="a", zone="", number=1, address="10.0.0.1", pool_free_bytes=5))
        assert changed(Host(id="a", zone="", number=1, address="10.0.0.2"))
        assert changed(None)
        assert not changed(None)

    with_hosts(test)


def test_silence_and_the_managers_own() -> None:
    async def test(hosts: Hosts, store: SqliteStore) -> None:
        await hosts.note(report("a"))
        async with store.read() as reader:
            await hosts.load(reader)
        for _ in range(3):
            await asyncio.sleep(LEASE_SECONDS / 2)
            silent = list(hosts.silent())
        assert silent == ["a"]
        await hosts.down("a")
        assert (await get(store, "a")).state is HostState.down
        assert list(hosts.silent()) == []
        await hosts.note(report("a"))
        # Nobody looked for longer than a lease: this process stood still.
        await asyncio.sleep(2 * LEASE_SECONDS)
        assert list(hosts.silent()) == []

    with_hosts(test)


@pytest.mark.parametrize(
    "said",
    [
        {"address": "10.0.0.1; flush ruleset"},
        {"address": "nonsense"},
        {"address": "127.0.0.1"},
        {"address": "224.0.0.1"},
        {"address": "0.0.0.0"},
        {"address": "fd00::1"},
        {"address": "10.0.0.1", "uplink_mtu": 0},
        {"address": "10.0.0.1", "uplink_mtu": 1329},
        {"wireguard_key": "k"},
        {"wireguard_key": f"{KEY}\n"},
    ],
)
def test_what_other_hosts_cannot_be_told(said: dict[str, Any]) -> None:
    async def test(hosts: Hosts, store: SqliteStore) -> None:
        with pytest.raises(TransportError):
            await hosts.note(report("a", **said))
        async with store.read() as reader:
            assert await reader.find(Host) == []

    with_hosts(test)


def test_another_hosts_key_is_not_to_be_had() -> None:
    async def test(hosts: Hosts, store: SqliteStore) -> None:
        await hosts.note(report("a", address="10.0.0.1", wireguard_key=KEY))
        with pytest.raises(TransportError, match="is that of host a"):
            await hosts.note(report("b", address="10.0.0.2", wireguard_key=KEY))

    with_hosts(test)


def test_another_hosts_address_is_not_to_be_had() -> None:
    async def test(hosts: Hosts, store: SqliteStore) -> None:
        await hosts.note(report("a", address="10.0.0.1"))
        with pytest.raises(TransportError, match=r"10.0.0.1 is that of host a"):
            await hosts.note(report("b", address="10.0.0.1"))
        await hosts.note(report("c"))
        await hosts.note(report("d"))
        await hosts.note(report("a", address="10.0.0.1", uplink_mtu=9000))

    with_hosts(test)


def test_a_late_report_does_not_bring_a_host_back() -> None:
    async def test(hosts: Hosts, store: SqliteStore) -> None:
        put = HostCertificate(id="a1", host="a", zone="za", expires=2e9)
        certificate = await store.transact(lambda tx: tx.put(put))
        await hosts.note(report("a", zone="zb"), certificate)
        assert (await get(store, "a")).zone == "za"
        revoked = await store.transact(lambda tx: tx.put(replace(certificate, revoked=True)))
        host = replace(await get(store, "a"), state=HostState.down)
        host = await store.transact(lambda tx: tx.put(host))
        with pytest.raises(TransportError, match="revoked or removed"):
            await hosts.note(report("a"), certificate)
        assert (await get(store, "a")).state is HostState.down
        await store.transact(lambda tx: tx.delete(revoked))
        await store.transact(lambda tx: tx.delete(host))
        with pytest.raises(TransportError, match="revoked or removed"):
            await hosts.note(report("a"), certificate)

    with_hosts(test)


def test_a_host_that_says_the_same_again_is_not_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(hosts: Hosts, store: SqliteStore) -> None:
        reads = 0
        right = store.read

        def read() -> Any:
            nonlocal reads
            reads += 1
            return right()

        await hosts.note(report("a"))
        await hosts.note(report("a"))
        monkeypatch.setattr(store, "read", read)
        assert not await hosts.note(report("a", sequence=7, network_revision=3, problems=("odd",)))
        assert reads == 0
        host = await get(store, "a")
        await store.transact(lambda tx: tx.put(replace(host, state=HostState.down)))
        reads = 0
        assert await hosts.note(report("a", sequence=8))
        assert reads == 1
        assert (await get(store, "a")).state is HostState.up
        assert await hosts.note(report("a", cpus=4))
        assert (await get(store, "a")).cpus == 4

    with_hosts(test)
