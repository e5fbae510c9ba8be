import asyncio
import random

import pytest

from gureum.env import Env
from gureum.errors import ConfigError
from gureum.sim.loop import run
from gureum.sim.process import CrashPoints, Process


def now() -> float:
    return asyncio.get_running_loop().time()


def points(at: str = "", count: int = 1) -> CrashPoints:
    made = CrashPoints(random.Random(1))
    made.at, made.count = at, count
    return made


def test_a_frozen_process_does_not_run_and_goes_on_after() -> None:
    ticks: list[float] = []

    async def tick(env: Env) -> None:
        while True:
            ticks.append(env.now())
            await asyncio.sleep(1)

    async def main() -> None:
        process = Process("p", tick, now, points())
        await asyncio.sleep(2.5)
        process.freeze(10)
        await asyncio.sleep(12)
        process.die()
        await process.wait()

    run(main())
    assert ticks == [0, 1, 2, 12.5, 13.5]


def test_a_crash_point_kills_at_its_count_and_nothing_runs_after() -> None:
    reached: list[int] = []

    async def work(env: Env) -> None:
        for number in range(5):
            env.crashpoint("here")
            reached.append(number)
            await asyncio.sleep(1)

    async def main() -> None:
        process = Process("p", work, now, points("here", 3))
        await process.wait()
        assert process.dead

    run(main())
    assert reached == [0, 1]


def test_a_frozen_process_can_be_killed() -> None:
    async def main() -> float:
        process = Process("p", lambda env: asyncio.sleep(1000), now, points())
        await asyncio.sleep(1)
        process.freeze(500)
        process.die()
        await process.wait()
        return now()

    assert run(main()) == 1


def test_an_expected_error_ends_a_process_and_a_fault_is_told() -> None:
    async def fail(env: Env) -> None:
        raise ConfigError("no")

    async def fault(env: Env) -> None:
        raise ZeroDivisionError

    async def main() -> None:
        await Process("p", fail, now, points()).wait()
        with pytest.raises(ZeroDivisionError):
            await Process("p", fault, now, points()).wait()

    run(main())
