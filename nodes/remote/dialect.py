"""How the two versions of A2A write the same things. Pure functions between our records and JSON documents.

A2A 0.3: `message/send`, parts with `kind`, states like `completed`.
A2A 1.0: `SendMessage`, parts without `kind`, states like `TASK_STATE_COMPLETED`, header `A2A-Version: 1.0`.
"""

from collections.abc import Mapping
from typing import Any, Literal, get_args

from nodes.parts import WRAPPED, Unreadable, as_list, as_object, fold
from nodes.ports import AgentRequest, Part, Reply, TaskState

Dialect = Literal["0.3", "1.0"]
Happening = Literal["task", "message", "status", "artifact"]
Json = dict[str, Any]

VERSION_HEADER = "A2A-Version"
SEND: dict[Dialect, str] = {"0.3": "message/send", "1.0": "SendMessage"}
STREAM: dict[Dialect, str] = {"0.3": "message/stream", "1.0": "SendStreamingMessage"}
GET_TASK: dict[Dialect, str] = {"0.3": "tasks/get", "1.0": "GetTask"}
CANCEL_TASK: dict[Dialect, str] = {"0.3": "tasks/cancel", "1.0": "CancelTask"}
LIST_TASKS = "ListTasks"
"""Only 1.0 has it."""

AT_WORK: tuple[TaskState, ...] = ("submitted", "working")
WAITS: tuple[TaskState, ...] = ("input-required", "auth-required")

_ID_LENGTH = 1000
_STATES: frozenset[str] = frozenset(get_args(TaskState))
_NAMED: dict[str, Happening] = {
    "task": "task",
    "message": "message",
    "statusUpdate": "status",
    "status-update": "status",
    "artifactUpdate": "artifact",
    "artifact-update": "artifact",
}


def send_params(request: AgentRequest, dialect: Dialect, *, waits: bool = True) -> Json:
    """Return the parameters of the call that sends `request`, and waits for its outcome or not."""
    message: Json = {
        "messageId": request.message_id,
        "contextId": request.context_id,
        "metadata": dict(request.metadata),
    }
    if request.task_id:
        message["taskId"] = request.task_id
    parts = request.parts or ({"text": request.text},)
    if dialect == "1.0":
        message |= {"role": "ROLE_USER", "parts": list(parts)}
        return {"message": message, "configuration": {"returnImmediately": not waits}}
    message |= {"kind": "message", "role": "user", "parts": [_part_of_0_3(part) for part in parts]}
    return {"message": message, "configuration": {"blocking": waits}}


def task_params(task_id: str, history: int | None = 0) -> Json:
    """Return the parameters of the call that asks for a task, with the last messages of its history.

    `history` is how many of them; None leaves that to the agent.
    """
    return {"id": task_id} if history is None else {"id": task_id, "historyLength": history}


def list_params(context_id: str, history: int = 0, page_token: str = "") -> Json:
    """Return the parameters of the call that lists the tasks of a context, those that moved last, or further ones."""
    params = {"contextId": context_id, "pageSize": 100, "historyLength": history, "includeArtifacts": False}
    return params | ({"pageToken": page_token} if page_token else {})


def read_sent(result: Any, dialect: Dialect) -> Reply:
    """Read the result of a sent message: a message or a task.

    Raises:
        Unreadable: if it is neither.
    """
    happened, document = read_event(result, dialect)
    if happened == "task":
        return read_task(document)
    if happened == "message":
        return read_message(document)
    raise Unreadable("the result is neither a message nor a task")


def read_event(result: Any, dialect: Dialect) -> tuple[Happening, Json]:
    """Tell what an event of a stream is, and return the document in it.

    Raises:
        Unreadable: if it is nothing we know.
    """
    event = as_object(result, "the result")
    if dialect == "1.0":
        for name, happened in _NAMED.items():
            if name in event:
                return happened, as_object(event[name], f"the {happened}")
    elif happening := _NAMED.get(str(event.get("kind"))) or _guessed(event):
        return happening, event
    raise Unreadable("the result is neither a message nor a task")


def read_task(result: Any) -> Reply:
    """Read a task with every part of its artifacts and of its status message.

    Raises:
        Unreadable: if it has no id or no state we know.
    """
    task = as_object(result, "the task")
    status = as_object(task.get("status"), "the task's status")
    artifacts, said = as_list(task.get("artifacts")), status.get("message") or None
    return _reply(artifacts, said, read_state(status), read_task_id(task.get("id")), task.get("contextId"))


def read_message(message: Json) -> Reply:
    """Read a bare message.

    Raises:
        Unreadable: if its parts cannot be read.
    """
    return _reply([], message, None, None, message.get("contextId"))


def read_state(status: Json) -> TaskState:
    """Return the state that a task's status names.

    Raises:
        Unreadable: if neither version knows it.
    """
    value = status.get("state")
    state = str(value).removeprefix("TASK_STATE_").replace("_", "-").lower()
    if state not in _STATES:
        raise Unreadable(f"{value!r} is not a task state")
    return state  # type: ignore[return-value]


def read_task_id(value: Any) -> str:
    """Return a task's id.

    Raises:
        Unreadable: if it is none that we could keep.
    """
    if not isinstance(value, str) or not 0 < len(value) <= _ID_LENGTH:
        raise Unreadable("the task has no id, or one too long to keep")
    return value


def read_open_tasks(result: Any, context_id: str) -> list[str]:
    """Return the ids of those listed tasks that belong to the context and are not at their end.

    Raises:
        Unreadable: if it is not a list of tasks.
    """
    ours, _ = read_page(result, context_id)
    states = [read_state(as_object(task.get("status"), "the task's status")) for task in ours]
    return [
        read_task_id(task.get("id")) for task, state in zip(ours, states, strict=True) if state in AT_WORK + WAITS
    ]


def read_page(result: Any, context_id: str) -> tuple[list[Json], str]:
    """Return those listed tasks that belong to the context, and the token of the next page, empty if there is none.

    Raises:
        Unreadable: if it is not a list of tasks.
    """
    page = as_object(result, "the result")
    tasks = [as_object(task, "a task") for task in as_list(page.get("tasks"))]
    # An agent may ignore the filter, and the tasks of other contexts are not ours.
    ours = [task for task in tasks if task.get("contextId") == context_id]
    return ours, str(page.get("nextPageToken") or "")


def read_history(task: Json) -> list[Json]:
    """Return the messages of a task's history, oldest first.

    Raises:
        Unreadable: if it is not a list of messages.
    """
    return [as_object(message, "a message") for message in as_list(task.get("history"))]


def _reply(artifacts: list[Any], message: Any, state: TaskState | None, task_id: str | None, context: Any) -> Reply:
    folded = fold(artifacts, message)
    context_id = context if isinstance(context, str) and 0 < len(context) <= _ID_LENGTH else None
    return Reply(folded.text, folded.data, folded.files, state, task_id, context_id, folded.layout)


def _guessed(event: Json) -> Happening | None:
    """Tell what an event of 0.3 without a kind is."""
    if "artifact" in event:
        return "artifact"
    if "status" in event:
        return "status" if "taskId" in event else "task"
    return "message" if "parts" in event else None


def _part_of_0_3(part: Part) -> Json:
    extras = {"metadata": part["metadata"]} if "metadata" in part else {}
    if "text" in part:
        return {"kind": "text", "text": part["text"], **extras}
    if "raw" in part or "url" in part:
        named = {"bytes": "raw", "uri": "url", "name": "filename", "mimeType": "mediaType"}
        return {"kind": "file", "file": {key: part[ours] for key, ours in named.items() if ours in part}, **extras}
    return {"kind": "data", **_data_of_0_3(part.get("data", part), extras)}


def _data_of_0_3(data: Any, extras: Mapping[str, Any]) -> Json:
    """Return the data as 0.3 takes it, which knows only objects."""
    if isinstance(data, dict):
        return {"data": data, **extras}
    return {"data": {"value": data}, "metadata": {**extras.get("metadata", {}), WRAPPED: True}}
