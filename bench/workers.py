"""What a second process costs: two that share one Redis and the load, against one with a Redis of its own."""

from contextlib import AsyncExitStack

from bench import load
from bench.contestants import SUBJECT, running_contestant, running_service
from bench.load import Speed
from bench.processes import Running, running_redis
from bench.rounds import Rounds

ONE, TWO = "one process", "two processes"
IN_FLIGHT = 32


async def measure(agent: Running, rounds: int, calls: int) -> Rounds:
    """Rounds of that many calls, 32 in flight: 16 at each of two processes, or all at one."""
    seen = Rounds()
    async with AsyncExitStack() as stack:
        alone = await stack.enter_async_context(running_contestant(SUBJECT, agent))
        shared = await stack.enter_async_context(running_redis())
        both = [await stack.enter_async_context(running_service(SUBJECT, agent, shared.port)) for _ in range(2)]
        services = {ONE: [alone], TWO: both}

        async def measured(name: str, in_flight: int) -> Speed:
            return await load.measure(services[name], in_flight, calls)

        for number in range(rounds):
            await seen.take(number, tuple(services), [IN_FLIGHT], measured)
    return seen


def turns_per_cpu_second(speed: Speed) -> float:
    """How many turns the processes take for a second of their CPU time, all of them together."""
    return 1000 / speed.cpu_ms
