"""The life of a call in every store: a turn is begun, committed or abandoned, and whatever goes wrong in between
leaves the call as its last commit left it."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.base import empty_checkpoint

from graph.routing import Refused
from graph.store.calls import OpenTurn
from graph.store.embedded import embedded_store
from graph.store.errors import Busy, TurnLost
from graph.store.redis_calls import RedisCalls
from nodes.ports import AgentRequest
from tests.desk import FIVE_TURNS, Agents, Place, call_key, keys, thread

# A whole call


def test_a_call_is_kept_turn_by_turn(place: Place) -> None:
    async def story() -> None:
        async with place.desk() as desk:
            for number, intent in enumerate(FIVE_TURNS, start=1):
                told = await desk.turn("C", intent)
                assert (told["step"], told["status"]) == (number, "success")
            assert [step["number"] for step in told["session_summary"]["steps"]] == [1, 2, 3, 4, 5]
            record = await desk.store.calls.read(thread("C"))
            moments = await desk.store.calls.history(thread("C"))
        assert record is not None
        assert [(step["number"], step["intent"]) for step in record.steps] == list(enumerate(FIVE_TURNS, start=1))
        assert [moment.state["step_count"] for moment in moments] == [1, 2, 3, 4, 5]
        assert [moment.state["completed_flows"] for moment in moments][1:3] == [[1, 2], [1, 2, 3]]
        assert sorted(moment.saved_at for moment in moments) == [moment.saved_at for moment in moments]
        assert moments[-1].state == record.state

    asyncio.run(story())


def test_another_process_goes_on_where_the_first_stopped(shared: Place) -> None:
    async def turn(intent: str) -> dict[str, Any]:
        async with shared.desk() as desk:
            return await desk.turn("C", intent)

    told = [asyncio.run(turn(intent)) for intent in FIVE_TURNS]
    assert [answer["step"] for answer in told] == [1, 2, 3, 4, 5]
    assert told[-1]["session_summary"]["completed_flows"] == [1, 2, 3, 4, 5]


def test_the_embedded_store_keeps_a_call_over_a_restart(tmp_path: Path) -> None:
    async def turn(intent: str) -> dict[str, Any]:
        async with embedded_store(tmp_path / "flows") as embedded, Place("core", embedded.url).desk() as desk:
            return await desk.turn("C", intent)

    assert [asyncio.run(turn(intent))["step"] for intent in FIVE_TURNS[:2]] == [1, 2]


def test_everything_kept_is_plain_json(place: Place) -> None:
    async def story() -> list[Any]:
        async with place.desk() as desk:
            for intent in FIVE_TURNS:
                await desk.turn("C", intent, "Grüße, “Ünï” 👋\u2028")
            record = await desk.store.calls.read(thread("C"))
            assert record is not None
            moments = await desk.store.calls.history(thread("C"))
            return [record.state, record.steps, [moment.state for moment in moments]]

    kept = asyncio.run(story())
    assert json.loads(json.dumps(kept)) == kept
    assert kept[1][0]["input_message"] == "Grüße, “Ünï” 👋\u2028"
    assert kept[1][0]["response_data"]["data"] == [{"pounds": 1.5, "ok": True, "none": None}]


def test_what_belongs_to_a_turn_ends_with_it(place: Place) -> None:
    async def story() -> None:
        async with place.desk() as desk:
            await desk.turn("C", "greeting", "hello")
            record = await desk.store.calls.read(thread("C"))
            assert record is not None
            assert not {"input_message", "intent", "intent_source", "metadata", "steps"} & set(record.state)
            told = await desk.turn("C", None, "zzz")
            assert (told["agent"], told["intent"]) == ("fallback", "unknown")

    asyncio.run(story())


def test_sixty_four_calls_at_once(place: Place) -> None:
    async def story() -> None:
        async with place.desk() as desk:
            calls = [f"C-{number}" for number in range(64)]
            for intent in FIVE_TURNS[:2]:
                await asyncio.gather(*(desk.turn(call, intent) for call in calls))
            assert [await desk.steps(call) for call in calls] == [[1, 2]] * 64

    asyncio.run(story())


def test_a_run_without_a_turn_is_kept_as_langgraph_wants_it(place: Place) -> None:
    """Studio and notebooks have no turn: their steps are in the state's history."""

    async def story() -> None:
        async with place.desk() as desk:
            config: Any = {"configurable": {"thread_id": "a notebook: {1}"}}
            for intent in FIVE_TURNS[:2]:
                said = {"input_message": "well?", "intent": intent}
                await desk.graph.ainvoke(said, config)  # type: ignore[call-overload]
            snapshot = await desk.graph.aget_state(config)
            assert [step["number"] for step in snapshot.values["steps"]] == [2]
            await desk.store.saver.adelete_thread("a notebook: {1}")
            assert (await desk.graph.aget_state(config)).values == {}

    asyncio.run(story())


def test_an_empty_checkpoint_of_a_turn_is_not_saved(place: Place) -> None:
    async def story() -> None:
        async with place.desk() as desk:
            turn = await desk.begin("C")
            await desk.store.saver.aput(turn.config(), empty_checkpoint(), {}, {})
            await desk.store.calls.finish(turn, [], complete=False)
            assert await desk.store.calls.read(thread("C")) is None
            await desk.store.calls.abandon(await desk.begin("C"))

    asyncio.run(story())


# One turn at a time


def test_a_new_call_that_is_abandoned_leaves_no_trace(place: Place) -> None:
    async def story() -> None:
        async with place.desk() as desk:
            before = place.keys()
            turn = await desk.begin("C")
            assert (turn.loaded, turn.state) == (None, {})
            await desk.store.calls.abandon(turn)
            with pytest.raises(Refused):
                await desk.turn("C", "process_refund")
            assert await desk.store.calls.read(thread("C")) is None
            assert await desk.store.calls.history(thread("C")) == []
            assert place.keys() == before

    asyncio.run(story())


def test_a_refused_turn_changes_nothing(place: Place) -> None:
    async def story() -> None:
        async with place.desk() as desk:
            await desk.turn("C", "greeting")
            before, keys = await desk.store.calls.read(thread("C")), place.keys()
            with pytest.raises(Refused):
                await desk.turn("C", "process_refund")
            assert await desk.store.calls.read(thread("C")) == before
            assert place.keys() == keys
            assert (await desk.turn("C", "authenticate"))["step"] == 2

    asyncio.run(story())


def test_a_second_turn_is_busy_until_the_first_ends(place: Place) -> None:
    async def story() -> None:
        async with place.desk() as desk:
            for intent in FIVE_TURNS[:2]:  # a new call, and one that is known
                turn = await desk.begin("C")
                with pytest.raises(Busy):
                    await desk.begin("C")
                with pytest.raises(Busy):
                    await desk.store.calls.delete(thread("C"))
                await desk.run(turn, intent)
            assert await desk.steps("C") == [1, 2]

    asyncio.run(story())


def test_of_many_that_begin_at_once_one_wins(place: Place) -> None:
    async def story() -> None:
        async with place.desk() as desk:
            begun = await asyncio.gather(*(desk.begin("C") for _ in range(16)), return_exceptions=True)
            assert sorted(type(result) is OpenTurn for result in begun) == [False] * 15 + [True]
            assert {type(result) for result in begun} == {OpenTurn, Busy}

    asyncio.run(story())


@pytest.mark.parametrize("known", [False, True])
def test_a_turn_whose_lease_ran_out_is_lost_once_another_has_begun(shared: Place, known: bool) -> None:
    async def story() -> None:
        async with shared.desk() as desk:
            first_intent, *_ = FIVE_TURNS[int(known) :]
            if known:
                await desk.turn("C", "greeting")
            late = await desk.begin("C")
            shared.let_lease_run_out("C")
            told = await desk.turn("C", first_intent)
            before = await desk.store.calls.history(thread("C"))
            with pytest.raises(TurnLost):
                await desk.run(late, first_intent)
            await desk.store.calls.abandon(late)
            assert await desk.steps("C") == list(range(1, told["step"] + 1))
            assert await desk.store.calls.history(thread("C")) == before

    asyncio.run(story())


@pytest.mark.parametrize("gone", ["deleted", "refused", "open"])
def test_a_turn_whose_call_is_gone_is_lost(shared: Place, gone: str) -> None:
    async def story() -> None:
        async with shared.desk() as desk:
            late = await desk.begin("C")
            shared.let_lease_run_out("C")
            if gone == "deleted":
                assert await desk.store.calls.delete(thread("C")) is False
            elif gone == "refused":
                with pytest.raises(Refused):
                    await desk.turn("C", "process_refund")
            else:
                await desk.begin("C")
            with pytest.raises(TurnLost):
                await desk.run(late, "greeting")
            assert await desk.steps("C") == []
            record = await desk.store.calls.read(thread("C"))
            assert (record is None) == (gone != "open")
            assert record is None or (record.state, record.steps) == ({}, [])
            left = {key for key in shared.keys() if key.startswith("flows:")}  # noqa: SIM118
            assert left == ({call_key("C"), "flows:index:t"} if gone == "open" else set())

    asyncio.run(story())


def test_a_lease_that_ran_out_unnoticed_loses_nothing(shared: Place) -> None:
    async def story() -> None:
        async with shared.desk() as desk:
            turn = await desk.begin("C")
            shared.let_lease_run_out("C")
            await desk.run(turn, "greeting")
            assert await desk.steps("C") == [1]

    asyncio.run(story())


def test_a_renewed_lease_holds(shared: Place) -> None:
    async def story() -> None:
        async with shared.desk() as desk:
            turn = await desk.begin("C")
            shared.let_lease_run_out("C")
            await desk.store.calls.renew(turn)
            with pytest.raises(Busy):
                await desk.begin("C")
            await desk.store.calls.abandon(turn)
            with pytest.raises(TurnLost):
                await desk.store.calls.renew(turn)
            assert shared.keys().isdisjoint(keys("C"))

    asyncio.run(story())


# Commits


def test_a_repeated_commit_counts_once(shared: Place) -> None:
    async def story() -> None:
        async with shared.desk() as desk:
            calls = desk.store.calls
            assert isinstance(calls, RedisCalls)
            turn = await desk.begin("C")
            again = replace(turn)
            await desk.run(turn, "greeting")
            record = await calls.read(thread("C"))
            assert record is not None
            assert turn.head is not None
            await calls.commit(again, turn.head, b"", record.steps, complete=False)
            await desk.turn("C", "authenticate")
            later = await desk.begin("C")
            await calls.commit(replace(turn, head=None), turn.head, b"", record.steps, complete=False)
            with pytest.raises(Busy):
                await desk.begin("C")
            await calls.abandon(later)
            assert await desk.steps("C") == [1, 2]

    asyncio.run(story())


def test_a_stock_save_without_a_commit_is_not_seen(shared: Place) -> None:
    async def story() -> None:
        async with shared.desk() as desk:
            await desk.turn("C", "greeting")
            crashed = await desk.begin("C")
            state = {"input_message": "well?", "intent": "authenticate"}
            if shared.choice == "langgraph-redis":
                await desk.graph.ainvoke(state, crashed.config(), durability="exit")  # type: ignore[call-overload]
            assert await desk.steps("C") == [1]
            assert len(await desk.store.calls.history(thread("C"))) == 1
            shared.let_lease_run_out("C")
            assert (await desk.turn("C", "authenticate"))["step"] == 2
            assert [moment.state["step_count"] for moment in await desk.store.calls.history(thread("C"))] == [1, 2]

    asyncio.run(story())


def test_a_run_that_fails_commits_nothing(place: Place) -> None:
    async def broken(request: AgentRequest) -> None:
        raise ZeroDivisionError

    async def story() -> None:
        agents = Agents({"greeting": broken, "auth": broken})
        async with place.desk(agents) as desk:
            before = place.keys()
            with pytest.raises(ZeroDivisionError):
                await desk.turn("C", "greeting")
            assert place.keys() == before
            agents.told.pop("greeting")
            await desk.turn("C", "greeting")
            kept, keys = await desk.store.calls.read(thread("C")), place.keys()
            with pytest.raises(ZeroDivisionError):
                await desk.turn("C", "authenticate")
            assert (await desk.store.calls.read(thread("C")), place.keys()) == (kept, keys)
            agents.told.clear()
            assert (await desk.turn("C", "authenticate"))["step"] == 2

    asyncio.run(story())


def test_a_turn_cancelled_at_any_moment_leaves_the_call_whole_and_free(place: Place) -> None:
    async def story() -> None:
        async with place.desk() as desk:
            await desk.turn("warm", "greeting")
            before = place.keys()
            for number in range(24):
                call, patience = f"C-{number}", number * 0.0004
                running = asyncio.create_task(desk.turn(call, "greeting"))
                await asyncio.wait([running], timeout=patience)
                running.cancel()
                await asyncio.wait([running])
                assert await desk.steps(call) in ([], [1])
                if not await desk.steps(call) and place.choice == "core":
                    assert not place.keys() & set(keys(call))
                await desk.store.calls.abandon(await desk.begin(call))
                await desk.store.calls.delete(thread(call))
            if place.choice == "core":
                assert place.keys() == before

    asyncio.run(story())
