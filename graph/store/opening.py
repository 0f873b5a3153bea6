"""Opening the store that the settings ask for, and the saver that fits it.

`auto` takes `core` on the embedded store and where JSON and Search are not to be had, else `langgraph-redis`.
A marker in the store keeps a restart from silently choosing another saver while calls of the first one live.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal, TypedDict
from urllib.parse import urlsplit, urlunsplit

import structlog
from langgraph.checkpoint.base import BaseCheckpointSaver
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    ClusterCrossSlotError,
    NoPermissionError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as ConnectionLost

from graph.archive import Archive
from graph.store import scripts
from graph.store.calls import Calls
from graph.store.channels import Channels
from graph.store.cluster import Cluster, Owners, owners_in
from graph.store.embedded import Fsync, embedded_store
from graph.store.errors import StoreRefused, StoreUnavailable
from graph.store.events import Events
from graph.store.names import PREFIX
from graph.store.redis_calls import LEASE_SECONDS, RedisCalls
from graph.store.redis_events import RedisEvents
from graph.store.redis_registry import RedisRegistry
from graph.store.registry import Registry
from graph.store.saver import CoreSaver
from graph.store.versions import MemoryVersions, RedisVersions, Versions

Choice = Literal["auto", "core", "langgraph-redis", "memory"]
Kind = Literal["core", "langgraph-redis", "memory"]

_MARKER = "flows:checkpointer"
_CONNECTIONS = 256
_PROBE = "flows:probe"
_IN_TWO_SLOTS = (_PROBE, "flows:checkpointer")
_PROBES = (("FT._LIST",), ("JSON.TYPE", _PROBE))
_ADDRESS = "write redis://[user:password@]host:port[/database], rediss:// or unix://, with special signs as %2F"
_RIGHTS = (
    "check its name and password, and that it may run scripts and use the keys flows:* and the channels flows:*, "
    "with PUBLISH, SUBSCRIBE and PUBSUB NUMSUB"
)
_MAY_NOT_ASK = (
    "the store is a Redis Cluster, and the user of REDIS_URL may not ask it which node keeps what; "
    "allow that user CLUSTER SLOTS (+cluster|slots)"
)
_ONE_DATABASE = "the store is a Redis Cluster, of which we use database 0; leave the database out of REDIS_URL"
_BY_SOCKET = "the store is a Redis Cluster, which is reached over TCP; set REDIS_URL to redis://host:port of a node"
_REMEDY = "check REDIS_URL and that the server runs, or unset REDIS_URL to use the embedded store"

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Store:
    """An open store."""

    kind: Kind
    calls: Calls
    saver: BaseCheckpointSaver[Any]
    events: Events
    versions: Versions
    registry: Callable[[str], Registry]
    """The agents of a tenant."""


@asynccontextmanager
async def open_store(
    *,
    choice: Choice = "auto",
    url: str | None = None,
    data_dir: Path = Path(".flows"),
    ttl: int = 3600,
    fsync: Fsync = "everysec",
    lease: float = LEASE_SECONDS,
    audit_key: bytes = b"",
    archive: Archive | None = None,
) -> AsyncIterator[Store]:
    """Open the store and close it again.

    Args:
        choice: which saver; `auto` looks at what the store can do.
        url: a Redis or Valkey server; the embedded one if None.
        data_dir: where the embedded store keeps its data.
        ttl: seconds a call lives after its last turn; 0 for ever.
        fsync: when what the embedded store has answered is safe from a power failure.
        lease: seconds a turn may hold a call without renewing; after that, another replica may take it over.
        audit_key: the secret that the hashes of the audit trail are made with; empty for none.
        archive: where audit trails go when their calls are over; None for nowhere.

    Raises:
        StoreUnavailable: if the store cannot be reached.
        StoreRefused: if it is not fit for the choice.
        graph.store.embedded.EmbeddedStoreError: if the embedded store cannot be started.
    """
    terms: _Terms = {"ttl": ttl, "lease": lease, "audit_key": audit_key, "archive": archive}
    if choice == "memory":
        yield _memory(ttl, audit_key, archive)
        return
    async with AsyncExitStack() as stack:
        address = url or (await stack.enter_async_context(embedded_store(data_dir, fsync=fsync))).url
        client = await stack.enter_async_context(_client(address))
        async with _opening():
            client = await stack.enter_async_context(await _clustered(client, address))
            channels = Channels(client)
            stack.push_async_callback(channels.aclose)
            await client.publish(_PROBE, "")  # replicas wake each other over channels, which need rights of their own
            await client.pubsub_numsub(_PROBE)
            kind = await _chosen(client, choice)
            await _mark(client, kind)
            calls, saver = await (_core(client, terms) if kind == "core" else _langgraph_redis(client, terms))
            stack.push_async_callback(calls.aclose)
            registry = partial(RedisRegistry, client)
            store = Store(kind, calls, saver, RedisEvents(client, channels), RedisVersions(client), registry)
        log.info("store opened", checkpointer=kind, embedded=url is None)
        yield store


class _Terms(TypedDict):
    """On which terms calls are kept."""

    ttl: int
    lease: float
    audit_key: bytes
    archive: Archive | None


def _memory(ttl: int, audit_key: bytes, archive: Archive | None) -> Store:
    from graph.store.memory import MemoryCalls
    from graph.store.memory_events import MemoryEvents
    from graph.store.memory_registry import MemoryRegistry
    from graph.store.stock import TurnwiseMemorySaver

    saver, events = TurnwiseMemorySaver(), MemoryEvents()
    calls = MemoryCalls(saver, events, ttl=ttl, audit_key=audit_key, archive=archive)
    return Store("memory", calls, saver, events, MemoryVersions(), cache(MemoryRegistry))


async def _core(client: Redis, terms: _Terms) -> tuple[RedisCalls, BaseCheckpointSaver[Any]]:
    saver = CoreSaver(client, **terms)
    return saver.calls, saver


async def _langgraph_redis(client: Redis, terms: _Terms) -> tuple[RedisCalls, BaseCheckpointSaver[Any]]:
    from graph.store.langgraph_redis import TurnwiseRedisSaver

    # The stock saver counts minutes. Its checkpoints outlive the call's own keys by one: a head is never lost.
    minutes = {"default_ttl": terms["ttl"] / 60 + 1, "refresh_on_read": False} if terms["ttl"] else None
    saver = TurnwiseRedisSaver(redis_client=client, ttl=minutes)
    await saver.asetup()
    return RedisCalls(client, saver, checkpoint_key=saver.key_of, **terms), saver


def _client(url: str, *, database: int | None = None) -> Redis:
    """Return a client whose pool queues when it is full: the stock saver takes several connections a turn.

    A command whose answer was lost with its connection is sent again, once: what we send may run twice.

    Args:
        url: the server.
        database: one of it, whatever the address says.
    """
    again = Retry(NoBackoff(), 1, supported_errors=(ConnectionLost,))
    limits = {"timeout": 5, "socket_timeout": 5, "socket_connect_timeout": 2}
    try:
        pool: BlockingConnectionPool = BlockingConnectionPool.from_url(
            url, max_connections=_CONNECTIONS, retry=again, **limits
        )
        pool.connection_kwargs["decode_responses"] = False  # whatever the address says: checkpoints are bytes
        if database is not None:
            pool.connection_kwargs["db"] = database
        pool.make_connection()  # type: ignore[no-untyped-call]
    except (ValueError, TypeError):
        # Not the error's own words, nor itself as a cause: both may quote a part of the password.
        raise StoreRefused(f"REDIS_URL is not an address of a Redis server; {_ADDRESS}") from None
    return Redis.from_pool(pool)


async def _clustered(client: Redis, url: str) -> Redis:
    """Return a client of the whole cluster if the server is a node of one, else the same client."""
    database = int(client.connection_pool.connection_kwargs.get("db") or 0)
    if database:  # which a node of a cluster refuses before it is asked anything
        async with _client(url, database=0) as asked:
            owners = await _owners(asked)
    else:
        owners = await _owners(client)
    if owners is None:
        return client
    if database:
        raise StoreRefused(_ONE_DATABASE)
    if "path" in client.connection_pool.connection_kwargs:
        raise StoreRefused(_BY_SOCKET)
    return Cluster(client, owners, lambda host, port: _client(_at(url, host, port)))


async def _owners(client: Redis) -> Owners | None:
    """Ask who keeps what in the cluster; None if there is none."""
    try:
        return await owners_in(client)
    except NoPermissionError:
        try:
            await client.exists(*_IN_TWO_SLOTS)
        except ClusterCrossSlotError as error:
            raise StoreRefused(_MAY_NOT_ASK) from error
    except ResponseError:
        pass
    return None


def _at(url: str, host: str, port: int) -> str:
    """Return the address of another node, with the user and options of this one."""
    parts = urlsplit(url)
    user, at, _ = parts.netloc.rpartition("@")
    name = f"[{host}]" if ":" in host else host
    return urlunsplit(parts._replace(netloc=f"{user}{at}{name}:{port}"))


@asynccontextmanager
async def _opening() -> AsyncIterator[None]:
    """Translate what can go wrong with a server that we meet for the first time."""
    try:
        yield
    except StoreUnavailable as error:
        raise StoreUnavailable(f"{error}; {_REMEDY}") from error
    except (AuthenticationError, AuthorizationError, NoPermissionError) as error:
        raise StoreRefused(f"the store refuses the user of REDIS_URL ({type(error).__name__}); {_RIGHTS}") from error
    except ReadOnlyError as error:
        raise StoreRefused("the store is a read-only replica; set REDIS_URL to its primary") from error
    except (RedisError, OSError, TimeoutError) as error:
        raise StoreUnavailable(f"the store cannot be reached ({type(error).__name__}); {_REMEDY}") from error


async def _chosen(client: Redis, choice: Choice) -> Kind:
    if choice == "core":
        return "core"
    lack = await _lack(client)
    if choice == "langgraph-redis" and lack:
        raise StoreRefused(
            f"FLOWS_CHECKPOINTER=langgraph-redis {lack}; set FLOWS_CHECKPOINTER=core for this REDIS_URL"
        )
    return "core" if lack else "langgraph-redis"


async def _lack(client: Redis) -> str | None:
    """Say what `langgraph-redis` misses here. Ask by use: `COMMAND INFO` of an unknown command breaks redis-py 8."""
    if isinstance(client, Cluster):
        return "does not work on a Redis Cluster, over whose nodes one call would be strewn"
    for probe in _PROBES:
        try:
            await client.execute_command(*probe)  # type: ignore[no-untyped-call]
        except ResponseError:
            return "needs a Redis with JSON and Search (Redis 8, Redis Stack)"
    if int(client.connection_pool.connection_kwargs.get("db") or 0):
        return "needs database 0, the only one that Search works in"
    return None


async def _mark(client: Redis, kind: Kind) -> None:
    """Mark the store as ours, by a script: a server that would not run one is no store of ours."""
    mark = client.register_script(scripts.MARK)
    marked = (await mark(keys=[_MARKER], args=[kind, 0])).decode()
    if marked == kind:
        return
    if await _has_calls(client):
        raise StoreRefused(
            f"this store holds live calls saved by {marked!r}, not {kind!r}; set FLOWS_CHECKPOINTER={marked}, "
            "or wait until they have expired"
        )
    await mark(keys=[_MARKER], args=[kind, 1])


async def _has_calls(client: Redis) -> bool:
    async for _ in client.scan_iter(match=f"{PREFIX}{{*}}:call", count=1000):
        return True
    return False
