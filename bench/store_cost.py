"""What a turn costs in Redis: commands, scripts, round trips, and the bytes a finished call leaves behind.

Measured in a pass of its own, because the counting proxy would slow a timed one.
"""

import asyncio
from collections import Counter
from dataclasses import dataclass
from statistics import median
from typing import Any

from redis.asyncio import Redis

from bench.contestants import Name, running_service
from bench.load import FIVE_TURNS, WRITE_INTENT, Client, client_of, drive, new_call_id
from bench.processes import Running, running_redis
from bench.proxy import RoundTrips, counting_proxy

IN_FLIGHT = 8
TRIP_CALLS = 10
# Some of a turn's work may follow its answer: it belongs to that turn, so the count is read a little later.
SETTLE_SECONDS = 0.05
IDLE_SECONDS = 2.0
SCRIPTS = ("eval", "evalsha", "eval_ro", "evalsha_ro", "fcall", "fcall_ro")
OURS = ("info", "memory|usage", "scan")


@dataclass(frozen=True, slots=True)
class StoreCost:
    """The cost of one contestant; counts per turn unless named otherwise."""

    commands: float
    scripts: float
    trips: float
    read_trips: float
    write_trips: float
    key_bytes_per_call: float
    memory_bytes_per_call: float
    idle_commands_per_second: float
    commands_of_a_call: dict[str, float]


@dataclass(frozen=True, slots=True)
class _Reading:
    """The store's own counters at one instant."""

    commands: Counter[str]
    key_bytes: int
    memory_bytes: int
    trips: int


async def measure(name: Name, agent: Running, calls: int) -> StoreCost:
    """Drive that many calls against a fresh contestant behind the counting proxy."""
    async with (
        running_redis() as server,
        Redis(port=server.port) as store,
        counting_proxy(server.port) as (port, trips),
        running_service(name, agent, port) as service,
        client_of(service) as client,
    ):
        await drive(client, IN_FLIGHT, 4 * IN_FLIGHT)
        idle = await _idle_commands_per_second(store)
        by_intent = await _trips_by_intent(client, trips)
        before = await _read(store, trips)
        await drive(client, IN_FLIGHT, calls)
        await asyncio.sleep(SETTLE_SECONDS)
        after = await _read(store, trips)
    return _cost(before, after, calls, by_intent, idle)


def _cost(before: _Reading, after: _Reading, calls: int, by_intent: dict[str, list[int]], idle: float) -> StoreCost:
    turns = calls * len(FIVE_TURNS)
    ran = after.commands - before.commands
    reads = [trips for intent, seen in by_intent.items() if intent != WRITE_INTENT for trips in seen]
    return StoreCost(
        commands=ran.total() / turns,
        scripts=sum(ran[script] for script in SCRIPTS) / turns,
        trips=(after.trips - before.trips) / turns,
        read_trips=median(reads),
        write_trips=median(by_intent[WRITE_INTENT]),
        key_bytes_per_call=(after.key_bytes - before.key_bytes) / calls,
        memory_bytes_per_call=(after.memory_bytes - before.memory_bytes) / calls,
        idle_commands_per_second=idle,
        commands_of_a_call={command: number / calls for command, number in ran.most_common()},
    )


async def _trips_by_intent(client: Client, trips: RoundTrips) -> dict[str, list[int]]:
    """How many round trips each turn of some calls made, one turn at a time."""
    seen: dict[str, list[int]] = {intent: [] for intent in FIVE_TURNS}
    for _ in range(TRIP_CALLS):
        call_id = new_call_id()
        for stage, intent in enumerate(FIVE_TURNS, start=1):
            before = trips.count
            await client.turn(call_id, intent, stage)
            await asyncio.sleep(SETTLE_SECONDS)
            seen[intent].append(trips.count - before)
    return seen


async def _idle_commands_per_second(store: Redis) -> float:
    before = await _commands(store)
    await asyncio.sleep(IDLE_SECONDS)
    return (await _commands(store) - before).total() / IDLE_SECONDS


async def _read(store: Redis, trips: RoundTrips) -> _Reading:
    memory: dict[str, Any] = await store.info("memory")
    return _Reading(await _commands(store), await _key_bytes(store), memory["used_memory"], trips.count)


async def _commands(store: Redis) -> Counter[str]:
    """Commands the server ran since it started, inside scripts too, without the bench's own."""
    stats: dict[str, dict[str, int]] = await store.info("commandstats")
    ran = {name.removeprefix("cmdstat_").lower(): stat["calls"] for name, stat in stats.items()}
    return Counter({command: calls for command, calls in ran.items() if command not in OURS})


async def _key_bytes(store: Redis) -> int:
    keys = [key async for key in store.scan_iter(count=1000)]
    pipeline = store.pipeline(transaction=False)
    for key in keys:
        pipeline.memory_usage(key, samples=0)
    return sum(size or 0 for size in await pipeline.execute())
