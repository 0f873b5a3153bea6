"""Between A2A and a behaviour: reads what was asked from the message and turns the answer into events."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from a2a.helpers import new_artifact, new_data_part, new_message, new_raw_part, new_text_part
from a2a.server.agent_execution import AgentExecutor, RequestContext
from a2a.server.events import Event, EventQueue
from a2a.types import (
    Message,
    Part,
    Task,
    TaskArtifactUpdateEvent,
    TaskState,
    TaskStatus,
    TaskStatusUpdateEvent,
)
from a2a.utils.errors import InvalidParamsError
from google.protobuf.json_format import MessageToDict

from server.demo_agents.answer import Answer, Asked, Behaviour

_TASK_STATES = {
    "completed": TaskState.TASK_STATE_COMPLETED,
    "input-required": TaskState.TASK_STATE_INPUT_REQUIRED,
    "failed": TaskState.TASK_STATE_FAILED,
}


class BehaviourExecutor(AgentExecutor):
    """Runs one behaviour for every request the sdk hands over."""

    def __init__(self, behaviour: Behaviour) -> None:
        self._behaviour = behaviour

    async def execute(self, context: RequestContext, event_queue: EventQueue) -> None:
        message = _message(context)
        answer = self._behaviour(_asked(context, message))
        if answer.secret:
            _mask_digits(message)
        for event in _events(answer, context, message):
            await event_queue.enqueue_event(event)

    async def cancel(self, context: RequestContext, event_queue: EventQueue) -> None:
        status = TaskStatus(state=TaskState.TASK_STATE_CANCELED)
        status.timestamp.GetCurrentTime()
        await event_queue.enqueue_event(
            TaskStatusUpdateEvent(task_id=context.task_id, context_id=context.context_id, status=status)
        )


def _message(context: RequestContext) -> Message:
    if context.message is None:
        raise InvalidParamsError(message="The request carries no message.")
    return context.message


def _asked(context: RequestContext, message: Message) -> Asked:
    return Asked(
        intent=_said(message, "intent"),
        text=context.get_user_input(),
        account_id=_said(message, "account_id"),
        message_id=message.message_id,
        task_id=context.task_id or "",
        context_id=context.context_id or "",
        data=_data(message),
        metadata=MessageToDict(message.metadata),
    )


def _data(message: Message) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for part in message.parts:
        if part.HasField("data"):
            value = MessageToDict(part.data)
            data.update(value if isinstance(value, dict) else {"data": value})
    return data


def _said(message: Message, key: str) -> str:
    value = message.metadata.fields.get(key)
    return str(value.string_value) if value else ""


def _mask_digits(message: Message) -> None:
    """The sdk stores this very object in the history of the task, which whoever asks for the task sees."""
    for part in message.parts:
        if part.HasField("text"):
            part.text = re.sub("[0-9]", "*", part.text)


def _events(answer: Answer, context: RequestContext, message: Message) -> Iterator[Event]:
    if answer.state == "message":
        yield new_message(_parts(answer), context_id=context.context_id)
    elif context.current_task is None:
        yield _whole_task(answer, context, message)
    else:
        yield from _updates(answer, context)


def _whole_task(answer: Answer, context: RequestContext, message: Message) -> Task:
    """A task that is already where it is going: one event and one save in place of three."""
    task = Task(
        id=context.task_id,
        context_id=context.context_id,
        status=_status(answer, context),
        history=[message],
    )
    if answer.state == "completed":
        task.artifacts.append(new_artifact(_parts(answer), "answer"))
    return task


def _updates(answer: Answer, context: RequestContext) -> Iterator[Event]:
    if answer.state == "completed":
        artifact = new_artifact(_parts(answer), "answer")
        yield TaskArtifactUpdateEvent(
            task_id=context.task_id, context_id=context.context_id, artifact=artifact, last_chunk=True
        )
    yield TaskStatusUpdateEvent(
        task_id=context.task_id, context_id=context.context_id, status=_status(answer, context)
    )


def _status(answer: Answer, context: RequestContext) -> TaskStatus:
    status = TaskStatus(state=_TASK_STATES[answer.state])
    status.timestamp.GetCurrentTime()
    if answer.state != "completed":
        status.message.CopyFrom(new_message(_parts(answer), context.context_id, context.task_id))
    return status


def _parts(answer: Answer) -> list[Part]:
    parts = [new_text_part(answer.text)]
    if answer.data is not None:
        parts.append(new_data_part(answer.data))
    if answer.file is not None:
        file = answer.file
        parts.append(new_raw_part(file.content, media_type=file.media_type, filename=file.name))
    return parts
