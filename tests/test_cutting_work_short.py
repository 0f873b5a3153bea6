"""Work that an event may cut short: what the task that does it is left with, whichever comes first."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from nodes.canceling import unless

LONG = 30.0


def _left_with(story: Callable[[asyncio.Event], Awaitable[Any]]) -> tuple[Any, int]:
    """What the story returns, and how often its task is still asked to end once it has gone on for a moment."""

    async def told() -> tuple[Any, int]:
        answer = await story(asyncio.Event())
        await asyncio.sleep(0.01)
        task = asyncio.current_task()
        assert task is not None
        return answer, task.cancelling()

    return asyncio.run(told())


def test_work_that_is_cut_short_leaves_its_task_going() -> None:
    async def story(cancel: asyncio.Event) -> str | None:
        asyncio.get_running_loop().call_later(0.01, cancel.set)
        return await unless(cancel, asyncio.sleep(LONG, "slept"))

    assert _left_with(story) == (None, 0)


def test_work_that_fails_as_it_is_cut_short_counts_as_cut_short() -> None:
    async def breaks() -> str:
        try:
            return await asyncio.sleep(LONG, "slept")
        except asyncio.CancelledError:
            raise ValueError("broken off") from None

    async def story(cancel: asyncio.Event) -> str | None:
        asyncio.get_running_loop().call_later(0.01, cancel.set)
        return await unless(cancel, breaks())

    assert _left_with(story) == (None, 0)


def test_an_answer_that_is_there_wins() -> None:
    async def answers(cancel: asyncio.Event) -> str:
        cancel.set()
        return "answer"

    async def story(cancel: asyncio.Event) -> str | None:
        return await unless(cancel, answers(cancel))

    assert _left_with(story) == ("answer", 0)


def test_a_deadline_within_the_work_is_its_own() -> None:
    async def in_time() -> str:
        try:
            async with asyncio.timeout(0.01):
                return await asyncio.sleep(LONG, "slept")
        except TimeoutError:
            return "timed out"

    async def story(cancel: asyncio.Event) -> str | None:
        return await unless(cancel, in_time())

    assert _left_with(story) == ("timed out", 0)


def test_who_is_canceled_as_the_work_is_cut_short_stays_canceled() -> None:
    async def story() -> None:
        cancel = asyncio.Event()
        task = asyncio.create_task(unless(cancel, asyncio.sleep(LONG)))
        await asyncio.sleep(0.01)
        cancel.set()
        asyncio.get_running_loop().call_soon(task.cancel)
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(story())


def test_work_that_is_over_before_it_begins_is_not_begun() -> None:
    async def story(cancel: asyncio.Event) -> str | None:
        cancel.set()
        return await unless(cancel, asyncio.sleep(LONG, "slept"))

    assert _left_with(story) == (None, 0)
