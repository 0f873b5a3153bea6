"""What asking several at once costs: a wide parallel stage, cold and warm, a long list, and the engine's share.

`python -m bench.at_once` prints one table. The agents live in a process of their own, each at a path of its own with
a 1.0 card of its own; the engine runs with LangGraph's memory saver and the HTTP client that the service uses.
"""

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from statistics import median
from typing import Any

import httpx
import orjson
import uvicorn

from bench.agent import CARD_PATH, Agent, Event, Receive, Scope, Send, card
from bench.processes import Running, free_port, http_answers, running
from graph import build_graph
from graph.loader import parse_flow
from nodes.ports import AgentRequest
from nodes.remote import Caller, open_client

BRANCHES, BRANCH_MS, BRANCHES_GOAL_MS = 20, 200, 400
ITEMS, AT_ONCE, ITEM_MS = 1_000, 50, 20
COLD_ROUNDS, WARM_ROUNDS, LIST_ROUNDS = 5, 20, 5
TOGETHER = "together"
"""The path of the agent that all items of a list go to."""

_calls = count(1)


class SlowAgents:
    """The ASGI app: `/MS/NAME` is an agent that takes so many milliseconds; `/most` tells how many asked at once."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._agent = Agent(url, speaks_1_0=True)
        self._in_flight = self._most = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        if path == "/most":
            await _respond(send, {"most": self._most})
            self._most = 0
        elif path.endswith(CARD_PATH):
            await _respond(send, card(self._url + path.removesuffix(CARD_PATH)))
        else:
            await self._after_a_while(scope, receive, send)

    async def _after_a_while(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._in_flight += 1
        self._most = max(self._most, self._in_flight)
        milliseconds = scope["path"].split("/")[1]
        await asyncio.sleep(int(milliseconds) / 1000 if milliseconds.isdecimal() else 0)
        self._in_flight -= 1
        await self._agent(scope, receive, send)


async def _respond(send: Send, content: dict[str, Any]) -> None:
    start: Event = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]}
    await send(start)
    await send({"type": "http.response.body", "body": orjson.dumps(content)})


@asynccontextmanager
async def slow_agents() -> AsyncIterator[Running]:
    """The process of all agents."""
    port = free_port()
    command = [sys.executable, "-m", "bench.at_once", "agents"]
    async with running("agents", command, {**os.environ, "PORT": str(port)}, port, http_answers) as process:
        yield process


def branches_flow(url: str, branches: int, milliseconds: int) -> str:
    """Return a flow of one stage that asks so many agents at once."""
    agents = ", ".join(f'a{n}: {{url: "{url}/{milliseconds}/a{n}"}}' for n in range(branches))
    asked = ", ".join(f"b{n}: {{agent: a{n}}}" for n in range(branches))
    return f"flow: wide\nagents: {{{agents}}}\nstages: {{all: {{parallel: {{{asked}}}}}}}\n"


def list_flow(url: str, at_once: int, milliseconds: int) -> str:
    """Return a flow of one stage that asks an agent about every item of a list."""
    agent = f'a: {{url: "{url}/{milliseconds}/{TOGETHER}"}}'
    over = f"{{map: {{over: items, agent: a, at_once: {at_once}}}, input: {{text: string(index)}}}}"
    return f"flow: long\ninputs: [items]\nagents: {{{agent}}}\nstages: {{each: {over}}}\n"


async def run_once(flow: str, caller: Caller, items: int = 0) -> float:
    """Return the milliseconds that a run took; the flow is read and built before.

    Raises:
        RuntimeError: if the run did not complete: a figure of a failed run says nothing.
    """
    graph: Any = build_graph(parse_flow(flow, "bench.yaml", {}), caller=caller)
    call = f"CALL-{next(_calls)}"
    said: dict[str, Any] = {"call_identify_id": call, "account_id": "A", "eci": "E", "input_message": "go"}
    if items:
        said["context"] = {"items": list(range(items))}
    started = time.perf_counter()
    state = await graph.ainvoke(said, {"configurable": {"thread_id": call}})
    took = (time.perf_counter() - started) * 1000
    if state["ended"] != "completed":
        raise RuntimeError(f"the run did not complete: {state['steps'][-1]['response_data']}")
    return took


async def asked_bare(url: str, requests: int, at_once: int) -> float:
    """Return the milliseconds that as many requests take without the engine."""
    bound = asyncio.Semaphore(at_once)

    async def ask(caller: Caller, number: int) -> None:
        address = f"{url}/0/{TOGETHER}"
        async with bound:
            await caller.call(AgentRequest("a", address, "go", f"bare-{number}", f"bare-{number}", None, 30))

    async with Caller(open_client()) as caller:
        await ask(caller, -1)  # the card
        started = time.perf_counter()
        await asyncio.gather(*(ask(caller, number) for number in range(requests)))
        return (time.perf_counter() - started) * 1000


async def cold_run(url: str) -> float:
    """Return the milliseconds of the wide stage in a process that has not called any agent yet."""
    command = [sys.executable, "-m", "bench.at_once", "cold", url]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    printed, _ = await process.communicate()
    return float(printed.split()[-1])


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table."""

    what: str
    figures: list[float]
    unit: str
    goal: str

    def __str__(self) -> str:
        middle, worst = median(self.figures), max(self.figures)
        return f"| {self.what} | {middle:,.1f} {self.unit} | {worst:,.1f} {self.unit} | {self.goal} |"


async def measure(url: str) -> list[Row]:
    """Take all figures against the agents at `url`."""
    wide = branches_flow(url, BRANCHES, BRANCH_MS)
    cold = [await cold_run(url) for _ in range(COLD_ROUNDS)]
    async with Caller(open_client()) as caller:
        await run_once(wide, caller)
        warm = [await run_once(wide, caller) for _ in range(WARM_ROUNDS)]
        at_once = branches_flow(url, BRANCHES, 0)
        await run_once(at_once, caller)
        idle = [await run_once(at_once, caller) / BRANCHES for _ in range(WARM_ROUNDS)]
        bounded = list_flow(url, AT_ONCE, ITEM_MS)
        await run_once(bounded, caller, AT_ONCE)
        await _most(url)
        long, most = [], []
        for _ in range(LIST_ROUNDS):
            long.append(await run_once(bounded, caller, ITEMS))
            most.append(await _most(url))
        free = list_flow(url, AT_ONCE, 0)
        each = [await run_once(free, caller, ITEMS) / ITEMS for _ in range(LIST_ROUNDS)]
    bare = [await asked_bare(url, ITEMS, AT_ONCE) / ITEMS for _ in range(LIST_ROUNDS)]
    goal, ideal = f"under {BRANCHES_GOAL_MS} ms", f"{ITEMS * ITEM_MS / AT_ONCE:g} ms if nothing else took time"
    branches, listed = f"{BRANCHES} branches of {BRANCH_MS} ms", f"{ITEMS:,} items of {ITEM_MS} ms"
    return [
        Row(f"{branches}, first call of a process (reads {BRANCHES} cards)", cold, "ms", goal),
        Row(f"{branches}, later", warm, "ms", goal),
        Row("of that for each branch, with agents that take no time", idle, "ms", ""),
        Row(f"{listed}, {AT_ONCE} at once", long, "ms", ideal),
        Row("of them in flight at most, as the agent saw it", most, "", f"{AT_ONCE}"),
        Row("each of 1,000 items, with an agent that takes no time", each, "ms", ""),
        Row("the same requests without the engine", bare, "ms", ""),
    ]


async def _most(url: str) -> float:
    async with httpx.AsyncClient() as client:
        return float((await client.get(f"{url}/most")).json()["most"])


async def _table() -> None:
    async with slow_agents() as agents:
        rows = await measure(agents.url)
    print(f"{os.cpu_count()} cores\n\n| what | median | worst | goal |\n|---|---|---|---|")
    print("\n".join(map(str, rows)))


async def _cold(url: str) -> None:
    async with Caller(open_client()) as caller:
        print(await run_once(branches_flow(url, BRANCHES, BRANCH_MS), caller))


def main() -> None:
    """Print the table; with `agents` serve the agents at PORT, with `cold URL` make one run and print its time."""
    match sys.argv[1:]:
        case ["agents"]:
            port = int(os.environ["PORT"])
            app = SlowAgents(f"http://127.0.0.1:{port}")
            uvicorn.run(app, host="127.0.0.1", port=port, lifespan="off", log_level="warning", timeout_keep_alive=600)
        case ["cold", url]:
            asyncio.run(_cold(url))
        case _:
            asyncio.run(_table())


if __name__ == "__main__":
    main()
