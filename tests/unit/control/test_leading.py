import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from gureum.cli.config import CloudConfig
from gureum.cli.processes import identify, write_pid_file
from gureum.control.leading import end_others, leading, say_ready, unless
from gureum.errors import StoreError
from gureum.resources import Vpc
from gureum.store.base import Transaction
from gureum.store.postgres import Address
from gureum.store.postgres.connection import Deposed
from gureum.store.sqlite import SqliteStore

CONFIG = CloudConfig(name="c", index=0, account_id="1" * 12, access_key_id="a", secret_access_key="s")


async def test_on_sqlite_the_only_manager_leads(tmp_path: Path) -> None:
    async with leading(tmp_path, CONFIG, "manager", asyncio.Event()) as lead:
        assert lead is not None
        assert isinstance(lead.store, SqliteStore)
        holding = asyncio.create_task(lead.hold())
        await asyncio.sleep(0)
        assert not holding.done()
        holding.cancel()
    SqliteStore.open(tmp_path / "store.db").revision  # noqa: B018 - it is free again


async def test_revisions_go_on_above_those_from_before_a_backup_was_put_back(tmp_path: Path) -> None:
    """Hosts pass over specs, and the storage skips evictions, that are older than what they know."""
    async with leading(tmp_path, CONFIG, "manager", asyncio.Event()) as lead:
        assert lead is not None
        assert isinstance(lead.store, SqliteStore)
        await lead.store.backup(tmp_path / "backup.db")
        await lead.store.transact(ensure)
        forgotten = lead.store.revision
    os.replace(tmp_path / "backup.db", tmp_path / "store.db")
    for each in tmp_path.glob("store.db-*"):
        each.unlink()
    async with leading(tmp_path, CONFIG, "manager", asyncio.Event()) as lead:
        assert lead is not None
        assert lead.store.revision > forgotten
        async with lead.store.read() as reader:
            assert reader.revision == lead.store.revision, "what the first spec says"


async def ensure(tx: Transaction) -> None:
    await tx.put(Vpc(id="vpc-1", account="a", cidr="c", network_id=1))


async def test_what_is_broken_off() -> None:
    stop = asyncio.Event()

    async def at_once() -> int:
        return 3

    assert await unless(stop, at_once()) == 3
    stop.set()

    async def never() -> int:
        await asyncio.Event().wait()
        return 1

    assert await unless(stop, never()) is None


@pytest.mark.postgres
async def test_one_leads_and_one_stands_by(postgres_url: Callable[[Path], str], tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    config = replace(CONFIG, store=Address.parse(postgres_url(tmp_path)).url, managers=2)
    stop = asyncio.Event()
    ready = tmp_path / "run/manager-1.ready"
    led = asyncio.Event()

    async def other() -> None:
        async with leading(tmp_path, config, "manager-1", asyncio.Event()) as lead:
            assert lead is not None
            led.set()

    async with asyncio.timeout(30):
        async with leading(tmp_path, config, "manager", stop) as lead:
            assert lead is not None
            holding = asyncio.create_task(lead.hold())
            waiting = asyncio.create_task(other())
            while not ready.exists():  # noqa: ASYNC110 - it comes with the leader's next sign
                await asyncio.sleep(0.05)
            assert json.loads(ready.read_text())["leads"] is False
            assert not led.is_set()
            holding.cancel()
        await waiting  # the first resigned
    assert led.is_set()


@pytest.mark.postgres
async def test_one_that_stands_by_can_be_stopped(postgres_url: Callable[[Path], str], tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    config = replace(CONFIG, store=Address.parse(postgres_url(tmp_path)).url)
    stop = asyncio.Event()
    async with asyncio.timeout(30), leading(tmp_path, config, "manager", asyncio.Event()) as first:
        assert first is not None
        stop.set()
        async with leading(tmp_path, config, "manager-1", stop) as second:
            assert second is None
        await first.store.transact(lambda tx: asyncio.sleep(0))


@pytest.mark.postgres
async def test_of_one_name_the_later_leads(postgres_url: Callable[[Path], str], tmp_path: Path) -> None:
    """A supervisor starts a manager anew when the former has ended, which it may not have said."""
    config = replace(CONFIG, store=Address.parse(postgres_url(tmp_path)).url)
    other = replace(config, name="other")
    async with asyncio.timeout(30), leading(tmp_path, config, "manager", asyncio.Event()) as first:
        assert first is not None
        async with leading(tmp_path, config, "manager", asyncio.Event()) as second:
            assert second is not None
            with pytest.raises(Deposed):
                await first.hold()
        with pytest.raises(StoreError, match="the store of another cloud, c of account"):
            async with leading(tmp_path, other, "manager", asyncio.Event()):
                pass


def test_a_leader_that_stands_still_is_ended(tmp_path: Path) -> None:
    """And nobody else is."""
    sleeper = [sys.executable, "-c", "import time; time.sleep(60)"]
    processes = {role: subprocess.Popen(sleeper) for role in ("manager", "manager-1", "manager-2")}
    try:
        for role, process in processes.items():
            identity = identify(process.pid)
            assert identity is not None
            write_pid_file(tmp_path / f"{role}.pid", identity)
            said = {"pid": process.pid, "leads": role != "manager-2"}
            (tmp_path / f"{role}.ready").write_text(json.dumps(said))
        os.kill(processes["manager"].pid, signal.SIGSTOP)
        say_ready(tmp_path, "manager-9", "http://x", leads=True)  # of a process that is not supervised
        asyncio.run(end_others(tmp_path, "manager-1"))
        assert processes["manager"].wait(60) == -signal.SIGKILL
        assert processes["manager-1"].poll() is None
        assert processes["manager-2"].poll() is None
    finally:
        for process in processes.values():
            process.kill()
            process.wait(60)
