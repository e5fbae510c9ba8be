from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from gureum.errors import PoolError, PoolUnavailable
from gureum.san.ceph import upkeep
from gureum.san.ceph.process import Answer
from gureum.san.ceph.upkeep import Making, Upkeep
from gureum.san.settings import SanSettings

DEAD = "v1:192.0.2.1:0/1"


class Worker:
    """One that is killed when it is told to fill an image, and answers else."""

    asked: list[tuple[str, Any]]
    followed: asyncio.Event
    trashed: list[dict[str, str]]

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
        return Answer([] if op in ("survey", "trash") else True, b"")

    async def close(self) -> None:
        pass


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    monkeypatch.setattr(Worker, "asked", [], raising=False)
    monkeypatch.setattr(Worker, "followed", asyncio.Event(), raising=False)
    monkeypatch.setattr(Worker, "trashed", [], raising=False)
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
