"""Opening the store that the settings ask for, and the saver that fits it.

`auto` takes `core` on the embedded store and on a Redis without JSON and Search, else `langgraph-redis`. A marker in
the store keeps a restart from silently choosing another saver while calls of the first one live.
"""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import structlog
from langgraph.checkpoint.base import BaseCheckpointSaver
from redis.asyncio import BlockingConnectionPool, Redis
from redis.exceptions import RedisError, ResponseError

from graph.store.calls import Calls
from graph.store.embedded import embedded_store
from graph.store.errors import StoreRefused, StoreUnavailable
from graph.store.redis_calls import PREFIX, RedisCalls, answering
from graph.store.saver import CoreSaver

Choice = Literal["auto", "core", "langgraph-redis", "memory"]
Kind = Literal["core", "langgraph-redis", "memory"]

_MARKER = "flows:checkpointer"
_CONNECTIONS = 256
_PROBES = (("FT._LIST",), ("JSON.TYPE", "flows:probe"))

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Store:
    """An open store."""

    kind: Kind
    calls: Calls
    saver: BaseCheckpointSaver[Any]


@asynccontextmanager
async def open_store(
    *, choice: Choice = "auto", url: str | None = None, data_dir: Path = Path(".flows"), ttl: int = 3600
) -> AsyncIterator[Store]:
    """Open the store and close it again.

    Args:
        choice: which saver; `auto` looks at what the store can do.
        url: a Redis or Valkey server; the embedded one if None.
        data_dir: where the embedded store keeps its data.
        ttl: seconds a call lives after its last turn.

    Raises:
        StoreUnavailable: if the store cannot be reached.
        StoreRefused: if it is not fit for the choice.
        graph.store.embedded.EmbeddedStoreError: if the embedded store cannot be started.
    """
    if choice == "memory":
        yield _memory(ttl)
        return
    async with AsyncExitStack() as stack:
        address = url or (await stack.enter_async_context(embedded_store(data_dir))).url
        client = await stack.enter_async_context(_connected(address))
        kind = await _chosen(client, choice)
        await _mark(client, kind)
        log.info("store opened", checkpointer=kind, embedded=url is None)
        yield await (_core(client, ttl) if kind == "core" else _langgraph_redis(client, ttl))


def _memory(ttl: int) -> Store:
    from graph.store.memory import MemoryCalls
    from graph.store.stock import TurnwiseMemorySaver

    saver = TurnwiseMemorySaver()
    return Store("memory", MemoryCalls(saver, ttl=ttl), saver)


async def _core(client: Redis, ttl: int) -> Store:
    saver = CoreSaver(client, ttl=ttl)
    return Store("core", saver.calls, saver)


async def _langgraph_redis(client: Redis, ttl: int) -> Store:
    from graph.store.langgraph_redis import TurnwiseRedisSaver

    # The stock saver counts minutes. Its checkpoints outlive the call's own keys by one: a head is never lost.
    saver = TurnwiseRedisSaver(redis_client=client, ttl={"default_ttl": ttl / 60 + 1, "refresh_on_read": False})
    async with answering():
        await saver.asetup()
    return Store("langgraph-redis", RedisCalls(client, saver, ttl=ttl), saver)


@asynccontextmanager
async def _connected(url: str) -> AsyncIterator[Redis]:
    """Connect with a pool that queues when it is full: the stock saver takes several connections a turn."""
    try:
        pool: BlockingConnectionPool = BlockingConnectionPool.from_url(
            url, max_connections=_CONNECTIONS, timeout=5, socket_timeout=5, socket_connect_timeout=2
        )
    except ValueError as error:
        raise StoreRefused(f"REDIS_URL is not an address of a Redis server: {error}") from error
    async with Redis(connection_pool=pool) as client:
        try:
            await client.ping()
        except (RedisError, OSError, TimeoutError) as error:
            raise StoreUnavailable(_unreachable(error)) from error
        yield client
    await pool.disconnect()


def _unreachable(error: Exception) -> str:
    remedy = "check REDIS_URL and that the server runs, or unset REDIS_URL to use the embedded store"
    return f"the store cannot be reached ({type(error).__name__}); {remedy}"


async def _chosen(client: Redis, choice: Choice) -> Kind:
    able = await _has_json_and_search(client)
    if choice == "langgraph-redis" and not able:
        raise StoreRefused(
            "FLOWS_CHECKPOINTER=langgraph-redis needs a Redis with JSON and Search (Redis 8, Redis Stack); "
            "set FLOWS_CHECKPOINTER=core for this server"
        )
    if choice == "auto":
        return "langgraph-redis" if able else "core"
    return "core" if choice == "core" else "langgraph-redis"


async def _has_json_and_search(client: Redis) -> bool:
    """Ask by use: `COMMAND INFO` of an unknown command breaks redis-py 8."""
    async with answering():
        for probe in _PROBES:
            try:
                await client.execute_command(*probe)  # type: ignore[no-untyped-call]
            except ResponseError:
                return False
    return True


async def _mark(client: Redis, kind: Kind) -> None:
    async with answering():
        marker = await client.get(_MARKER)
        marked = marker.decode() if isinstance(marker, bytes) else None
        if marked not in (None, kind) and await _has_calls(client):
            raise StoreRefused(
                f"this store holds live calls saved by {marked!r}, not {kind!r}; set FLOWS_CHECKPOINTER={marked}, "
                "or wait until they have expired"
            )
        await client.set(_MARKER, kind)


async def _has_calls(client: Redis) -> bool:
    async for _ in client.scan_iter(match=f"{PREFIX}{{*}}:call", count=1000):
        return True
    return False
