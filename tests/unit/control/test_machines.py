from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gureum.control import machines
from gureum.control.machines import Standing, accepted, addresses
from gureum.env import Env
from gureum.errors import StoreError
from gureum.resources import ManagerMachine
from gureum.store.postgres.signs import Sign
from gureum.store.sqlite import SqliteStore


def machine(id: str, key: str = "", *, revoked: bool = False) -> ManagerMachine:
    return ManagerMachine(id=id, agents=f"{id}:4567", endpoint=f"https://{id}", key=key, revoked=revoked)


@pytest.mark.parametrize(
    ("known", "keys"),
    [
        ([machine("one", "a")], ()),  # nobody to tell it from
        ([machine("one", "a"), machine("two", "b")], ("a", "b")),
        ([machine("one", "a"), machine("two")], ()),  # its gureum is older
        ([machine("one", "a"), machine("two"), machine("three", "c", revoked=True)], ("a",)),
        ([machine("one", "a"), machine("two", "b", revoked=True)], ("a",)),
    ],
)
def test_whose_keys_are_accepted(known: list[ManagerMachine], keys: tuple[str, ...]) -> None:
    assert accepted(known) == keys
    assert addresses(known) == tuple(each.agents for each in known if not each.revoked)


class Heard:
    """What machines say, as rows that stay."""

    def __init__(self, *signs: Sign) -> None:
        self.rows = list(signs)
        self.troubles = 0
        self.looks = 0
        self.closed = False

    async def heard(self) -> list[Sign]:
        self.looks += 1
        if self.troubles:
            self.troubles -= 1
            raise StoreError("away")
        return list(self.rows)

    async def forget(self, sign: Sign) -> None:
        self.rows.remove(sign)

    async def close(self) -> None:
        self.closed = True


class Leader:
    """Of ``first``, and what it has heard."""

    def __init__(self, *known: ManagerMachine) -> None:
        self.store = SqliteStore.open(":memory:", threaded=False)
        self.known = known
        self.heard = Heard()
        self.seen: dict[str, float] = {}
        self.env = Env()
        self.standing = Standing(self.env, self.store, self.heard, "first", self.seen)  # type: ignore[arg-type]

    async def enter(self) -> None:
        async def work(tx: Any) -> None:
            for each in self.known:
                await tx.put(each)

        await self.store.transact(work)

    async def look(self, *signs: Sign) -> dict[str, str]:
        """The key of each machine then."""
        self.heard.rows += signs
        await self.standing.look()
        return await self.keys()

    async def keys(self) -> dict[str, str]:
        async with self.store.read() as reader:
            return {each.id: each.key for each in await reader.find(ManagerMachine)}


@pytest.fixture
async def leader() -> AsyncIterator[Leader]:
    made = Leader(
        machine("first", "a"), machine("second"), machine("third", "c", revoked=True), machine("fourth", "d")
    )
    await made.enter()
    yield made
    await made.store.close()


async def test_what_stands_by_is_heard_and_its_key_noted(
    leader: Leader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machines, "LOOK_SECONDS", 0.01)
    leader.heard.rows = [Sign("second", 1.5, "b"), Sign("fourth", 30.0, "d")]
    leader.heard.troubles = 1
    work = asyncio.create_task(leader.standing.run())
    while leader.heard.looks < 4:  # noqa: ASYNC110 - there is nothing to wait for
        await asyncio.sleep(0.01)
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)
    assert leader.heard.closed
    assert leader.env.now() - leader.seen["second"] == pytest.approx(1.5, abs=1)
    assert leader.env.now() - leader.seen["fourth"] == pytest.approx(30.0, abs=1)
    assert await leader.keys() == {"first": "a", "second": "b", "third": "c", "fourth": "d"}
    assert len(leader.heard.rows) == 2


async def test_a_key_that_is_known_stays(leader: Leader) -> None:
    """It joined with another since, or a machine that was revoked has written the row."""
    assert (await leader.look(Sign("fourth", 0.1, "c")))["fourth"] == "d"
    assert leader.heard.rows == []
    assert "fourth" not in leader.seen  # nor was it that machine that was heard
    assert (await leader.look(Sign("fourth", 0.1, "")))["fourth"] == "d"


async def test_no_sign_changes_who_leads(leader: Leader) -> None:
    before = await leader.keys()
    assert await leader.look(Sign("first", 0.1, "c")) == before
    assert leader.seen == {}


async def test_what_is_known_of_no_key_is_taken_only_fresh_and_from_nobody_else(leader: Leader) -> None:
    for sign in (Sign("second", 11.0, "b"), Sign("second", 0.1, "c"), Sign("second", 0.1, "")):
        leader.heard.rows.clear()
        assert (await leader.look(sign))["second"] == ""
    leader.heard.rows.clear()
    assert (await leader.look(Sign("second", 0.1, "b")))["second"] == "b"


async def test_who_was_revoked_or_removed_leaves_no_row(leader: Leader) -> None:
    """Nor comes back by it."""
    before = await leader.keys()
    assert await leader.look(Sign("third", 1.0, "c"), Sign("gone", 9.0, "y")) == before
    assert leader.heard.rows == []
    assert leader.seen == {}
