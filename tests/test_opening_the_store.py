"""Opening the store: what `auto` chooses, what is refused and with which remedy, and what no message tells."""

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from graph.store.errors import StoreError, StoreRefused, StoreUnavailable
from graph.store.opening import open_store
from tests.redis_stack import redis_stack, valkey

SECRET = "s3cret"
ENOUGH = ("~flows:*", "&flows:*", "+@all", "-@dangerous")
OPTIONS = ("decode_responses=true", "protocol=2", "protocol=3", "encoding=latin-1", "max_connections=1", "timeout=1")


@pytest.fixture(scope="module")
def plain_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with valkey(tmp_path_factory.mktemp("valkey")) as url:
        yield url


@pytest.fixture(scope="module")
def able_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with redis_stack(tmp_path_factory.mktemp("stack")) as url:
        yield url


@pytest.fixture
def plain(plain_server: str) -> str:
    """A server without JSON and Search, empty."""
    with Redis.from_url(plain_server) as redis:
        redis.flushall()
    return plain_server


@pytest.fixture
def able(able_server: str) -> str:
    """A server with JSON and Search, empty."""
    with Redis.from_url(able_server) as redis:
        redis.flushall()
    return able_server


def test_auto_takes_core_on_the_embedded_store(tmp_path: Path) -> None:
    assert kind_of(data_dir=tmp_path / "flows") == "core"


def test_auto_takes_core_on_a_plain_server(plain: str) -> None:
    assert kind_of(url=plain) == "core"


def test_auto_takes_langgraph_redis_where_json_and_search_are(able: str) -> None:
    assert kind_of(url=able) == "langgraph-redis"


def test_auto_takes_core_in_a_database_that_search_does_not_work_in(able: str) -> None:
    assert kind_of(url=f"{able}/1") == "core"


def test_core_can_be_chosen_where_json_and_search_are(able: str) -> None:
    assert kind_of(url=able, choice="core") == "core"


def test_memory_needs_no_server() -> None:
    assert kind_of(choice="memory", url="redis://127.0.0.1:1") == "memory"


def test_langgraph_redis_is_refused_on_a_plain_server(plain: str) -> None:
    told = refusal(StoreRefused, url=plain, choice="langgraph-redis")
    assert "JSON and Search" in told
    assert "set FLOWS_CHECKPOINTER=core" in told


def test_langgraph_redis_is_refused_outside_database_0(able: str) -> None:
    told = refusal(StoreRefused, url=f"{able}/1", choice="langgraph-redis")
    assert "database 0" in told


@pytest.mark.parametrize(("first", "then"), [("core", "langgraph-redis"), ("langgraph-redis", "core")])
def test_another_saver_is_refused_while_calls_live(able: str, first: Any, then: Any) -> None:
    async def leave_a_call() -> None:
        async with open_store(url=able, choice=first) as store:
            await store.calls.begin("t__c")

    async def end_the_call() -> None:
        async with open_store(url=able, choice=first) as store:
            with Redis.from_url(able) as redis:
                redis.hset("flows:{t__c}:call", "lease", 1)
            await store.calls.delete("t__c")

    asyncio.run(leave_a_call())
    told = refusal(StoreRefused, url=able, choice=then)
    assert f"FLOWS_CHECKPOINTER={first}" in told
    assert kind_of(url=able, choice=first) == first
    asyncio.run(end_the_call())
    assert kind_of(url=able, choice=then) == then
    assert kind_of(url=able, choice=then) == then


def test_auto_does_not_change_the_saver_when_a_server_learns_json_and_search(able: str) -> None:
    async def leave_a_call() -> None:
        async with open_store(url=able, choice="core") as store:
            await store.calls.begin("t__c")

    asyncio.run(leave_a_call())
    assert "FLOWS_CHECKPOINTER=core" in refusal(StoreRefused, url=able)


def test_services_that_start_at_once_agree(able: str) -> None:
    async def story() -> set[str]:
        async with AsyncExitStack() as stack:
            opening = [stack.enter_async_context(open_store(url=able)) for _ in range(8)]
            return {store.kind for store in await asyncio.gather(*opening)}

    assert asyncio.run(story()) == {"langgraph-redis"}


@pytest.mark.parametrize("address", ["redis://127.0.0.1:1", "unix:///nowhere/redis.sock", "redis://nowhere.invalid"])
def test_a_server_that_cannot_be_reached_is_unavailable(address: str) -> None:
    scheme, rest = address.split("://")
    told = refusal(StoreUnavailable, url=f"{scheme}://user:{SECRET}@{rest}")
    assert "check REDIS_URL" in told
    assert "unset REDIS_URL" in told


def test_a_server_without_tls_is_unavailable_to_rediss(plain: str) -> None:
    assert "REDIS_URL" in refusal(StoreUnavailable, url=plain.replace("redis://", f"rediss://user:{SECRET}@"))


@pytest.mark.parametrize(
    "url",
    [
        "localhost:6379",
        f"http://user:{SECRET}@localhost",
        f"redis://:{SECRET}/@localhost:6379",
        f"redis://localhost:{SECRET}",
        f"redis://localhost?db={SECRET}",
        f"redis://localhost?{SECRET}=1",
        f"redis://user:{SECRET}@[::1",
    ],
)
def test_what_is_no_address_is_refused(url: str) -> None:
    told = refusal(StoreRefused, url=url)
    assert "REDIS_URL is not an address" in told
    assert "write redis://" in told


def test_a_wrong_password_is_refused(plain: str) -> None:
    told = refusal(StoreRefused, url=plain.replace("redis://", f"redis://user:{SECRET}@"))
    assert "user of REDIS_URL" in told


@pytest.mark.parametrize(
    "rights",
    [
        "~flows:* &flows:* +@all -@scripting",
        "~other:* &flows:* +@all",
        "~flows:* +@all",
        "~flows:* &flows:* +@all -pubsub",
        "~flows:* &flows:* +@read +@connection",
    ],
)
def test_a_user_who_may_too_little_is_refused(plain: str, rights: str) -> None:
    with Redis.from_url(plain) as redis:
        redis.execute_command("ACL", "SETUSER", "small", "reset", "on", f">{SECRET}", *rights.split())
    told = refusal(StoreRefused, url=plain.replace("redis://", f"redis://small:{SECRET}@"))
    assert "may run scripts and use the keys flows:*" in told


def test_a_user_who_may_just_enough_is_welcome(plain: str) -> None:
    with Redis.from_url(plain) as redis:
        redis.execute_command("ACL", "SETUSER", "small", "reset", "on", f">{SECRET}", *ENOUGH)
    assert kind_of(url=plain.replace("redis://", f"redis://small:{SECRET}@")) == "core"


def test_a_read_only_replica_is_refused(plain: str) -> None:
    with Redis.from_url(plain) as redis:
        redis.replicaof("127.0.0.1", "1")
        try:
            assert "read-only replica" in refusal(StoreRefused, url=plain)
        finally:
            redis.replicaof("NO", "ONE")


@pytest.mark.parametrize("options", OPTIONS)
def test_options_in_the_address_do_no_harm(able: str, options: str) -> None:
    async def story() -> bool:
        async with open_store(url=f"{able}?{options}", choice="core") as store:
            turn = await store.calls.begin("t__c")
            async with store.events.watch("t__c") as watch:
                await store.events.publish("t__c", [{"event": "state_change"}])
                assert await watch.changed(10) is True
            assert [dict(told.event) for told in await store.events.read("t__c")] == [{"event": "state_change"}]
            assert await store.calls.recent("t") == ["t__c"]
            await store.calls.abandon(turn)
            return await store.calls.read("t__c") is None

    assert asyncio.run(story())


def kind_of(**options: Any) -> str:
    async def story() -> str:
        async with open_store(**options) as store:
            await store.calls.ping()
            return store.kind

    return asyncio.run(story())


def refusal(expected: type[StoreError], **options: Any) -> str:
    """What somebody is told whose store is not opened, here and in the causes that a log would show."""
    with pytest.raises(expected) as caught:
        kind_of(**options)
    told, cause = str(caught.value), caught.value.__cause__
    while cause is not None:
        assert SECRET not in str(cause)
        cause = cause.__cause__
    assert SECRET not in told
    assert "127.0.0.1" not in told
    return told
