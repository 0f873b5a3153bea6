"""Closed-loop load: some calls in flight, each driving whole five-turn calls over keep-alive connections.

Any answer that is not the expected one is a failure, and a run with failures has no figures.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from itertools import count
from time import perf_counter
from uuid import uuid4

import aiohttp
import orjson

from bench.processes import Running

FIVE_TURNS = ("greeting", "verify_identity", "refund_request", "process_refund", "closing")
WRITE_INTENT = "process_refund"
TURN_SECONDS = 60.0

_run = uuid4().hex[:8]
_calls = count(1)


class TurnError(Exception):
    """A contestant answered a turn with anything but success: no figure is worth printing."""


@dataclass(frozen=True, slots=True)
class Speed:
    """What one run of the load showed; times in milliseconds."""

    turns: int
    turns_per_second: float
    p50_ms: float
    p99_ms: float
    cpu_ms: float


class Client:
    """Sends turns to one contestant and times them."""

    def __init__(self, http: aiohttp.ClientSession, service: Running) -> None:
        self._http = http
        self._name = service.name
        self._url = f"{service.url}/orchestrate"

    async def turn(self, call_id: str, intent: str, stage: int) -> float:
        """Milliseconds one turn took; raises TurnError unless it succeeded at that stage."""
        body = orjson.dumps(
            {
                "call_identify_id": call_id,
                "account_id": "ACC-999",
                "eci": "ECI-7",
                "input_message": "I was charged twice and would like my money back.",
                "intent": intent,
            }
        )
        start = perf_counter()
        try:
            async with self._http.post(self._url, data=body) as reply:
                answer = await reply.read()
        except (aiohttp.ClientError, TimeoutError) as failure:
            raise TurnError(f"{self._name}, {intent} at stage {stage}: {failure!r}") from failure
        took = (perf_counter() - start) * 1000
        if reply.status != 200 or not _succeeded(answer, intent, stage):
            raise TurnError(f"{self._name}, {intent} at stage {stage}: {reply.status} {answer[:500]!r}")
        return took

    async def first_turns(self, turns: int) -> list[float]:
        """Milliseconds of each of the first turns of one new call; all five are greeting to closing."""
        call_id = new_call_id()
        return [await self.turn(call_id, intent, stage) for stage, intent in enumerate(FIVE_TURNS[:turns], start=1)]


@asynccontextmanager
async def client_of(service: Running) -> AsyncIterator[Client]:
    """A client with as many connections as it needs."""
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=60)
    timeout = aiohttp.ClientTimeout(total=TURN_SECONDS)
    headers = {"content-type": "application/json"}
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, headers=headers) as http:
        yield Client(http, service)


async def measure(services: Running | Sequence[Running], in_flight: int, calls: int) -> Speed:
    """Drive that many whole calls, so many at a time, after one unmeasured call on each connection.

    Several services share the load evenly; CPU is then that of all of them.
    """
    services = [services] if isinstance(services, Running) else services
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(client_of(service)) for service in services]
        return await speed_of(services, clients, in_flight, calls)


async def speed_of(services: Sequence[Running], clients: Sequence[Client], in_flight: int, calls: int) -> Speed:
    """What `measure` says, by clients that are open already; one for each service."""
    many = len(services)

    async def all_drive(calls: int) -> list[list[float]]:
        return await asyncio.gather(*(drive(client, in_flight // many, calls // many) for client in clients))

    await all_drive(in_flight)
    cpu, start = sum(service.cpu_seconds() for service in services), perf_counter()
    times = [took for seen in await all_drive(calls) for took in seen]
    seconds = perf_counter() - start
    return _speed(times, seconds, sum(service.cpu_seconds() for service in services) - cpu)


def whole(number: int) -> int:
    """Every call has all its turns."""
    return len(FIVE_TURNS)


async def drive(client: Client, in_flight: int, calls: int, turns_of: Callable[[int], int] = whole) -> list[float]:
    """The milliseconds of every turn of that many calls, driven so many at a time.

    `turns_of` says how many turns each has, by its number from 0.
    """
    times: list[float] = []
    failures: list[TurnError] = []
    left = iter(range(calls))

    async def one_line() -> None:
        for number in left:
            try:
                times.extend(await client.first_turns(turns_of(number)))
            except TurnError as failure:
                failures.append(failure)

    async with asyncio.TaskGroup() as group:
        for _ in range(in_flight):
            group.create_task(one_line())
    if failures:
        raise TurnError(f"{len(failures)} of {calls} calls failed; the first: {failures[0]}")
    return times


def new_call_id() -> str:
    """A call id nobody used before."""
    return f"BENCH-{_run}-{next(_calls)}"


def _succeeded(body: bytes, intent: str, stage: int) -> bool:
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        return False
    expected = {
        "status": "success",
        "intent": intent,
        "intent_flow_id": stage,
        "is_complete": intent == FIVE_TURNS[-1],
    }
    return isinstance(answer, dict) and answer.items() >= expected.items()


def _speed(times: list[float], seconds: float, cpu_seconds: float) -> Speed:
    times.sort()
    return Speed(
        turns=len(times),
        turns_per_second=len(times) / seconds,
        p50_ms=times[len(times) // 2],
        p99_ms=times[len(times) * 99 // 100],
        cpu_ms=cpu_seconds * 1000 / len(times),
    )
