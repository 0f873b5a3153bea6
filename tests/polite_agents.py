"""An agent built on a2a-sdk that does what it is told: the words of the message name the script it plays."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from a2a.compat.v0_3.conversions import to_compat_agent_card
from a2a.helpers import new_artifact, new_data_part, new_message, new_raw_part, new_text_part, new_url_part
from a2a.server.agent_execution import AgentExecutor, RequestContext
from a2a.server.context import ServerCallContext
from a2a.server.events import EventQueue
from a2a.server.request_handlers import DefaultRequestHandler
from a2a.server.request_handlers.response_helpers import agent_card_to_dict
from a2a.server.routes import create_jsonrpc_routes
from a2a.server.tasks import InMemoryTaskStore
from a2a.types import (
    AgentCapabilities,
    AgentCard,
    AgentInterface,
    AgentSkill,
    Artifact,
    Message,
    Part,
    SendMessageRequest,
    Task,
    TaskArtifactUpdateEvent,
    TaskState,
    TaskStatus,
    TaskStatusUpdateEvent,
)
from google.protobuf.json_format import MessageToDict
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from nodes.remote.dialect import Dialect
from server.listening import listen, serving, url_of


@dataclass(frozen=True)
class PoliteAgent:
    """Where it answers, and what it heard."""

    url: str
    heard: list[dict[str, Any]] = field(default_factory=list)
    """The metadata of each message."""
    parts: list[list[dict[str, Any]]] = field(default_factory=list)
    """The parts of each message, as 1.0 writes them."""
    canceled: list[str] = field(default_factory=list)
    """The tasks it was asked to cancel."""
    go: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))
    """What `stream` waits for before each piece."""
    remembers: bool = False
    """Whether it puts the message that began a task into its history; a2a-sdk leaves that to the agent."""


_ENDS: Mapping[str, TaskState] = {
    "fail": TaskState.TASK_STATE_FAILED,
    "reject": TaskState.TASK_STATE_REJECTED,
    "cancel": TaskState.TASK_STATE_CANCELED,
    "ask": TaskState.TASK_STATE_INPUT_REQUIRED,
    "sign in": TaskState.TASK_STATE_AUTH_REQUIRED,
}


@asynccontextmanager
async def polite_agent(
    dialect: Dialect, *, streaming: bool = True, remembers: bool = False
) -> AsyncIterator[PoliteAgent]:
    """Serve the agent on a free loopback port."""
    with listen("a polite agent", "127.0.0.1", 0) as listener:
        agent = PoliteAgent(url_of(listener), remembers=remembers)
        card = _card(agent.url, dialect, streaming)
        handler = _Hasty(_Scripted(agent), InMemoryTaskStore(), card)
        routes = create_jsonrpc_routes(handler, "/", enable_v0_3_compat=dialect == "0.3")
        app = Starlette(routes=[*routes, _card_route(card, dialect)])
        async with serving(app, listener, grace=1):
            yield agent
        await handler.aclose()


class _Hasty(DefaultRequestHandler):
    """Answers `work` before the work is done, as agents may that do not block."""

    async def on_message_send(self, params: SendMessageRequest, context: ServerCallContext) -> Message | Task:
        if params.message.parts[0].text == "work":
            params.configuration.return_immediately = True
        answer: Message | Task = await super().on_message_send(params, context)
        return answer


class _Scripted(AgentExecutor):
    def __init__(self, agent: PoliteAgent) -> None:
        self._agent = agent

    async def execute(self, context: RequestContext, event_queue: EventQueue) -> None:
        if context.message is not None:
            self._agent.heard.append(MessageToDict(context.message.metadata))
            self._agent.parts.append([MessageToDict(part) for part in context.message.parts])
        if context.current_task is not None:
            state = _ENDS.get(_words(context), TaskState.TASK_STATE_COMPLETED)
            await event_queue.enqueue_event(_moved(context, state, "thank you"))
        else:
            await _SCRIPTS.get(_words(context), _end)(context, event_queue, self._agent)

    async def cancel(self, context: RequestContext, event_queue: EventQueue) -> None:
        self._agent.canceled.append(context.task_id or "")
        await event_queue.enqueue_event(_moved(context, TaskState.TASK_STATE_CANCELED, "canceled"))


async def _speak(context: RequestContext, queue: EventQueue, agent: PoliteAgent) -> None:
    await queue.enqueue_event(new_message(_everything(), context.context_id))


async def _deliver(context: RequestContext, queue: EventQueue, agent: PoliteAgent) -> None:
    task = _task(context, agent, TaskState.TASK_STATE_COMPLETED, "That is all.")
    task.artifacts.append(_papers())
    task.artifacts.append(new_artifact([new_text_part("a second artifact")], "the rest"))
    await queue.enqueue_event(task)


async def _show(context: RequestContext, queue: EventQueue, agent: PoliteAgent) -> None:
    await queue.enqueue_event(_task(context, agent, TaskState.TASK_STATE_WORKING, ""))
    await queue.enqueue_event(_piece(context, _papers(), last_chunk=True))
    await queue.enqueue_event(_moved(context, TaskState.TASK_STATE_COMPLETED, "That is all."))


async def _stream(context: RequestContext, queue: EventQueue, agent: PoliteAgent) -> None:
    await queue.enqueue_event(_task(context, agent, TaskState.TASK_STATE_WORKING, "let me see"))
    for number, words in enumerate(("one", "two", "three")):
        await agent.go.acquire()
        artifact = new_artifact([new_text_part(words)], "numbers", artifact_id="n")
        await queue.enqueue_event(_piece(context, artifact, append=number > 0, last_chunk=number == 2))
    await queue.enqueue_event(_moved(context, TaskState.TASK_STATE_COMPLETED, "counted"))


async def _toil(context: RequestContext, queue: EventQueue, agent: PoliteAgent) -> None:
    await queue.enqueue_event(_task(context, agent, TaskState.TASK_STATE_WORKING, ""))
    await asyncio.Event().wait()


async def _work(context: RequestContext, queue: EventQueue, agent: PoliteAgent) -> None:
    await queue.enqueue_event(_task(context, agent, TaskState.TASK_STATE_WORKING, "one moment"))
    await queue.enqueue_event(_piece(context, new_artifact([new_text_part("worked out")], "result")))
    await queue.enqueue_event(_moved(context, TaskState.TASK_STATE_COMPLETED, ""))


async def _end(context: RequestContext, queue: EventQueue, agent: PoliteAgent) -> None:
    words = _words(context)
    await queue.enqueue_event(_task(context, agent, _ENDS[words], f"I {words}"))


_SCRIPTS: Mapping[str, Callable[[RequestContext, EventQueue, PoliteAgent], Awaitable[None]]] = {
    "speak": _speak,
    "deliver": _deliver,
    "work": _work,
    "show": _show,
    "stream": _stream,
    "toil": _toil,
}


def _papers() -> Artifact:
    artifact = new_artifact(_everything(), "the papers", "What the agent has.", "p")
    artifact.metadata.update({"from": "the archive"})
    artifact.extensions.append("https://example.org/papers")
    artifact.parts[0].metadata.update({"language": "en"})
    return artifact


def _piece(context: RequestContext, artifact: Artifact, **fields: bool) -> TaskArtifactUpdateEvent:
    return TaskArtifactUpdateEvent(
        task_id=context.task_id, context_id=context.context_id, artifact=artifact, **fields
    )


def _words(context: RequestContext) -> str:
    return context.get_user_input().partition("\n")[0]


def _everything() -> list[Part]:
    return [
        new_text_part("first line"),
        new_data_part({"amount": "1.10"}),
        new_raw_part(b"PDF", media_type="application/pdf", filename="bill.pdf"),
        new_url_part("https://files.example/terms", media_type="text/html", filename="terms"),
        new_text_part("second line"),
    ]


def _task(context: RequestContext, agent: PoliteAgent, state: TaskState, words: str) -> Task:
    status = _status(context, state, words)
    history = [context.message] if agent.remembers and context.message else []
    return Task(id=context.task_id, context_id=context.context_id, status=status, history=history)


def _moved(context: RequestContext, state: TaskState, words: str) -> TaskStatusUpdateEvent:
    status = _status(context, state, words)
    return TaskStatusUpdateEvent(task_id=context.task_id, context_id=context.context_id, status=status)


def _status(context: RequestContext, state: TaskState, words: str) -> TaskStatus:
    said = new_message([new_text_part(words)], context.context_id, context.task_id) if words else None
    return TaskStatus(state=state, message=said)


def _card(url: str, dialect: Dialect, streaming: bool) -> AgentCard:
    interface = AgentInterface(url=url, protocol_binding="JSONRPC", protocol_version=dialect)
    return AgentCard(
        name="polite",
        description="Does what it is told.",
        version="1",
        supported_interfaces=[interface],
        capabilities=AgentCapabilities(streaming=streaming),
        default_input_modes=["text/plain"],
        default_output_modes=["text/plain"],
        skills=[AgentSkill(id="obey", name="obey", description="Plays a script.", tags=["test"])],
    )


def _old_form(card: AgentCard) -> dict[str, Any]:
    return to_compat_agent_card(card).model_dump(mode="json", by_alias=True, exclude_none=True)


def _card_route(card: AgentCard, dialect: Dialect) -> Route:
    document = agent_card_to_dict(card) if dialect == "1.0" else _old_form(card)

    async def show(request: Request) -> JSONResponse:
        return JSONResponse(document)

    return Route("/.well-known/agent-card.json", show)
