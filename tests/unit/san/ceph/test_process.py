"""The worker's process, with a program in its place that does what a test says."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from gureum.errors import PoolError, PoolFull, PoolUnavailable
from gureum.san.ceph import process as process_module
from gureum.san.ceph import rbdworker
from gureum.san.ceph.process import UNDER_WAY_MAX, Worker

PROGRAM = """
import os, sys, threading, time
sys.path.append({folder!r})
from rbdworker import frames

def say(payload=b"", **header):
    os.write(1, frames.encode(header, payload))

def main():
    say(id=0, ok={{"address": str(os.getpid())}})
    stream = os.fdopen(0, "rb")
    late, fenced = [], []
    while (message := frames.read(stream)) is not None:
        header, payload = message
        id, op, given = header["id"], header["op"], header["with"]
        if op == "echo":
            say(payload, id=id, ok=given)
        elif op == "late":
            late.append(id)
            if len(late) == given["all"]:
                for id in reversed(late):
                    say(id=id, ok=id)
        elif op == "progress":
            for share in (0.1, 0.5):
                say(id=id, progress=share)
            say(id=id, ok=None)
        elif op == "fail":
            say(id=id, error="it does not work", kind=given["kind"])
        elif op == "hang":
            pass
        elif op == "die":
            sys.stderr.write("line " * 2000 + "\\nout of luck\\n")
            sys.stderr.flush()
            os._exit(3)
        elif op == "garbage":
            os.write(1, b"Traceback (most recent call last):")
        elif op == "fence":
            fenced.extend(given["addresses"])
            say(id=id, ok=None)
        elif op == "fenced":
            say(id=id, ok=fenced)
        elif op == "unknown":
            say(id=id + 1000, ok=None)
            say(id=id, ok=None)

{start}
"""


@pytest.fixture
def program(tmp_path: Path) -> Callable[..., tuple[str, ...]]:
    """The command of a program; ``start`` is what it does."""

    def program(start: str = "main()") -> tuple[str, ...]:
        folder = str(Path(rbdworker.__file__).parent.parent)
        (tmp_path / "program.py").write_text(PROGRAM.format(folder=folder, start=start))
        return sys.executable, "-I", str(tmp_path / "program.py")

    return program


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
