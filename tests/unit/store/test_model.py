"""Random transactions, snapshots and changes, against a plain dict."""

from __future__ import annotations

import asyncio
import copy
import tempfile
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from msgspec.structs import replace

from gureum.resources import NetworkInterface
from gureum.store.base import Reader, Store, Transaction

IDS = st.sampled_from([f"eni-{number}" for number in range(6)])
ACCOUNTS = st.sampled_from(["a", "b", "c"])
GROUPS = st.lists(st.sampled_from(["x", "y", "z"]), max_size=3).map(tuple)
INSTANCES = st.sampled_from([None, "i-1", "i-2"])
WRITES = st.lists(
    st.one_of(
        st.tuples(st.just("put"), IDS, ACCOUNTS, GROUPS, INSTANCES),
        st.tuples(st.just("delete"), IDS),
    ),
    min_size=1,
    max_size=6,
)
SEARCHES = st.fixed_dictionaries(
    {},
    optional={
        "account": st.one_of(ACCOUNTS, st.lists(ACCOUNTS)),
        "groups": st.one_of(st.sampled_from(["x", "y", "z"]), st.sets(st.sampled_from(["x", "y", "z"]))),
        "instance": st.lists(st.sampled_from(["i-1", "i-2", "i-3"])),
    },
)

Model = dict[str, NetworkInterface]


class Abort(BaseException):
    pass


def expected(
    model: Model, search: dict[str, Any], after: str | None, limit: int | None
) -> list[NetworkInterface]:
    def matches(record: NetworkInterface) -> bool:
        for field, wanted in search.items():
            value = getattr(record, field)
            values = {value} if isinstance(value, str) else set(value or ())
            if not values & ({wanted} if isinstance(wanted, str) else set(wanted)):
                return False
        return record.id > (after or "")

    return sorted(filter(matches, model.values()), key=lambda record: record.id)[:limit]


class StoreMachine(RuleBasedStateMachine):
    opener: Callable[[Path], Awaitable[Store]]

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.directory = tempfile.TemporaryDirectory(prefix="store-model-")
        self.store: Store = self.run(self.open(Path(self.directory.name)))
        self.model: Model = {}
        self.snapshots: list[tuple[AsyncExitStack, Reader, Model]] = []
        self.mirror: Model = {}
        self.mirrored = 0

    def teardown(self) -> None:
        for stack, _, _ in self.snapshots:
            self.run(stack.aclose())
        self.run(self.store.close())
        self.runner.close()
        self.directory.cleanup()

    async def open(self, path: Path) -> Store:
        return await type(self).opener(path)

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(coroutine)

    @rule(writes=WRITES, abort=st.booleans(), search=SEARCHES, limit=st.none() | st.integers(0, 4))
    def transact(
        self, writes: list[tuple[Any, ...]], abort: bool, search: dict[str, Any], limit: int | None
    ) -> None:
        async def work(tx: Transaction) -> Model:
            model = dict(self.model)
            for write in writes:
                current = model.get(write[1])
                assert await tx.get(NetworkInterface, write[1]) == current
                if write[0] == "put":
                    model[write[1]] = await tx.put(self.interface(current, *write[1:]))
                    assert model[write[1]].version == tx.revision + 1
                elif current is not None:
                    await tx.delete(current)
                    del model[write[1]]
            assert await tx.find(NetworkInterface, limit=limit, **search) == expected(
                model, search, None, limit
            )
            assert await tx.count(NetworkInterface, **search) == len(expected(model, search, None, None))
            if abort:
                raise Abort
            return model

        if abort:
            with pytest.raises(Abort):
                self.run(self.store.transact(work))
        else:
            self.model = self.run(self.store.transact(work))

    @staticmethod
    def interface(
        current: NetworkInterface | None, id: str, account: str, groups: tuple[str, ...], instance: str | None
    ) -> NetworkInterface:
        if current is None:
            current = NetworkInterface(id=id, vpc="v", subnet="s", zone="z", mac="m", private_ip="p")
        return replace(current, account=account, groups=groups, instance=instance)

    @rule(writers=st.lists(st.tuples(IDS, ACCOUNTS), min_size=2, max_size=5))
    def transact_at_once(self, writers: list[tuple[str, str]]) -> None:
        """Transactions that pile up see each other in order."""

        async def write(id: str, account: str) -> NetworkInterface:
            async def work(tx: Transaction) -> NetworkInterface:
                current = await tx.get(NetworkInterface, id)
                return await tx.put(self.interface(current, id, account, (), None))

            return await self.store.transact(work)

        async def all_of_them() -> list[NetworkInterface]:
            return await asyncio.gather(*(write(*writer) for writer in writers))

        for record in self.run(all_of_them()):
            before = self.model.get(record.id)
            assert record.version > (before.version if before else 0)
            self.model[record.id] = record

    @rule()
    def open_snapshot(self) -> None:
        if len(self.snapshots) < 3:
            stack = AsyncExitStack()
            reader = self.run(stack.enter_async_context(self.store.read()))
            assert reader.revision == self.store.revision
            self.snapshots.append((stack, reader, copy.copy(self.model)))

    @rule(
        search=SEARCHES,
        after=st.none() | IDS,
        limit=st.none() | st.integers(0, 4),
        ids=st.lists(IDS, max_size=4),
    )
    def read_snapshots(
        self, search: dict[str, Any], after: str | None, limit: int | None, ids: list[str]
    ) -> None:
        for _, reader, model in self.snapshots:
            found = self.run(reader.find(NetworkInterface, after=after, limit=limit, **search))
            assert found == expected(model, search, after, limit)
            assert self.run(reader.count(NetworkInterface, **search)) == len(
                expected(model, search, None, None)
            )
            assert self.run(reader.get_many(NetworkInterface, ids)) == [
                model[id] for id in sorted(set(ids)) if id in model
            ]
            for id in ids:
                assert self.run(reader.get(NetworkInterface, id)) == model.get(id)

    @rule()
    def close_snapshot(self) -> None:
        if self.snapshots:
            stack, _, _ = self.snapshots.pop(0)
            self.run(stack.aclose())

    @rule(limit=st.integers(1, 5))
    def follow_changes(self, limit: int) -> None:
        while changes := self.run(self.store.changes(self.mirrored, limit)):
            assert [change.revision for change in changes] == sorted(change.revision for change in changes)
            assert changes[0].revision > self.mirrored
            self.mirrored = changes[-1].revision
            for change in changes:
                if change.record is None:
                    self.mirror.pop(change.id, None)
                else:
                    assert isinstance(change.record, NetworkInterface)
                    assert change.record.version == change.revision
                    self.mirror[change.id] = change.record
        assert self.mirror == self.model

    @rule()
    def reopen(self) -> None:
        path = Path(self.directory.name)
        if not any(path.iterdir()):
            return  # in memory
        while self.snapshots:
            self.close_snapshot()
        revision = self.store.revision
        self.run(self.store.close())
        self.store = self.run(self.open(path))
        assert self.store.revision == revision

    @invariant()
    def the_latest_state_is_the_models(self) -> None:
        async def read() -> list[NetworkInterface]:
            async with self.store.read() as reader:
                return await reader.find(NetworkInterface)

        assert self.run(read()) == expected(self.model, {}, None, None)


def test_the_store_behaves_like_a_dict(
    open_store: Callable[[Path], Awaitable[Store]], request: pytest.FixtureRequest
) -> None:
    machine = type("Machine", (StoreMachine,), {"opener": staticmethod(open_store)})
    run_state_machine_as_test(
        machine,
        settings=settings(
            # A database for each takes time.
            max_examples=12 if request.node.get_closest_marker("postgres") else 40,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
