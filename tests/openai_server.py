"""A small model server that speaks OpenAI's chat completions over HTTP, and remembers what it was asked."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from server.listening import listen, serving, url_of

Thought = Callable[[dict[str, Any]], Awaitable[Response]]
"""What the model makes of a request's body."""


@dataclass
class ModelServer:
    """Where the server is, what it thinks, and what it was asked."""

    url: str
    thought: Thought
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    def prompts(self) -> list[str]:
        """What it was asked, without what it was told to be."""
        return [body["messages"][-1]["content"] for body in self.bodies]


@asynccontextmanager
async def model_server() -> AsyncIterator[ModelServer]:
    """Serve a model on a free loopback port; it knows nothing until it is given a thought."""
    with listen("the model server", "127.0.0.1", 0) as listener:
        server = ModelServer(f"{url_of(listener)}/v1", picks("unknown"))

        async def complete(request: Request) -> Response:
            server.bodies.append(await request.json())
            server.headers.append(dict(request.headers))
            return await server.thought(server.bodies[-1])

        app = Starlette(routes=[Route("/v1/chat/completions", complete, methods=["POST"])])
        async with serving(app, listener, grace=0):
            yield server


def picks(intent: Any) -> Thought:
    """Answer the intent in the form that was asked for."""
    return says(json.dumps({"intent": intent}))


def says(content: str | None, finish: str = "stop", **message: Any) -> Thought:
    """Answer some text, whatever was asked for."""

    async def think(body: dict[str, Any]) -> Response:
        said = {"role": "assistant", "content": content, **message}
        choice = {"index": 0, "message": said, "finish_reason": finish}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        completion = {"id": "c", "object": "chat.completion", "created": 0, "model": body["model"]}
        answer = {**completion, "choices": [choice], "usage": usage}
        # Escaped, as OpenAI's own: only so can it hold half a character.
        return Response(json.dumps(answer), media_type="application/json")

    return think


def thinks(of: Mapping[str, Thought]) -> Thought:
    """Answer by the first of these words that the question holds."""

    async def think(body: dict[str, Any]) -> Response:
        question = body["messages"][-1]["content"]
        return await next(thought for word, thought in of.items() if word in question)(body)

    return think


def refuses(field: str, thought: Thought) -> Thought:
    """Be a server that does not know a field of the request."""

    async def think(body: dict[str, Any]) -> Response:
        if field in body:
            return JSONResponse({"error": {"message": f"Unrecognized request argument: {field}"}}, 400)
        return await thought(body)

    return think


def answers(content: str, status: int = 200) -> Thought:
    """Answer this very body."""

    async def think(body: dict[str, Any]) -> Response:
        return Response(content, status, media_type="application/json")

    return think


async def hangs(body: dict[str, Any]) -> Response:
    """Never answer."""
    await asyncio.Event().wait()
    return Response()
