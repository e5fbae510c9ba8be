from __future__ import annotations

import asyncio
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
    """What machines say, in turn."""

    def __init__(self, *said: list[Sign] | StoreError) -> None:
        self.said = list(said)
        self.closed = False

    async def heard(self) -> list[Sign]:
        if not self.said:
            raise StoreError("enough")
        said = self.said.pop(0)
        if isinstance(said, StoreError):
            raise said
        return said

    async def close(self) -> None:
        self.closed = True


async def test_what_stands_by_is_heard_and_its_key_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machines, "LOOK_SECONDS", 0.01)
    store = SqliteStore.open(":memory:", threaded=False)
    known = [machine("first", "a"), machine("second"), machine("third", "c", revoked=True)]

    async def enter(tx: Any) -> None:
        for each in known:
            await tx.put(each)

    await store.transact(enter)
    signs = [Sign("second", 1.5, "b"), Sign("third", 1.0, "x"), Sign("gone", 9.0, "y")]
    heard = Heard(StoreError("away"), signs, signs)
    seen: dict[str, float] = {}
    env = Env()
    work = asyncio.create_task(Standing(env, store, heard, seen).run())  # type: ignore[arg-type]
    while heard.said:  # noqa: ASYNC110 - there is nothing to wait for
        await asyncio.sleep(0.01)
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)
    assert heard.closed
    assert env.now() - seen["second"] == pytest.approx(1.5, abs=1)
    async with store.read() as reader:
        found = {each.id: each for each in await reader.find(ManagerMachine)}
    # Who was revoked, and who was removed, do not come back by it.
    assert {id: each.key for id, each in found.items()} == {"first": "a", "second": "b", "third": "c"}
    await store.close()
