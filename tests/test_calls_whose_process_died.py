"""Calls whose turn is open, or was when its process died: they have no end, and are named, until the next turn."""

import asyncio
from pathlib import Path

import pytest

from graph.loader import load_flow
from graph.routing import Refused
from graph.store.errors import TurnLost
from nodes.ports import AgentRequest
from tests.desk import Agents, Desk, Place, call_key, eventually, keys, lives, thread
from tests.test_calls_in_the_store_run_by_themselves import REPORT

INDEX, MAY_BE_OPEN = "flows:index:t", "flows:{flows:index:t}:open"
TTL = 3600


def test_a_refused_turn_takes_nothing_from_a_call_whose_process_died(shared: Place) -> None:
    async def story() -> None:
        async with shared.desk() as desk:
            await desk.turn("C", "greeting")
            expire(shared, 100)
            await die(desk, shared)
            await asyncio.sleep(0.2)
            for _ in range(2):
                assert await desk.steps("C") == [1]
                with pytest.raises(Refused):
                    await desk.turn("C", "process_refund")
                assert all(TTL - 60 < left <= TTL + 60 for left in whole(shared).values())
                assert await desk.steps("C") == [1]
            assert (await desk.turn("C", "authenticate"))["step"] == 2

    asyncio.run(story())


def test_a_refused_turn_leaves_a_call_whose_process_died_the_time_it_had(shared: Place) -> None:
    async def story() -> None:
        async with shared.desk() as desk:
            await desk.turn("C", "greeting")
            expire(shared, 100_000)
            await die(desk, shared)
            with pytest.raises(Refused):
                await desk.turn("C", "process_refund")
            assert all(90 < left <= 100 for left in lives(shared, keys("C")).values())

    asyncio.run(story())


def test_a_call_whose_time_runs_out_while_a_turn_is_open_survives_it(place: Place) -> None:
    async def story() -> None:
        async with place.desk(ttl=1) as desk:
            await desk.turn("C", "greeting")
            turn = await desk.begin("C")
            await asyncio.sleep(1.1)
            await desk.turn("other", "greeting")
            assert await desk.steps("C") == [1]
            await desk.store.calls.abandon(turn)
            assert await desk.steps("C") == [1]
            await eventually(lambda: desk.steps("C"), [])

    asyncio.run(story())


def test_all_of_a_call_lasts_while_a_turn_is_open_and_ends_after_it(shared: Place) -> None:
    async def story() -> None:
        async with shared.desk() as desk:
            await desk.turn("C", "greeting")
            assert all(left > 0 for left in whole(shared).values())
            turn = await desk.begin("C")
            assert set(whole(shared).values()) == {-1}
            await desk.run(turn, "authenticate")
            assert all(left > 0 for left in whole(shared).values())
            await desk.store.calls.abandon(await desk.begin("C"))
            assert all(left > 0 for left in whole(shared).values())

    asyncio.run(story())


def test_a_turn_that_lost_its_call_takes_nothing_from_the_one_that_has_it(shared: Place) -> None:
    async def story() -> None:
        async with shared.desk() as desk:
            await desk.turn("C", "greeting")
            late = await desk.begin("C")
            shared.let_lease_run_out("C")
            await desk.begin("C")
            with pytest.raises(TurnLost):
                await desk.run(late, "authenticate")
            await desk.store.calls.abandon(late)
            head = await desk.store.calls.history(thread("C"))
            assert [moment.checkpoint_id for moment in head] == [late.head]
            assert set(lives(shared, keys("C")).values()) == {-1}
            if shared.choice == "langgraph-redis":  # the lease is looked at before anything is written
                assert [left > 0 for left in saved(shared).values()] == [False]
            assert named_as_open(shared) == {thread("C")}

    asyncio.run(story())


# Flows that run by themselves


def test_a_run_that_died_between_two_stages_stays_whole_and_goes_on(shared: Place, tmp_path: Path) -> None:
    (tmp_path / "report.yaml").write_text(REPORT)
    flow = load_flow(tmp_path / "report.yaml", {})

    async def story() -> None:
        async def hang(request: AgentRequest) -> None:
            await asyncio.Event().wait()

        agents = Agents({"check": hang})
        async with shared.desk(agents, flow=flow) as desk:
            turn = await desk.begin("C")
            turn.one_save = False
            running = asyncio.create_task(desk.run(turn))
            await eventually(lambda: desk.steps("C"), [1, 2])
            running.cancel()  # and nobody gives the lease back
            await asyncio.wait({running})
            assert set(lives(shared, keys("C")).values()) == {-1}
            assert [left for left in saved(shared).values() if left < 0] == [-1] * (shared.choice != "core")
            agents.told.clear()
            age_index(shared)
            await desk.turn("other")
            assert await desk.store.calls.recent("t") == [thread("other"), thread("C")]

            shared.let_lease_run_out("C")
            await desk.store.calls.abandon(await desk.begin("C"))
            assert all(TTL - 60 < left <= TTL + 60 for left in whole(shared).values())
            told = await desk.turn("C")
            assert (told["step"], told["is_complete"]) == (3, True)
            assert agents.heard.count("facts") == 2  # of the other call, too
            assert all(left > 0 for left in whole(shared).values())

    asyncio.run(story())


# The calls of a tenant


def test_a_call_whose_process_died_is_named_until_it_is_gone(shared: Place) -> None:
    async def story() -> None:
        async with shared.desk() as desk:
            await desk.turn("C", "greeting")
            await die(desk, shared)
            age_index(shared)
            for _ in range(2):
                await desk.turn("other")
                assert await desk.store.calls.recent("t") == [thread("other"), thread("C")]
            with pytest.raises(Refused):
                await desk.turn("C", "process_refund")
            assert await desk.store.calls.recent("t") == [thread("C"), thread("other")]  # it has its time again
            assert named_as_open(shared) == set()

            await die(desk, shared)
            age_index(shared)
            await desk.turn("other")
            with shared.admin() as redis:
                redis.delete(call_key("C"))
            assert await desk.store.calls.recent("t") == [thread("other")]
            assert named_as_open(shared) == set()

    asyncio.run(story())


@pytest.mark.parametrize("index", ["there", "expired"])
def test_a_call_whose_process_died_is_named_even_if_nobody_took_a_turn_since(shared: Place, index: str) -> None:
    async def story() -> None:
        async with shared.desk() as desk:
            await desk.turn("C", "greeting")
            await die(desk, shared)
            if index == "expired":
                with shared.admin() as redis:
                    redis.delete(INDEX)
            assert await desk.store.calls.recent("t") == [thread("C")]
            await desk.turn("C", "authenticate")
            assert await desk.store.calls.recent("t") == [thread("C")]
            assert named_as_open(shared) == set()

    asyncio.run(story())


def test_a_message_that_comes_again_does_not_name_its_call_for_ever(shared: Place) -> None:
    async def story() -> None:
        async with shared.desk() as desk:
            await desk.run(await desk.begin("C", key="1"), "greeting")
            assert (await desk.begin("C", key="1")).answered == 1
            assert named_as_open(shared) == set()
            await die(desk, shared)
            assert (await desk.begin("C", key="1")).answered == 1
            assert named_as_open(shared) == {thread("C")}

    asyncio.run(story())


async def die(desk: Desk, place: Place) -> None:
    """Begin a turn of call C in a process that dies at once."""
    await desk.begin("C", said={"input_message": "pay"})
    place.let_lease_run_out("C")


def expire(place: Place, milliseconds: int) -> None:
    with place.admin() as redis:
        for key in (*keys("C"), *saved(place)):
            redis.pexpire(key, milliseconds)


def saved(place: Place) -> dict[str, int]:
    """The checkpoints that a stock saver keeps, and the seconds each has left."""
    return lives(place, [key for key in place.keys() if key.startswith("checkpoint:")])  # noqa: SIM118


def whole(place: Place) -> dict[str, int]:
    """All that there is of call C, and the seconds each has left."""
    return {**lives(place, keys("C")), **saved(place)}


def age_index(place: Place) -> None:
    """Let call C be committed longer ago than a call lives."""
    with place.admin() as redis:
        redis.zincrby(INDEX, -1000 * (TTL + 61), thread("C"))


def named_as_open(place: Place) -> set[str]:
    with place.admin() as redis:
        found: set[bytes] = redis.smembers(MAY_BE_OPEN)
    return {name.decode() for name in found}
