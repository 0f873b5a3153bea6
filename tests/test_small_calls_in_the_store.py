"""What a call takes in the store: checkpoints and steps are packed there, and what older versions kept is read and
gone on with; and many ask over few connections."""

import asyncio
import json
from typing import Any

import pytest
from redis.asyncio import BlockingConnectionPool
from redis.asyncio import Redis as Client
from redis.exceptions import ConnectionError as ConnectionLost
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as TimedOut

from graph.audit import start_of, verify
from graph.store.errors import Busy
from graph.store.link import Link
from graph.store.packing import CHECKPOINTS, STEPS, Packing
from tests.desk import FIVE_TURNS, Desk, Place, keys, thread

MOST_BYTES = 6_144
KEPT_CHECKPOINT = bytes.fromhex("018317bc8debe099065c96362299c9d8700000")
KEPT_STEP = bytes.fromhex("02c31ad7e945a9a925202763f7512d00")
"""As the first version that packed kept them."""
PLAIN = (b"", b"{}", b'{"number":1}' * 50, b"msgpack:\x80", bytes(range(32, 256)), b"x" * 99_999)


# Packing


def test_what_was_packed_once_is_read_for_ever() -> None:
    assert CHECKPOINTS.unpack(KEPT_CHECKPOINT) == b"msgpack:\x93\x81\xaechannel_values\x81\xaastep_count\x01\x80\xc0"
    assert STEPS.unpack(KEPT_STEP) == b'{"number":1,"stage":"greeting","run":1,"flow":"call"}'


@pytest.mark.parametrize("packing", [CHECKPOINTS, STEPS])
@pytest.mark.parametrize("plain", PLAIN)
def test_what_is_unpacked_is_what_was_packed(packing: Packing, plain: bytes) -> None:
    packed = packing.pack(plain)

    assert packing.unpack(packed) == packing.unpack(plain) == plain
    assert len(packed) <= len(plain)
    assert packed.startswith((b"\x01", b"\x02")) or packed == plain


@pytest.mark.parametrize("broken", [KEPT_STEP[:1], KEPT_STEP[:-4], KEPT_STEP[:1] + b"\xff" * 20])
def test_what_somebody_broke_is_a_value_error(broken: bytes) -> None:
    with pytest.raises(ValueError, match="what is kept"):
        STEPS.unpack(broken)


def test_what_unpacks_to_more_than_is_ever_packed_is_refused() -> None:
    bomb = Packing(2, STEPS._dictionary, longest=10_000_000).pack(b"0" * 5_000_000)

    assert len(bomb) < 30_000
    with pytest.raises(ValueError, match="what is kept"):
        STEPS.unpack(bomb)


# Calls


def test_a_finished_call_is_small(core: Place) -> None:
    async def story() -> int:
        async with core.desk() as desk:
            for intent in FIVE_TURNS:
                await desk.turn("C", intent, "I was charged twice and would like my money back.")
        with core.admin() as redis:
            return sum(redis.memory_usage(key, samples=0) or 0 for key in redis.scan_iter())

    assert asyncio.run(story()) <= MOST_BYTES


def test_a_call_of_an_older_version_is_read_and_gone_on_with(core: Place) -> None:
    async def story() -> None:
        async with core.desk() as desk:
            for intent in FIVE_TURNS[:3]:
                await desk.turn("C", intent)
            told = await all_of(desk)
            as_it_was_kept_before(core)
            assert await all_of(desk) == told
            assert (await desk.turn("C", FIVE_TURNS[3]))["step"] == 4
            record = await desk.store.calls.read(thread("C"))
            assert record is not None
            start = start_of(thread("C"), record.incarnation)
            assert verify(record.steps, start, head=record.chain, count=4) == []
            assert [step["number"] for step in record.steps] == [1, 2, 3, 4]
            history = await desk.store.calls.history(thread("C"))
            assert [moment.state["step_count"] for moment in history] == [1, 2, 3, 4]
            assert history[:3] == told[1]
            then = {"thread_id": thread("C"), "checkpoint_ns": "", "checkpoint_id": history[1].checkpoint_id}
            past = await desk.graph.aget_state({"configurable": then})
            assert past.values["step_count"] == 2

    asyncio.run(story())


async def all_of(desk: Desk) -> tuple[Any, ...]:
    return await desk.store.calls.read(thread("C")), await desk.store.calls.history(thread("C"))


def as_it_was_kept_before(place: Place) -> None:
    _, checkpoints, steps, *_ = keys("C")
    with place.admin() as redis:
        for field, blob in redis.hgetall(checkpoints).items():
            redis.hset(checkpoints, field, CHECKPOINTS.unpack(blob))
        for number, step in enumerate(redis.lrange(steps, 0, -1)):
            plain = STEPS.unpack(step)
            assert len(step) < len(plain)
            assert json.loads(plain)["number"] == number + 1
            redis.lset(steps, number, plain)


# Asking


def test_many_ask_over_few_connections(core: Place) -> None:
    async def story() -> None:
        async with Client.from_pool(BlockingConnectionPool.from_url(core.url or "")) as client:
            link = Link(client)
            texts = [f"Grüße {number}" for number in range(500)]
            told = await asyncio.gather(*(link.ask([["ECHO", text], ["NONSENSE"], ["ECHO", 1]]) for text in texts))
            assert [answers[0].decode() for answers in told] == texts
            assert all(isinstance(answers[1], ResponseError) and answers[2] == b"1" for answers in told)
            assert int((await client.info("clients"))["connected_clients"]) <= 4 + 1
            await link.aclose()

    asyncio.run(story())


def test_who_is_cancelled_leaves_no_answer_to_others(core: Place) -> None:
    async def story() -> None:
        async with Client.from_pool(BlockingConnectionPool.from_url(core.url or "")) as client:
            link = Link(client)
            for number in range(200):
                asking = [asyncio.create_task(link.ask([["ECHO", f"{number} {one}"]])) for one in range(6)]
                for _ in range(number % 4):
                    await asyncio.sleep(0)
                asking[number % 6].cancel()
                told = await asyncio.gather(*asking, return_exceptions=True)
                for one, answer in enumerate(told):
                    assert answer == [f"{number} {one}".encode()] or isinstance(answer, asyncio.CancelledError)
                assert sum(isinstance(answer, asyncio.CancelledError) for answer in told) == 1
            await link.aclose()

    asyncio.run(story())


def test_who_is_cancelled_while_it_waits_is_never_asked_for(core: Place) -> None:
    async def story() -> None:
        async with Client.from_pool(BlockingConnectionPool.from_url(core.url or "")) as client:
            link = Link(client)
            asking = [asyncio.create_task(link.ask([["INCR", f"{one}"]])) for one in range(10)]
            await asyncio.sleep(0)  # they wait for a lane that connects
            asking[3].cancel()
            told = await asyncio.gather(*asking, return_exceptions=True)
            assert [answer for answer in told if answer == [1]] == [[1]] * 9
            assert await client.exists("3") == 0
            await link.aclose()

    asyncio.run(story())


def test_what_is_asked_after_a_cancelled_question_comes_after_it(core: Place) -> None:
    async def story() -> list[str]:
        async with core.desk() as desk:
            calls, busy = desk.store.calls, []
            for number in range(30):
                others = [
                    asyncio.create_task(calls.begin(f"t__o{number}x{one}", said={"input_message": "x" * 4_000}))
                    for one in range(40)
                ]
                beginning = asyncio.create_task(calls.begin(f"t__c{number}"))
                for _ in range(number % 6):
                    await asyncio.sleep(0)
                beginning.cancel()
                await asyncio.gather(beginning, return_exceptions=True)
                for turn in await asyncio.gather(*others):
                    await calls.abandon(turn)
                try:
                    await calls.abandon(await calls.begin(f"t__c{number}"))
                except Busy:
                    busy.append(f"t__c{number}")
            return busy

    assert asyncio.run(story()) == []


def test_each_answer_has_the_time_that_all_had_together(core: Place) -> None:
    async def story() -> None:
        pool = BlockingConnectionPool.from_url(core.url or "", socket_timeout=1.0)
        async with Client.from_pool(pool) as client:
            link = Link(client)
            told = await asyncio.gather(*(link.ask([["BLPOP", "nothing", "0.6"], ["ECHO", one]]) for one in "abc"))
            assert told == [[None, b"a"], [None, b"b"], [None, b"c"]]
            with pytest.raises(TimedOut):
                await link.ask([["BLPOP", "nothing", "3"]])
            assert await link.ask([["ECHO", "d"]]) == [b"d"]
            await link.aclose()

    asyncio.run(story())


def test_who_still_asks_when_it_is_closed_is_told_so(core: Place) -> None:
    async def story() -> None:
        async with Client.from_pool(BlockingConnectionPool.from_url(core.url or "")) as client:
            link = Link(client)
            asking = [asyncio.create_task(link.ask([["BLPOP", "nothing", 0]])) for _ in range(3)]
            await asyncio.sleep(0.1)  # one lane waits for all of them
            asking += [asyncio.create_task(link.ask([["BLPOP", "nothing", 0]])) for _ in range(9)]
            await asyncio.sleep(0.1)
            async with asyncio.timeout(2):
                await link.aclose()
                told = await asyncio.gather(*asking, return_exceptions=True)
            assert {type(answer) for answer in told} == {ConnectionLost}
            with pytest.raises(ConnectionLost):
                await link.ask([["ECHO", "late"]])

    asyncio.run(story())
