"""A store in trouble: what it forgets, loses or refuses does no harm to a call; and what a turn costs it."""

import asyncio
from pathlib import Path

import pytest

from graph.routing import Refused
from graph.store.errors import StoreUnavailable
from graph.store.opening import Choice
from nodes.ports import AgentRequest
from tests.desk import FIVE_TURNS, Agents, Place, losing_answers, thread
from tests.redis_stack import redis_stack, valkey


@pytest.mark.parametrize("lost", range(8))
def test_an_answer_of_the_store_that_is_lost_changes_nothing(core: Place, lost: int) -> None:
    """Two turns, a refused one, a deletion: any one answer of the server is lost with its connection."""

    async def story() -> None:
        async with losing_answers(core) as (url, lose), core.desk(url=url) as desk:
            lose.append(lost)
            assert (await desk.turn("C", "greeting"))["step"] == 1
            assert (await desk.turn("C", "authenticate"))["step"] == 2
            with pytest.raises(Refused):
                await desk.turn("C", "greeting")
            assert await desk.steps("C") == [1, 2]
            await desk.store.calls.delete(thread("C"))
            assert not lose
        assert core.keys() == set()

    asyncio.run(story())


def test_scripts_that_the_server_forgot_are_sent_again(shared: Place) -> None:
    async def story() -> None:
        async with shared.desk() as desk:
            for intent in FIVE_TURNS:
                with shared.admin() as redis:
                    redis.script_flush()
                await desk.turn("C", intent)
            assert await desk.steps("C") == [1, 2, 3, 4, 5]

    asyncio.run(story())


@pytest.mark.parametrize("kind", ["core", "langgraph-redis"])
def test_a_store_that_dies_is_unavailable(kind: Choice, tmp_path: Path) -> None:
    async def story(url: str) -> None:
        place = Place(kind, url)

        async def die(request: AgentRequest) -> None:
            with place.admin() as redis:
                redis.shutdown(nosave=True)

        async with place.desk(Agents({"auth": die})) as desk:
            await desk.turn("C", "greeting")
            with pytest.raises(StoreUnavailable):
                await desk.turn("C", "authenticate")
            for attempt in (
                desk.begin("C"),
                desk.store.calls.read(thread("C")),
                desk.store.calls.history(thread("C")),
                desk.store.calls.delete(thread("C")),
                desk.store.calls.ping(),
                desk.store.saver.aget_tuple({"configurable": {"thread_id": "x", "checkpoint_ns": ""}}),
            ):
                with pytest.raises(StoreUnavailable, match="does not answer"):
                    await attempt

    with (redis_stack if kind == "langgraph-redis" else valkey)(tmp_path / "server") as url:
        asyncio.run(story(url))


def test_a_store_without_room_refuses_and_keeps_what_it_has(core: Place) -> None:
    async def story() -> None:
        async with core.desk() as desk:
            await desk.turn("C", "greeting")
            with core.admin() as redis:
                redis.config_set("maxmemory", 1)
                try:
                    with pytest.raises(StoreUnavailable, match="refuses"):
                        await desk.turn("C", "authenticate")
                    assert await desk.steps("C") == [1]
                finally:
                    redis.config_set("maxmemory", 0)
            assert (await desk.turn("C", "authenticate"))["step"] == 2

    asyncio.run(story())


def test_a_turn_on_core_is_two_round_trips_and_a_write_one_more(core: Place) -> None:
    """Each is a script of the call, with that of the index beside it. Of the four turns, one is a write."""
    inside = "time hmget hget hset hdel hexists hgetall pttl persist del rpush lrange expire publish exists".split()  # noqa: SIM905
    index, followers = ("zadd", "zscore", "zrem", "zremrangebyscore", "sadd", "srem"), ("xrevrange", "pubsub|numsub")

    async def story() -> tuple[dict[str, int], int]:
        async with core.desk() as desk:
            for intent in FIVE_TURNS:  # so that the server knows the scripts
                await desk.turn("B", intent)
            await desk.turn("C", "greeting")
            with core.admin() as redis:
                redis.config_resetstat()
                for intent in FIVE_TURNS[1:]:
                    await desk.turn("C", intent)
                stats: dict[str, dict[str, int]] = redis.info("commandstats")
                reads = int(redis.info("stats")["total_reads_processed"])
        return {name.removeprefix("cmdstat_"): stat["calls"] for name, stat in stats.items()}, reads

    ran, reads = asyncio.run(story())
    ours = ("config|resetstat", "info")
    outside = {name: calls for name, calls in ran.items() if name not in (*inside, *index, *followers, *ours)}
    assert outside == {"evalsha": 2 * (2 * 4 + 1)}
    assert reads - len(ours) == 2 * 4 + 1
