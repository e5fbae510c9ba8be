"""What every store does, whatever is behind it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from msgspec.structs import replace

from gureum.errors import ApiError, Conflict, IllegalTransition, StoreError
from gureum.resources import (
    Attachment,
    AttachmentState,
    Instance,
    InstanceState,
    NetworkInterface,
    Record,
    Volume,
    VolumeState,
    Vpc,
)
from gureum.store.base import Change, Store, Transaction

NOON = datetime(2026, 5, 1, 12, 0, 0, 123456, UTC)


def vpc(id: str, **fields: Any) -> Vpc:
    return Vpc(**{"id": id, "account": "a", "cidr": "10.0.0.0/16", "network_id": 1, **fields})


def volume(id: str, **fields: Any) -> Volume:
    return Volume(**{"id": id, "account": "a", "size_bytes": 1 << 30, "zone": "z", "created": NOON, **fields})


def attached(instance: str) -> Attachment:
    return Attachment(instance=instance, device="/dev/xvdf", state=AttachmentState.attaching, attached=NOON)


def interface(id: str, **fields: Any) -> NetworkInterface:
    return NetworkInterface(
        **{
            "id": id,
            "vpc": "vpc-1",
            "subnet": "subnet-1",
            "zone": "z",
            "mac": "02:",
            "private_ip": "",
            **fields,
        }
    )


async def put(store: Store, *records: Record) -> list[Any]:
    async def work(tx: Transaction) -> list[Any]:
        return [await tx.put(record) for record in records]

    return await store.transact(work)


async def delete(store: Store, *records: Record) -> None:
    async def work(tx: Transaction) -> None:
        for record in records:
            await tx.delete(record)

    await store.transact(work)


async def get(store: Store, kind: type[Any], id: str) -> Any:
    async with store.read() as reader:
        return await reader.get(kind, id)


async def find(store: Store, kind: type[Any], **arguments: Any) -> list[str]:
    async with store.read() as reader:
        records = await reader.find(kind, **arguments)
        assert await reader.count(
            kind, **{name: value for name, value in arguments.items() if name not in ("after", "limit")}
        ) >= len(records)
        return [record.id for record in records]


class Crash(BaseException):
    """As a simulated crash: not an Exception."""


class TestPut:
    async def test_a_record_comes_back_as_it_was_put(self, store: Store) -> None:
        record = Instance(
            id="i-1",
            account="123456789012",
            tags={"Name": "snow ☃", "": "\x00"},
            reservation="r-1",
            type="t3.nano",
            image="ami-1",
            zone="z",
            user_data=bytes(range(256)) * 64,
            launched=NOON,
            vpc="vpc-1",
            subnet="subnet-1",
            interfaces=("eni-1", "eni-2"),
        )
        (stored,) = await put(store, record)
        assert stored == replace(record, version=store.revision)
        assert await get(store, Instance, "i-1") == stored

    async def test_the_version_is_the_transactions_revision(self, store: Store) -> None:
        first, other = await put(store, vpc("v"), vpc("w"))
        assert first.version == other.version == store.revision
        (second,) = await put(store, replace(first, default=True))
        assert second == replace(first, default=True, version=store.revision)
        assert second.version > first.version
        assert (await get(store, Vpc, "v")) == second
        assert (await get(store, Vpc, "w")) == other

    async def test_an_id_that_came_back_is_another_record(self, store: Store) -> None:
        (first,) = await put(store, vpc("v"))
        await delete(store, first)
        await put(store, vpc("v"))
        with pytest.raises(Conflict):
            await put(store, first)

    async def test_a_stale_version_conflicts(self, store: Store) -> None:
        (first,) = await put(store, vpc("v"))
        await put(store, replace(first, cidr="b"))
        with pytest.raises(Conflict, match=r"vpc v: version \d+ was expected, version \d+ is stored"):
            await put(store, replace(first, cidr="c"))
        assert (await get(store, Vpc, "v")).cidr == "b"

    async def test_inserting_an_existing_id_conflicts(self, store: Store) -> None:
        await put(store, vpc("v"))
        with pytest.raises(Conflict):
            await put(store, vpc("v"))

    async def test_updating_what_is_gone_conflicts(self, store: Store) -> None:
        (stored,) = await put(store, vpc("v"))
        await delete(store, stored)
        with pytest.raises(Conflict, match="it is gone"):
            await put(store, stored)

    async def test_kinds_do_not_share_ids(self, store: Store) -> None:
        await put(store, vpc("x"), volume("x"))
        assert isinstance(await get(store, Vpc, "x"), Vpc)
        assert isinstance(await get(store, Volume, "x"), Volume)

    async def test_a_record_cannot_be_changed_through_what_was_put(self, store: Store) -> None:
        tags = {"a": "1"}
        (stored,) = await put(store, vpc("v", tags=tags))
        tags["a"] = "2"
        assert stored.tags == {"a": "1"}
        assert (await get(store, Vpc, "v")).tags == {"a": "1"}

    @pytest.mark.parametrize(
        "bad",
        [
            vpc("v", network_id="one"),
            vpc("v", cidr="\ud800"),
            vpc("v", tags={"a": object()}),
            vpc(""),
            vpc("\ud800"),
            vpc("v\0"),
            vpc("v", account="a\0"),
        ],
    )
    async def test_what_could_not_be_read_back_is_refused(self, store: Store, bad: Vpc) -> None:
        with pytest.raises(StoreError):
            await put(store, bad)
        assert await find(store, Vpc) == []

    async def test_illegal_transitions_are_refused_at_once(self, store: Store) -> None:
        (stored,) = await put(store, volume("v", state=VolumeState.deleting))
        runs = 0

        async def work(tx: Transaction) -> None:
            nonlocal runs
            runs += 1
            await tx.put(replace(stored, state=VolumeState.available))

        with pytest.raises(IllegalTransition, match="volume v: deleting -> available is not allowed"):
            await store.transact(work)
        assert runs == 1
        assert (await get(store, Volume, "v")).state is VolumeState.deleting


class TestDelete:
    async def test_a_deleted_record_is_gone_from_everywhere(self, store: Store) -> None:
        (stored,) = await put(store, vpc("v"))
        await delete(store, stored)
        assert await get(store, Vpc, "v") is None
        assert await find(store, Vpc) == []
        assert await find(store, Vpc, account="a") == []

    async def test_a_stale_version_conflicts(self, store: Store) -> None:
        (stored,) = await put(store, vpc("v"))
        await put(store, stored)
        with pytest.raises(Conflict):
            await delete(store, stored)

    async def test_deleting_what_is_gone_conflicts(self, store: Store) -> None:
        with pytest.raises(Conflict):
            await delete(store, vpc("v"))

    async def test_an_id_can_come_back(self, store: Store) -> None:
        (stored,) = await put(store, vpc("v"))
        await delete(store, stored)
        await put(store, vpc("v", cidr="new"))
        assert (await get(store, Vpc, "v")).cidr == "new"
        assert await find(store, Vpc, account="a") == ["v"]


class TestTransaction:
    async def test_it_reads_its_own_writes(self, store: Store) -> None:
        old, gone = await put(store, vpc("b", account="x"), vpc("c", account="x"))

        async def work(tx: Transaction) -> None:
            await tx.put(vpc("a", account="x"))
            await tx.put(replace(old, account="y"))
            await tx.delete(gone)
            await tx.put(vpc("d", account="x"))
            assert await tx.get(Vpc, "c") is None
            assert [r.id for r in await tx.get_many(Vpc, ["d", "c", "b", "a", "nothing"])] == ["a", "b", "d"]
            assert [r.id for r in await tx.find(Vpc)] == ["a", "b", "d"]
            assert [r.id for r in await tx.find(Vpc, account="x")] == ["a", "d"]
            assert [r.id for r in await tx.find(Vpc, account="x", limit=1)] == ["a"]
            assert [r.id for r in await tx.find(Vpc, account="x", after="a")] == ["d"]
            assert [r.id for r in await tx.find(Vpc, limit=2)] == ["a", "b"]
            assert [r.id for r in await tx.find(Vpc, after="b", limit=2)] == ["d"]
            assert await tx.count(Vpc) == 3
            assert await tx.count(Vpc, account="x") == 2
            assert await tx.count(Vpc, account=["x", "y"]) == 3

        await store.transact(work)
        assert await find(store, Vpc, account="x") == ["a", "d"]

    async def test_a_full_page_is_found_behind_its_own_deletions(self, store: Store) -> None:
        stored = await put(store, *(vpc(f"v{number}") for number in range(9)))

        async def work(tx: Transaction) -> list[str]:
            for record in stored[:4]:
                await tx.delete(record)
            return [r.id for r in await tx.find(Vpc, account="a", limit=3)]

        assert await store.transact(work) == ["v4", "v5", "v6"]

    async def test_several_writes_of_one_record(self, store: Store) -> None:
        (one, two) = await put(store, vpc("v1"), vpc("v2"))

        async def work(tx: Transaction) -> None:
            await tx.put(replace(await tx.put(replace(one, account="b")), account="c"))
            await tx.delete(two)
            await tx.put(vpc("v2", account="c"))
            await tx.delete(await tx.put(vpc("v3")))

        await store.transact(work)
        assert await find(store, Vpc) == ["v1", "v2"]
        assert await find(store, Vpc, account="c") == ["v1", "v2"]
        assert await find(store, Vpc, account=["a", "b"]) == []
        assert {(await get(store, Vpc, id)).version for id in ("v1", "v2")} == {store.revision}

    @pytest.mark.parametrize(
        "error", [ValueError("no"), ApiError("Bad", "no"), asyncio.CancelledError(), Crash()]
    )
    async def test_an_error_rolls_back_and_is_passed_on(self, store: Store, error: BaseException) -> None:
        (stored,) = await put(store, vpc("v"))
        revision = store.revision

        async def work(tx: Transaction) -> None:
            await tx.put(replace(stored, cidr="other"))
            await tx.put(vpc("w"))
            await tx.get(Vpc, "v")
            raise error

        with pytest.raises(type(error)) as caught:
            await store.transact(work)
        assert caught.value is error
        assert await find(store, Vpc) == ["v"]
        assert await get(store, Vpc, "v") == stored
        assert store.revision == revision
        await put(store, vpc("w"))

    async def test_it_is_run_again_on_conflict(self, store: Store) -> None:
        (stale,) = await put(store, vpc("v"))
        await put(store, stale)
        runs = 0

        async def work(tx: Transaction) -> str:
            nonlocal runs
            runs += 1
            await tx.put(vpc("w"))
            await tx.put(stale if runs < 3 else replace((await tx.get(Vpc, "v")) or stale, cidr="new"))
            return "done"

        assert await store.transact(work) == "done"
        assert runs == 3
        assert (await get(store, Vpc, "v")).cidr == "new"

    async def test_it_gives_up_when_it_conflicts_again_and_again(self, store: Store) -> None:
        runs = 0

        async def work(tx: Transaction) -> None:
            nonlocal runs
            runs += 1
            raise Conflict("never")

        with pytest.raises(Conflict, match="never"):
            await store.transact(work)
        assert runs == 10

    async def test_writers_take_turns_in_order(self, store: Store) -> None:
        await put(store, vpc("v", network_id=0))
        order = []

        async def add(number: int) -> None:
            async def work(tx: Transaction) -> None:
                record = await tx.get(Vpc, "v")
                assert record is not None
                await asyncio.sleep(0)
                await tx.put(replace(record, network_id=record.network_id + 1))
                order.append(number)

            await store.transact(work)

        await asyncio.gather(*map(add, range(40)))
        assert (await get(store, Vpc, "v")).network_id == 40
        assert order == list(range(40))

    async def test_nobody_sees_it_before_its_commit(self, store: Store) -> None:
        (stored,) = await put(store, vpc("v"))

        async def work(tx: Transaction) -> None:
            await tx.put(replace(stored, cidr="new"))
            await tx.put(vpc("w"))
            assert await get(store, Vpc, "v") == stored
            assert await find(store, Vpc) == ["v"]
            assert len(await store.changes(0)) == 1

        await store.transact(work)
        assert await find(store, Vpc) == ["v", "w"]

    async def test_a_cancelled_waiter_leaves_the_queue(self, store: Store) -> None:
        proceed = asyncio.Event()

        async def slow(tx: Transaction) -> None:
            await tx.put(vpc("slow"))
            await proceed.wait()

        async def quick(tx: Transaction) -> None:
            await tx.put(vpc("quick"))

        first = asyncio.create_task(store.transact(slow))
        await asyncio.sleep(0)
        waiting = asyncio.create_task(store.transact(quick))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        proceed.set()
        await first
        assert await find(store, Vpc) == ["slow"]
        await store.transact(quick)

    async def test_a_transaction_inside_a_transaction_is_refused(self, store: Store) -> None:
        async def work(tx: Transaction) -> None:
            await put(store, vpc("v"))

        with pytest.raises(StoreError, match="inside"):
            await store.transact(work)
        await put(store, vpc("v"))

    async def test_it_is_of_no_use_when_it_is_over(self, store: Store) -> None:
        async def work(tx: Transaction) -> Transaction:
            return tx

        tx = await store.transact(work)
        uses: list[Awaitable[object]] = [
            tx.get(Vpc, "v"),
            tx.find(Vpc),
            tx.put(vpc("v")),
            tx.delete(vpc("v")),
        ]
        for use in uses:
            with pytest.raises(StoreError, match="over"):
                await use

    async def test_one_that_only_reads_changes_nothing(self, store: Store) -> None:
        await put(store, vpc("v"))
        revision = store.revision

        async def work(tx: Transaction) -> Vpc | None:
            return await tx.get(Vpc, "v")

        assert await store.transact(work) == await get(store, Vpc, "v")
        assert store.revision == revision


class TestRead:
    async def test_a_snapshot_does_not_move(self, store: Store) -> None:
        kept, changed, deleted = await put(store, vpc("b"), vpc("c"), vpc("d"))
        async with store.read() as reader:
            before = reader.revision
            await put(store, replace(changed, account="z"), vpc("a"))
            await delete(store, deleted)
            await put(store, vpc("d", account="z"))
            assert reader.revision == before < store.revision
            assert [r.id for r in await reader.find(Vpc)] == ["b", "c", "d"]
            assert await reader.find(Vpc, account="a") == [kept, changed, deleted]
            assert await reader.find(Vpc, account="z") == []
            assert await reader.find(Vpc, account="a", limit=2) == [kept, changed]
            assert await reader.get_many(Vpc, ["a", "c", "d"]) == [changed, deleted]
            assert await reader.get(Vpc, "c") == changed
            assert await reader.get(Vpc, "a") is None
            assert await reader.count(Vpc) == 3
            assert await reader.count(Vpc, account="a") == 3
        async with store.read() as reader:
            assert reader.revision == store.revision
            assert [r.id for r in await reader.find(Vpc, account="z")] == ["c", "d"]
            assert (await reader.get(Vpc, "c")) != changed

    async def test_old_snapshots_do_not_spoil_new_ones(self, store: Store) -> None:
        """What an old snapshot reads must not be remembered as the latest."""
        (first,) = await put(store, vpc("v"))
        async with store.read() as old:
            (second,) = await put(store, replace(first, cidr="new"))
            await delete(store, second)
            assert await old.get(Vpc, "v") == first
            assert await old.find(Vpc) == [first]
            assert await get(store, Vpc, "v") is None
            await put(store, vpc("v", cidr="newer"))
            assert await old.get(Vpc, "v") == first
        assert (await get(store, Vpc, "v")).cidr == "newer"

    async def test_several_snapshots_at_once(self, store: Store) -> None:
        (record,) = await put(store, vpc("v", network_id=0))
        async with store.read() as zero:
            (record,) = await put(store, replace(record, network_id=1))
            async with store.read() as one:
                await put(store, replace(record, network_id=2))
                async with store.read() as two:
                    seen = [await reader.get(Vpc, "v") for reader in (zero, one, two)]
        assert [record.network_id for record in seen if record] == [0, 1, 2]

    async def test_it_is_of_no_use_when_it_is_over(self, store: Store) -> None:
        async with store.read() as reader:
            pass
        with pytest.raises(StoreError, match="over"):
            await reader.get(Vpc, "v")

    async def test_many_ids(self, store: Store) -> None:
        ids = [f"v{number:04}" for number in range(2500)]
        await put(store, *map(vpc, ids))
        async with store.read() as reader:
            assert [r.id for r in await reader.get_many(Vpc, ids[::-1])] == ids
            assert [r.id for r in await reader.get_many(Vpc, ["v0001", "v0001", "\ud800", "x"])] == ["v0001"]
            assert await reader.get_many(Vpc, []) == []
            assert [r.id for r in await reader.find(Vpc)] == ids
            assert [r.id for r in await reader.find(Vpc, limit=2100)] == ids[:2100]


class TestFind:
    async def test_pages(self, store: Store) -> None:
        await put(store, *(vpc(f"v{number}") for number in (3, 1, 4, 0, 2)))
        assert await find(store, Vpc) == ["v0", "v1", "v2", "v3", "v4"]
        assert await find(store, Vpc, limit=2) == ["v0", "v1"]
        assert await find(store, Vpc, after="v1", limit=2) == ["v2", "v3"]
        assert await find(store, Vpc, after="v1x") == ["v2", "v3", "v4"]
        assert await find(store, Vpc, account="a", after="v3", limit=2) == ["v4"]
        assert await find(store, Vpc, account="a", limit=0) == []
        assert await find(store, Vpc, limit=0) == []

    async def test_values_and_fields_combine(self, store: Store) -> None:
        await put(
            store,
            volume("1", account="a", state=VolumeState.available),
            volume("2", account="a", state=VolumeState.in_use, attachments=(attached("i-1"),)),
            volume("3", account="b", state=VolumeState.in_use, attachments=(attached("i-2"),)),
            volume("4", account="b", state=VolumeState.error),
        )
        assert await find(store, Volume, account="a", state=VolumeState.in_use) == ["2"]
        assert await find(store, Volume, state="in-use") == ["2", "3"]
        assert await find(store, Volume, state={VolumeState.in_use, VolumeState.error}) == ["2", "3", "4"]
        assert await find(store, Volume, state=["in-use", "error"], account=("b",)) == ["3", "4"]
        assert await find(store, Volume, state=["in-use", "error"], account="b", after="3") == ["4"]
        assert await find(store, Volume, instances=[f"i-{number}" for number in range(50)], account="b") == [
            "3"
        ]
        assert (
            await find(store, Volume, instances=[f"i-{n}" for n in range(50)], account=["b", *"cdefghijklm"])
        ) == ["3"]
        assert await find(store, Volume, state=[]) == []
        assert await find(store, Volume, account="a", state=()) == []

    async def test_none_is_not_found_and_empty_text_is(self, store: Store) -> None:
        await put(store, interface("1"), interface("2", instance="", subnet="s"))
        assert await find(store, NetworkInterface, instance="") == ["2"]
        assert await find(store, NetworkInterface, host="") == []

    async def test_tuples_have_an_entry_for_each_value(self, store: Store) -> None:
        (one, _) = await put(store, interface("1", groups=("x", "y", "y")), interface("2", groups=("y",)))
        assert await find(store, NetworkInterface, groups="y") == ["1", "2"]
        assert await find(store, NetworkInterface, groups=["x", "y"]) == ["1", "2"]
        async with store.read() as reader:
            assert await reader.count(NetworkInterface, groups=["x", "y"]) == 2
        await put(store, replace(one, groups=("z",)))
        assert await find(store, NetworkInterface, groups="y") == ["2"]
        assert await find(store, NetworkInterface, groups=["x", "z"]) == ["1"]

    async def test_entries_follow_the_record(self, store: Store) -> None:
        (record,) = await put(store, volume("v", state=VolumeState.available))
        (record,) = await put(store, replace(record, state=VolumeState.in_use, attachments=(attached("i"),)))
        assert await find(store, Volume, state="available") == []
        assert await find(store, Volume, instances="i", state="in-use") == ["v"]
        await put(store, replace(record, state=VolumeState.available, attachments=()))
        assert await find(store, Volume, instances="i") == []

    async def test_any_text_can_be_looked_for(self, store: Store) -> None:
        await put(store, vpc("v", account="'; DROP TABLE records; --"), vpc("w", account="☃"))
        assert await find(store, Vpc, account="'; DROP TABLE records; --") == ["v"]
        assert await find(store, Vpc, account="☃") == ["w"]
        for odd in ("\ud800", "☃\0", "\0"):
            assert await find(store, Vpc, account=odd) == []
            assert await find(store, Vpc, account=[odd, "☃", "x"]) == ["w"]
            assert await get(store, Vpc, "v" + odd) is None
            async with store.read() as reader:
                assert [r.id for r in await reader.get_many(Vpc, ["v" + odd, "w"])] == ["w"]

    async def test_an_unknown_index_is_an_error(self, store: Store) -> None:
        async with store.read() as reader:
            with pytest.raises(StoreError, match="vpc has no index on 'cidr'"):
                await reader.find(Vpc, cidr="x")
            with pytest.raises(StoreError):
                await reader.count(Vpc, cidr="x")


def names(changes: Any) -> list[tuple[str, str, bool]]:
    return [(change.kind, change.id, change.record is not None) for change in changes]


class TestChanges:
    async def test_each_record_once_in_order_of_its_latest_change(self, store: Store) -> None:
        one, two = await put(store, vpc("1"), volume("2"))
        (one,) = await put(store, replace(one, cidr="new"))
        await delete(store, two)
        await put(store, vpc("3"))
        changes = await store.changes(0)
        assert names(changes) == [("vpc", "1", True), ("volume", "2", False), ("vpc", "3", True)]
        assert changes[0].record == one
        assert changes[-1].revision == store.revision
        assert await store.changes(store.revision) == []

    async def test_pages_have_whole_transactions(self, store: Store) -> None:
        """More than ``limit`` changes, if need be: ``since`` could not go on inside a transaction."""
        for size in (2, 5, 1, 25, 3):
            records = await put(store, *(vpc(f"{size:02}-{number:02}") for number in range(size)))
        await delete(store, *records)
        pages: list[list[str]] = []
        seen: list[Change] = []
        while batch := await store.changes(seen[-1].revision if seen else 0, limit=10):
            seen += batch
            pages.append(sorted({change.id[:2] for change in batch}))
        assert len(seen) == len({change.id for change in seen}) == 36
        assert pages == [["01", "02", "05", "25"], ["03"]]
        assert [change.record is None for change in seen] == [False] * 33 + [True] * 3

    async def test_back_from_the_dead(self, store: Store) -> None:
        (one,) = await put(store, vpc("1"))
        await delete(store, one)
        since = store.revision
        await put(store, vpc("1"))
        assert names(await store.changes(0)) == names(await store.changes(since)) == [("vpc", "1", True)]

    async def test_what_came_and_went_in_one_transaction_never_was(self, store: Store) -> None:
        async def work(tx: Transaction) -> None:
            await tx.delete(await tx.put(vpc("v")))

        await store.transact(work)
        assert await store.changes(0) == []

    async def test_a_readers_revision_joins_up_with_changes(self, store: Store) -> None:
        await put(store, vpc("1"), vpc("2"))
        async with store.read() as reader:
            revision = reader.revision
        await put(store, vpc("3"))
        assert names(await store.changes(revision)) == [("vpc", "3", True)]


class TestWatch:
    async def test_it_begins_with_what_was_missed_and_goes_on(self, store: Store) -> None:
        await put(store, vpc("1"))
        async with asyncio.timeout(10):
            watch = store.watch(0)
            assert names(await anext(watch)) == [("vpc", "1", True)]
            waiting = asyncio.ensure_future(anext(watch))
            await asyncio.sleep(0)
            assert not waiting.done()
            await put(store, vpc("2"), vpc("3"))
            assert names(await waiting) == [("vpc", "2", True), ("vpc", "3", True)]

    async def test_each_watcher_sees_everything(self, store: Store) -> None:
        async def follow() -> list[str]:
            seen: list[str] = []
            async for changes in store.watch(0):
                seen += [change.id for change in changes]
                if len(seen) == 5:
                    return seen
            raise AssertionError

        async with asyncio.timeout(10), asyncio.TaskGroup() as group:
            followers = [group.create_task(follow()) for _ in range(3)]
            for number in range(5):
                await put(store, vpc(f"{number}"))
                await asyncio.sleep(0)
        assert [follower.result() for follower in followers] == [["0", "1", "2", "3", "4"]] * 3

    async def test_a_slow_watcher_gets_the_latest_only(self, store: Store) -> None:
        async with asyncio.timeout(10):
            watch = store.watch(0)
            (record,) = await put(store, vpc("v"))
            await anext(watch)
            for number in range(20):
                (record,) = await put(store, replace(record, network_id=number))
            (change,) = await anext(watch)
        assert change.record == record

    async def test_it_ends_when_the_store_closes(
        self, open_store: Callable[[Any], Awaitable[Store]], tmp_path: Any
    ) -> None:
        store = await open_store(tmp_path)
        waiting = asyncio.ensure_future(anext(store.watch(0)))
        await asyncio.sleep(0)
        await store.close()
        with pytest.raises(StoreError, match="closed"):
            await waiting


class TestClose:
    async def test_a_closed_store_says_so(
        self, open_store: Callable[[Any], Awaitable[Store]], tmp_path: Any
    ) -> None:
        store = await open_store(tmp_path)
        async with store.read() as reader:
            await store.close()
            await store.close()
            with pytest.raises(StoreError):
                await reader.get(Vpc, "v")
        with pytest.raises(StoreError, match="closed"):
            await put(store, vpc("v"))
        with pytest.raises(StoreError, match="closed"):
            await get(store, Vpc, "v")
        with pytest.raises(StoreError, match="closed"):
            await store.changes(0)

    async def test_a_transaction_under_way_is_not_committed(
        self, open_store: Callable[[Any], Awaitable[Store]], tmp_path: Any
    ) -> None:
        store = await open_store(tmp_path)

        async def work(tx: Transaction) -> None:
            await tx.put(vpc("v"))
            await store.close()

        with pytest.raises(StoreError, match="closed"):
            await store.transact(work)


async def test_instances_by_state(store: Store) -> None:
    """As the reconcilers read: by host and by several states."""
    instances = [
        Instance(
            id=f"i-{number}",
            state=state,
            reservation="r",
            type="t3.nano",
            image="ami",
            zone="z",
            host=f"host-{number % 2}",
            launched=NOON,
            vpc="vpc",
            subnet="subnet",
        )
        for number, state in enumerate(InstanceState)
    ]
    await put(store, *instances)
    assert await find(store, Instance, host="host-1", state=["running", "stopped", "shutting-down"]) == [
        "i-1",
        "i-3",
    ]
