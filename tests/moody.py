"""An agent with moods: what it does with its next messages is written down for it, so that a story can tell of agents
that are down, come back, or take their time."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from server.listening import listen, serving, url_of
from tests.background import Background

HOLD = "hold"
"""Answers when it is let go."""


class Moody:
    """The agent: does what `moods` says, one after the other, the last one for ever.

    A number is an HTTP status, a mapping is answered as data, `HOLD` waits for `let_go`.
    """

    def __init__(self, background: Background) -> None:
        self.moods: list[Any] = [{}]
        self.heard: list[dict[str, Any]] = []
        self.url = ""
        self._background = background
        self._free = asyncio.Event()
        self._arrived = threading.Semaphore(0)
        self.app = Starlette(routes=[Route("/", self._answer, methods=["POST"])])

    def let_go(self) -> None:
        """Answer what is held, and hold nothing more."""
        self._background.loop.call_soon_threadsafe(self._free.set)

    def until_heard(self, messages: int = 1) -> None:
        """Wait until so many messages more have come."""
        for _ in range(messages):
            assert self._arrived.acquire(timeout=10)

    async def _answer(self, request: Request) -> Response:
        rpc = await request.json()
        if rpc["method"] != "message/send":
            return JSONResponse({"jsonrpc": "2.0", "id": rpc["id"], "error": {"code": -32001, "message": "no task"}})
        message = rpc["params"]["message"]
        self.heard.append(message)
        self._arrived.release()
        mood = self.moods.pop(0) if len(self.moods) > 1 else self.moods[0]
        if mood == HOLD:
            await self._free.wait()
        if isinstance(mood, int):
            return JSONResponse({"detail": "not now"}, mood)
        return JSONResponse({"jsonrpc": "2.0", "id": rpc["id"], "result": _said(message, mood)})


def _said(message: dict[str, Any], mood: Any) -> dict[str, Any]:
    data = [{"kind": "data", "data": mood}] if isinstance(mood, dict) else []
    return {
        "kind": "message",
        "role": "agent",
        "messageId": f"{message['messageId']}-reply",
        "contextId": message["contextId"],
        "parts": [{"kind": "text", "text": "done"}, *data],
    }


@contextmanager
def moody_agent(background: Background, *moods: Any) -> Iterator[Moody]:
    """Serve one on a free port."""
    agent, stack = Moody(background), AsyncExitStack()
    agent.moods = list(moods) or [{}]

    async def enter() -> str:
        listener = stack.enter_context(listen("the moody agent", "127.0.0.1", 0))
        await stack.enter_async_context(serving(agent.app, listener, grace=1))
        return url_of(listener)

    agent.url = background.run(enter())
    try:
        yield agent
    finally:
        agent.let_go()
        background.run(stack.aclose())
