from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from gureum.resources import NetworkInterface
from gureum.store import finds as finds_module
from gureum.store.finds import Finds, Question
from gureum.store.search import Condition, Search
from gureum.store.sqlite import SqliteStore
from gureum.store.sqlite.view import View


def question(kind: str = "vpc", value: str = "x", values: tuple[str, ...] = ()) -> Question:
    return kind, (Condition("account", values or (value,)),), "", -1


def test_what_was_found_holds_until_its_kind_changes() -> None:
    finds = Finds()
    finds.put(question(), 5, ["a", "b"])
    assert finds.get(question(), 5) == ["a", "b"]
    assert finds.get(question(), 9) == ["a", "b"]
    finds.changed("subnet", 10)
    assert finds.get(question(), 10) == ["a", "b"]
    finds.changed("vpc", 11)
    assert finds.get(question(), 11) is None
    assert len(finds) == 0


def test_older_snapshots_find_it_too_if_nothing_changed_since_them() -> None:
    finds = Finds()
    finds.changed("vpc", 4)
    finds.put(question(), 9, ["a"])
    assert finds.get(question(), 4) == ["a"]
    assert finds.get(question(), 3) is None
    assert finds.get(question(), 9) == ["a"]


def test_what_an_overtaken_snapshot_found_is_not_kept() -> None:
    finds = Finds()
    finds.changed("vpc", 6)
    finds.put(question(), 5, ["a"])
    assert finds.get(question(), 6) is None
    finds.outdated(8)
    finds.put(question(), 7, ["a"])
    assert len(finds) == 0


def test_changes_of_others_may_be_anything() -> None:
    finds = Finds()
    finds.put(question(), 5, ["a"])
    finds.outdated(6)
    assert finds.get(question(), 6) is None
    finds.put(question(), 6, ["a"])
    assert finds.get(question(), 7) == ["a"]


def test_it_is_bounded() -> None:
    finds = Finds(ids_max=20)
    finds.put(question(value="x"), 1, ["a"] * 4)
    finds.put(question(value="y"), 1, ["a"] * 4)
    assert finds.get(question(value="x"), 1) is not None
    finds.put(question(value="z"), 1, ["a"] * 4)
    assert [finds.get(question(value=value), 1) is not None for value in "xyz"] == [True, False, True]
    finds.put(question(value="w"), 1, ["a"] * (finds_module.IDS_OF_ONE_MAX + 1))
    finds.put(question(values=tuple(map(str, range(finds_module.VALUES_MAX + 1)))), 1, [])
    assert len(finds) == 2


async def test_a_search_is_made_once_for_as_long_as_its_answer_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    right = View._ids

    async def ids(self: View, sought: Search, after: str, limit: int) -> list[str]:
        asked.append(sought.kind)
        return await right(self, sought, after, limit)

    monkeypatch.setattr(View, "_ids", ids)
    store = SqliteStore.open(tmp_path / "store.db", threaded=False)

    async def of(account: str) -> list[NetworkInterface]:
        async with store.read() as reader:
            return await reader.find(NetworkInterface, account=account)

    async def put(record: NetworkInterface) -> NetworkInterface:
        return await store.transact(lambda tx: tx.put(record))

    one = await put(
        NetworkInterface(id="e", account="a", vpc="v", subnet="s", zone="z", mac="m", private_ip="p")
    )
    assert [await of("a"), await of("a"), len(asked)] == [[one], [one], 1]
    one = await put(replace(one, mac="n"))
    assert [await of("a"), len(asked)] == [[one], 1]
    await put(replace(one, account="b"))
    assert [await of("a"), len(asked)] == [[], 2]
    await store.close()
