"""The worker's process, with a program in its place that does what a test says."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import warnings
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gureum.errors import PoolError, PoolFull, PoolUnavailable
from gureum.san.ceph import process as process_module
from gureum.san.ceph.process import UNDER_WAY_MAX, Worker


@pytest.fixture
async def worker(program) -> AsyncIterator[Worker]:
    worker = Worker(program(), backoff_seconds=(0.0,))
    yield worker
    await worker.close()


async def ended(pid: int) -> bool:
    """Soon."""
    for _ in range(500):
        if not runs(pid):
            return True
        await asyncio.sleep(0.01)
    return False


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


async def test_calls_are_answered_in_any_order(worker):
    answers = await asyncio.gather(*(worker.call("late", 10, {"all": 5}) for _ in range(5)))
    assert len({answer.result for answer in answers}) == 5
    given = {"name": "vol-1", "id": "mine"}
    answer = await worker.call("echo", 10, given, b"\0\1" * 100_000)
    assert answer == (given, b"\0\1" * 100_000)
    assert worker.address == str(worker.pid)


async def test_one_process_for_many_calls(worker):
    await asyncio.gather(*(worker.call("echo", 10, {"n": n}) for n in range(10 * UNDER_WAY_MAX)))
    pid = worker.pid
    await worker.call("unknown", 10)
    assert worker.pid == pid


async def test_progress_is_told(worker):
    told: list[float] = []
    await worker.call("progress", 10, progress=told.append)
    assert told == [0.1, 0.5]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("full", PoolFull), ("busy", PoolUnavailable), ("missing", PoolError), ("new", PoolError)],
)
async def test_errors_are_of_their_kind(worker, kind, expected):
    with pytest.raises(PoolError, match="it does not work") as raised:
        await worker.call("fail", 10, {"kind": kind})
    assert type(raised.value) is expected
    pid = worker.pid
    await worker.call("echo", 10)
    assert worker.pid == pid


async def test_a_hung_worker_is_killed_and_another_started(worker):
    await worker.call("echo", 10)
    first = worker.pid
    waiting = asyncio.ensure_future(worker.call("late", 60, {"all": 2}))
    with pytest.raises(PoolUnavailable, match="the storage cluster does not answer: hang took longer"):
        await worker.call("hang", 0.2)
    with pytest.raises(PoolUnavailable, match="the storage cluster does not answer"):
        await waiting
    assert (await worker.call("echo", 10, {"n": 1})).result == {"n": 1}
    assert worker.pid != first
    assert await ended(first)


async def test_a_dead_worker_is_told_with_its_last_words(worker, caplog):
    with pytest.raises(PoolUnavailable, match=r"^the storage worker ended with 3: out of luck$"):
        await worker.call("die", 10)
    assert (await worker.call("echo", 10, {"n": 1})).result == {"n": 1}


async def test_a_worker_that_is_killed_between_calls(worker):
    await worker.call("echo", 10)
    os.kill(worker.pid, 9)
    with pytest.raises(PoolUnavailable, match="ended with -9"):
        await worker.call("hang", 10)
    await worker.call("echo", 10)


async def test_the_cluster_is_told_to_take_nothing_more_from_those_that_were_killed(worker):
    await worker.call("echo", 10)
    first = worker.address
    with pytest.raises(PoolUnavailable):
        await worker.call("hang", 0.1)
    assert worker.killed == [first]
    assert (await worker.call("fenced", 10)).result == [first]
    second = worker.address
    with pytest.raises(PoolUnavailable):
        await worker.call("die", 10)
    assert (await worker.call("fenced", 10)).result == [second]
    assert worker.killed == []
    await worker.close()
    assert worker.killed == []


async def test_a_worker_that_may_not_shut_out_those_before_it_does_nothing(program):
    command = program()
    refuses = Path(f"{command[-1]}.refuses")
    worker = Worker(command, backoff_seconds=(0.0,))
    await worker.call("echo", 10)
    first = worker.address
    with pytest.raises(PoolUnavailable):
        await worker.call("hang", 0.1)
    refuses.touch()
    for _ in range(2):
        with pytest.raises(PoolError, match="not now"):
            await worker.call("echo", 10)
    refuses.unlink()
    assert first in (await worker.call("fenced", 10)).result
    await worker.close()


async def test_nonsense_ends_the_worker(worker):
    with pytest.raises(PoolUnavailable, match="the storage worker talks nonsense: a message of"):
        await worker.call("garbage", 10)
    await worker.call("echo", 10)


@pytest.mark.parametrize(
    ("start", "message"),
    [
        ("sys.exit('no rbd here')", "ended with 1: no rbd here"),
        ("say(id=0, error='no connection', kind='away'); time.sleep(60)", "no connection"),
        ("os.write(1, b'hello world')", "talks nonsense"),
        ("os.write(1, b'hi')", "ended with 0"),
        ("time.sleep(60)", "the storage cluster does not answer: no connection"),
    ],
)
async def test_a_worker_that_cannot_start(program, monkeypatch, start, message):
    monkeypatch.setattr(process_module, "START_SECONDS", 0.5)
    worker = Worker(program(start), backoff_seconds=(0.0,))
    for _ in range(2):
        with pytest.raises(PoolUnavailable, match=message):
            await worker.call("echo", 10)
    await worker.close()


async def test_a_program_that_is_not_there():
    worker = Worker(("/does/not/exist",))
    with pytest.raises(PoolUnavailable, match="the storage worker cannot be started"):
        await worker.call("echo", 10)
    await worker.close()


async def test_after_a_failure_the_next_start_waits(program, monkeypatch):
    worker = Worker(program(), backoff_seconds=(0.3, 60.0))
    starts = 0
    start = asyncio.create_subprocess_exec

    async def counted(*arguments, **options):
        nonlocal starts
        starts += 1
        return await start(*arguments, **options)

    monkeypatch.setattr(asyncio, "create_subprocess_exec", counted)
    with pytest.raises(PoolUnavailable):
        await worker.call("die", 10)
    for _ in range(3):
        with pytest.raises(PoolUnavailable, match="out of luck"):
            await worker.call("echo", 10)
    assert starts == 1
    await asyncio.sleep(0.4)
    with pytest.raises(PoolUnavailable):
        await worker.call("die", 10)
    await asyncio.sleep(0.4)
    with pytest.raises(PoolUnavailable):
        await worker.call("echo", 10)
    assert starts == 2
    await worker.close()


async def test_an_answer_ends_the_waiting(program):
    worker = Worker(program(), backoff_seconds=(0.0, 60.0))
    for _ in range(3):
        with pytest.raises(PoolUnavailable):
            await worker.call("die", 10)
        await worker.call("echo", 10)
    await worker.close()


async def test_closing_ends_the_process_and_its_calls(worker):
    await worker.call("echo", 10)
    pid = worker.pid
    waiting = asyncio.ensure_future(worker.call("hang", 60))
    await asyncio.sleep(0.05)
    await worker.close()
    with pytest.raises(PoolUnavailable, match="is being ended"):
        await waiting
    assert await ended(pid)


async def test_nothing_is_started_after_the_end(program, monkeypatch):
    """What is just being started is waited for: a loop that ends then would leave it."""
    worker = Worker(program())
    start = asyncio.create_subprocess_exec
    started, asked = [], asyncio.Event()

    async def slow(*arguments, **options):
        asked.set()
        await asyncio.sleep(0.2)
        started.append(await start(*arguments, **options))
        return started[-1]

    monkeypatch.setattr(asyncio, "create_subprocess_exec", slow)
    call = asyncio.ensure_future(worker.call("echo", 10))
    await asked.wait()
    await worker.close()
    [process] = started
    assert process.returncode is not None
    for refused in (call, worker.call("echo", 10)):
        with pytest.raises(PoolUnavailable, match="is being ended"):
            await refused
    assert len(started) == 1


@pytest.mark.parametrize("end", ["main(); time.sleep(0.5)", "main(); time.sleep(60)"])
async def test_an_end_that_is_cancelled_leaves_nothing(program, monkeypatch, end):
    """However often: a loop that ends then would leave the process."""
    monkeypatch.setattr(process_module, "END_SECONDS", 2.0)
    worker = Worker(program(end))
    await worker.call("echo", 10)
    pid, address = worker.pid, worker.address
    ending = asyncio.ensure_future(worker.close())
    for _ in range(3):
        await asyncio.sleep(0.05)
        ending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ending
    assert not Path(f"/proc/{pid}").exists()
    assert worker.killed == ([address] if "60" in end else [])


@pytest.mark.parametrize("cancels", [1, 2])
def test_a_start_that_is_cancelled_leaves_nothing(program, monkeypatch, cancels):
    """Wherever it was, in a loop that ends at once."""
    command, turns = program(), 0
    left: list[str] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda each: left.append(f"after {turns}: {each.exc_value}"))

    async def cancelled() -> None:
        worker = Worker(command)
        call = asyncio.ensure_future(worker.call("echo", 10))
        for _ in range(turns):
            await asyncio.sleep(0)
        for _ in range(cancels):
            call.cancel()
            await asyncio.sleep(0)
        await worker.close()
        assert call.cancelled()

    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        for turns in range(20):  # noqa: B007
            asyncio.run(cancelled())
            gc.collect()
    assert left == []


async def test_a_start_that_one_call_gave_up_serves_the_next(program):
    worker = Worker(program("time.sleep(0.3); main()"))
    first = asyncio.ensure_future(worker.call("echo", 10))
    async with asyncio.timeout(30):
        while (pid := worker.pid) is None:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    first.cancel()
    assert (await worker.call("echo", 10, {"n": 1})).result == {"n": 1}
    assert worker.pid == pid
    await worker.close()


async def test_a_cancelled_call_leaves_the_worker(worker):
    await worker.call("echo", 10)
    pid = worker.pid
    waiting = asyncio.ensure_future(worker.call("hang", 60))
    await asyncio.sleep(0.05)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await worker.call("echo", 10)
    assert worker.pid == pid


async def test_a_cancelled_start_leaves_nothing(program, monkeypatch):
    worker = Worker(program("time.sleep(60)"))
    waiting = asyncio.ensure_future(worker.call("echo", 60))
    await asyncio.sleep(0.2)
    pid = worker.pid
    assert pid is not None
    assert runs(pid)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await worker.close()
    assert await ended(pid)


async def test_a_request_that_is_too_large_is_refused(worker):
    with pytest.raises(PoolError, match="too large"):
        await worker.call("echo", 10, payload=bytes(9 << 20))
    await worker.call("echo", 10)
