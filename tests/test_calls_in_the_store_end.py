"""How calls end in every store: deleted, expired or evicted, whole and alone."""

import asyncio

import pytest

from graph.loader import load_flow
from graph.routing import Refused
from server.turn import TurnRequest
from tests.desk import FIVE_TURNS, Place, assert_expiring, call_key, eventually, keys, lives, thread


def test_the_end_of_a_run_returns_what_was_done_in_it_and_no_more(place: Place) -> None:
    async def story() -> None:
        async with place.desk(flow=load_flow("relay", {})) as desk:
            for number in range(1, 5):
                taken = await desk.turns.take(request(f"message {number}"), wants_trail=number > 2)
                assert [step["number"] for step in taken.steps] == [number]
                assert (taken.answer()["session_summary"] or {})["steps"] == [taken.step]
            assert await desk.steps("C") == [1, 2, 3, 4]

    def request(said: str) -> TurnRequest:
        return TurnRequest("C", "ACC-1", "ECI-7", said)

    asyncio.run(story())


def test_a_deleted_call_leaves_no_key(place: Place) -> None:
    async def story() -> None:
        async with place.desk() as desk:
            before = place.keys()
            for intent in FIVE_TURNS:
                await desk.turn("C", intent)
            first = await desk.store.calls.read(thread("C"))
            assert first is not None
            assert await desk.store.calls.delete(thread("C")) is True
            assert place.keys() == before
            assert await desk.store.calls.delete(thread("C")) is False
            assert place.keys() == before
            await desk.turn("C", "greeting")
            again = await desk.store.calls.read(thread("C"))
            assert again is not None
            assert again.state["incarnation"] != first.state["incarnation"]
            assert await desk.steps("C") == [1]

    asyncio.run(story())


def test_a_deletion_takes_nothing_from_its_neighbours(place: Place) -> None:
    async def story() -> None:
        calls = ["c", "C", "c1", "c:1", "c*", "c,1", "{c}", "c}"]
        async with place.desk() as desk:
            for call in calls:
                await desk.turn(call, "greeting", f"from {call}")
            for deleted, call in enumerate(calls):
                record = await desk.store.calls.read(thread(call))
                assert record is not None
                assert [step["input_message"] for step in record.steps] == [f"from {call}"]
                assert len(await desk.store.calls.history(thread(call))) == 1
                assert await desk.store.calls.delete(thread(call)) is True
                left = [await desk.steps(other) for other in calls[deleted + 1 :]]
                assert left == [[1]] * len(left)

    asyncio.run(story())


def test_a_deletion_never_takes_from_the_call_that_follows(shared: Place) -> None:
    async def story() -> None:
        async with shared.desk() as desk:
            for _ in range(20):
                await desk.turn("C", "greeting")
                turns = [desk.turn("C", "greeting", "again") for _ in range(4)]
                await asyncio.gather(desk.store.calls.delete(thread("C")), *turns, return_exceptions=True)
                record = await desk.store.calls.read(thread("C"))
                assert (record is None) == (call_key("C") not in lives(shared, keys("C")))
                assert record is None or record.state["step_count"] == len(record.steps) == 1
                await desk.store.calls.delete(thread("C"))

    asyncio.run(story())


def test_keys_expire_unless_a_turn_is_open(shared: Place) -> None:
    async def story() -> None:
        async with shared.desk() as desk:
            await desk.turn("C", "greeting")
            assert_expiring(shared)
            turn = await desk.begin("C")
            assert set(lives(shared, keys("C")).values()) == {-1}
            await desk.store.calls.abandon(turn)
            assert_expiring(shared)
            await desk.turn("C", "authenticate")
            assert_expiring(shared)

    asyncio.run(story())


def test_a_turn_that_commits_nothing_does_not_lengthen_a_call(shared: Place) -> None:
    """Or a stock saver's checkpoint, which does not live longer for it, would be missing one day."""

    async def story() -> None:
        async with shared.desk() as desk:
            await desk.turn("C", "greeting")
            with shared.admin() as redis:
                for key in keys("C"):
                    redis.expire(key, 100)
            with pytest.raises(Refused):
                await desk.turn("C", "greeting")
            assert all(90 < left <= 100 for left in lives(shared, keys("C")).values())
            await desk.turn("C", "authenticate")
            assert all(left > 3500 for left in lives(shared, keys("C")).values())

    asyncio.run(story())


def test_a_call_without_an_end_stays(shared: Place) -> None:
    async def story() -> None:
        async with shared.desk(ttl=0) as desk:
            await desk.turn("C", "greeting")
            with pytest.raises(Refused):
                await desk.turn("C", "process_refund")
        assert set(lives(shared, shared.keys()).values()) == {-1}

    asyncio.run(story())


def test_an_expired_call_is_a_new_one(place: Place) -> None:
    async def story() -> None:
        async with place.desk(ttl=1) as desk:
            await desk.turn("C", "greeting")
            first = await desk.begin("C")
            await desk.store.calls.abandon(first)
            await eventually(lambda: desk.steps("C"), [])
            assert await desk.store.calls.history(thread("C")) == []
            turn = await desk.begin("C")
            assert turn.loaded is None
            assert turn.incarnation != first.incarnation
            await desk.store.calls.abandon(turn)
            assert (await desk.turn("C", "greeting"))["step"] == 1

    asyncio.run(story())


@pytest.mark.parametrize("evicted", ["call", "checkpoints", "steps"])
def test_a_call_that_was_evicted_in_part_begins_anew(shared: Place, evicted: str) -> None:
    async def story() -> None:
        async with shared.desk() as desk:
            await desk.turn("C", "greeting")
            with shared.admin() as redis:
                if shared.choice == "langgraph-redis" and evicted == "checkpoints":
                    redis.delete(*redis.keys("checkpoint:*"))
                else:
                    redis.delete(call_key("C").removesuffix("call") + evicted)
            told = await desk.turn("C", "authenticate" if evicted == "steps" else "greeting")
            record = await desk.store.calls.read(thread("C"))
            assert record is not None
            assert [step["number"] for step in record.steps] == [told["step"]]
            assert record.state["step_count"] == told["step"]

    asyncio.run(story())
