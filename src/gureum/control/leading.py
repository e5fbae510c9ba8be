"""The store of a cloud, for the manager that leads.

On SQLite that is the only one. On PostgreSQL there may be several: all but one stand by, listen nowhere and
decide nothing.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gureum.cli.config import AUTHORITY_DIRECTORY, CloudConfig
from gureum.cli.processes import read_pid_file, send, wait_gone
from gureum.env import Env
from gureum.files import write_atomically
from gureum.store.base import Store
from gureum.store.sqlite import SqliteStore
from gureum.store.sqlite.reserve import RESERVE_BYTES
from gureum.transport import tls

if TYPE_CHECKING:
    from gureum.store.postgres.leadership import Leader

log = logging.getLogger(__name__)

END_SECONDS_MAX = 5.0


class Lead:
    """``store`` is to be written by this manager only, until ``hold`` raises. ``certain()``: whether it still
    led a moment ago, and no other can have begun.
    """

    def __init__(
        self,
        store: Store,
        holding: asyncio.Task[None] | None = None,
        certain: Callable[[], bool] = lambda: True,
    ) -> None:
        self.store = store
        self.certain = certain
        self._holding = holding

    async def hold(self) -> None:
        """Without end, but for StoreError: another manager leads, or may. Then this process has to end."""
        if self._holding is None:
            await asyncio.Event().wait()
        else:
            await asyncio.shield(self._holding)


@asynccontextmanager
async def leading(
    state_dir: Path, config: CloudConfig, role: str, stop: asyncio.Event
) -> AsyncIterator[Lead | None]:
    """Wait until this manager, the process ``role``, leads. None: it was told to stop. Raises GureumError."""
    if not config.store:
        store = SqliteStore.open(state_dir / "store.db", reserve_bytes=RESERVE_BYTES)
        try:
            await store.lead(Env().now())
            yield Lead(store)
        finally:
            await store.close()
        return
    # The driver takes a few megabytes, which a cloud with SQLite need not have.
    from gureum.control.standby import Mirror
    from gureum.store.postgres import Address, PostgresStore
    from gureum.store.postgres.leadership import Leadership

    address = Address.parse(config.store)
    # Machines may have one name, as long as nobody has given them others.
    name = f"{role} of {state_dir} at {socket.gethostname()}{config.agents_url and f' ({config.agents_url})'}"
    machine = key = ""
    if config.agents:
        machine = config.machine
        key = tls.key_in(state_dir / AUTHORITY_DIRECTORY / tls.MANAGER_CERTIFICATE)
    leadership = Leadership(address, config.identity, name, config.far_endpoint, machine, key)

    keeping: list[asyncio.Task[None]] = []

    async def stand_by(leader: Leader) -> None:
        log.info("%s leads, in epoch %d; this manager stands by", leader.name, leader.epoch)
        say_ready(state_dir / "run", role, config.endpoint, leads=False)
        if config.agents and not keeping and role == config.manager_roles[0]:
            keeping.append(asyncio.create_task(Mirror(state_dir, config.machine).keep(address)))

    try:
        try:
            epoch = await unless(stop, leadership.acquire(stand_by))
        finally:
            for task in keeping:
                task.cancel()
            await asyncio.gather(*keeping, return_exceptions=True)
        if epoch is None:
            yield None
            return
        # From now on: what a manager does before it answers takes its time.
        holding = asyncio.create_task(leadership.hold())
        try:
            await end_others(state_dir / "run", role)
            postgres = await PostgresStore.open(address, fence=epoch)
            try:
                yield Lead(postgres, holding, leadership.certain)
            finally:
                await postgres.close()
        finally:
            holding.cancel()
            await asyncio.gather(holding, return_exceptions=True)
    finally:
        await leadership.resign()


async def unless(stop: asyncio.Event, work: Coroutine[Any, Any, int]) -> int | None:
    """What the work results in; None if it was broken off because of ``stop``."""
    working, stopped = asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait([working, stopped], return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        working.cancel()
        with suppress(asyncio.CancelledError):
            return await working
        return None
    finally:
        stopped.cancel()


def say_ready(run: Path, role: str, endpoint: str, *, leads: bool) -> None:
    said = {"pid": os.getpid(), "endpoint": endpoint, "leads": leads}
    write_atomically(run / f"{role}.ready", f"{json.dumps(said)}\n".encode(), durable=False)


async def end_others(run: Path, role: str) -> None:
    """A manager of this machine that led, and only stands still, has the ports and the agents' links."""
    for file in run.glob("manager*.ready"):
        other = file.stem
        identity = read_pid_file(run / f"{other}.pid")
        if other == role or identity is None:
            continue
        with suppress(OSError, ValueError):
            said = json.loads(file.read_text())
            if said.get("leads") and said.get("pid") == identity.pid:
                log.warning("%s, process %d, led and stands still: it is ended", other, identity.pid)
                send(identity, signal.SIGKILL)
                await asyncio.to_thread(wait_gone, identity, END_SECONDS_MAX)
