"""An A2A 0.3 agent that many ask at once, and a call over a flow of such agents: for stories of branches and lists.

The words of a message say what the agent does: `ask` waits for more input, `work` is at work until it is canceled,
`late` answers after the caller has given up; whatever is among `broken` fails. Anything else is repeated, aloud.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from graph import TurnContext, build_graph, steps_of
from graph.loader import parse_flow
from nodes.remote import Caller
from server.listening import listen, serving, url_of

CONFIG: Any = {"configurable": {"thread_id": "CALL-1"}}
FIRST: Any = {"call_identify_id": "CALL-1", "account_id": "A", "eci": "E"}
_STATES = {"ask": "input-required", "work": "working"}


class Crowd:
    """The agent: what it was told, by whom, and how many asked at once at most."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.heard: list[str] = []
        self.tasks: list[str | None] = []
        """The task that each message continued."""
        self.message_ids: list[str] = []
        self.canceled: list[str] = []
        self.broken: set[str] = set()
        self.most = 0
        """How many were in flight at most."""
        self.full: Callable[[int], bool] = lambda in_flight: True
        """Nobody is answered before as many are in flight as this says."""
        self.followed: set[str] = set()
        """The tasks at work that were asked after."""
        self._news = asyncio.Condition()
        self._in_flight = 0
        self._filled = asyncio.Event()
        self.app = Starlette(routes=[Route("/", self._answer, methods=["POST"])])

    async def until_followed(self, tasks: int) -> None:
        """Wait until so many tasks at work were asked after."""
        async with self._news:
            await self._news.wait_for(lambda: len(self.followed) >= tasks)

    async def _followed(self, task_id: str) -> None:
        async with self._news:
            self.followed.add(task_id)
            self._news.notify_all()

    async def _answer(self, request: Request) -> JSONResponse:
        rpc = await request.json()
        return JSONResponse({"jsonrpc": "2.0", "id": rpc["id"], "result": await self._result(rpc)})

    async def _result(self, rpc: dict[str, Any]) -> dict[str, Any]:
        if rpc["method"] == "tasks/cancel":
            self.canceled.append(rpc["params"]["id"])
        if rpc["method"] == "tasks/get":
            await self._followed(rpc["params"]["id"])
        if rpc["method"] != "message/send":
            return _task(rpc["params"]["id"], "canceled" if rpc["method"] == "tasks/cancel" else "working")
        message = rpc["params"]["message"]
        text = next((part["text"] for part in message["parts"] if "text" in part), "")
        self.heard.append(text)
        self.tasks.append(message.get("taskId"))
        self.message_ids.append(message["messageId"])
        await self._among_others()
        return await self._said(message, text)

    async def _among_others(self) -> None:
        self._in_flight += 1
        self.most = max(self.most, self._in_flight)
        if self.full(self._in_flight):
            self._filled.set()
        await self._filled.wait()
        self._in_flight -= 1

    async def _said(self, message: dict[str, Any], text: str) -> dict[str, Any]:
        task_id = message.get("taskId") or f"task-{len(self.heard)}"
        if text in self.broken:
            return _task(task_id, "failed", f"no {text}")
        if text == "late":
            await asyncio.sleep(0.3)
        if text in _STATES:
            return _task(task_id, _STATES[text], "which one?")
        return _task(task_id, "completed", text.upper())


def _task(task_id: str, state: str, words: str = "") -> dict[str, Any]:
    said = {"kind": "message", "role": "agent", "messageId": "m", "parts": [{"kind": "text", "text": words}]}
    status = {"state": state, **({"message": said} if words else {})}
    return {"kind": "task", "id": task_id, "contextId": "c", "status": status}


class Line:
    """One call over a flow of such agents."""

    def __init__(self, flow: str, crowd: Crowd, caller: Caller) -> None:
        self.crowd = crowd
        agents = f'{{worker: {{url: "{crowd.url}"}}}}'
        text = f"flow: crowd\ninputs: [topics]\nagents: {agents}\n{flow}" if "agents:" not in flow else flow
        self.graph: Any = build_graph(parse_flow(text.replace("URL", crowd.url), "crowd.yaml", {}), caller=caller)

    async def say(self, words: str, context: TurnContext | None = None, **inputs: Any) -> dict[str, Any]:
        """Take a turn, and return the state after it."""
        said = {**FIRST, "input_message": words, **({"context": inputs} if inputs else {})}
        return await self.go(said, context or TurnContext())

    async def go(self, said: Any, context: TurnContext | None = None) -> dict[str, Any]:
        """Go on with anything that LangGraph takes."""
        return dict(await self.graph.ainvoke(said, CONFIG, context=context or TurnContext()))

    async def trail(self) -> list[Any]:
        return list(await steps_of(self.graph, CONFIG))

    async def told(self) -> list[str]:
        """The trail in short: `stage/branch`, with a `!` where it failed."""
        return [_in_short(step) for step in await self.trail()]


def _in_short(step: dict[str, Any]) -> str:
    branch = f"/{step['branch']}" if "branch" in step else ""
    return f"{step['stage']}{branch}{'!' if step['response_status'] == 'error' else ''}"


def over(flow: str, story: Callable[[Line], Coroutine[Any, Any, None]]) -> None:
    """Run a story of one call over a flow; `URL` in its text is where the agent answers."""

    async def run() -> None:
        async with _crowd() as crowd, Caller() as caller:
            await story(Line(flow, crowd, caller))

    asyncio.run(run())


@asynccontextmanager
async def _crowd() -> AsyncIterator[Crowd]:
    with listen("the crowd", "127.0.0.1", 0) as listener:
        crowd = Crowd(url_of(listener))
        async with serving(crowd.app, listener, grace=1):
            yield crowd
