"""The peer on A2A: the least that `a2a-sdk` needs to answer a message, as its documentation builds a server.

Every message becomes a completed task that holds what was said as one artifact; one whose metadata says `park` is
asked back instead and stays open. Run by `python -m bench.a2a_echo`, which listens on 127.0.0.1 at PORT.
"""

import os

import uvicorn
from a2a.helpers import new_text_artifact, new_text_message
from a2a.server.agent_execution import AgentExecutor, RequestContext
from a2a.server.events import EventQueue
from a2a.server.request_handlers import DefaultRequestHandler
from a2a.server.routes import create_agent_card_routes, create_jsonrpc_routes
from a2a.server.tasks import InMemoryTaskStore
from a2a.types import AgentCapabilities, AgentCard, AgentInterface, AgentSkill, Task, TaskState, TaskStatus
from starlette.applications import Starlette

QUESTION = "What else can I do for you?"


class Echo(AgentExecutor):
    """Answers with one event, so that nothing is cheaper."""

    async def execute(self, context: RequestContext, event_queue: EventQueue) -> None:
        message = context.message
        assert message is not None
        task = Task(id=context.task_id, context_id=context.context_id, history=[message])
        if "park" in message.metadata:
            task.status.CopyFrom(_asking(context))
        else:
            task.status.state = TaskState.TASK_STATE_COMPLETED
            task.artifacts.append(new_text_artifact("echo", context.get_user_input()))
        await event_queue.enqueue_event(task)

    async def cancel(self, context: RequestContext, event_queue: EventQueue) -> None:
        raise NotImplementedError


def _asking(context: RequestContext) -> TaskStatus:
    question = new_text_message(QUESTION, context_id=context.context_id, task_id=context.task_id)
    return TaskStatus(state=TaskState.TASK_STATE_INPUT_REQUIRED, message=question)


def build_app(url: str) -> Starlette:
    """The app of the server that lives at this address."""
    card = AgentCard(
        name="echo",
        description="Says what was said.",
        version="1",
        supported_interfaces=[AgentInterface(url=url, protocol_binding="JSONRPC", protocol_version="1.0")],
        capabilities=AgentCapabilities(streaming=True),
        default_input_modes=["text/plain"],
        default_output_modes=["text/plain"],
        skills=[AgentSkill(id="echo", name="echo", description="Echoes.", tags=["bench"])],
    )
    handler = DefaultRequestHandler(Echo(), InMemoryTaskStore(), card)
    return Starlette(routes=[*create_agent_card_routes(card), *create_jsonrpc_routes(handler, "/")])


def main() -> None:
    """Serve until told to stop."""
    port = int(os.environ["PORT"])
    # Idle connections are kept for as long as those of `bench.agent`, for the same reason.
    uvicorn.run(
        build_app(f"http://127.0.0.1:{port}"),
        host="127.0.0.1",
        port=port,
        log_level="warning",
        access_log=False,
        timeout_keep_alive=600,
    )


if __name__ == "__main__":
    main()
