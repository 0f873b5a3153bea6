"""What a turn learns as it begins, in every store: where the events of its call were, and whether anybody listens."""

import asyncio
from contextlib import AsyncExitStack

from graph.store.calls import OpenedTurn, OpenTurn
from graph.store.events import START
from graph.store.opening import Store
from tests.desk import Desk, Place, eventually, thread


def test_the_events_of_an_open_turn_are_read_from_its_beginning(place: Place) -> None:
    async def story() -> None:
        async with place.desk() as desk:
            events, after = desk.store.events, START
            for number, intent in enumerate(("greeting", "authenticate", "refund_request")):
                turn = await desk.begin("C")
                assert turn.after == after
                assert [opened.after for opened in await seen(desk)] == [after] * 2
                await events.publish(thread("C"), [{"event": "step", "number": number}] * 3)
                assert [opened.after for opened in await seen(desk)] == [after] * 2
                told = await events.read(thread("C"), turn.after)
                assert [one.event["number"] for one in told] == [number] * 3
                await desk.run(turn, intent)
                after = await events.last(thread("C"))
                assert after == told[-1].position

    asyncio.run(story())


def test_the_next_turn_begins_after_the_events_of_one_that_died(shared: Place) -> None:
    async def story() -> None:
        async with shared.desk() as desk:
            await desk.turn("C", "greeting")
            await desk.begin("C")
            await desk.store.events.publish(thread("C"), [{"event": "step"}])
            assert [opened.after for opened in await seen(desk)] == [START] * 2
            shared.let_lease_run_out("C")
            last = await desk.store.events.last(thread("C"))
            assert (await desk.begin("C")).after == last != START
            assert [opened.after for opened in await seen(desk)] == [last] * 2

    asyncio.run(story())


def test_a_turn_knows_whether_anybody_watches_its_call(place: Place) -> None:
    async def story() -> None:
        async with place.desk() as desk, AsyncExitStack() as stack:
            replica = await other(place, desk, stack)

            async def is_followed() -> bool:
                turn = await desk.begin("C")
                await desk.store.calls.abandon(turn)
                return turn.followed

            for _ in range(2):  # a new call, and one that goes on
                assert not await is_followed()
                async with replica.events.watch(thread("other")):
                    assert not await is_followed()
                async with replica.events.watch(thread("C")) as watch, replica.events.watch(thread("C")):
                    assert await is_followed()
                    assert await watch.changed(0.05) is False  # a turn that is refused is no news
                await eventually(is_followed, False)
                await desk.turn("C", "greeting" if _ == 0 else "authenticate")

    asyncio.run(story())


def test_a_message_that_comes_again_has_no_followers(place: Place) -> None:
    async def story() -> None:
        async with place.desk() as desk, desk.store.events.watch(thread("C")):
            turn = await desk.begin("C", key="1")
            assert turn.followed
            await desk.run(turn, "greeting")
            again: OpenTurn = await desk.begin("C", key="1")
            assert (again.answered, again.followed) == (1, False)

    asyncio.run(story())


async def other(place: Place, desk: Desk, stack: AsyncExitStack) -> Store:
    """Another replica's store; in memory there is only one."""
    return desk.store if place.url is None else await stack.enter_async_context(place.open())


async def seen(desk: Desk) -> list[OpenedTurn]:
    """The open turn of call C, by both ways of reading it."""
    records = [await desk.store.calls.read(thread("C")), *await desk.store.calls.trails([thread("C")])]
    return [record.opened for record in records if record and record.opened]
