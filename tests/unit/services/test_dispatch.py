from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest

from gureum.env import Env
from gureum.errors import ApiError, CommitUnknown, Conflict, StoreAway, StoreError, StoreFull
from gureum.gateway.call import Call
from gureum.resources import ClientToken, KeyPair
from gureum.services import dispatch
from gureum.services.dispatch import Dispatcher
from gureum.services.operation import OPERATIONS, Caller, Cloud, Context, Input, Later, Operation, Output
from gureum.store.sqlite import SqliteStore
from gureum.store.sqlite.store import READERS_MAX

ACCOUNT = "123456789012"
CALLER = Caller(account=ACCOUNT, arn="arn:aws:iam::1:root", user_id=ACCOUNT, access_key="AKIATEST")
CLOUD = Cloud(name="t", account=ACCOUNT, region="r", zones=("ra",), public_cidr="198.18.0.0/24")


class Rig:
    def __init__(self, store: SqliteStore) -> None:
        self.time = 1_750_000_000.0
        self.store = store
        self.env = Env(lambda: self.time, random.Random(1))
        hosts: Any = None
        self.dispatcher = Dispatcher(self.env, CLOUD, store, hosts)
        self.runs = 0
        self.refuses = False
        self.waiting = asyncio.Semaphore(0)
        self.answered = asyncio.Event()

    async def call(self, operation: str, **input: Any) -> Any:
        return await self.dispatcher(
            Call(
                service="test",
                operation=operation,
                input=input,
                region="r",
                request_id="q",
                caller=CALLER,
                source_ip="127.0.0.1",
            )
        )

    async def fails(self, operation: str, **input: Any) -> ApiError:
        with pytest.raises(ApiError) as caught:
            await self.call(operation, **input)
        return caught.value

    async def made(self) -> list[str]:
        async with self.store.read() as reader:
            return [each.id for each in await reader.find(KeyPair)]


@pytest.fixture
async def rig(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rig]:
    store = SqliteStore.open(":memory:", threaded=False)
    rig = Rig(store)

    async def make(ctx: Context, input: Input) -> Output:
        rig.runs += 1
        id = ctx.env.new_id("key")
        key = KeyPair(id=id, account=ACCOUNT, name=id, **pair())
        await ctx.tx.put(key)
        await asyncio.sleep(0)
        if rig.refuses:
            raise ApiError("InvalidThing", "no")
        if error := input.get("Fail"):
            raise error
        return {"Id": id, "When": ctx.env.utcnow(), "Blob": b"\x00", "Size": input.get("Size")}

    async def look(ctx: Context, input: Input) -> Output:
        if error := input.get("Fail"):
            raise error
        return {"Count": await ctx.tx.count(KeyPair)}

    async def wait(ctx: Context, input: Input) -> Later:
        count = await ctx.tx.count(KeyPair)

        async def rest() -> Output:
            rig.waiting.release()
            await rig.answered.wait()
            return {"Count": count}

        return Later(rest)

    def pair() -> dict[str, Any]:
        values = {"fingerprint": "f", "public_key": "k", "type": "rsa", "created": datetime.now(UTC)}
        return {name: values[name] for name in values if name in KeyPair.__struct_fields__}

    monkeypatch.setitem(OPERATIONS, ("test", "Make"), Operation("test", "Make", make, True))
    monkeypatch.setitem(OPERATIONS, ("test", "Look"), Operation("test", "Look", look, False))
    monkeypatch.setitem(OPERATIONS, ("test", "Wait"), Operation("test", "Wait", wait, False))
    yield rig
    await store.close()


async def test_an_answer_is_given_after_the_commit(rig: Rig) -> None:
    answer = await rig.call("Make")
    assert await rig.made() == [answer["Id"]]
    assert await rig.call("Look") == {"Count": 1}
    assert rig.dispatcher.implemented("test", "Make")
    assert not rig.dispatcher.implemented("test", "Break")


async def test_what_waits_for_something_else_keeps_no_read_of_the_store(rig: Rig) -> None:
    await rig.call("Make")
    waiting = [asyncio.create_task(rig.call("Wait")) for _ in range(READERS_MAX)]
    async with asyncio.timeout(5):
        for _ in waiting:
            await rig.waiting.acquire()
        assert await rig.call("Look") == {"Count": 1}
    rig.answered.set()
    assert await asyncio.gather(*waiting) == READERS_MAX * [{"Count": 1}]
    assert (await rig.fails("Wait", DryRun=True)).code == "DryRunOperation"
    assert rig.waiting.locked()


async def test_a_failed_operation_changes_nothing(rig: Rig) -> None:
    error = ApiError("InvalidThing", "no")
    assert await rig.fails("Make", Fail=error) is error
    assert await rig.made() == []
    with pytest.raises(ZeroDivisionError):
        await rig.call("Make", Fail=ZeroDivisionError())
    assert await rig.made() == []


@pytest.mark.parametrize("operation", ["Make", "Look"])
async def test_a_dry_run_says_that_it_would_work_and_changes_nothing(rig: Rig, operation: str) -> None:
    error = await rig.fails(operation, DryRun=True, ClientToken="t")
    assert (error.code, error.status) == ("DryRunOperation", 412)
    assert await rig.made() == []
    real = ApiError("InvalidThing", "no")
    assert await rig.fails(operation, DryRun=True, Fail=real) is real


async def test_a_dry_run_does_not_use_the_token_up(rig: Rig) -> None:
    await rig.fails("Make", DryRun=True, ClientToken="t")
    await rig.call("Make", ClientToken="t")
    assert len(await rig.made()) == 1


async def test_a_client_token_answers_the_same_again(rig: Rig) -> None:
    first = await rig.call("Make", ClientToken="t", Size=1)
    assert await rig.call("Make", ClientToken="t", Size=1) == first
    assert (len(await rig.made()), rig.runs) == (1, 1)
    assert await rig.call("Make", ClientToken="u", Size=1) != first


async def test_a_client_token_with_another_request_is_refused(rig: Rig) -> None:
    await rig.call("Make", ClientToken="t", Size=1)
    error = await rig.fails("Make", ClientToken="t", Size=2)
    assert error.code == "IdempotentParameterMismatch"
    assert len(await rig.made()) == 1


async def test_a_failed_call_does_not_use_the_token_up(rig: Rig) -> None:
    rig.refuses = True
    assert (await rig.fails("Make", ClientToken="t")).code == "InvalidThing"
    rig.refuses = False
    await rig.call("Make", ClientToken="t")
    assert len(await rig.made()) == 1


async def test_a_client_token_expires(rig: Rig) -> None:
    await rig.call("Make", ClientToken="t")
    rig.time += dispatch.TOKEN_SECONDS
    await rig.call("Make", ClientToken="t", Size=5)
    assert len(await rig.made()) == 2
    async with rig.store.read() as reader:
        assert await reader.count(ClientToken) == 1


async def test_the_same_token_at_the_same_time_runs_once(rig: Rig) -> None:
    answers = await asyncio.gather(*(rig.call("Make", ClientToken="t") for _ in range(20)))
    assert all(answer == answers[0] for answer in answers)
    assert len(await rig.made()) == 1


async def test_a_client_token_is_bounded(rig: Rig) -> None:
    assert (await rig.fails("Make", ClientToken="x" * 65)).code == "InvalidParameterValue"
    await rig.call("Make", ClientToken="x" * 64)


@pytest.mark.parametrize(
    ("raised", "code", "status"),
    [
        (StoreFull("no space"), "Unavailable", 503),
        (Conflict("again"), "Unavailable", 503),
        (StoreAway("no answer"), "Unavailable", 503),
        (CommitUnknown("no answer"), "InternalError", 500),
        (StoreError("broken"), "InternalError", 500),
    ],
)
@pytest.mark.parametrize("operation", ["Make", "Look"])
async def test_the_stores_errors_in_the_clients_terms(
    rig: Rig, operation: str, raised: StoreError, code: str, status: int
) -> None:
    error = await rig.fails(operation, Fail=raised)
    assert (error.code, error.status) == (code, status)


async def test_a_full_disk_at_the_commit(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    async def transact(work: Any, frees: bool) -> Any:
        assert not frees
        raise StoreFull("no space")

    monkeypatch.setattr(rig.store, "transact", transact)
    error = await rig.fails("Make", ClientToken="t")
    assert error.status == 503
    assert "nothing was changed" in error.message


@pytest.mark.parametrize(
    ("name", "frees"),
    [
        ("TerminateInstances", True),
        ("DeleteVolume", True),
        ("DetachInternetGateway", True),
        ("DisassociateAddress", True),
        ("RunInstances", False),
        ("CreateTags", False),
    ],
)
def test_what_makes_room_may_use_the_reserve_of_the_disk(name: str, frees: bool) -> None:
    assert OPERATIONS["ec2", name].frees is frees


async def test_a_conflict_is_run_again(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    right = OPERATIONS["test", "Make"].handler
    tries = 0

    async def once_in_conflict(ctx: Context, input: Input) -> Output | Later:
        nonlocal tries
        tries += 1
        output = await right(ctx, input)
        if tries == 1:
            raise Conflict("somebody was faster")
        return output

    monkeypatch.setitem(OPERATIONS, ("test", "Make"), Operation("test", "Make", once_in_conflict, True))
    await rig.call("Make", ClientToken="t")
    assert (tries, len(await rig.made())) == (2, 1)
