import asyncio

import pytest

from gureum.sim.loop import Deadlock, run


def test_waiting_costs_no_real_time() -> None:
    async def main() -> float:
        await asyncio.sleep(1_000_000)
        return asyncio.get_running_loop().time()

    assert run(main()) == pytest.approx(1_000_000)


def test_timeouts_are_virtual() -> None:
    async def main() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(30):
                await asyncio.Event().wait()
        return asyncio.get_running_loop().time()

    assert run(main()) == pytest.approx(30)


def test_waiting_for_what_nobody_will_do_is_found() -> None:
    async def main() -> None:
        await asyncio.Event().wait()

    with pytest.raises(Deadlock):
        run(main())


def test_threads_are_refused() -> None:
    async def main() -> None:
        await asyncio.to_thread(print)

    with pytest.raises(AssertionError, match="not deterministic"):
        run(main())


def test_what_is_due_at_once_happens_in_its_order() -> None:
    async def main() -> list[int]:
        loop, done = asyncio.get_running_loop(), list[int]()
        timers = []
        for number in range(300):
            timers.append(loop.call_at(5, lambda: None))
            loop.call_at(5, done.append, number)
        for timer in timers[1:]:
            timer.cancel()
        await asyncio.sleep(6)
        return done

    assert run(main()) == list(range(300))


def test_timers_that_end_unused_change_nothing() -> None:
    async def main(unused: int) -> list[tuple[float, int]]:
        loop, done = asyncio.get_running_loop(), list[tuple[float, int]]()

        async def work(number: int) -> None:
            for turn in range(20):
                timers = [loop.call_later(3, lambda: None) for _ in range(unused)]
                await asyncio.sleep(0.1 * (turn % 3))
                for timer in timers:
                    timer.cancel()
                done.append((loop.time(), number))

        await asyncio.gather(*(work(number) for number in range(10)))
        return done

    assert run(main(0)) == run(main(7))


def test_what_a_callback_raises_is_told_and_ends_nothing() -> None:
    told: list[str] = []

    def fail() -> None:
        raise ValueError("odd")

    async def main() -> str:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: told.append(repr(context["exception"])))
        loop.call_soon(fail)
        loop.call_later(1, fail)
        await asyncio.sleep(2)
        return "on"

    assert run(main()) == "on"
    assert told == ["ValueError('odd')"] * 2
