"""A small A2A 0.3 agent that does what the message says, so that a test can tell a story in its own words.

`slow 0.5` answers after half a second, `fail`, `reject` and `cancel` end its task so, `ask` waits for
more input, `work` is at work until `finish` is called, `deep` sends data 300 levels deep, `lose` answers HTTP 404
and `refuse` a JSON-RPC error; anything else is repeated.
"""

import asyncio
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

_STATES = {"fail": "failed", "reject": "rejected", "cancel": "canceled", "ask": "input-required", "work": "working"}


class Puppet:
    """The agent, and every message it got."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self._finished = False
        self._forgetful = False
        self.app = Starlette(routes=[Route("/", self._answer, methods=["POST"])])

    def finish(self) -> None:
        """End the tasks that are at work."""
        self._finished = True

    def forget(self) -> None:
        """Know no task any more."""
        self._forgetful = True

    async def _answer(self, request: Request) -> JSONResponse:
        rpc = await request.json()
        if rpc["method"] == "tasks/get" and self._forgetful:
            error = {"code": -32001, "message": "Task not found"}
            return JSONResponse({"jsonrpc": "2.0", "id": rpc["id"], "error": error})
        if rpc["method"] == "tasks/get":
            return JSONResponse({"jsonrpc": "2.0", "id": rpc["id"], "result": self._task(rpc["params"]["id"])})
        message = rpc["params"]["message"]
        self.messages.append(message)
        text = message["parts"][0].get("text", "")
        word, _, rest = text.partition(" ")
        if word == "slow":
            await asyncio.sleep(float(rest))
        if word == "lose":
            return JSONResponse({"detail": "Not Found"}, 404)
        if word == "refuse":
            error = {"code": -32603, "message": "Internal error"}
            return JSONResponse({"jsonrpc": "2.0", "id": rpc["id"], "error": error})
        return JSONResponse({"jsonrpc": "2.0", "id": rpc["id"], "result": _result(message, word, text)})

    def _task(self, task_id: str) -> dict[str, Any]:
        state = "completed" if self._finished else "working"
        artifact = {"artifactId": "a", "parts": [{"kind": "text", "text": "it is done"}]}
        return {"kind": "task", "id": task_id, "contextId": "c", "status": {"state": state}, "artifacts": [artifact]}


def _result(message: dict[str, Any], word: str, text: str) -> dict[str, Any]:
    said = {
        "kind": "message",
        "role": "agent",
        "messageId": message["messageId"] + "-reply",
        "contextId": message["contextId"],
        "parts": [{"kind": "text", "text": f"you said {text}"}],
    }
    if word == "deep":
        said["parts"] = [{"kind": "data", "data": {"deep": _nested(300)}}]
    if word not in _STATES:
        return said
    task_id = message.get("taskId") or "task-of-" + message["messageId"]
    status = {"state": _STATES[word], "message": said}
    return {"kind": "task", "id": task_id, "contextId": message["contextId"], "status": status}


def _nested(levels: int) -> list[Any]:
    data: list[Any] = []
    for _ in range(levels):
        data = [data]
    return data
