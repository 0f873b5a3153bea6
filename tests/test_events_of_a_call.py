"""The events of a call in every store: read in order by whoever follows it, on any replica, as slowly as it likes."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.asyncio import Redis as Client

from graph.store.channels import Channels
from graph.store.errors import StoreUnavailable
from graph.store.events import START, Events, Published
from graph.store.memory_events import MemoryEvents
from graph.store.names import events_key, thread_name
from graph.store.opening import Store, open_store
from graph.store.redis_events import RedisEvents
from tests.desk import Place, eventually, losing_answers
from tests.redis_stack import valkey

Where = dict[str, Any]
SOON = 0.05
LONG = 10.0


@pytest.fixture(params=["valkey", "redis_stack"])
def url(request: pytest.FixtureRequest) -> str:
    """A server that replicas share."""
    return str(request.getfixturevalue(f"{request.param}_url"))


# Reading


def test_events_are_read_in_order_from_any_position(store: Where) -> None:
    async def story() -> None:
        async with opened(store) as events:
            call = thread(store)
            assert (await events.read(call), await events.last(call)) == ([], START)
            await events.publish(call, [event(1), event(2)])
            await events.publish(call, [])
            await events.publish(call, [event(3)])
            kept = await events.read(call)
            assert numbers(kept) == [1, 2, 3]
            assert await events.last(call) == kept[-1].position
            for place, published in enumerate(kept):
                assert await events.read(call, published.position) == kept[place + 1 :]
            assert await events.read(call, limit=2) == kept[:2]
            assert await events.read(call, kept[0].position, limit=1) == kept[1:2]
            parts = [[int(part) for part in published.position.split("-")] for published in kept]
            assert parts == sorted(parts)

    asyncio.run(story())


def test_an_event_comes_out_as_it_went_in(store: Where) -> None:
    told = {"event": "message_chunk", "n": 1.5, "none": None, "deep": [{"ok": True}], "text": "Grüße \u2028 👋" * 999}

    async def story() -> list[Published]:
        async with opened(store) as events:
            await events.publish(thread(store), [told])
            return await events.read(thread(store))

    (published,) = asyncio.run(story())
    assert json.loads(json.dumps(published.event)) == told


def test_each_call_has_its_own_events(store: Where) -> None:
    async def story() -> None:
        async with opened(store) as events:
            calls = [thread(store, call) for call in ("c", "C", "c:1", "{c}")]
            for number, call in enumerate(calls):
                await events.publish(call, [event(number)])
            for number, call in enumerate(calls):
                assert numbers(await events.read(call)) == [number]

    asyncio.run(story())


@pytest.mark.parametrize("position", ["", "1", "-", "a-b", "1-2-3", "-1-0", "$", "٣-1", "9" * 30 + "-0"])
def test_what_is_no_position_is_refused(store: Where, position: str) -> None:
    async def story() -> None:
        async with opened(store) as events:
            await events.publish(thread(store), [event(1)])
            with pytest.raises(ValueError, match="position"):
                await events.read(thread(store), position)

    asyncio.run(story())


def test_only_the_newest_events_are_kept(store: Where) -> None:
    async def story() -> None:
        async with opened(store) as events:
            for batch in range(12):
                await events.publish(thread(store), [event(1000 * batch + number) for number in range(1000)])
            kept = numbers(await events.read(thread(store), limit=20_000))
            assert 10_000 <= len(kept) < 10_200
            assert kept == list(range(12_000 - len(kept), 12_000))

    asyncio.run(story())


def test_events_end_with_their_call(store: Where) -> None:
    async def story() -> None:
        async with open_store(**options(store)) as opened_store:
            calls, events = opened_store.calls, opened_store.events
            turn = await calls.begin(thread(store))
            await events.publish(thread(store), [event(1)])
            await calls.abandon(turn)
            assert numbers(await events.read(thread(store))) == [1]  # a follower may ask why there is no call
            await calls.delete(thread(store))
            await events.publish(thread(store, "other"), [event(2)])
            assert await events.read(thread(store)) == []
            assert numbers(await events.read(thread(store, "other"))) == [2]

    asyncio.run(story())


def test_positions_grow_over_the_end_of_a_call(store: Where) -> None:
    async def story() -> None:
        async with open_store(**options(store)) as opened_store:
            await opened_store.events.publish(thread(store), [event(1)])
            position = await opened_store.events.last(thread(store))
            await opened_store.calls.delete(thread(store))
            await asyncio.sleep(0.002)
            await opened_store.events.publish(thread(store), [event(2)])
            assert numbers(await opened_store.events.read(thread(store), position)) == [2]

    asyncio.run(story())


def test_events_expire(url: str) -> None:
    async def story() -> None:
        async with replica(url, seconds=1) as events:
            await events.publish("t__c", [event(1)])
            assert numbers(await events.read("t__c")) == [1]
            await eventually(lambda: events.read("t__c"), [])

    asyncio.run(story())


def test_events_in_memory_expire(valkey_url: str) -> None:
    async def story() -> None:
        events = MemoryEvents(seconds=0.1)
        await events.publish("t__c", [event(1)])
        assert numbers(await events.read("t__c")) == [1]
        await eventually(lambda: events.read("t__c"), [])

    asyncio.run(story())


def test_events_are_kept_five_minutes_after_the_last(url: str) -> None:
    async def story() -> None:
        async with open_store(url=url) as opened_store:
            await opened_store.events.publish("t__c", [event(1)])
            with Redis.from_url(url) as redis:
                assert 290 < int(redis.ttl(events_key("t__c"))) <= 300
                redis.expire(events_key("t__c"), 10)
                await opened_store.events.publish("t__c", [event(2)])
                assert 290 < int(redis.ttl(events_key("t__c"))) <= 300

    asyncio.run(story())


@pytest.mark.parametrize("lost", range(3))
def test_a_publication_whose_answer_was_lost_counts_once(core: Place, lost: int) -> None:
    async def story() -> None:
        async with losing_answers(core) as (url, lose), open_store(url=url) as opened_store:
            lose.append(lost)
            for number in range(4):
                await opened_store.events.publish("t__c", [event(2 * number), event(2 * number + 1)])
            assert not lose
            assert numbers(await opened_store.events.read("t__c")) == list(range(8))

    asyncio.run(story())


# Watching


def test_a_watch_wakes_when_there_is_news(store: Where) -> None:
    async def story() -> None:
        async with opened(store) as events, events.watch(thread(store)) as watch:
            assert await watch.changed(SOON) is False
            waiting = asyncio.create_task(watch.changed(LONG))
            await events.publish(thread(store, "other"), [event(0)])
            await asyncio.sleep(SOON)
            assert not waiting.done()
            await events.publish(thread(store), [event(1)])
            assert await waiting is True
            assert await watch.changed(SOON) is False
            await events.publish(thread(store), [event(2)])  # nobody waits at this moment
            assert await watch.changed(LONG) is True
            assert numbers(await events.read(thread(store))) == [1, 2]

    asyncio.run(story())


def test_two_replicas_follow_each_other(url: str) -> None:
    async def follow(events: Events, call: str, ready: asyncio.Event) -> list[Any]:
        """Read a few at a time until the last one."""
        position, seen = START, list[Any]()
        async with events.watch(call) as watch:
            ready.set()
            while not seen or seen[-1] != 99:
                batch = await events.read(call, position, limit=7)
                position = batch[-1].position if batch else position
                seen += numbers(batch)
                if not batch:
                    assert await watch.changed(LONG) is True
        return seen

    async def story() -> None:
        async with open_store(url=url) as one, open_store(url=url) as other:
            ready = asyncio.Event(), asyncio.Event()
            following = [
                asyncio.create_task(follow(other.events, "t__a", ready[0])),
                asyncio.create_task(follow(one.events, "t__b", ready[1])),
            ]
            for is_ready in ready:
                await is_ready.wait()
            for number in range(100):
                await one.events.publish("t__a", [event(number)])
                await other.events.publish("t__b", [event(number)])
            assert await asyncio.gather(*following) == [list(range(100))] * 2
            await one.calls.delete("t__a")
            await one.calls.delete("t__b")

    asyncio.run(story())


def test_a_thousand_watches_share_one_connection(url: str) -> None:
    async def story() -> None:
        async with open_store(url=url) as opened_store:
            assert hearers(url) == []
            async with AsyncExitStack() as stack:
                watching = (opened_store.events.watch(f"t__{number % 800}") for number in range(1000))
                watches = await asyncio.gather(*map(stack.enter_async_context, watching))
                assert [hearer["sub"] for hearer in hearers(url)] == ["800"]
                await opened_store.events.publish("t__7", [event(1)])
                woken = [place for place, watch in enumerate(watches) if await watch.changed(0.0 if place else 0.1)]
                assert woken == [7, 807]
            with Redis.from_url(url) as redis:
                await eventually(lambda: asyncio.to_thread(redis.pubsub_channels), [])
        await eventually(lambda: asyncio.to_thread(hearers, url), [])

    asyncio.run(story())


def test_a_watch_that_ends_takes_nothing_from_another_of_the_same_call(store: Where) -> None:
    async def story() -> None:
        async with opened(store) as events, events.watch(thread(store)) as watch:
            for number in range(20):
                async with events.watch(thread(store)), events.watch(thread(store, "other")):
                    pass
                async with events.watch(thread(store, "other")) as other:
                    await events.publish(thread(store, "other"), [event(number)])
                    assert await other.changed(LONG) is True
                await events.publish(thread(store), [event(number)])
                assert await watch.changed(LONG) is True

    asyncio.run(story())


def test_watches_live_on_when_their_connection_is_lost(url: str) -> None:
    async def story() -> None:
        async with open_store(url=url) as opened_store:
            events = opened_store.events
            async with events.watch("t__c") as watch:
                for number in range(3):
                    (before,) = hearers(url)
                    with Redis.from_url(url) as redis:
                        redis.client_kill_filter(_id=before["id"])
                    assert await watch.changed(LONG) is True  # news may have been lost meanwhile
                    (after,) = hearers(url)
                    assert after["id"] != before["id"]
                    await events.publish("t__c", [event(number)])
                    assert await watch.changed(LONG) is True
                async with events.watch("t__d") as other:
                    await events.publish("t__d", [event(4)])
                    assert await other.changed(LONG) is True

    asyncio.run(story())


def test_a_connection_that_is_silent_is_kept_while_its_server_lives(url: str) -> None:
    """The time limits of ordinary commands are not for it, whatever the address says of them."""

    async def story() -> None:
        async with open_store(url=f"{url}?socket_timeout=0.1") as opened_store, heard(opened_store, "t__c") as watch:
            (before,) = hearers(url)
            assert await watch.changed(0.5) is False
            assert [hearer["id"] for hearer in hearers(url)] == [before["id"]]
        async with Client.from_url(url) as client:
            channels, bells = Channels(client, silence=0.05), list[bytes | None]()
            async with channels.heard("flows:probe", bells.append):
                (before,) = hearers(url)
                await asyncio.sleep(0.5)
                await client.publish("flows:probe", "news")
                await eventually(lambda: asyncio.sleep(0, bells), [b"news"])
                assert [hearer["id"] for hearer in hearers(url)] == [before["id"]]
            await asyncio.sleep(0.2)  # nothing is heard on it now
            async with channels.heard("flows:probe", bells.append):
                assert [hearer["id"] for hearer in hearers(url)] == [before["id"]]
            await channels.aclose()

    asyncio.run(story())


def test_a_connection_that_fell_mute_is_given_up(valkey_url: str) -> None:
    async def story() -> None:
        async with falling_mute(valkey_url) as (url, mute), Client.from_url(url) as client:
            channels, bells = Channels(client, silence=0.1), list[bytes | None]()
            async with channels.heard("flows:probe", bells.append):
                mute.set()
                await eventually(lambda: asyncio.sleep(0, bells), [None])
                async with Client.from_url(valkey_url) as other:
                    await other.publish("flows:probe", "news")
                await eventually(lambda: asyncio.sleep(0, bells), [None, b"news"])
            await channels.aclose()

    asyncio.run(story())


def test_a_store_that_dies_is_unavailable_to_followers(tmp_path: Path) -> None:
    async def story(url: str) -> None:
        async with open_store(url=url) as opened_store, heard(opened_store, "t__c") as watch:
            events = opened_store.events
            with Redis.from_url(url) as redis:
                redis.shutdown(nosave=True)
            assert await watch.changed(SOON) is False
            for attempt in (events.publish("t__c", [event(1)]), events.read("t__c"), events.last("t__c")):
                with pytest.raises(StoreUnavailable):
                    await attempt
            with pytest.raises(StoreUnavailable):
                await events.ask_to_cancel("t__c")
            with pytest.raises(StoreUnavailable):
                async with events.watch("t__d"):
                    pass

    with valkey(tmp_path / "server") as url:
        asyncio.run(story(url))


def test_nobody_watches_a_store_that_is_closed(url: str) -> None:
    async def story() -> None:
        async with open_store(url=url) as opened_store, opened_store.events.watch("t__c"):
            pass
        with pytest.raises(StoreUnavailable):
            async with opened_store.events.watch("t__c"):
                pass

    asyncio.run(story())


def test_a_turn_that_nobody_follows_costs_nothing_of_it(core: Place) -> None:
    async def story() -> None:
        async with core.desk() as desk:
            await desk.turn("C", "greeting")
            assert core.url is not None
            assert hearers(core.url) == []
        assert not {events_key(thread_name("t", "C"))} & core.keys()

    asyncio.run(story())


# Asking to cancel


def test_whoever_asks_to_cancel_is_heard_on_every_replica(url: str) -> None:
    async def story() -> None:
        async with open_store(url=url) as one, open_store(url=url) as other, open_store(url=url) as deaf:
            heard_by = [Asked(replica.events) for replica in (one, other)]
            for asked in heard_by:
                await asked.listening(url)
            for asking in (one, other, deaf):
                await asking.events.ask_to_cancel("t__Жалоба")
            await eventually(lambda: asyncio.sleep(0, [a.threads for a in heard_by]), [["t__Жалоба"] * 3] * 2)
            for asked in heard_by:
                await asked.end()
            with Redis.from_url(url) as redis:
                await eventually(lambda: asyncio.to_thread(redis.pubsub_channels), [])

    asyncio.run(story())


def test_whoever_asks_to_cancel_in_memory_is_heard() -> None:
    async def story() -> None:
        async with open_store(choice="memory") as opened_store:
            asked = Asked(opened_store.events)
            await asyncio.sleep(0)
            await opened_store.events.ask_to_cancel("t__c")
            await eventually(lambda: asyncio.sleep(0, asked.threads), ["t__c"])
            await asked.end()

    asyncio.run(story())


def test_cancels_and_watches_share_a_connection_and_outlive_it(url: str) -> None:
    async def story() -> None:
        async with open_store(url=url) as opened_store, opened_store.events.watch("t__c") as watch:
            asked = Asked(opened_store.events)
            await asked.listening(url)
            (hearer,) = hearers(url)
            with Redis.from_url(url) as redis:
                redis.client_kill_filter(_id=hearer["id"])
            assert await watch.changed(LONG) is True
            await asked.listening(url)
            await opened_store.events.ask_to_cancel("t__c")
            await eventually(lambda: asyncio.sleep(0, asked.threads), ["t__c"])
            assert len(hearers(url)) == 1
            await asked.end()

    asyncio.run(story())


class Asked:
    """What a replica hears of calls that are to end."""

    def __init__(self, events: Events) -> None:
        self.threads: list[str] = []
        self._task = asyncio.create_task(self._hear(events))

    async def listening(self, url: str) -> None:
        """Wait until everybody listens who has begun to."""
        with Redis.from_url(url) as redis:
            before = -1
            while (count := redis.pubsub_numsub("flows:cancel")[0][1]) != before or not count:
                before = count
                await asyncio.sleep(SOON)

    async def end(self) -> None:
        self._task.cancel()
        await asyncio.wait({self._task})

    async def _hear(self, events: Events) -> None:
        async for call in events.asked_to_cancel():
            self.threads.append(call)


def event(number: int) -> dict[str, Any]:
    return {"event": "step", "number": number}


def numbers(published: list[Published]) -> list[int]:
    return [one.event["number"] for one in published]


def thread(store: Where, call: str = "c") -> str:
    return thread_name(store.get("tenant", "t"), call)


def options(store: Where) -> dict[str, Any]:
    """What `open_store` is called with for these settings."""
    names = {"data_dir": "data_dir", "checkpointer": "choice", "redis_url": "url"}
    return {names[name]: value for name, value in store.items() if name in names}


@asynccontextmanager
async def opened(store: Where) -> AsyncIterator[Events]:
    async with open_store(**options(store)) as opened_store:
        yield opened_store.events


@asynccontextmanager
async def replica(url: str, *, seconds: int) -> AsyncIterator[Events]:
    """Events of another process, kept as long as that."""
    async with Client.from_url(url) as client:
        yield RedisEvents(client, Channels(client), seconds=seconds)


def heard(store: Store, call: str) -> AbstractAsyncContextManager[Any]:
    return store.events.watch(call)


def hearers(url: str) -> list[dict[str, str]]:
    """The connections that hear channels."""
    with Redis.from_url(url) as redis:
        found: list[dict[str, str]] = redis.client_list(_type="pubsub")
        return found


@asynccontextmanager
async def falling_mute(url: str) -> AsyncIterator[tuple[str, asyncio.Event]]:
    """A way to the server whose connections so far, once it is told, pass nothing on any more and stay open."""
    host, port = url.removeprefix("redis://").split(":")
    mute, tasks = asyncio.Event(), set[asyncio.Task[None]]()

    async def pass_on(source: asyncio.StreamReader, sink: asyncio.StreamWriter, old: bool) -> None:
        try:
            while data := await source.read(1 << 16):
                if not (old and mute.is_set()):
                    sink.write(data)
        finally:
            sink.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        above, up = await asyncio.open_connection(host, int(port))
        old = not mute.is_set()
        tasks.add(asyncio.create_task(pass_on(reader, up, old)))
        tasks.add(asyncio.create_task(pass_on(above, writer, old)))

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}", mute
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
