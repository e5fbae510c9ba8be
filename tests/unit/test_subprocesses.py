from __future__ import annotations

import asyncio
import gc
import os
import sys
import warnings
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from gureum import subprocesses
from gureum.errors import PoolError
from gureum.san import qemu_img


async def test_what_is_outlasted_is_done_before_a_cancellation_counts() -> None:
    done = asyncio.ensure_future(asyncio.sleep(0.2, "done"))
    waiting = asyncio.ensure_future(subprocesses.outlast((done,), 10.0))
    for _ in range(3):
        await asyncio.sleep(0.02)
        waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert done.result() == "done"


async def test_nothing_is_outlasted_for_ever() -> None:
    never = asyncio.get_running_loop().create_future()
    await subprocesses.outlast((never,), 0.05)
    waiting = asyncio.ensure_future(subprocesses.outlast((never,), 0.2))
    await asyncio.sleep(0.01)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert not never.done()


async def begun(*command: str) -> None:
    process = await subprocesses.start(*command, stdout=asyncio.subprocess.PIPE)
    try:
        await process.wait()
    finally:
        await subprocesses.end(process)


async def imported(*_: str) -> None:
    """A command that nothing else ends."""
    await qemu_img.run(("info", "/dev/stdin"), 60.0)


@pytest.mark.parametrize("work", [begun, imported])
@pytest.mark.parametrize("cancels", [1, 2, 3])
def test_no_process_is_left_wherever_it_is_cancelled(
    work: Callable[..., Awaitable[None]],
    cancels: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    turns, left = 0, list[str]()
    monkeypatch.setattr(sys, "unraisablehook", lambda each: left.append(f"after {turns}: {each.exc_value}"))
    path = tmp_path / "qemu-img"
    path.write_text("#!/bin/sh\nexec sleep 60\n")
    path.chmod(0o755)
    monkeypatch.setitem(qemu_img.ENVIRONMENT, "PATH", f"{tmp_path}:{qemu_img.ENVIRONMENT['PATH']}")

    async def cancelled() -> None:
        task = asyncio.ensure_future(work("sleep", "60"))
        for _ in range(turns):
            await asyncio.sleep(0)
        for _ in range(cancels):
            task.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await task

    before = children()
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        for turns in range(15):  # noqa: B007
            asyncio.run(cancelled())
            gc.collect()
    assert left == []
    assert children() - before == set()


def children() -> set[str]:
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


async def test_what_a_process_began_ends_with_it(tmp_path: Path) -> None:
    process = await subprocesses.start(
        "/bin/sh", "-c", "sleep 60 & echo $!; wait", stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    child = int(await process.stdout.readline())
    await subprocesses.end(process)
    for _ in range(500):
        status = Path(f"/proc/{child}/stat")
        if not status.exists() or status.read_text().split()[2] == "Z":
            break
        await asyncio.sleep(0.01)
    else:
        pytest.fail("its child goes on")


async def test_a_command_that_is_not_there_is_told() -> None:
    with pytest.raises(FileNotFoundError):
        await subprocesses.start("/does/not/exist")
    with pytest.raises(PoolError):
        await qemu_img.run(("info", "/does/not/exist"), 60.0)
