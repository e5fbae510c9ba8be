"""The store of a cloud that does not run: else it is its manager's."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import msgspec

from gureum.cli.config import CloudConfig
from gureum.cli.output import USAGE, CliError
from gureum.errors import ConfigError, StoreError
from gureum.store.base import Store, Transaction
from gureum.store.sqlite import SqliteStore

T = TypeVar("T")

LEAD_SECONDS_MAX = 10.0


def url_of(path: Path) -> str:
    """The URL of the database that holds the state instead of STATE/store.db; "" if that does."""
    return CloudConfig.load(path.parent).store if (path.parent / "config.json").exists() else ""


def exists(path: Path) -> bool:
    """Whether a cloud has a store: ``path`` is its STATE/store.db, or where that would be."""
    return path.exists() or bool(url_of(path))


def transact(path: Path, work: Callable[[Transaction], Awaitable[T]]) -> T:
    """One transaction. Blocks. Raises what ``work`` raises, StoreError."""

    async def run(store: Store) -> T:
        try:
            return await store.transact(work)
        finally:
            await store.close()

    async def run_in_file() -> T:
        return await run(SqliteStore.open(path))

    async def run_in_database() -> T:
        from gureum.store.postgres import Address, PostgresStore
        from gureum.store.postgres.leadership import Leadership

        config = CloudConfig.load(path.parent)
        address = Address.parse(config.store)
        name, machine = f"a command of {path.parent}", config.machine if config.agents else ""
        leadership = Leadership(address, config.identity, name, machine=machine)
        try:
            async with asyncio.timeout(LEAD_SECONDS_MAX):
                epoch = await leadership.acquire()
            return await run(await PostgresStore.open(address, fence=epoch))
        except TimeoutError as error:
            raise StoreError(
                f"{address.place}: a manager of this cloud runs, or it does not answer"
            ) from error
        finally:
            await leadership.resign()

    return asyncio.run(run_in_database() if url_of(path) else run_in_file())


def setting(url: str | None, before: CloudConfig | None) -> str | None:
    """What ``up --store URL`` sets; None: what it was. Raises CliError for what cannot be: a cloud that there
    is already can have another way to its database, or another login, and no other database.
    """
    if url is None:
        return None
    from gureum.store.postgres.address import Address
    from gureum.store.postgres.examine import examine

    try:
        address = Address.parse(url)
    except ConfigError as error:
        raise CliError(str(error), exit_code=USAGE) from error
    if before is not None and before.store and Address.parse(before.store) == address:
        return before.store
    if before is not None and not before.store:
        raise _moves("store.db in its directory")
    try:
        server = asyncio.run(examine(address))
    except StoreError as error:
        raise CliError(str(error)) from error
    if before is not None and server.leader.cloud != before.identity:
        raise _moves(Address.parse(before.store).place, f", and {address.place} is not its store")
    return address.url


def _moves(where: str, other: str = ", and it does not move") -> CliError:
    return CliError(
        f"this cloud keeps its state in {where}{other}",
        "gureum up without --store; or a new cloud: --state-dir",
        exit_code=USAGE,
    )


class Database(msgspec.Struct, frozen=True):
    """``place``: where it is. ``leader``: who leads, "" if nobody, and the ``endpoint`` of its API.
    ``schema``: its version, 0 if not known. ``alone``: of several servers one may commit what no other has.
    ``trouble``: why that is not known.
    """

    place: str
    leader: str = ""
    endpoint: str = ""
    epoch: int = 0
    version: str = ""
    dangers: tuple[str, ...] = ()
    schema: int = 0
    alone: bool = False
    trouble: str = ""


def look(config: CloudConfig) -> Database | None:
    """None: the cloud's state is in a file of its own. Blocks for seconds if the server does not answer."""
    if not config.store:
        return None
    from gureum.store.postgres.address import Address
    from gureum.store.postgres.examine import examine

    address = Address.parse(config.store)
    try:
        server = asyncio.run(examine(address))
    except StoreError as error:
        return Database(address.place, trouble=str(error))
    leader = server.leader
    return Database(
        address.place,
        leader.name,
        leader.endpoint,
        leader.epoch,
        server.version,
        server.dangers,
        server.schema,
        alone=len(address.servers) > 1 and not server.replicated,
    )
