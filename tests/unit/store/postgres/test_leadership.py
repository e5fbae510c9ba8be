"""Who leads, and how certain it is of that."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator

import asyncpg
import pytest
from msgspec import structs

from gureum.errors import StoreError
from gureum.resources import ManagerMachine, Vpc
from gureum.store import migrations
from gureum.store.base import Transaction
from gureum.store.postgres import Address, PostgresStore, leadership, queries
from gureum.store.postgres.connection import Deposed, Revoked, connect, discard
from gureum.store.postgres.examine import examine
from gureum.store.postgres.leadership import Leadership
from gureum.store.postgres.signs import Signs
from support.postgres import USER, Server

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


SECOND = ManagerMachine(id="second", agents="192.0.2.2:4567", endpoint="https://192.0.2.2")


async def entered(address: Address, fence: int, machine: ManagerMachine) -> None:
    store = await PostgresStore.open(address, fence=fence)

    async def work(tx: Transaction) -> None:
        before = await tx.get(ManagerMachine, machine.id)
        await tx.put(structs.replace(machine, version=before.version if before else 0))

    try:
        await store.transact(work)
    finally:
        await store.close()


async def test_who_stands_by_says_so_and_waits_for_nobody(
    address: Address, leader: Leadership, postgres_server: Server, cut_off: None
) -> None:
    """Of what decides nothing no replica has to know: it is said though the only one is away."""
    signs = Signs(address)
    assert await signs.heard() == []
    second = Leadership(address, "cloud", "two", "", "second", "ab")
    await second._say()
    (sign,) = await signs.heard()
    assert (sign.machine, sign.key) == ("second", "ab")
    assert 0 <= sign.age < 30
    await second.close()
    await signs.close()


async def test_it_goes_on_saying_so(
    address: Address, leader: Leadership, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leadership, "SIGN_SECONDS", 0.1)
    signs = Signs(address)
    second = Leadership(address, "cloud", "two", "", "second", "ab")
    holding = asyncio.create_task(leader.hold())
    waiting = asyncio.create_task(second.acquire())
    ages: list[float] = []
    async with asyncio.timeout(60):
        # The age falls only when it is said again.
        while sum(after < before for before, after in itertools.pairwise(ages)) < 3:
            ages += [sign.age for sign in await signs.heard()]
            await asyncio.sleep(0.05)
    for task in (waiting, holding):
        task.cancel()
    await asyncio.gather(waiting, holding, return_exceptions=True)
    await second.close()
    await signs.close()


async def test_a_sign_that_is_forgotten_and_one_that_came_meanwhile(
    address: Address, leader: Leadership
) -> None:
    second = Leadership(address, "cloud", "two", "", "second", "ab")
    await second._say()
    signs = Signs(address)
    (sign,) = await signs.heard()
    await signs.forget(sign._replace(key="cd"))
    assert len(await signs.heard()) == 1
    await signs.forget(sign)
    assert await signs.heard() == []
    await second.close()
    await signs.close()


async def test_a_command_says_no_sign(address: Address, leader: Leadership) -> None:
    """It would be one of its machine's manager, which has a key."""
    signs = Signs(address)
    command = Leadership(address, "cloud", "a command", machine="second")
    await command._say()
    assert await signs.heard() == []
    await command.close()
    await signs.close()


STALLS = "LOCK TABLE standbys IN ACCESS EXCLUSIVE MODE"
REFUSES = """CREATE OR REPLACE FUNCTION stand_by(by_key text) RETURNS void LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '{}'; END $$"""


@pytest.mark.parametrize("trouble", [STALLS, REFUSES.format("25006"), REFUSES.format("53100")])
async def test_a_sign_that_cannot_be_said_is_in_nobodys_way(
    address: Address, leader: Leadership, trouble: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leadership, "SIGN_SECONDS", 0.1)
    second = Leadership(address, "cloud", "two", "", "second", "ab")
    holding = asyncio.create_task(leader.hold())
    known = asyncio.Event()

    async def seen(_: leadership.Leader) -> None:
        known.set()

    connection = await connect(address)
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute(trouble)
    if trouble != STALLS:
        await transaction.commit()
    waiting = asyncio.create_task(second.acquire(seen))
    async with asyncio.timeout(60):
        await known.wait()
        await asyncio.sleep(1.0)  # it tries meanwhile
        assert not waiting.done()
        holding.cancel()
        await asyncio.gather(holding, return_exceptions=True)
        assert await waiting == leader.epoch + 1
    await connection.close()
    await second.resign()


async def test_with_an_earlier_gureums_store_nothing_is_said(
    address: Address, leader: Leadership, postgres_server: Server
) -> None:
    postgres_server.query(address.place.split()[1], "DROP FUNCTION stand_by(text)")
    second = Leadership(address, "cloud", "two", "", "second", "ab")
    await second._say()
    await second.close()


async def test_a_revoked_machine_never_leads(address: Address, leader: Leadership) -> None:
    await entered(address, leader.epoch, SECOND)
    second = Leadership(address, "cloud", "two", "", "second", "ab")
    await second._say()
    await entered(address, leader.epoch, structs.replace(SECOND, revoked=True))
    with pytest.raises(Revoked, match="this machine, second, was revoked"):
        await second._say()
    await leader.resign()
    with pytest.raises(Revoked):
        await second.acquire()
    assert second.epoch == 0
    await second.close()
    other = Leadership(address, "cloud", "three", "", "third")
    async with asyncio.timeout(60):
        assert await other.acquire() == leader.epoch + 1  # what it tried was undone
    await other.resign()


async def test_who_leads_already_can_be_revoked_only_by_a_successor(
    address: Address, leader: Leadership
) -> None:
    """Whose commit is the later one; so no epoch is a revoked machine's."""
    await leader.resign()
    second = Leadership(address, "cloud", "two", "", "second", "ab")
    assert await second.acquire() == leader.epoch + 1
    with pytest.raises(Deposed):
        await entered(address, leader.epoch, structs.replace(SECOND, revoked=True))
    await second.resign()


async def test_a_machines_own_login_is_as_good_and_can_be_taken_away(
    address: Address, postgres_server: Server
) -> None:
    for sql in (
        "CREATE ROLE gureum_second LOGIN",
        f"GRANT {USER} TO gureum_second",
        f"ALTER ROLE gureum_second SET role = {USER}",
    ):
        postgres_server.query("postgres", sql)
    own = Address.parse(address.url.replace(f"//{USER}@", "//gureum_second@"))
    second, one = Leadership(own, "cloud", "two"), Leadership(address, "cloud", "one")
    await entered(own, await second.acquire(), SECOND)  # makes the schema, as no other could
    postgres_server.query("postgres", "ALTER ROLE gureum_second NOLOGIN")
    ended = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = 'gureum_second'"
    assert int(postgres_server.query("postgres", ended)) > 0
    with pytest.raises(StoreError, match="check the user"):
        await second.hold()
    assert await one.acquire() == 2
    await entered(address, one.epoch, structs.replace(SECOND, revoked=True))
    await second.close()
    await one.resign()


async def test_with_logins_that_are_nobody_elses_a_revoked_machine_keeps_nothing(
    address: Address, postgres_server: Server
) -> None:
    """As docs/managers.md has it. What owns the tables could have its password changed by any of them, so it
    is none that logs in.
    """
    database = address.place.split()[1]
    names = ("gureum_one", "gureum_two")
    postgres_server.query("postgres", "CREATE ROLE owner_of_all NOLOGIN")
    for name in names:
        for sql in (
            f"CREATE ROLE {name} LOGIN",
            f"GRANT owner_of_all TO {name}",
            f"ALTER ROLE {name} SET role = owner_of_all",
        ):
            postgres_server.query("postgres", sql)
    postgres_server.query("postgres", f"ALTER DATABASE {database} OWNER TO owner_of_all")
    own, theirs = (Address.parse(address.url.replace(f"//{USER}@", f"//{name}@")) for name in names)
    one, two = Leadership(own, "cloud", "one"), Leadership(theirs, "cloud", "two")
    await entered(theirs, await two.acquire(), SECOND)
    connection = await connect(theirs)
    assert await connection.fetchval("SELECT current_user::text") == "owner_of_all"
    await connection.execute("ALTER ROLE owner_of_all PASSWORD 'x'")  # the reason for all this
    for sql in ("ALTER ROLE owner_of_all LOGIN", "ALTER ROLE gureum_one PASSWORD 'x'"):
        for role in ("owner_of_all", "gureum_two"):
            await connection.execute(f"SET role = {role}")
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(sql)
    postgres_server.query("postgres", "ALTER ROLE gureum_two NOLOGIN")
    ended = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = 'gureum_two'"
    assert int(postgres_server.query("postgres", ended)) > 1
    await discard(connection)
    with pytest.raises(StoreError, match="check the user"):
        await two.hold()
    for address_of_none in (theirs, Address.parse(address.url.replace(f"//{USER}@", "//owner_of_all@"))):
        with pytest.raises(StoreError, match="check the user"):
            await connect(address_of_none)
    assert await one.acquire() == 2
    await entered(own, one.epoch, structs.replace(SECOND, revoked=True))
    await two.close()
    await one.resign()


async def test_an_earlier_gureums_store_is_led_and_brought_up_to_date(
    address: Address, postgres_server: Server
) -> None:
    """Who stood by as the earlier one led has said nothing; what it led with knew nothing of revoked ones."""
    database = address.place.split()[1]
    steps = [migrations.step(number, "postgres") for number in (1, 2)]
    for sql in (queries.CREATE_SCHEMA_TABLE, "INSERT INTO gureum_schema VALUES (2)", *steps):
        postgres_server.query(database, sql)
    second = Leadership(address, "cloud", "two", "", "second", "ab")
    await second._say()
    await entered(address, await second.acquire(), SECOND)
    assert postgres_server.query(database, queries.SCHEMA_VERSION) == str(migrations.LATEST_POSTGRES)
    await second._say()
    signs = Signs(address)
    assert [sign.machine for sign in await signs.heard()] == ["second"]
    await signs.close()
    await second.resign()
