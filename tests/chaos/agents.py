"""The agents, in a process of their own: `python -m tests.chaos.agents LEDGER` prints where they are and serves them.

`reader` only reads. `askable` keeps its tasks and does what it is sent, however often. `forgetful` keeps nothing and
does what it is sent as well. `idempotent` speaks A2A 0.3 and does nothing twice. A message whose metadata say `hold`
is acted on, and the first time not answered before `POST /let-go`.
"""

import asyncio
import json
import logging
import random
import signal
import sys
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from a2a.helpers import new_artifact, new_text_part
from a2a.server.agent_execution import AgentExecutor, RequestContext
from a2a.server.events import EventQueue
from a2a.server.request_handlers import DefaultRequestHandler
from a2a.server.request_handlers.response_helpers import agent_card_to_dict
from a2a.server.routes import create_jsonrpc_routes
from a2a.server.tasks import InMemoryTaskStore
from a2a.types import (
    AgentCapabilities,
    AgentCard,
    AgentInterface,
    Task,
    TaskArtifactUpdateEvent,
    TaskState,
    TaskStatus,
    TaskStatusUpdateEvent,
)
from google.protobuf.json_format import MessageToDict
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from server.listening import listen, serving, url_of
from tests.chaos.ledger import Ledger

AGENTS = ("reader", "askable", "forgetful", "idempotent")
_SENDS = {"1.0": "SendMessage", "0.3": "message/send"}
_WORK_SECONDS = 0.03
"""How long an agent works at most, before the effect and after it: a moment in which plugs are pulled."""


class Work:
    """What an agent does with a message, whatever it remembers of it."""

    def __init__(self, agent: str, ledger: Ledger) -> None:
        self.agent = agent
        self._ledger = ledger
        self._receipts: dict[str, str] = {}
        self._held: set[str] = set()
        self._go = asyncio.Event()
        self.arrived = 0

    def let_go(self) -> None:
        """Answer what is held."""
        self._go.set()
        self._go = asyncio.Event()

    async def do(self, message_id: str, context_id: str, metadata: Mapping[str, Any]) -> str:
        """Act on a message and return what is answered."""
        await asyncio.sleep(random.uniform(0, _WORK_SECONDS))
        intended = f"{metadata['call_identify_id']}/{str(metadata['flow_label']).lower()}"
        said = self._effect(message_id, context_id, intended)
        self.arrived += 1
        if metadata.get("hold") and intended not in self._held:
            self._held.add(intended)
            await self._go.wait()
        await asyncio.sleep(random.uniform(0, _WORK_SECONDS))
        return said

    def _effect(self, message_id: str, context_id: str, intended: str) -> str:
        if self.agent == "reader":
            return "well read"
        known = self._receipts.get(message_id) if self.agent == "idempotent" else None
        receipt = known or self._ledger.write(self.agent, message_id, context_id, intended)
        self._receipts[message_id] = receipt
        return f"receipt {receipt}"


# An agent that answers with bare messages


def bare_app(work: Work, dialect: str, url: str) -> Starlette:
    """Return the app of an agent that keeps no tasks."""

    async def answer(request: Request) -> Response:
        rpc = await request.json()
        if rpc["method"] != _SENDS[dialect]:
            return JSONResponse({"jsonrpc": "2.0", "id": rpc["id"], "error": {"code": -32601, "message": "no"}})
        message = rpc["params"]["message"]
        said = await work.do(message["messageId"], message["contextId"], message["metadata"])
        return JSONResponse({"jsonrpc": "2.0", "id": rpc["id"], "result": _bare(message, said, dialect)})

    return Starlette(routes=[Route("/", answer, methods=["POST"]), _card_route(work, dialect, url), *_control(work)])


def _bare(message: Mapping[str, Any], said: str, dialect: str) -> dict[str, Any]:
    reply = {"messageId": f"{message['messageId']}-reply", "contextId": message["contextId"]}
    if dialect == "0.3":
        return {"kind": "message", "role": "agent", "parts": [{"kind": "text", "text": said}], **reply}
    return {"message": {"role": "ROLE_AGENT", "parts": [{"text": said}], **reply}}


# An agent that keeps its tasks


class _TaskWork(AgentExecutor):
    def __init__(self, work: Work) -> None:
        self._work = work

    async def execute(self, context: RequestContext, event_queue: EventQueue) -> None:
        message, task_id, context_id = context.message, context.task_id or "", context.context_id or ""
        assert message is not None
        at_work = _status(TaskState.TASK_STATE_WORKING)
        await event_queue.enqueue_event(Task(id=task_id, context_id=context_id, status=at_work, history=[message]))
        said = await self._work.do(message.message_id, context_id, MessageToDict(message.metadata))
        artifact = new_artifact([new_text_part(said)], "receipt")
        await event_queue.enqueue_event(
            TaskArtifactUpdateEvent(task_id=task_id, context_id=context_id, artifact=artifact, last_chunk=True)
        )
        done = _status(TaskState.TASK_STATE_COMPLETED)
        await event_queue.enqueue_event(TaskStatusUpdateEvent(task_id=task_id, context_id=context_id, status=done))

    async def cancel(self, context: RequestContext, event_queue: EventQueue) -> None:
        raise NotImplementedError("nothing here is ever canceled")


def task_app(work: Work, url: str, handler: DefaultRequestHandler) -> Starlette:
    """Return the app of an agent that can be asked."""
    return Starlette(routes=[*create_jsonrpc_routes(handler, "/"), _card_route(work, "1.0", url), *_control(work)])


def _status(state: TaskState) -> TaskStatus:
    status = TaskStatus(state=state)
    status.timestamp.GetCurrentTime()
    return status


def _card(agent: str, url: str, dialect: str) -> AgentCard:
    interface = AgentInterface(url=url, protocol_binding="JSONRPC", protocol_version=dialect)
    return AgentCard(
        name=agent,
        description=f"The {agent} agent.",
        version="1",
        supported_interfaces=[interface],
        capabilities=AgentCapabilities(streaming=False),
        default_input_modes=["text/plain"],
        default_output_modes=["text/plain"],
    )


def _card_route(work: Work, dialect: str, url: str) -> Route:
    document = agent_card_to_dict(_card(work.agent, url, dialect))
    if dialect == "0.3":
        document = {"name": work.agent, "url": url, "protocolVersion": "0.3.0", "preferredTransport": "JSONRPC"}
        document |= {"description": "", "version": "1", "skills": [], "capabilities": {}}
        document |= {"defaultInputModes": ["text/plain"], "defaultOutputModes": ["text/plain"]}

    async def show(request: Request) -> JSONResponse:
        return JSONResponse(document)

    return Route("/.well-known/agent-card.json", show)


def _control(work: Work) -> list[Route]:
    async def let_go(request: Request) -> JSONResponse:
        work.let_go()
        return JSONResponse({})

    async def arrived(request: Request) -> JSONResponse:
        return JSONResponse(work.arrived)

    return [Route("/let-go", let_go, methods=["POST"]), Route("/arrived", arrived)]


async def _serve(ledger: Ledger) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with AsyncExitStack() as stack:
        urls = {}
        for agent in AGENTS:
            listener = stack.enter_context(listen(agent, "127.0.0.1", 0))
            urls[agent], work = url_of(listener), Work(agent, ledger)
            if agent == "askable":
                card = _card(agent, urls[agent], "1.0")
                handler = DefaultRequestHandler(_TaskWork(work), InMemoryTaskStore(), card)
                stack.push_async_callback(handler.aclose)
                app = task_app(work, urls[agent], handler)
            else:
                app = bare_app(work, "0.3" if agent == "idempotent" else "1.0", urls[agent])
            await stack.enter_async_context(serving(app, listener, grace=1))
        print(json.dumps(urls), flush=True)
        await stop.wait()


if __name__ == "__main__":
    logging.getLogger("a2a").setLevel(logging.ERROR)
    asyncio.run(_serve(Ledger(Path(sys.argv[1]))))
