from __future__ import annotations

import asyncio

import pytest

from gureum.san.locks import KeyedLocks, uninterrupted
from gureum.sim.loop import run


def test_one_at_a_time_for_a_key_and_nothing_kept():
    async def main():
        locks = KeyedLocks()
        inside: list[str] = []
        most: dict[str, int] = {}

        async def work(key: str) -> None:
            async with locks.hold(key):
                inside.append(key)
                most[key] = max(most.get(key, 0), inside.count(key))
                most["all"] = max(most.get("all", 0), len(inside))
                await asyncio.sleep(1)
                inside.remove(key)

        await asyncio.gather(*(work(key) for key in "aabbab"))
        assert most == {"a": 1, "b": 1, "all": 2}
        assert not locks._locks

    run(main())


def test_cancelled_waiter_leaves_the_lock():
    async def main():
        locks = KeyedLocks()
        async with locks.hold("a"):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1), locks.hold("a"):
                    pytest.fail("held twice")
        assert not locks._locks

    run(main())


def test_work_is_finished_before_the_cancellation():
    async def main():
        done = []

        async def work() -> None:
            await asyncio.sleep(5)
            done.append("work")

        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await uninterrupted(work())
        assert done == ["work"]

    run(main())


@pytest.mark.parametrize("cancelled", [False, True])
def test_failure_of_the_work(cancelled):
    async def main():
        async def work() -> None:
            await asyncio.sleep(5)
            raise ValueError

        with pytest.raises(TimeoutError if cancelled else ValueError):
            async with asyncio.timeout(1 if cancelled else 10):
                await uninterrupted(work())

    run(main())
