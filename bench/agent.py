"""One very light A2A agent, a raw ASGI app, that plays every agent for every contestant.

It answers 0.3 `message/send` with a bare message and has no card; AGENT_DIALECT=1.0 adds a card and
`SendMessage`. Run by `python -m bench.agent`, which listens on 127.0.0.1 at PORT.
"""

import os
from collections.abc import Awaitable, Callable, MutableMapping
from itertools import count
from typing import Any, cast

import orjson
import uvicorn

Scope = MutableMapping[str, Any]
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]

TEXT = "Thank you. That is done; what else can I do for you today?"
CARD_PATH = "/.well-known/agent-card.json"
METHOD_NOT_FOUND = -32601

_replies = count(1)


def card(url: str) -> dict[str, Any]:
    """The 1.0 card of an agent at this address."""
    return {
        "name": "bench",
        "description": "Answers every message with the same text.",
        "version": "1",
        "supportedInterfaces": [{"url": url, "protocolBinding": "JSONRPC", "protocolVersion": "1.0"}],
        "capabilities": {},
        "defaultInputModes": ["text/plain"],
        "defaultOutputModes": ["text/plain"],
        "skills": [{"id": "answer", "name": "answer", "description": "Answers.", "tags": ["bench"]}],
    }


def result(method: str, context_id: str | None, speaks_1_0: bool) -> dict[str, Any] | None:
    """The result in the dialect of the method; None for a method we do not know."""
    said = {"messageId": f"reply-{next(_replies)}", "contextId": context_id}
    if method == "message/send":
        return {**said, "kind": "message", "role": "agent", "parts": [{"kind": "text", "text": TEXT}]}
    if method == "SendMessage" and speaks_1_0:
        return {"message": {**said, "role": "ROLE_AGENT", "parts": [{"text": TEXT}]}}
    return None


def reply(body: bytes, speaks_1_0: bool) -> bytes:
    """The JSON-RPC reply to one request."""
    request = orjson.loads(body)
    answer: dict[str, Any] = {"jsonrpc": "2.0", "id": request["id"]}
    found = result(request["method"], request["params"]["message"].get("contextId"), speaks_1_0)
    if found is None:
        return orjson.dumps(answer | {"error": {"code": METHOD_NOT_FOUND, "message": "Method not found"}})
    return orjson.dumps(answer | {"result": found})


class Agent:
    """The ASGI app: POST anywhere is JSON-RPC, the card is served where it is asked for."""

    def __init__(self, url: str, speaks_1_0: bool) -> None:
        self._speaks_1_0 = speaks_1_0
        self._card = orjson.dumps(card(url)) if speaks_1_0 else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "POST":
            await _respond(send, 200, reply(await _body(receive), self._speaks_1_0))
        elif self._card and scope["path"].endswith(CARD_PATH):
            await _respond(send, 200, self._card)
        else:
            await _respond(send, 404, b"{}")


async def _body(receive: Receive) -> bytes:
    event = await receive()
    body = cast(bytes, event.get("body", b""))
    while event.get("more_body"):
        event = await receive()
        body += event.get("body", b"")
    return body


async def _respond(send: Send, status: int, body: bytes) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def main() -> None:
    """Serve until told to stop."""
    port = int(os.environ["PORT"])
    agent = Agent(f"http://127.0.0.1:{port}", os.environ.get("AGENT_DIALECT") == "1.0")
    # Clients keep connections for longer than uvicorn's 5 s; one closed under them would be our failure.
    uvicorn.run(
        agent,
        host="127.0.0.1",
        port=port,
        lifespan="off",
        log_level="warning",
        access_log=False,
        timeout_keep_alive=600,
    )


if __name__ == "__main__":
    main()
