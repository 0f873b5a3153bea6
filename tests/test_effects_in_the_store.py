"""Writes as the store keeps them: from before they leave until what came of them is saved."""

import asyncio

import pytest

from graph.store.calls import OpenTurn
from graph.store.effects import TurnEffects, unsaid
from graph.store.errors import OutcomeUnknown, TurnLost
from nodes.ports import Effect
from tests.desk import Desk, Place, assert_expiring, keys, lives, thread


def effect(message_id: str = "m-1", where: str = "fulfillment", after: int = 0) -> Effect:
    return Effect(message_id, "refund", where, "fulfillment", "process_refund", "x", None, "hash", "now", after, 1)


async def effects_of(desk: Desk, call: str) -> list[tuple[str, bool]]:
    record = await desk.store.calls.look(thread(call), 0)
    return [(one.effect.message_id, one.is_open) for one in record.effects] if record else []


async def names(desk: Desk) -> list[str]:
    return [record.effect.message_id for _, record in await desk.store.calls.parked("t")]


async def sent(desk: Desk, call: str) -> OpenTurn:
    """A turn that has sent a write."""
    turn = await desk.begin(call, said={"input_message": "refund me"})
    await TurnEffects(turn).sending(effect(after=turn.state.get("step_count", 0)))
    return turn


def test_a_write_of_a_dead_turn_is_there_for_the_next_one_and_the_call_has_no_end(shared: Place) -> None:
    async def story() -> None:
        async with shared.desk() as desk:
            await sent(desk, "C")
            shared.let_lease_run_out("C")
            assert set(lives(shared, keys("C")).values()) == {-1}
            assert list(await desk.store.calls.dead("t")) == [thread("C")]
            turn = await desk.begin("C")
            assert [one.effect.message_id for one in turn.unsettled] == ["m-1"]
            assert turn.died is not None
            assert turn.died.said["input_message"] == "refund me"
            await desk.store.calls.abandon(turn)  # as it was: it is gone on with later
            again = await desk.begin("C")
            assert again.died is not None
            assert again.died.said == turn.died.said

    asyncio.run(story())


def test_a_write_that_is_answered_is_forgotten_with_the_commit(place: Place) -> None:
    async def story() -> None:
        async with place.desk() as desk:
            turn = await sent(desk, "C")
            assert await effects_of(desk, "C") == [("m-1", True)]
            TurnEffects(turn).settled("m-1")
            assert await effects_of(desk, "C") == [("m-1", True)]
            await desk.run(turn, "greeting")
            assert await effects_of(desk, "C") == []
            assert_expiring(place)

    asyncio.run(story())


def test_a_write_of_a_later_step_is_not_forgotten_with_an_earlier_commit(shared: Place) -> None:
    async def story() -> None:
        async with shared.desk() as desk:
            await desk.turn("C", "greeting")
            turn = await desk.begin("C")
            await TurnEffects(turn).sending(effect(after=7))
            TurnEffects(turn).settled("m-1")
            turn.one_save = False
            await desk.run(turn, "authenticate")
            assert await names(desk) == ["m-1"]  # the turn is over, and nothing that was saved tells of it

    asyncio.run(story())


def test_what_nobody_said_anything_about_is_parked_when_the_turn_is_over(place: Place) -> None:
    async def story() -> None:
        async with place.desk() as desk:
            await desk.run(await sent(desk, "C"), "greeting")
            assert await effects_of(desk, "C") == [("m-1", False)]
            [(_, record)] = await desk.store.calls.parked("t")
            assert record.said["input_message"] == "refund me"
            if place.url is not None:
                assert set(lives(place, keys("C")).values()) == {-1}
            with pytest.raises(OutcomeUnknown):
                await desk.store.calls.delete(thread("C"))
            turn = await desk.begin("C")
            with pytest.raises(OutcomeUnknown):
                await TurnEffects(turn).sending(effect("m-2", after=1))
            await desk.store.calls.settle(turn, [("m-1", None)])
            await TurnEffects(turn).sending(effect("m-2", after=1))

    asyncio.run(story())


def test_a_turn_that_lost_its_call_sends_nothing(shared: Place) -> None:
    async def story() -> None:
        async with shared.desk() as desk:
            await desk.turn("C", "greeting")
            late = await desk.begin("C")
            shared.let_lease_run_out("C")
            await desk.begin("C")
            with pytest.raises(TurnLost):
                await TurnEffects(late).sending(effect())
            assert await effects_of(desk, "C") == []

    asyncio.run(story())


def test_a_turn_that_wakes_up_late_does_not_hide_what_another_parked(shared: Place) -> None:
    async def story() -> None:
        async with shared.desk() as desk:
            await desk.turn("C", "greeting")
            late = await sent(desk, "C")
            shared.let_lease_run_out("C")
            turn = await desk.begin("C")
            await desk.store.calls.settle(turn, unsaid(turn))
            await desk.store.calls.abandon(turn)
            TurnEffects(late).settled("m-1")
            with pytest.raises(TurnLost):
                await desk.run(late, "authenticate")
            assert await names(desk) == ["m-1"]

    asyncio.run(story())


def test_a_write_that_did_not_leave_is_taken_back(shared: Place) -> None:
    async def story() -> None:
        async with shared.desk() as desk:
            await desk.turn("C", "greeting")
            turn = await sent(desk, "C")
            TurnEffects(turn).settled("m-1", acted=False)
            await desk.store.calls.abandon(turn)
            assert await effects_of(desk, "C") == []
            assert all(left > 0 for left in lives(shared, keys("C")).values())

    asyncio.run(story())


def test_a_cut_off_turn_that_sent_a_write_stays_open(place: Place) -> None:
    async def story() -> None:
        async with place.desk() as desk:
            turn = await sent(desk, "C")
            await desk.store.calls.abandon(turn)
            assert list(await desk.store.calls.dead("t")) == [thread("C")]
            again = await desk.begin("C")
            assert [one.effect.message_id for one in again.unsettled] == ["m-1"]

    asyncio.run(story())
