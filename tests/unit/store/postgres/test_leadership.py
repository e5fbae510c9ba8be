"""Who leads, and how certain it is of that."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator

import pytest
from msgspec import structs

from gureum.resources import Vpc
from gureum.store.base import Transaction
from gureum.store.postgres import Address, PostgresStore, leadership, queries
from gureum.store.postgres.connection import Deposed
from gureum.store.postgres.examine import examine
from gureum.store.postgres.leadership import Leadership
from support.postgres import Server

pytestmark = pytest.mark.postgres
numbers = itertools.count()


@pytest.fixture
def address(postgres_server: Server) -> Address:
    return Address.parse(postgres_server.create_database(f"leadership{next(numbers)}"))


@pytest.fixture
async def leader(address: Address) -> AsyncIterator[Leadership]:
    one = Leadership(address, "cloud", "one")
    await one.acquire()
    yield one
    await one.close()


@pytest.fixture
def cut_off(postgres_server: Server) -> Iterator[None]:
    """The server waits for a replica that does not answer."""
    postgres_server.query("postgres", "ALTER SYSTEM SET synchronous_standby_names = 'away'")
    postgres_server.query("postgres", "SELECT pg_reload_conf()")
    yield
    postgres_server.query("postgres", "ALTER SYSTEM RESET synchronous_standby_names")
    postgres_server.query("postgres", "SELECT pg_reload_conf()")


async def test_what_no_replica_confirms_proves_nothing(
    address: Address, leader: Leadership, cut_off: None
) -> None:
    """Another server may be the one that is written to by then, and another manager lead there."""
    async with asyncio.timeout(60):
        while not (await examine(address)).replicated:  # noqa: ASYNC110 - the server tells nobody
            await asyncio.sleep(0.05)
        with pytest.raises(Deposed, match="could not say that it leads"):
            await leader.hold()
    assert not leader.certain()


async def test_who_is_followed_is_not_certain_any_more(address: Address, leader: Leadership) -> None:
    other = Leadership(address, "cloud", "one")  # as a supervisor starts it anew
    await other.acquire()
    async with asyncio.timeout(60):
        with pytest.raises(Deposed, match="another manager leads"):
            await leader.hold()
    assert not leader.certain()
    certain = other.certain()
    await other.resign()
    assert (certain, other.certain()) == (True, False)


async def test_of_a_machine_that_was_suspended_nothing_is_certain(
    leader: Leadership, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert leader.certain()
    slept = leadership._clock() + leadership.STAND_DOWN_SECONDS
    monkeypatch.setattr("time.clock_gettime", lambda _: slept)
    assert not leader.certain()


async def test_revisions_go_on_where_commits_were_lost(
    address: Address, leader: Leadership, postgres_server: Server
) -> None:
    """What agents have of them is older than all that they hear from then on."""
    database = address.place.split()[1]
    last = int(postgres_server.query(database, queries.REVISION))

    async def count(tx: Transaction) -> Vpc:
        before = await tx.get(Vpc, "v") or Vpc(id="v", cidr="", network_id=0)
        return await tx.put(structs.replace(before, network_id=before.network_id + 1))

    for lost in (10**15, 10):
        postgres_server.query(database, f"UPDATE state SET revision = revision - {lost}")
        await leader.resign()
        await leader.acquire()
        last, before = int(postgres_server.query(database, queries.REVISION)), last
        assert last > before
        store = await PostgresStore.open(address, fence=leader.epoch)
        await store.transact(count)
        assert store.revision == last + 1
        await store.close()
