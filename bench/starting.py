"""How long `flows serve` takes to answer, from the start of its process, on the embedded store in an empty folder."""

import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from time import perf_counter

from bench.contestants import SUBJECT, embedded_environment, service_command
from bench.load import FIVE_TURNS, Client, TurnError, client_of, new_call_id
from bench.processes import START_SECONDS, Running, StartError, free_port, http_ready, running

POLL_SECONDS = 0.01


@dataclass(frozen=True, slots=True)
class Start:
    """Seconds from the start of the process."""

    ready: float
    """Until `GET /ready` says 200."""
    answer: float
    """Until the first turn of a call is answered."""


async def measure(agent: Running, starts: int) -> list[Start]:
    """That many starts, after one that is not measured: it warms the disk's cache and Python's."""
    return [await _start(agent) for _ in range(starts + 1)][1:]


async def _start(agent: Running) -> Start:
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="bench-") as data:
        env = embedded_environment(agent, port, data)
        began = perf_counter()
        async with (
            running("flows serve", service_command(SUBJECT), env, port, _at_once) as service,
            client_of(service) as client,
        ):
            ready = asyncio.create_task(_until(lambda: http_ready(port), began))
            answer = await _until(lambda: _answers(client), began)
            return Start(await ready, answer)


async def _at_once(port: int) -> bool:
    return True


async def _answers(client: Client) -> bool:
    try:
        await client.turn(new_call_id(), FIVE_TURNS[0], 1)
    except TurnError:
        return False
    return True


async def _until(happened: Callable[[], Awaitable[bool]], began: float) -> float:
    while not await happened():
        if perf_counter() - began > START_SECONDS:
            raise StartError(f"flows serve did not answer within {START_SECONDS:g} s")
        await asyncio.sleep(POLL_SECONDS)
    return perf_counter() - began
