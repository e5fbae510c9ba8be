import asyncio
import itertools

from gureum.agent.workers import Workers
from gureum.errors import PoolError
from gureum.sim.loop import run


def test_a_kick_during_work_runs_it_once_more() -> None:
    runs: list[str] = []

    async def main() -> None:
        async def work(key: str) -> None:
            runs.append(key)
            await asyncio.sleep(1)

        workers = Workers[str](work, 4)
        workers.kick("a")
        await asyncio.sleep(0.5)
        workers.kick("a")
        workers.kick("a")
        await asyncio.sleep(5)
        assert not workers.busy("a")

    run(main())
    assert runs == ["a", "a"]


def test_failed_work_is_tried_again_with_growing_pauses() -> None:
    times: list[float] = []

    async def main() -> None:
        async def work(key: str) -> None:
            times.append(asyncio.get_running_loop().time())
            if len(times) < 4:
                raise PoolError("not yet")

        workers = Workers[str](work, 1)
        workers.kick("a")
        await asyncio.sleep(60)
        assert not workers.busy("a")

    run(main())
    pauses = [after - before for before, after in itertools.pairwise(times)]
    assert len(times) == 4
    assert pauses == sorted(pauses)
    assert pauses[0] >= 0.5


def test_the_limit_holds_across_keys() -> None:
    running = most = 0

    async def main() -> None:
        async def work(key: int) -> None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await asyncio.sleep(1)
            running -= 1

        workers = Workers[int](work, 3)
        for key in range(10):
            workers.kick(key)
        await asyncio.sleep(20)

    run(main())
    assert most == 3


def test_a_kick_that_comes_before_the_wait_is_not_lost() -> None:
    async def main() -> float:
        done: list[float] = []

        async def work(key: str) -> None:
            await asyncio.sleep(1)
            await workers.wait_kick(key, 100)
            done.append(asyncio.get_running_loop().time())

        workers = Workers[str](work, 1)
        workers.kick("a")
        await asyncio.sleep(0.5)
        workers.kick("a")
        await asyncio.sleep(10)
        await workers.close()
        return done[0]

    assert run(main()) < 2


def test_close_ends_everything() -> None:
    async def main() -> None:
        async def work(key: str) -> None:
            await asyncio.sleep(1000)

        workers = Workers[str](work, 1)
        workers.kick("a")
        workers.kick("b")
        await asyncio.sleep(1)
        await workers.close()
        assert len(asyncio.all_tasks()) == 1

    run(main())


async def test_after_the_end_nothing_begins() -> None:
    done: list[str] = []

    async def work(key: str) -> None:
        done.append(key)

    workers = Workers[str](work, 1)
    await workers.close()
    workers.kick("late")
    await asyncio.sleep(0)
    assert done == []
    assert not workers.busy("late")
