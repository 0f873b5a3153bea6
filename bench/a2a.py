"""`python -m bench.a2a`: the service by A2A beside a bare `a2a-sdk` server, in one run; writes A2A.md.

Both are sent the same messages, and every answer is checked. Then 1,000 tasks are parked in each, and each is
subscribed to.
"""

import argparse
import asyncio
import os
import shlex
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import Any, TypeVar

from redis.asyncio import Redis

from bench import a2a_load, load
from bench.a2a_load import Expected, is_call, is_echo, sender_to
from bench.contestants import SUBJECT, running_agent, running_contestant, running_service
from bench.load import Speed, TurnError, drive
from bench.machine import made_by
from bench.processes import Running, StartError, free_port, http_answers, running, running_redis
from bench.rounds import Rounds
from bench.tables import NO_FIGURE, speed_table, table

PAGE = Path(__file__).with_name("A2A.md")
PACKAGES = ("a2a-sdk", "protobuf", "starlette", "uvicorn", "redis", "langgraph")

Item = TypeVar("Item")
Done = TypeVar("Done")

OURS, ECHO, HTTP = "SendMessage", "a2a-sdk echo", "POST /orchestrate"
NAMES = (OURS, ECHO, HTTP)
EXPECTED: dict[str, Expected] = {OURS: is_call, ECHO: is_echo}

WARM_CALLS, IN_FLIGHT = 200, 8
SETTLE_SECONDS = 2.0
ECHO_LOOP = "uvloop" if find_spec("uvloop") else "asyncio's own loop"

SET_UP_NOTE = f"""\
`{OURS}` is the service (`flows serve`, store `core`) driven by A2A 1.0 through whole five-turn calls of the call
flow, one context each; `{HTTP}` is the same process driven through its HTTP door. `{ECHO}` is
[bench/a2a_echo.py](a2a_echo.py): the SDK's default handler with its store in memory, sent the same messages; it has
no flow, keeps nothing outside its process and calls no agent. uvicorn runs it on {ECHO_LOOP}; the service runs on
asyncio's own loop. OpenTelemetry is switched off in both. Load, agent, Redis and both servers share the machine's
cores. No answer of this run was wrong: a run with a wrong one prints no figures."""
SPEED_NOTE = f"""\
Medians of {{rounds}} rounds; contestants take turns within a round. × is the ratio to `{ECHO}`: more is better for
messages/s, less for the others. CPU is the server's own, without Redis, agent and load; busy is the share of one core
that this makes. Answers grow with the call, since a task holds its history: those of `{OURS}` are
{{ours_bytes:,.0f}} bytes on average, those of `{ECHO}` {{echo_bytes:,.0f}}."""
MEMORY_NOTE = """\
Fresh processes, after {warm} calls to warm up. A parked call is one that was sent its first message and waits for the
next (`input-required`); then each is subscribed to (`SubscribeToTask`) over a connection of its own, left idle for
{idle:g} s, and the streams are closed again. Resident MB of the server; connections are what Redis lists, without
ours; CPU and Redis commands are those of the idle time."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much to measure: `calls` per round for each number in flight, and seconds of idle streams."""

    rounds: int
    calls: dict[int, int]
    parked: int
    idle_seconds: float


FULL = Plan(rounds=5, calls={1: 100, 8: 200, 32: 320}, parked=1000, idle_seconds=20)
QUICK = Plan(rounds=2, calls={1: 30, 8: 60, 32: 96}, parked=1000, idle_seconds=6)


@dataclass(frozen=True, slots=True)
class Reading:
    """A server, and its Redis if it has one, at one instant."""

    resident_bytes: int
    cpu_seconds: float
    redis_bytes: int = 0
    redis_connections: int = 0
    redis_commands: int = 0


@dataclass(frozen=True, slots=True)
class Parked:
    """Readings in the order in which they were taken; `idle` follows `streaming` by the idle time."""

    before: Reading
    parked: Reading
    streaming: Reading
    idle: Reading
    closed: Reading


@dataclass(slots=True)
class Results:
    """The figures of one run."""

    plan: Plan
    rounds: Rounds = field(default_factory=Rounds)
    answer_bytes: dict[str, float] = field(default_factory=dict)
    parked: dict[str, Parked] = field(default_factory=dict)


@asynccontextmanager
async def running_echo() -> AsyncIterator[Running]:
    """The bare `a2a-sdk` server."""
    port = free_port()
    env = os.environ | {"PORT": str(port), "OTEL_INSTRUMENTATION_A2A_SDK_ENABLED": "false"}
    async with running(ECHO, [sys.executable, "-m", "bench.a2a_echo"], env, port, http_answers) as echo:
        yield echo


async def run(plan: Plan) -> Results:
    """Every measurement of the plan."""
    if task := asyncio.current_task():  # SIGTERM by default would leave the processes we started behind
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    results = Results(plan)
    async with running_agent() as agent:
        results.rounds, results.answer_bytes = await take_rounds(agent, plan.rounds, plan.calls)
        _say("parked calls")
        async with running_redis() as redis, running_service(SUBJECT, agent, redis.port) as service:
            results.parked["the service"] = await _park(service, is_call, plan, redis.port)
        async with running_echo() as echo:
            results.parked[ECHO] = await _park(echo, is_echo, plan, None)
    return results


async def take_rounds(
    agent: Running, rounds: int, calls: dict[int, int], names: Sequence[str] = NAMES
) -> tuple[Rounds, dict[str, float]]:
    """Rounds of so many calls for each number in flight, and the mean bytes of an answer by A2A."""
    seen, answer_bytes = Rounds(), dict[str, float]()
    async with AsyncExitStack() as stack:
        service = await stack.enter_async_context(running_contestant(SUBJECT, agent))
        servers = {OURS: service, HTTP: service, ECHO: await stack.enter_async_context(running_echo())}

        async def measured(name: str, in_flight: int) -> Speed:
            if name == HTTP:
                return await load.measure(service, in_flight, calls[in_flight])
            by_a2a = a2a_load.measure(servers[name], EXPECTED[name], in_flight, calls[in_flight])
            speed, answer_bytes[name] = await by_a2a
            return speed

        for number in range(rounds):
            _say(f"A2A: round {number + 1} of {rounds}")
            await seen.take(number, names, calls, measured)
    return seen, answer_bytes


async def _park(server: Running, expected: Expected, plan: Plan, redis_port: int | None) -> Parked:
    """Park calls, subscribe to each, leave the streams idle, close them; read the server after each."""
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(Redis(port=redis_port)) if redis_port else None
        sender = await stack.enter_async_context(sender_to(server, expected))
        await drive(sender, IN_FLIGHT, WARM_CALLS)
        before = await _read(server, store)
        tasks = await _each(range(plan.parked), lambda _: sender.park())
        parked = await _read(server, store)
        streams = await _each(tasks, sender.subscribe)
        streaming = await _read(server, store)
        await asyncio.sleep(plan.idle_seconds)
        idle = await _read(server, store, settle=0)
        for stream in streams:
            stream.close()
        return Parked(before, parked, streaming, idle, await _read(server, store))


async def _each(items: Iterable[Item], do: Callable[[Item], Awaitable[Done]]) -> list[Done]:
    done: list[Done] = []
    left = iter(items)

    async def one_line() -> None:
        for item in left:
            done.append(await do(item))  # noqa: PERF401  (the lines share the iterator)

    async with asyncio.TaskGroup() as group:
        for _ in range(IN_FLIGHT):
            group.create_task(one_line())
    return done


async def _read(server: Running, store: Redis | None, settle: float = SETTLE_SECONDS) -> Reading:
    await asyncio.sleep(settle)
    mine = server.resident_bytes(), server.cpu_seconds()
    if store is None:
        return Reading(*mine)
    info: dict[str, Any] = await store.info()
    others = len(await store.client_list()) - 1
    return Reading(*mine, info["used_memory"], others, info["total_commands_processed"])


def page(results: Results, command: str, seconds: float) -> str:
    """The whole page."""
    plan, sent = results.plan, results.answer_bytes
    parts = [
        "# What the bench saw of A2A",
        made_by(command, seconds, PACKAGES),
        SET_UP_NOTE,
        "## SendMessage on the call flow",
        SPEED_NOTE.format(rounds=plan.rounds, ours_bytes=sent[OURS], echo_bytes=sent[ECHO]),
        speed_table(results.rounds, NAMES, plan.calls, ECHO, "message"),
        f"## {plan.parked:,} parked calls",
        MEMORY_NOTE.format(warm=WARM_CALLS, idle=plan.idle_seconds),
        _parked_table(results),
    ]
    return "\n\n".join(parts) + "\n"


def _parked_table(results: Results) -> str:
    plan = results.plan
    columns = [_parked_column(parked, plan) for parked in results.parked.values()]
    return table(("", *results.parked), [(what, *(column[what] for column in columns)) for what in columns[0]])


def _parked_column(seen: Parked, plan: Plan) -> dict[str, str]:
    many, seconds = plan.parked, plan.idle_seconds
    growth = seen.parked.resident_bytes - seen.before.resident_bytes
    of_streams = seen.idle.resident_bytes - seen.parked.resident_bytes
    column = {
        "MB before": f"{seen.before.resident_bytes / 1e6:.1f}",
        f"MB with {many:,} parked": f"{seen.parked.resident_bytes / 1e6:.1f}",
        "bytes per parked call": f"{growth / many:,.0f}",
        f"MB with {many:,} idle streams": f"{seen.idle.resident_bytes / 1e6:.1f}",
        "bytes per stream": f"{of_streams / many:,.0f}",
        "MB after closing them": f"{seen.closed.resident_bytes / 1e6:.1f}",
        "CPU of idle streams": f"{(seen.idle.cpu_seconds - seen.streaming.cpu_seconds) / seconds:.1%}",
    }
    in_redis = {
        "Redis: bytes per parked call": (seen.parked.redis_bytes - seen.before.redis_bytes) / many,
        "Redis: connections before": seen.parked.redis_connections,
        "Redis: connections with streams": seen.idle.redis_connections,
        "Redis: connections after closing them": seen.closed.redis_connections,
        "Redis: commands/s of idle streams": (seen.idle.redis_commands - seen.streaming.redis_commands) / seconds,
    }
    has_redis = seen.before.redis_bytes > 0
    return column | {what: f"{figure:,.0f}" if has_redis else NO_FIGURE for what, figure in in_redis.items()}


def main(arguments: Sequence[str]) -> int:
    """Measure and write; 1 and no page when a process did not start or an answer was wrong."""
    parser = argparse.ArgumentParser(prog="python -m bench.a2a", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    parser.add_argument("--out", type=Path, default=PAGE, help="the page to write (default: %(default)s)")
    options = parser.parse_args(arguments)
    start, results = perf_counter(), None
    try:
        results = asyncio.run(run(QUICK if options.quick else FULL))
    except* (StartError, TurnError) as failures:
        _say(f"no figures: {failures.exceptions[0]}")
    except* asyncio.CancelledError:
        _say("no figures: terminated")
    if results is None:
        return 1
    written = page(results, shlex.join(["python", "-m", "bench.a2a", *arguments]), perf_counter() - start)
    options.out.write_text(written)
    sys.stdout.write(written)
    return 0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
