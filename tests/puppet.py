"""A small A2A 0.3 agent that does what the message says, so that a test can tell a story in its own words.

`slow 0.5` answers after half a second, `fail`, `reject` and `cancel` end its task so, `ask` waits for
more input, `refuse` answers a JSON-RPC error; anything else is repeated.
"""

import asyncio
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

_STATES = {"fail": "failed", "reject": "rejected", "cancel": "canceled", "ask": "input-required"}


class Puppet:
    """The agent, and every message it got."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.app = Starlette(routes=[Route("/", self._answer, methods=["POST"])])

    async def _answer(self, request: Request) -> JSONResponse:
        rpc = await request.json()
        message = rpc["params"]["message"]
        self.messages.append(message)
        text = message["parts"][0]["text"]
        word, _, rest = text.partition(" ")
        if word == "slow":
            await asyncio.sleep(float(rest))
        if word == "refuse":
            error = {"code": -32603, "message": "Internal error"}
            return JSONResponse({"jsonrpc": "2.0", "id": rpc["id"], "error": error})
        return JSONResponse({"jsonrpc": "2.0", "id": rpc["id"], "result": _result(message, word, text)})


def _result(message: dict[str, Any], word: str, text: str) -> dict[str, Any]:
    said = {
        "kind": "message",
        "role": "agent",
        "messageId": message["messageId"] + "-reply",
        "contextId": message["contextId"],
        "parts": [{"kind": "text", "text": f"you said {text}"}],
    }
    if word not in _STATES:
        return said
    task_id = message.get("taskId") or "task-of-" + message["messageId"]
    status = {"state": _STATES[word], "message": said}
    return {"kind": "task", "id": task_id, "contextId": message["contextId"], "status": status}
