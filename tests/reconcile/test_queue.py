"""The work queue: one key, one worker, and delays that grow."""

import asyncio
from collections.abc import Awaitable, Callable

from hypothesis import given
from hypothesis import strategies as st

from underway.base.clock import FakeClock
from underway.reconcile import WorkQueue


def run_with_queue(
    body: Callable[[WorkQueue[str], FakeClock], Awaitable[None]],
) -> None:
    async def main() -> None:
        clock = FakeClock()
        queue: WorkQueue[str] = WorkQueue(clock)
        async with asyncio.TaskGroup() as group:
            timer = group.create_task(queue.run())
            await body(queue, clock)
            timer.cancel()

    asyncio.run(main())


def test_a_key_added_twice_comes_once():
    async def body(queue, _clock):
        queue.add("a")
        queue.add("a")
        queue.add("b")
        assert await queue.get() == "a"
        assert await queue.get() == "b"
        assert len(queue) == 2

    run_with_queue(body)


def test_a_key_added_while_in_work_comes_again_only_after_it_is_done():
    async def body(queue, _clock):
        queue.add("a")
        assert await queue.get() == "a"
        queue.add("a")
        queue.add("b")
        assert await queue.get() == "b"
        queue.done("b")
        queue.done("a")
        assert await queue.get() == "a"
        queue.done("a")
        assert len(queue) == 0

    run_with_queue(body)


def test_a_failing_key_waits_twice_as_long_each_time_up_to_the_limit():
    async def body(queue, clock):
        waits = []
        for _ in range(20):
            queue.add_rate_limited("a")
            before = clock.monotonic()
            while not queue.busy:
                await settle()
                await clock.advance(_next_due(queue) - clock.monotonic())
            waits.append(clock.monotonic() - before)
            assert await queue.get() == "a"
            queue.done("a")
        expected = [min(0.005 * 2**n, 1000.0) for n in range(20)]
        assert [round(wait, 6) for wait in waits] == [round(wait, 6) for wait in expected]
        queue.forget("a")
        assert queue.failures("a") == 0

    run_with_queue(body)


def test_of_several_delays_the_earliest_counts():
    async def body(queue, clock):
        queue.add_after("a", 10)
        queue.add_after("a", 2)
        queue.add_after("a", 30)
        await settle()
        await clock.advance(2)
        await settle()
        assert await queue.get() == "a"
        queue.done("a")
        await clock.advance(60)
        assert not queue.busy

    run_with_queue(body)


@given(st.lists(st.sampled_from(["add a", "add b", "get", "done"]), max_size=40))
def test_no_key_is_ever_in_two_workers_and_none_is_lost(steps):
    async def body(queue, _clock):
        working: list[str] = []
        owed: set[str] = set()
        for step in steps:
            if step.startswith("add"):
                key = step.split()[1]
                queue.add(key)
                owed.add(key)
            elif step == "get" and queue._ready.qsize():
                key = await queue.get()
                assert key not in working
                working.append(key)
                owed.discard(key)
            elif step == "done" and working:
                queue.done(working.pop(0))
        for key in working:
            queue.done(key)
        while queue._ready.qsize():
            key = await queue.get()
            owed.discard(key)
            queue.done(key)
        assert not owed

    run_with_queue(body)


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def _next_due(queue) -> float:
    return queue._delayed[0][0]
