"""`python -m bench.balance`: what choosing among endpoints gains, what a killed one costs, and what the choice costs.

Three endpoints, of which one is five times slower: by simulation, which says what each way to choose comes to, and by
measurement, with agents that are processes of their own and the caller and the pool of the service.
"""

import argparse
import asyncio
import math
import os
import platform
import random
import shlex
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from time import perf_counter
from typing import Any

import aiohttp
import uvicorn

from bench.agent import Agent as Answering
from bench.agent import Receive, Scope, Send
from bench.choosing import AT_ONCE, FAST, LOADS, OURS, SLOW, SPREAD, WAYS, Seen, Simulation, about, percentile, seen
from bench.processes import Running, StartError, free_port, http_answers, http_ready, running
from bench.tables import table
from nodes.ports import AgentRequest
from nodes.reaching.pool import Pool
from nodes.remote import Caller, open_client
from nodes.spec import Agent

MEASURED = ("round robin", "in flight, then latency", OURS)
PAGE = Path(__file__).with_name("BALANCE.md")
SECONDS_OF_A_KILL = 1.0
CALL = {"account_id": "ACC-999", "eci": "ECI-7", "input_message": "hello", "intent": "ask"}
FLOW = """\
flow: desk
waits_for: caller
agents: {{desk: {{endpoints: {urls}}}}}
stages: {{ask: {{intents: {{ask: desk}}}}}}
fallback: desk
"""


# With agents


class SlowAgent:
    """An agent of the bench that takes its time; an ASGI app.

    Args:
        mean: seconds that an answer takes on average.
        at_once: how many messages it works on at a time; 0 for any number.
    """

    def __init__(self, mean: float, at_once: int) -> None:
        self._answers = Answering("", speaks_1_0=False)
        self._mean = mean
        self._chance = random.Random()
        self._free = asyncio.Semaphore(at_once or sys.maxsize)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "POST":
            async with self._free:
                await asyncio.sleep(about(self._mean, self._chance))
        await self._answers(scope, receive, send)


@asynccontextmanager
async def agent(mean: float, at_once: int) -> AsyncIterator[Running]:
    """A process that is such an agent."""
    port = free_port()
    command = [sys.executable, "-m", "bench.balance", "--agent", str(port), str(mean), str(at_once)]
    async with running("agent", command, dict(os.environ), port, http_answers) as process:
        yield process


async def measured(way: type[Pool], urls: Sequence[str], in_flight: int, seconds: float) -> Seen:
    """Keep so many messages in flight for so long; the last of the urls is the slow one's."""
    pool, spec = way(), Agent(endpoints=list(urls))
    times: list[float] = []
    slow = 0
    began = perf_counter()
    async with Caller(open_client()) as caller:

        async def one_line(number: int) -> None:
            nonlocal slow
            for turn in count():
                if perf_counter() - began > seconds:
                    return
                since, choice = perf_counter(), pool.choose("desk", spec, "call")
                slow += choice.endpoint.url == urls[-1]
                with pool.trying(choice):
                    await caller.call(_request(choice.endpoint.url, f"{number}-{turn}"))
                times.append(perf_counter() - since)

        async with asyncio.TaskGroup() as lines:
            for number in range(in_flight):
                lines.create_task(one_line(number))
    return seen(times, perf_counter() - began, slow)


def _request(url: str, name: str) -> AgentRequest:
    return AgentRequest("desk", url, "hello", name, "bench", None, 60.0)


# One is killed


@dataclass(frozen=True, slots=True)
class Turn:
    """A turn of the service, by the bench's clock."""

    began: float
    ended: float
    failed: bool

    @property
    def milliseconds(self) -> float:
        """How long it took."""
        return (self.ended - self.began) * 1000


def _written(file: Path, text: str) -> Path:
    file.write_text(text)
    return file


@asynccontextmanager
async def service(urls: Sequence[str]) -> AsyncIterator[Running]:
    """A service whose only agent has these endpoints."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="bench-") as data:
        flow = _written(Path(data, "desk.yaml"), FLOW.format(urls=list(urls)))
        env = {key: value for key, value in os.environ.items() if not key.startswith("FLOWS_")}
        env |= {"FLOWS_PORT": str(port), "FLOWS_FLOW": str(flow), "FLOWS_CHECKPOINTER": "memory"}
        env |= {"FLOWS_DATA_DIR": data, "FLOWS_ARCHIVE": "off"}
        command = [str(Path(sys.executable).with_name("flows")), "serve"]
        async with running("service", command, env, port, http_ready) as process:
            yield process


async def killed(in_flight: int, seconds: float) -> tuple[list[Turn], float]:
    """Kill one of three equal agents in the midst of so many turns; return them all, and when that was."""
    async with AsyncExitStack() as stack:
        agents = [await stack.enter_async_context(agent(FAST, 0)) for _ in range(3)]
        running_service = await stack.enter_async_context(service([one.url for one in agents]))
        http = await stack.enter_async_context(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)))
        turns: list[Turn] = []
        over = perf_counter() + 2 * seconds

        async def one_line(number: int) -> None:
            for turn in count():
                if perf_counter() > over:
                    return
                call, since = {**CALL, "call_identify_id": f"K-{number}-{turn}"}, perf_counter()
                async with http.post(f"{running_service.url}/orchestrate", json=call) as answer:
                    told = await answer.json()
                turns.append(Turn(since, perf_counter(), told.get("status") != "success"))

        async with asyncio.TaskGroup() as lines:
            for number in range(in_flight):
                lines.create_task(one_line(number))
            await asyncio.sleep(seconds)
            at = perf_counter()
            os.kill(agents[0].pid, signal.SIGKILL)
        return turns, at


def around(turns: Sequence[Turn], at: float) -> dict[str, list[Turn]]:
    """Return the turns before, during and after a kill, without those of the first second."""
    first = min(turn.began for turn in turns) + 1
    told: dict[str, list[Turn]] = {"before": [], "during": [], "after": []}
    for turn in turns:
        when = "before" if turn.ended < at else "during" if turn.began < at + SECONDS_OF_A_KILL else "after"
        if turn.began > first:
            told[when].append(turn)
    return told


# What the choice costs


def cost(endpoints: int, turns: int = 20_000) -> float:
    """Return the microseconds that choosing among so many endpoints takes, counting what comes of it included."""
    pool = Pool()
    spec = Agent(endpoints=[f"http://one:{port}" for port in range(1, endpoints + 1)])
    for _ in range(2):  # the first time warms up
        since = perf_counter()
        for _ in range(turns):
            with pool.trying(pool.choose("desk", spec, "call")):
                pass
        took = perf_counter() - since
    return took / turns * 1e6


# The page

_MS = f"{FAST * 1000:.0f}", f"{SLOW * 1000:.0f}"
_MOST = f"{AT_ONCE / FAST:.0f}", f"{AT_ONCE / SLOW:.0f}"
INTRODUCTION = f"""\
Three endpoints of one agent. Two answer within {_MS[0]} ms on average, one within {_MS[1]} ms, spread log-normally
(σ {SPREAD:g}). Ways to choose differ in nothing but the choice: all of them are the service's own pool. *In flight,
then latency* is the letter of what was asked for; *in flight × latency* is what the service does: it takes the
endpoint where (messages in flight + 1) × recent latency is least. The first tenth of each run is not counted.
Times are milliseconds."""
SIMULATED = f"""\
*Any number at once*: how long an answer takes does not depend on how many are there. *{AT_ONCE} at once*: the others
wait in line, so that a fast endpoint can do {_MOST[0]} messages a second and the slow one {_MOST[1]}; where round
robin wants more of that, its line grows without end."""
MEASUREMENT = f"""\
The same with agents that are processes of their own ({AT_ONCE} messages at once), the service's caller over sockets,
and its pool."""
KILLED = """\
The service (`flows serve`, store `memory`) with 32 turns in flight all the time, over three equal agents that are
processes of their own, 50 ms on average; one is killed (SIGKILL) with whatever it is at. *During* are the turns that
were in flight then, or began within the second after. Of {kills} kills; load, agents and service share the machine's
cores."""
COST = """\
Microseconds that one message pays: choosing, counting it in flight, and learning from its answer."""


def page(sections: Sequence[str], command: str, seconds: float) -> str:
    """The whole page."""
    load = ", ".join(f"{average:.2f}" for average in os.getloadavg())
    made = (
        f"- made by `{command}` on {datetime.now(UTC):%Y-%m-%d %H:%M} UTC, in {seconds:.0f} s\n"
        f"- machine: {os.cpu_count()} cores, {platform.system()} {platform.release()}; load average {load}\n"
        f"- Python {platform.python_version()}"
    )
    return "\n\n".join(["# What choosing an endpoint gains and costs", made, INTRODUCTION, *sections]) + "\n"


def simulated(messages: int) -> Iterator[str]:
    """By simulation: each way under each load."""
    yield f"## By simulation\n\n{SIMULATED}"
    rows = [
        (name, str(load), "any number" if at_once == math.inf else str(at_once), *come.cells())
        for at_once in (math.inf, AT_ONCE)
        for load in LOADS
        for name, way in WAYS.items()
        for come in [Simulation(way, load, at_once).run(messages)]
    ]
    yield table(("", "messages", "at once", "p50", "p95", "p99", "a second", "to the slow one"), rows)


async def by_measurement(seconds: float) -> list[str]:
    """With agents: the ways that matter, at 8 and at 32 in flight."""
    async with AsyncExitStack() as stack:
        means = (FAST, FAST, SLOW)
        urls = [(await stack.enter_async_context(agent(mean, AT_ONCE))).url for mean in means]
        rows = [
            (name, f"{number} in flight", *(await measured(WAYS[name], urls, number, seconds)).cells())
            for number in (8, 32)
            for name in MEASURED
        ]
    head = ("", "messages", "p50", "p95", "p99", "a second", "to the slow one")
    return [f"## With agents\n\n{MEASUREMENT}", table(head, rows)]


async def by_kill(kills: int, seconds: float) -> list[str]:
    """One of three is killed, several times."""
    told: dict[str, list[Turn]] = {"before": [], "during": [], "after": []}
    for _ in range(kills):
        for when, turns in around(*await killed(32, seconds)).items():
            told[when] += turns
    head = ("", "turns", "p50", "p95", "p99", "slowest", "failed")
    rows = [(when, *_of_turns(turns)) for when, turns in told.items()]
    return [f"## One of three is killed\n\n{KILLED.format(kills=kills)}", table(head, rows)]


def _of_turns(turns: Sequence[Turn]) -> list[str]:
    times = sorted(turn.milliseconds for turn in turns)
    figures = [f"{percentile(times, share):.0f}" for share in (0.5, 0.95, 0.99, 1)]
    return [f"{len(turns):,}", *figures, str(sum(turn.failed for turn in turns))]


def main(arguments: Sequence[str]) -> int:
    """Measure and write; 1 and no page if a process did not start or a turn failed."""
    options = _options(arguments)
    if options.agent:
        return _be_an_agent(*options.agent)
    start = perf_counter()
    sections = list(simulated(3_000 if options.quick else 30_000))
    try:
        sections += asyncio.run(_with_processes(quick=options.quick))
    except (StartError, ExceptionGroup) as failure:
        print(f"no figures: {failure!r}", file=sys.stderr)
        return 1
    except asyncio.CancelledError:
        return 128 + signal.SIGTERM
    costs = [(f"{number} endpoint{'s' if number > 1 else ''}", f"{cost(number):.1f}") for number in (1, 3, 20)]
    sections += [f"## What the choice costs\n\n{COST}", table(("", "µs"), costs)]
    command = shlex.join(["python", "-m", "bench.balance", *arguments])
    written = page(sections, command, perf_counter() - start)
    options.out.write_text(written)
    sys.stdout.write(written)
    return 0


async def _with_processes(*, quick: bool) -> list[str]:
    # SIGTERM by default ends us at once and would leave the processes we started behind.
    if task := asyncio.current_task():
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    told = await by_measurement(3 if quick else 20)
    return told + await by_kill(1 if quick else 5, 3 if quick else 6)


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.balance", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="shorter runs")
    parser.add_argument("--out", type=Path, default=PAGE, help="the page to write (default: %(default)s)")
    parser.add_argument("--agent", nargs=3, metavar=("PORT", "SECONDS", "AT_ONCE"), help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def _be_an_agent(port: str, mean: str, at_once: str) -> int:
    app: Any = SlowAgent(float(mean), int(at_once))
    options: dict[str, Any] = {"lifespan": "off", "log_level": "warning", "access_log": False}
    uvicorn.run(app, host="127.0.0.1", port=int(port), timeout_keep_alive=600, **options)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
