"""Our savers against LangGraph's own conformance suite: on `core` everything holds, and what we put around the stock
saver takes nothing away from it."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Any

import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver, empty_checkpoint
from langgraph.checkpoint.conformance import checkpointer_test, validate
from langgraph.checkpoint.conformance.capabilities import BASE_CAPABILITIES
from langgraph.checkpoint.conformance.report import CapabilityReport
from langgraph.checkpoint.redis.aio import AsyncRedisSaver
from redis.asyncio import BlockingConnectionPool, Redis

from graph.store.langgraph_redis import TurnwiseRedisSaver
from graph.store.saver import CoreSaver
from graph.store.stock import TurnwiseMemorySaver
from tests.redis_stack import redis_stack, valkey

Saver = BaseCheckpointSaver[Any]
BASE = {capability.value for capability in BASE_CAPABILITIES}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with valkey(tmp_path_factory.mktemp("valkey")) as url:
        yield url


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with redis_stack(tmp_path_factory.mktemp("stack")) as url:
        yield url


@pytest.mark.parametrize("ttl", [0, 3600])
@pytest.mark.parametrize("protocol", [2, 3])
def test_the_core_saver_conforms(plain: str, ttl: int, protocol: int) -> None:
    report = judged(f"{plain}?protocol={protocol}", lambda client: CoreSaver(client, ttl=ttl))
    assert failures(report) == {capability: [] for capability in BASE}
    assert report.passed_all_base()
    assert report.conformance_level() == "FULL"


def test_the_core_saver_conforms_where_json_and_search_are_too(stack: str) -> None:
    assert judged(stack, CoreSaver).conformance_level() == "FULL"


def test_what_we_put_around_the_stock_saver_takes_nothing_away(stack: str) -> None:
    stock = failures(judged(stack, lambda client: AsyncRedisSaver(redis_client=client)))
    ours = failures(judged(stack, lambda client: TurnwiseRedisSaver(redis_client=client)))
    assert ours == stock


def test_the_memory_saver_conforms(plain: str) -> None:
    assert judged(plain, lambda client: TurnwiseMemorySaver()).passed_all_base()


def test_synchronous_methods_name_the_asynchronous_one(plain: str) -> None:
    async def refusals() -> dict[str, str]:
        async with Redis.from_url(plain) as client:
            saver = CoreSaver(client)
            config: RunnableConfig = {"configurable": {"thread_id": "1", "checkpoint_ns": ""}}
            calls: dict[str, Callable[[], object]] = {
                "aget_tuple": lambda: saver.get_tuple(config),
                "alist": lambda: saver.list(config),
                "aput": lambda: saver.put(config, empty_checkpoint(), {}, {}),
                "aput_writes": lambda: saver.put_writes(config, [], "task"),
                "adelete_thread": lambda: saver.delete_thread("1"),
            }
            return {name: refusal(call) for name, call in calls.items()}

    for name, told in asyncio.run(refusals()).items():
        assert f"call {name} instead" in told


def test_odd_threads_and_namespaces_are_kept_apart(plain: str) -> None:
    threads = ["a", "A", "a:b", "{a}", "a}b", "*", "a,b", "~a", "ä", "_", ""]
    namespaces = ["", "child:1", "child:1|grandchild:2", "a|b"]

    async def story() -> None:
        async with Redis.from_url(plain) as client:
            await client.flushall()
            saver = CoreSaver(client)
            saved = {}
            for thread in threads:
                for namespace in namespaces:
                    config = at(thread, namespace)
                    saved[thread, namespace] = await saver.aput(config, empty_checkpoint(), {}, {})
            for (thread, namespace), config in saved.items():
                found = [item.config async for item in saver.alist(at(thread, namespace))]
                assert found == [config]
                last = await saver.aget_tuple(at(thread, namespace))
                assert last is not None
                assert last.config == config
            everything = [item.config async for item in saver.alist(None)]
            assert len(everything) == len(saved)
            for thread in threads:
                await saver.adelete_thread(thread)
            assert await client.keys() == []

    asyncio.run(story())


def judged(url: str, make: Callable[[Redis], Saver]) -> CapabilityReport:
    @checkpointer_test("saver")
    async def fresh() -> AsyncGenerator[Saver, None]:
        async with Redis.from_pool(BlockingConnectionPool.from_url(url)) as client:
            await client.flushall()
            saver = make(client)
            if isinstance(saver, AsyncRedisSaver):
                await saver.asetup()
            yield saver

    return asyncio.run(validate(fresh))


def failures(report: CapabilityReport) -> dict[str, list[str]]:
    """The tests that failed, by capability that the saver has."""
    found = {name: result.failures for name, result in report.results.items() if result.detected}
    return {name: [failure.partition(":")[0] for failure in failed] for name, failed in found.items()}


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(NotImplementedError) as caught:
        call()
    return str(caught.value)


def at(thread: str, namespace: str) -> RunnableConfig:
    return {"configurable": {"thread_id": thread, "checkpoint_ns": namespace}}
