from __future__ import annotations

import asyncio
import time

import pytest

from gureum import breath
from gureum.breath import REST_SECONDS_MAX, REST_SHARE, WORK_SECONDS, breathe
from gureum.sim.loop import VirtualLoop


class Thread:
    """How much processor time it has used, and what the loop's tasks slept."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.used = 0.0
        self.slept: list[float] = []
        monkeypatch.setattr(time, "thread_time", lambda: self.used)
        sleep = asyncio.sleep

        async def slept(seconds: float) -> None:
            self.slept.append(seconds)
            await sleep(seconds)

        monkeypatch.setattr(asyncio, "sleep", slept)

    async def work(self, seconds: float) -> None:
        self.used += seconds
        await breathe()


@pytest.fixture
def thread(monkeypatch: pytest.MonkeyPatch) -> Thread:
    return Thread(monkeypatch)


async def test_a_loop_rests_now_and_then(thread: Thread) -> None:
    for _ in range(9):
        await thread.work(WORK_SECONDS / 4)
    rest = REST_SHARE * WORK_SECONDS
    assert thread.slept == [0, 0, 0, pytest.approx(rest)] * 2 + [0]
    await thread.work(100 * WORK_SECONDS)
    assert thread.slept[-1] == pytest.approx(REST_SECONDS_MAX)


async def test_all_long_work_rests_together(thread: Thread, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else one would keep the loop busy while another rests."""
    monkeypatch.setattr(breath, "REST_SECONDS_MAX", 600.0)
    tasks = []
    for number in range(3):
        tasks.append(asyncio.ensure_future(thread.work(3000.0 if number == 0 else 0.0)))
        await asyncio.wait(tasks, timeout=0.001)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    first, *others = thread.slept
    assert first == pytest.approx(600.0)
    assert len(others) == 2
    assert all(300.0 < each < first for each in others)


def test_virtual_time_does_not_move() -> None:
    async def work() -> float:
        for _ in range(5):
            until = time.thread_time() + WORK_SECONDS
            while time.thread_time() < until:
                pass
            await breathe()
        return asyncio.get_running_loop().time()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        assert runner.run(work()) == 0.0
