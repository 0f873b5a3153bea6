"""The agent that the A2A TCK wants to find: what it does with a message is told by the prefix of the message's id.

The prefixes are those of the scenarios of `a2aproject/a2a-tck`. Behind an orchestrator the id that the TCK gave
arrives as the metadata `messageId`. `python -m tests.tck_agent PORT` serves it; with `0.3` as a second argument it
shows the card of that version, which a TCK needs that asks the agent itself.
"""

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable

from a2a.compat.v0_3.conversions import to_compat_agent_card
from a2a.helpers import new_data_part, new_message, new_raw_part, new_text_part, new_url_part
from a2a.server.agent_execution import AgentExecutor, RequestContext
from a2a.server.events import EventQueue
from a2a.server.request_handlers import DefaultRequestHandler
from a2a.server.request_handlers.response_helpers import agent_card_to_dict
from a2a.server.routes.jsonrpc_dispatcher import JsonRpcDispatcher
from a2a.server.tasks import TaskUpdater
from a2a.types import AgentCapabilities, AgentCard, AgentInterface, AgentSkill, Message, Part, Task, TaskState
from a2a.utils.constants import AGENT_CARD_WELL_KNOWN_PATH
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from server.demo_agents.tasks import ContextOfTask, RecentTasks
from server.listening import listen, serving, url_of

# Twice the TCK's TCK_STREAMING_TIMEOUT, which is 2 seconds unless it is set.
_LONG_SECONDS = 4.0
_PARKED_SECONDS = 30.0
_PROTOCOL_VERSION = {"0.3": "0.3.0", "1.0": "1.0"}

Behaviour = Callable[[TaskUpdater], Awaitable[None]]


def build_app(url: str, card_version: str = "1.0") -> Starlette:
    """The app of the agent that lives at `url`; it speaks both versions, and its card is of `card_version`."""
    card, tasks = _card(url, card_version), RecentTasks()
    handler = DefaultRequestHandler(
        _Scenarios(),
        tasks,
        card,
        request_context_builder=ContextOfTask(tasks),
        interrupted_task_timeout=_PARKED_SECONDS,
    )
    dispatcher = JsonRpcDispatcher(handler, enable_v0_3_compat=True)
    return Starlette(
        routes=[Route("/", dispatcher.handle_requests, methods=["POST"]), _card_route(card, card_version)]
    )


def _card_route(card: AgentCard, version: str) -> Route:
    if version == "0.3":
        document = to_compat_agent_card(card).model_dump(mode="json", by_alias=True, exclude_none=True)
    else:
        document = agent_card_to_dict(card)

    async def show(request: Request) -> Response:
        return JSONResponse(document)

    return Route(AGENT_CARD_WELL_KNOWN_PATH, show)


def _card(url: str, version: str) -> AgentCard:
    skill = AgentSkill(id="tck", name="TCK", description="Does what the TCK asks.", tags=["tck"])
    interface = AgentInterface(url=url, protocol_binding="JSONRPC", protocol_version=_PROTOCOL_VERSION[version])
    return AgentCard(
        name="TCK agent",
        description="Does what the id of a message asks.",
        version="1.0.0",
        supported_interfaces=[interface],
        capabilities=AgentCapabilities(streaming=True),
        default_input_modes=["text/plain"],
        default_output_modes=["text/plain", "application/json"],
        skills=[skill],
    )


class _Scenarios(AgentExecutor):
    async def execute(self, context: RequestContext, event_queue: EventQueue) -> None:
        message = context.message
        assert message is not None
        name = _scenario(message)
        if name.startswith("tck-message-response"):
            said = new_message([new_text_part("Direct message response")], context_id=context.context_id)
            await event_queue.enqueue_event(said)
            return
        if context.current_task is None:
            await event_queue.enqueue_event(_submitted(context, message))
        await _behaviour(name)(_updater(context, event_queue))

    async def cancel(self, context: RequestContext, event_queue: EventQueue) -> None:
        await _updater(context, event_queue).cancel()


def _updater(context: RequestContext, event_queue: EventQueue) -> TaskUpdater:
    return TaskUpdater(event_queue, context.task_id or "", context.context_id or "")


def _scenario(message: Message) -> str:
    told = message.metadata.fields.get("messageId")
    return str(told.string_value) if told else str(message.message_id)


def _submitted(context: RequestContext, message: Message) -> Task:
    task = Task(id=context.task_id, context_id=context.context_id, history=[message])
    task.status.state = TaskState.TASK_STATE_SUBMITTED
    task.status.timestamp.GetCurrentTime()
    return task


def _behaviour(name: str) -> Behaviour:
    return next(behaviour for prefix, behaviour in _BEHAVIOURS if name.startswith(prefix))


def _says(text: str) -> Behaviour:
    async def behave(updater: TaskUpdater) -> None:
        await updater.complete(updater.new_agent_message([new_text_part(text)]))

    return behave


def _makes(part: Part) -> Behaviour:
    async def behave(updater: TaskUpdater) -> None:
        await updater.add_artifact([part])
        await updater.complete()

    return behave


def _streams(*parts: Part) -> Behaviour:
    """Work, send one artifact with a chunk for each part, complete."""

    async def behave(updater: TaskUpdater) -> None:
        await updater.start_work()
        for number, part in enumerate(parts, 1):
            await updater.add_artifact(
                [part], artifact_id="streamed", append=number > 1, last_chunk=number == len(parts)
            )
        await updater.complete()

    return behave


async def _asks(updater: TaskUpdater) -> None:
    await updater.requires_input()


async def _rejects(updater: TaskUpdater) -> None:
    await updater.reject(updater.new_agent_message([new_text_part("rejected")]))


async def _completes(updater: TaskUpdater) -> None:
    await updater.complete()


async def _takes_long(updater: TaskUpdater) -> None:
    await updater.start_work()
    await asyncio.sleep(_LONG_SECONDS)
    await updater.complete()


_FILE = new_raw_part(b"tck", media_type="text/plain", filename="output.txt")
_FILE_URL = new_url_part("https://example.com/output.txt", media_type="text/plain", filename="output.txt")

# A longer prefix stands before the shorter one that it begins with.
_BEHAVIOURS: tuple[tuple[str, Behaviour], ...] = (
    ("tck-artifact-text", _makes(new_text_part("Generated text content"))),
    ("tck-artifact-file-url", _makes(_FILE_URL)),
    ("tck-artifact-file", _makes(_FILE)),
    ("tck-artifact-data", _makes(new_data_part({"key": "value", "count": 42}))),
    ("tck-input-required", _asks),
    ("tck-reject-task", _rejects),
    ("tck-stream-001", _streams(new_text_part("Stream hello from TCK"))),
    ("tck-stream-002", _completes),
    ("tck-stream-003", _streams(new_text_part("Stream task lifecycle"))),
    ("tck-stream-ordering-001", _streams(new_text_part("Ordered output"))),
    ("tck-stream-artifact-text", _streams(new_text_part("Streamed text content"))),
    ("tck-stream-artifact-file", _streams(_FILE)),
    ("tck-stream-artifact-chunked", _streams(new_text_part("chunk-1 "), new_text_part("chunk-2"))),
    ("tck-", _says("Hello from TCK")),
    ("test-resubscribe-message-id", _takes_long),
    # The TCK of 0.3 has no scenarios: it continues or cancels what its messages began, so nothing may be over.
    ("", _asks),
)


async def _serve(port: int, card_version: str) -> None:
    logging.getLogger("a2a").setLevel(logging.ERROR)
    with listen("the TCK agent", "127.0.0.1", port) as listener:
        url = url_of(listener)
        async with serving(build_app(url + "/", card_version), listener, grace=1):
            print(url, flush=True)
            await asyncio.Event().wait()


if __name__ == "__main__":
    try:
        asyncio.run(_serve(int(sys.argv[1]), *(sys.argv[2:] or ["1.0"])))
    except KeyboardInterrupt:
        sys.exit(0)
