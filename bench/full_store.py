"""What a turn costs when the store holds many finished calls.

The calls are copies of one that was made and finished: all its keys, and its place in every index that names it.
"""

import asyncio
from contextlib import AsyncExitStack

from redis.asyncio import Redis

from bench import load
from bench.contestants import SUBJECT, running_service
from bench.load import Client, Speed, client_of
from bench.processes import Running, StartError, running_redis
from bench.rounds import Rounds

IN_FLIGHT = 8
AT_ONCE = 500
ARCHIVED_SECONDS = 8.0
"""A finished call is brought to the archive within this: copies of one that waits would be archived meanwhile."""

COPY = """
-- ARGV name first last (type key)...
for number = tonumber(ARGV[2]), tonumber(ARGV[3]) do
  local other = ARGV[1] .. 'copy' .. number
  for i = 4, #ARGV, 2 do
    local kind, key = ARGV[i], ARGV[i + 1]
    if kind == 'own' then
      local from, to = string.find(key, ARGV[1], 1, true)
      redis.call('COPY', key, string.sub(key, 1, from - 1) .. other .. string.sub(key, to + 1))
    elseif kind == 'zset' then redis.call('ZADD', key, redis.call('ZSCORE', key, ARGV[1]), other)
    else redis.call('SADD', key, other) end
  end
end
"""


async def measure(agent: Running, filled: tuple[int, ...], rounds: int, calls: int) -> Rounds:
    """Rounds of that many calls, 8 in flight, each at a service whose store holds so many finished calls."""
    seen = Rounds()
    async with AsyncExitStack() as stack:
        services: dict[str, Running] = {}
        for many in filled:
            redis = await stack.enter_async_context(running_redis())
            service = await stack.enter_async_context(running_service(SUBJECT, agent, redis.port))
            await _fill(service, redis, many)
            services[label(many)] = service

        async def measured(name: str, in_flight: int) -> Speed:
            return await load.measure(services[name], in_flight, calls)

        for number in range(rounds):
            await seen.take(number, tuple(services), [IN_FLIGHT], measured)
    return seen


def label(many: int) -> str:
    """How the rounds call a store with so many calls."""
    return f"{many:,} calls"


async def _fill(service: Running, redis: Running, many: int) -> None:
    async with client_of(service) as client, Redis(port=redis.port, decode_responses=True) as store:
        await client.first_turns(len(load.FIVE_TURNS))
        if not many:
            return
        name, own = await _a_call(client, store)
        what = [word for key in own for word in ("own", key)]
        what += [word for kind, key in await _indexes(store, name) for word in (kind, key)]
        for first in range(0, many, AT_ONCE):
            await store.eval(COPY, 0, name, str(first + 1), str(min(first + AT_ONCE, many)), *what)


async def _a_call(client: Client, store: Redis) -> tuple[str, list[str]]:
    """Make a call; the name it has in the store, and its keys."""
    before = await _keys(store)
    await client.first_turns(len(load.FIVE_TURNS))
    await asyncio.sleep(ARCHIVED_SECONDS)
    own = sorted(await _keys(store) - before)
    names = {key.partition("{")[2].partition("}")[0] for key in own}
    if len(names) != 1:
        raise StartError(f"the keys of one call were not to be found; there are new ones: {own}")
    return names.pop(), own


async def _indexes(store: Redis, name: str) -> list[tuple[str, str]]:
    """The type and key of every set that has the call as a member."""
    found = [(str(await store.type(key)), key) for key in await _keys(store)]
    return [(kind, key) for kind, key in found if await _holds(store, kind, key, name)]


async def _holds(store: Redis, kind: str, key: str, name: str) -> bool:
    if kind == "zset":
        return await store.zscore(key, name) is not None
    return kind == "set" and bool(await store.sismember(key, name))


async def _keys(store: Redis) -> set[str]:
    return {str(key) async for key in store.scan_iter(count=1000)}
