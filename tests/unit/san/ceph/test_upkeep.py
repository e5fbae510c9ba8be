from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from gureum.env import Env
from gureum.errors import PoolError, PoolUnavailable
from gureum.san.ceph import client, pool, process, upkeep
from gureum.san.ceph.process import Answer
from gureum.san.ceph.upkeep import Making, Upkeep
from gureum.san.settings import SanSettings

DEAD = "v1:192.0.2.1:0/1"


class Worker:
    """One that is killed when it is told to fill an image, and answers else."""

    asked: list[tuple[str, Any]]
    followed: asyncio.Event
    trashed: list[dict[str, str]]
    leads: bool

    def __init__(self, command: Sequence[str]) -> None:
        self.killed: list[str] = []

    async def call(self, op: str, _timeout_seconds: float, arguments: Any = None, *_: Any) -> Answer:
        self.asked.append((op, arguments))
        if op == "fill_image":
            self.killed.append(DEAD)
            raise PoolUnavailable("the storage worker ended with -9")
        if op == "purge" and arguments["name"] == "ami-bad":
            raise PoolError("ami-bad: it cannot be removed")
        if op == "purge":
            return Answer({"why": "", "children": []}, b"")
        if op == "trash" and self.trashed:
            found, self.trashed[:] = list(self.trashed), []
            return Answer(found, b"")
        if op == "follow":
            self.followed.set()
        if op == "lead":
            return Answer(self.leads, b"")
        if op == "flatten":
            until = len(self.asked) + 3
            while len(self.asked) < until:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        return Answer([] if op in ("survey", "trash") else True, b"")

    async def close(self) -> None:
        pass


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    monkeypatch.setattr(Worker, "asked", [], raising=False)
    monkeypatch.setattr(Worker, "followed", asyncio.Event(), raising=False)
    monkeypatch.setattr(Worker, "trashed", [], raising=False)
    monkeypatch.setattr(Worker, "leads", True, raising=False)
    monkeypatch.setattr(upkeep, "Worker", Worker)
    monkeypatch.setattr(upkeep, "SETTLE_SECONDS", 0.0)
    return Worker.asked


async def test_who_was_killed_at_any_work_is_shut_out_before_what_it_left_is_looked_for(
    asked: list[tuple[str, Any]],
) -> None:
    making = Making()
    with pytest.raises(PoolUnavailable):
        async with making.client(("importer",)) as client:
            await client.fill_image("new.1.2.ami-1", "disk", lambda _: None)
    assert list(making.killed) == [DEAD]
    asked.clear()
    work = Upkeep(SanSettings("ceph", Path("ceph.conf"), Path("keyring")), "c", "h", making)
    assert await work.leave("vol-1") == [DEAD]
    work.begin()
    await asyncio.wait_for(Worker.followed.wait(), 10)
    await work.close()
    assert [op for op, _ in asked[:3]] == ["lead", "fence", "survey"]
    assert asked[1] == ("fence", {"addresses": [DEAD]})
    assert not making.killed


async def test_what_cannot_be_removed_keeps_nothing_else_in_the_trash(asked: list[tuple[str, Any]]) -> None:
    Worker.trashed += [{"id": "1", "name": "ami-bad"}, {"id": "2", "name": "ami-2"}]
    work = Upkeep(SanSettings("ceph", Path("ceph.conf"), Path("keyring")), "c", "h", Making())
    work.begin()
    await asyncio.wait_for(Worker.followed.wait(), 10)
    await work.close()
    assert [arguments["name"] for op, arguments in asked if op == "purge"] == ["ami-bad", "ami-2"]


async def test_who_copies_for_long_leads_all_the_time(
    asked: list[tuple[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By that others know that it is no machine."""
    monkeypatch.setattr(upkeep, "LEAD_SECONDS", 0.04)
    work = made_upkeep(Making())
    work.shorten("vol-1")
    await asyncio.wait_for(Worker.followed.wait(), 10)
    await work.close()
    ops = [op for op, _ in asked]
    begun = ops.index("flatten")
    assert ops[begun + 1 : begun + 4] == ["lead"] * 3


async def test_who_does_not_lead_asks_again_when_the_other_may_have_ended(
    asked: list[tuple[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "TURN_SECONDS", 0.02)
    monkeypatch.setattr(upkeep, "LEAD_SECONDS", 0.1)
    monkeypatch.setattr(Worker, "leads", False)
    work, pauses = made_upkeep(Making()), list[float]()

    class Asked(list[tuple[str, Any]]):
        def append(self, each: tuple[str, Any]) -> None:
            pauses.append(work._pause)
            super().append(each)

    monkeypatch.setattr(Worker, "asked", asked := Asked())
    work.begin()
    await until(lambda: len(asked) >= 5)
    assert pauses[:5] == [0.02, 0.04, 0.08, 0.1, 0.1]
    monkeypatch.setattr(Worker, "leads", True)
    await asyncio.wait_for(Worker.followed.wait(), 10)
    await work.close()
    assert {op for op, _ in asked[:3]} == {"lead"}


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> list[process.Worker]:
    """Those that are made, each with a process."""
    made: list[process.Worker] = []

    def worker(command: Sequence[str]) -> process.Worker:
        made.append(process.Worker(command))
        return made[-1]

    monkeypatch.setattr(upkeep, "Worker", worker)
    monkeypatch.setattr(pool, "Worker", worker)
    monkeypatch.setattr(upkeep, "SETTLE_SECONDS", 0.0)
    return made


def pids() -> set[int]:
    """This process's children that were not waited for."""
    found = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return {int(each) for each in found}


async def until(asked: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not asked():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


@pytest.fixture
def slow(program: Callable[..., tuple[str, ...]], monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """The command of a worker whose end takes a moment."""
    command = program("main(); time.sleep(0.5)")
    monkeypatch.setattr(client, "command", lambda *_: command)
    return command


def made_upkeep(making: Making) -> Upkeep:
    return Upkeep(SanSettings("ceph", Path("ceph.conf"), Path("keyring")), "c", "h", making)


async def test_a_round_that_is_just_over_leaves_no_process(
    slow: tuple[str, ...], workers: list[process.Worker]
) -> None:
    """The end of all may come into the end of its worker."""
    before = pids()
    work = made_upkeep(Making())
    work.begin()
    await until(lambda: workers and workers[0].pid)
    assert pids() - before
    await until(lambda: not workers[0].pid)
    await work.close()
    assert pids() - before == set()


async def test_the_end_leaves_no_process_however_often_it_is_cancelled(
    slow: tuple[str, ...], workers: list[process.Worker]
) -> None:
    before = pids()
    work = made_upkeep(Making())
    work.begin()
    await until(lambda: workers and workers[0].address)
    closing = asyncio.ensure_future(work.close())
    for _ in range(3):
        await asyncio.sleep(0.05)
        closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert pids() - before == set()


async def test_nothing_is_begun_after_the_end(asked: list[tuple[str, Any]]) -> None:
    work = made_upkeep(Making())
    work.begin()
    await asyncio.wait_for(Worker.followed.wait(), 10)
    await work.close()
    asked.clear()
    work.kick()
    work.begin()
    await asyncio.sleep(0.05)
    assert asked == []


async def test_the_end_of_a_pool_is_that_of_all_its_workers(
    slow: tuple[str, ...], workers: list[process.Worker]
) -> None:
    """Also of those whose work nobody has cancelled, as a check."""
    before = pids()
    made = pool.RbdPool(Env(), SanSettings("ceph", Path("ceph.conf"), Path("keyring")), "c", "h")

    async def fill() -> None:
        async with made._making.client(slow) as client:
            await client.hello()
            await client._worker.call("hang", 60.0)

    filling = asyncio.ensure_future(fill())
    await until(lambda: len(workers) > 1 and workers[1].address)
    await made.close()
    assert pids() - before == set()
    for refused in (filling, made.check()):
        with pytest.raises(PoolUnavailable, match="is being ended"):
            await refused
