import asyncio

import pytest

from gureum.bell import Bell
from gureum.sim.loop import run


def test_who_waits_goes_on_when_it_is_set() -> None:
    async def main() -> tuple[bool, float]:
        loop, bell = asyncio.get_running_loop(), Bell()
        loop.call_later(2, bell.set)
        return await bell.wait(5), loop.time()

    assert run(main()) == (True, 2)


def test_or_after_so_long() -> None:
    async def main() -> tuple[bool, float]:
        return await Bell().wait(5), asyncio.get_running_loop().time()

    assert run(main()) == (False, 5)


def test_one_that_is_set_stays_so_until_it_is_cleared() -> None:
    async def main() -> tuple[bool, bool, bool]:
        bell = Bell()
        bell.set()
        first, second = await bell.wait(5), await bell.wait(5)
        bell.clear()
        return first, second, await bell.wait(5)

    assert run(main()) == (True, True, False)


def test_all_that_wait_go_on() -> None:
    async def main() -> list[bool]:
        bell = Bell()
        asyncio.get_running_loop().call_later(1, bell.set)
        return await asyncio.gather(*(bell.wait(5) for _ in range(3)))

    assert run(main()) == [True, True, True]


def test_who_is_cancelled_leaves_nothing_behind() -> None:
    async def main() -> None:
        bell = Bell()
        waiting = asyncio.create_task(bell.wait(5))
        await asyncio.sleep(1)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        bell.set()
        assert not bell._waiting
        await asyncio.sleep(10)

    run(main())
