"""What `FLOWS_FSYNC` costs on the embedded store, and what a store that is killed right after an answer has lost.

`python -m bench.fsync` prints one table. Both services run all the time and are measured in turn, so that a machine
that gets busy shifts both.
"""

import asyncio
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from time import perf_counter

import aiohttp
from redis.asyncio import Redis

from bench.contestants import AGENTS, running_agent
from bench.load import FIVE_TURNS, Client, client_of, measure, new_call_id
from bench.processes import Running, free_port, http_ready, running

POLICIES = ("everysec", "always")
IN_FLIGHT = (1, 16)
ROUNDS, CALLS = 7, 60
KILLS = 25
CALM_SECONDS = 1.5
"""How long the store is left alone before each kill: one that dies again at once is started later and later."""
AGAIN_SECONDS = 30.0


@dataclass(slots=True)
class Figures:
    """What was seen of one policy."""

    speeds: dict[int, list[float]] = field(default_factory=lambda: {number: [] for number in IN_FLIGHT})
    """Turns per second of each round, by how many calls were in flight."""
    away: list[float] = field(default_factory=list)
    """Milliseconds from each kill to the next answer."""
    lost: int = 0


@asynccontextmanager
async def service_with(policy: str, agent: Running) -> AsyncIterator[tuple[Running, Path]]:
    """A service on an embedded store of its own, and the store's socket."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="bench-") as data:
        env = {key: value for key, value in os.environ.items() if not key.startswith(("FLOWS_", "REDIS_"))}
        env |= {f"{name}_AGENT_URL": agent.url for name in AGENTS}
        env |= {"FLOWS_PORT": str(port), "FLOWS_DATA_DIR": data, "FLOWS_FSYNC": policy}
        command = [str(Path(sys.executable).with_name("flows")), "serve"]
        async with running(policy, command, env, port, http_ready) as service:
            yield service, Path(data, "store.sock")


async def killed(service: Running, client: Client, socket: Path) -> tuple[bool, float]:
    """Kill the store as soon as a turn is answered; tell whether the turn is lost, and when the next answer came."""
    async with Redis(unix_socket_path=str(socket)) as store:
        server = (await store.info("server"))["process_id"]
    call = new_call_id()
    await client.turn(call, FIVE_TURNS[0], 1)
    os.kill(server, signal.SIGKILL)
    since = perf_counter()
    async with aiohttp.ClientSession() as http:
        while perf_counter() - since < AGAIN_SECONDS:
            async with http.get(f"{service.url}/session/{call}") as answer:
                if answer.status != 503:
                    return answer.status != 200, (perf_counter() - since) * 1000
            await asyncio.sleep(0.001)
    return True, AGAIN_SECONDS * 1000


async def take_figures() -> dict[str, Figures]:
    """Measure all policies, one after another in each round."""
    figures = {policy: Figures() for policy in POLICIES}
    async with AsyncExitStack() as stack:
        agent = await stack.enter_async_context(running_agent())
        services = {policy: await stack.enter_async_context(service_with(policy, agent)) for policy in POLICIES}
        for _ in range(ROUNDS):
            for in_flight in IN_FLIGHT:
                for policy, (service, _) in services.items():
                    speed = await measure(service, in_flight, CALLS)
                    figures[policy].speeds[in_flight].append(speed.turns_per_second)
        for policy, (service, socket) in services.items():
            client = await stack.enter_async_context(client_of(service))
            for _ in range(KILLS):
                await asyncio.sleep(CALM_SECONDS)
                lost, away = await killed(service, client, socket)
                figures[policy].lost += lost
                figures[policy].away.append(away)
    return figures


def table(figures: dict[str, Figures]) -> str:
    """Return the figures as Markdown; a ratio is the median of those of the rounds."""
    first = figures[POLICIES[0]]
    heads = [f"turns/s, {number} in flight | of `{POLICIES[0]}`" for number in IN_FLIGHT]
    lines = [f"| `FLOWS_FSYNC` | {' | '.join(heads)} | lost by {KILLS} SIGKILLs | answers again after |"]
    lines.append("|---" * (2 * len(IN_FLIGHT) + 3) + "|")
    for policy, seen in figures.items():
        cells = [f"`{policy}`"]
        for number, speeds in seen.speeds.items():
            ratios = [one / other for one, other in zip(speeds, first.speeds[number], strict=True)]
            cells += [f"{median(speeds):,.0f}", f"{median(ratios):.2f}"]
        lines.append(f"| {' | '.join(cells)} | {seen.lost} | {median(seen.away):,.0f} ms |")
    return "\n".join(lines)


def main() -> None:
    """Print the table."""
    print(f"{os.cpu_count()} cores\n\n{table(asyncio.run(take_figures()))}")


if __name__ == "__main__":
    main()
