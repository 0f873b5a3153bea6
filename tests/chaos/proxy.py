"""A proxy before one agent, which cuts connections: before a request is passed on, before its answer, or within."""

import asyncio
import contextlib
import itertools
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson

Cut = Literal["before", "after", "during", "late"]
CUTS: tuple[Cut, ...] = ("before", "after", "during", "late")
LATE_SECONDS = 2.5
"""How late a late answer comes: later than `chaos.yaml` gives an agent."""


@dataclass(frozen=True)
class Cutting:
    """A connection that was cut, or an answer that came late."""

    agent: str
    cut: Cut
    method: str
    """The JSON-RPC method; `card` for a card."""
    message_id: str | None
    context_id: str | None
    at: float
    """Seconds since the epoch."""


Choose = Callable[[str], Cut | None]
"""What is done to a request, by its method."""


@dataclass
class Proxy:
    """The proxy, and what it did."""

    agent: str
    to: tuple[str, int]
    choose: Choose
    url: str = ""
    cuts: list[Cutting] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass on what comes over one connection, until it is cut or closed."""
        try:
            while (request := await _message(reader)) is not None:
                cut = self._cut(request)
                if cut == "before":
                    break
                answer = await self._answer(request)
                if cut == "after":
                    break
                if cut == "late":
                    await asyncio.sleep(LATE_SECONDS)
                writer.write(answer[: len(answer) // 2] if cut == "during" else answer)
                await writer.drain()
                if cut == "during":
                    break
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def _cut(self, request: bytes) -> Cut | None:
        head, _, body = request.partition(b"\r\n\r\n")
        rpc: dict[str, Any] = orjson.loads(body) if head.startswith(b"POST") else {"method": "card", "params": {}}
        method, params = rpc["method"], rpc["params"]
        cut = self.choose(method)
        if cut is not None:
            message = params.get("message", {})
            context_id = message.get("contextId") or params.get("contextId")
            self.cuts.append(Cutting(self.agent, cut, method, message.get("messageId"), context_id, time.time()))
        return cut

    async def _answer(self, request: bytes) -> bytes:
        reader, writer = await asyncio.open_connection(*self.to)
        try:
            writer.write(request)
            await writer.drain()
            answer = await _message(reader)
        finally:
            writer.close()
        if answer is None:
            raise OSError("the agent hung up")
        return answer


async def _message(reader: asyncio.StreamReader) -> bytes | None:
    """Return one whole HTTP message; None if the connection ended before it."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    lengths = [int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    return head + await reader.readexactly(sum(lengths))


def at_random(dice: random.Random, probability: float) -> Choose:
    """Cut some requests, in one way after the other."""
    cuts = itertools.cycle(dice.sample(CUTS, len(CUTS)))
    return lambda method: next(cuts) if dice.random() < probability else None


@asynccontextmanager
async def proxy(agent: str, url: str, choose: Choose) -> AsyncIterator[Proxy]:
    """Serve a proxy before the agent at `url`."""
    host, port = url.removeprefix("http://").rstrip("/").split(":")
    made = Proxy(agent, (host, int(port)), choose)
    connections: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(made.serve(reader, writer))
        connections.add(task)
        task.add_done_callback(connections.discard)

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield made
    finally:
        server.close()
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
