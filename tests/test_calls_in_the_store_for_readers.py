"""What readers see of calls in every store: open turns, audit trails, the calls of a tenant, and who wants to be
notified; and messages that come twice."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from graph.routing import Refused
from graph.store.calls import CallRecord
from graph.store.errors import Busy
from graph.store.names import thread_name
from tests.desk import FIVE_TURNS, Desk, Place, assert_expiring, keys, lives, thread

INDEX = "flows:index:t"


# Open turns


def test_a_turn_is_seen_while_it_is_open(place: Place) -> None:
    async def story() -> None:
        async with place.desk() as desk:
            for number, intent in enumerate(FIVE_TURNS[:2]):
                said = {"message": "Grüße", "parts": [{"text": "1"}]}
                turn = await desk.begin("C", said=said)
                for record in await seen(desk):
                    assert record.opened is not None
                    assert (record.opened.token, record.opened.live) == (turn.token, True)
                    assert {**record.opened.said, "at": None} == {**said, "at": None}
                    began = datetime.fromisoformat(record.opened.said["at"])
                    assert abs((datetime.now(UTC) - began).total_seconds()) < 60
                    assert len(record.steps) == number
                    assert record.incarnation == turn.incarnation
                assert ((await desk.store.calls.read(thread("C"))) or record).state == turn.state
                await desk.run(turn, intent)
                for record in await seen(desk):
                    assert record.opened is None

    asyncio.run(story())


def test_a_first_turn_that_died_is_seen_until_another_begins(shared: Place) -> None:
    async def story() -> None:
        async with shared.desk() as desk:
            died = await desk.begin("C", said={"message": "hello"})
            shared.let_lease_run_out("C")
            for record in await seen(desk):
                assert (record.state, record.steps) == ({}, [])
                assert record.opened is not None
                assert (record.opened.token, record.opened.live) == (died.token, False)
                assert record.opened.said["message"] == "hello"
            assert_expiring(shared)
            await desk.turn("C", "greeting")
            for record in await seen(desk):
                assert (record.opened, len(record.steps)) == (None, 1)

    asyncio.run(story())


def test_a_turn_that_died_is_seen_beside_what_was_committed(shared: Place) -> None:
    async def story() -> None:
        async with shared.desk() as desk:
            await desk.turn("C", "greeting")
            await desk.begin("C")
            shared.let_lease_run_out("C")
            for record in await seen(desk):
                assert record.opened is not None
                assert (record.opened.live, len(record.steps)) == (False, 1)

    asyncio.run(story())


# Trails


def test_trails_come_in_the_order_asked_for(place: Place) -> None:
    async def story() -> None:
        async with place.desk() as desk:
            for number, call in enumerate(("A", "B", "C")):
                for intent in FIVE_TURNS[: number + 1]:
                    await desk.turn(call, intent)
            asked = [call for number in range(100) for call in ("C", f"unknown-{number}", "A")] + ["B"]
            trails = await desk.store.calls.trails([thread(call) for call in asked])
            assert [record and len(record.steps) for record in trails] == [3, None, 1] * 100 + [2]
            whole = await desk.store.calls.read(thread("C"))
            assert whole is not None
            version, chain = whole.version, whole.chain
            assert trails[0] == CallRecord({}, whole.steps, whole.incarnation, version=version, chain=chain)
            assert whole.incarnation == whole.state["incarnation"]
            assert await desk.store.calls.trails([]) == []

    asyncio.run(story())


def test_a_commit_brings_the_whole_trail_to_who_wants_it(place: Place) -> None:
    async def story() -> None:
        async with place.desk() as desk:
            await desk.turn("C", "greeting")
            for wants_trail, intent in ((False, "authenticate"), (True, "refund_request")):
                turn = await desk.begin("C")
                turn.wants_trail = wants_trail
                await desk.run(turn, intent)
                assert turn.trail == ((await seen(desk))[0].steps if wants_trail else [])
            assert [step["number"] for step in turn.trail] == [1, 2, 3]

    asyncio.run(story())


# The calls of a tenant


def test_a_tenants_calls_are_known_the_last_to_take_a_turn_first(place: Place) -> None:
    async def story() -> None:
        async with place.desk() as desk:
            assert await desk.store.calls.recent("t") == []
            for call in ("A", "B", "C"):
                await desk.turn(call, "greeting")
            await desk.turn("A", "authenticate")
            with pytest.raises(Refused):
                await desk.turn("B", "closing")
            with pytest.raises(Refused):
                await desk.turn("never", "closing")
            opened = await desk.begin("D")
            assert await desk.store.calls.recent("t") == [thread(call) for call in ("D", "A", "C", "B")]
            await desk.store.calls.abandon(opened)
            await desk.store.calls.delete(thread("A"))
            assert await desk.store.calls.recent("t") == [thread("C"), thread("B")]

    asyncio.run(story())


def test_each_tenant_has_its_own_calls(place: Place) -> None:
    tenants = ["t", "T", "t__c", "t_", "_", "", "a:b", "{a}", "Жалоба"]

    async def story() -> None:
        async with place.desk() as desk:
            for tenant in tenants:
                await desk.store.calls.begin(thread_name(tenant, "C__1"))
            for tenant in tenants:
                assert await desk.store.calls.recent(tenant) == [thread_name(tenant, "C__1")]

    asyncio.run(story())


def test_calls_that_have_expired_are_forgotten(shared: Place) -> None:
    async def story() -> None:
        async with shared.desk(ttl=10) as desk:
            await desk.turn("old", "greeting")
            await desk.turn("new", "greeting")
            with shared.admin() as redis:
                redis.zincrby(INDEX, -71_000, thread("old"))
            await desk.turn("new", "authenticate")
            assert await desk.store.calls.recent("t") == [thread("new")]
            assert 60 < lives(shared, [INDEX])[INDEX] <= 70

    asyncio.run(story())


def test_a_late_commit_does_not_name_a_call_that_is_gone(shared: Place) -> None:
    async def story() -> None:
        async with shared.desk() as desk:
            late = await desk.begin("C")
            shared.let_lease_run_out("C")
            await desk.store.calls.delete(thread("C"))
            with pytest.raises(Exception, match="another turn"):
                await desk.run(late, "greeting")
            assert await desk.store.calls.recent("t") == []

    asyncio.run(story())


def test_an_index_that_cannot_be_written_stops_no_turn(shared: Place) -> None:
    async def story() -> None:
        async with shared.desk() as desk:
            with shared.admin() as redis:
                redis.set(INDEX, "in the way")
            for intent in FIVE_TURNS:
                await desk.turn("C", intent)
            assert await desk.steps("C") == [1, 2, 3, 4, 5]
            assert await desk.store.calls.delete(thread("C"))

    asyncio.run(story())


# Messages that come twice


def test_a_message_is_answered_once(place: Place) -> None:
    async def story() -> None:
        async with place.desk() as desk:
            for number, intent in enumerate(FIVE_TURNS[:3], start=1):
                turn = await desk.begin("C", key=f"message {number}")
                assert turn.answered is None
                await desk.run(turn, intent)
            for number in (1, 3, 2):
                again = await desk.begin("C", key=f"message {number}")
                assert (again.answered, again.closed) == (number, True)
                assert again.incarnation == turn.incarnation
                await desk.store.calls.finish(again, [], complete=False)
                await desk.store.calls.abandon(again)
            assert await desk.steps("C") == [1, 2, 3]
            assert_expiring(place)
            other = await desk.begin("C", key="message 4")
            assert (other.answered, other.closed) == (None, False)
            assert (await desk.begin("C", key="message 1")).answered == 1
            await desk.store.calls.abandon(other)
            assert (await desk.turn("C", "process_refund"))["step"] == 4

    asyncio.run(story())


def test_a_message_that_is_being_answered_is_busy(place: Place) -> None:
    async def story() -> None:
        async with place.desk() as desk:
            for number, intent in enumerate(FIVE_TURNS[:2], start=1):
                turn = await desk.begin("C", key=intent)
                with pytest.raises(Busy):
                    await desk.begin("C", key=intent)
                await desk.run(turn, intent)
                assert (await desk.begin("C", key=intent)).answered == number

    asyncio.run(story())


def test_a_message_that_was_not_answered_may_come_again(place: Place) -> None:
    async def story() -> None:
        async with place.desk() as desk:
            await desk.store.calls.abandon(await desk.begin("C", key="1"))
            first = await desk.begin("C", key="1")
            assert first.answered is None
            await desk.run(first, "greeting")
            await desk.store.calls.abandon(await desk.begin("C", key="2"))
            assert (await desk.begin("C", key="2")).answered is None

    asyncio.run(story())


def test_what_was_answered_is_forgotten_with_the_call(place: Place) -> None:
    async def story() -> None:
        async with place.desk() as desk:
            await desk.run(await desk.begin("C", key="1"), "greeting")
            await desk.store.calls.delete(thread("C"))
            assert place.keys() == set()
            assert (await desk.begin("C", key="1")).answered is None

    asyncio.run(story())


def test_messages_do_not_outlive_a_call_that_was_evicted(shared: Place) -> None:
    async def story() -> None:
        async with shared.desk() as desk:
            await desk.run(await desk.begin("C", key="1"), "greeting")
            with shared.admin() as redis:
                redis.delete(keys("C")[0])
            assert (await desk.begin("C", key="1")).answered is None

    asyncio.run(story())


# Who wants to be notified


def test_who_wants_to_be_notified_is_kept_with_the_call(place: Place) -> None:
    async def story() -> None:
        async with place.desk() as desk:
            calls, one, other = desk.store.calls, {"url": "http://1", "token": "Ü"}, {"url": "http://2"}
            await desk.turn("C", "greeting")
            assert await calls.push_of(thread("C")) == {}
            await calls.change_push(thread("C"), lambda push: {**push, "1": one})
            turn = await desk.begin("C")
            assert turn.push == {"1": one}
            await calls.change_push(thread("C"), lambda push: {**push, "2": other})
            await desk.run(turn, "authenticate")
            assert turn.push == await calls.push_of(thread("C")) == {"1": one, "2": other}
            await calls.change_push(thread("C"), lambda push: {"2": push["2"]})
            await desk.turn("C", "refund_request")
            assert await calls.push_of(thread("C")) == {"2": other}
            await calls.change_push(thread("C"), lambda push: {})
            assert (await desk.begin("C")).push == {}

    asyncio.run(story())


def test_who_wants_to_be_notified_may_say_so_during_the_first_turn(place: Place) -> None:
    async def story() -> None:
        async with place.desk() as desk:
            turn = await desk.begin("C")
            await desk.store.calls.change_push(thread("C"), lambda push: {"1": {"url": "http://1"}})
            await desk.run(turn, "greeting")
            assert turn.push == {"1": {"url": "http://1"}}
            assert_expiring(place)
            await desk.store.calls.delete(thread("C"))
            assert await desk.store.calls.push_of(thread("C")) == {}

    asyncio.run(story())


def test_many_who_want_to_be_notified_at_once_are_all_kept(place: Place) -> None:
    async def story() -> None:
        async with place.desk() as desk:
            await desk.turn("C", "greeting")

            async def add(number: int) -> None:
                await desk.store.calls.change_push(thread("C"), lambda push: {**push, str(number): {"n": number}})

            await asyncio.gather(*(add(number) for number in range(32)))
            assert await desk.store.calls.push_of(thread("C")) == {str(n): {"n": n} for n in range(32)}

    asyncio.run(story())


def test_nobody_is_notified_of_a_call_that_does_not_exist(place: Place) -> None:
    def change(push: dict[str, Any]) -> dict[str, Any]:
        return {"1": {"url": "http://1"}}

    async def story() -> None:
        async with place.desk() as desk:
            await desk.store.calls.change_push(thread("C"), change)
            assert await desk.store.calls.push_of(thread("C")) == {}
            assert await desk.store.calls.read(thread("C")) is None
            assert place.keys() == set()

    asyncio.run(story())


async def seen(desk: Desk) -> list[CallRecord]:
    """Call C, by both ways of reading it."""
    records = [await desk.store.calls.read(thread("C")), *await desk.store.calls.trails([thread("C")])]
    found = [record for record in records if record is not None]
    assert len(found) == 2
    return found
