"""How the two versions of A2A write the same things. Pure functions between our records and JSON documents.

A2A 0.3: `message/send`, parts with `kind`, states like `completed`.
A2A 1.0: `SendMessage`, parts without `kind`, states like `TASK_STATE_COMPLETED`, header `A2A-Version: 1.0`.
"""

from collections.abc import Iterable
from typing import Any, Literal, get_args

import orjson

from nodes.ports import AgentRequest, FilePart, Reply, TaskState

Dialect = Literal["0.3", "1.0"]
Json = dict[str, Any]

VERSION_HEADER = "A2A-Version"
SEND: dict[Dialect, str] = {"0.3": "message/send", "1.0": "SendMessage"}
GET_TASK: dict[Dialect, str] = {"0.3": "tasks/get", "1.0": "GetTask"}

_ID_LENGTH = 1000
_STATES: frozenset[str] = frozenset(get_args(TaskState))


class Unreadable(ValueError):
    """A document that is not what its dialect says it should be."""


def send_params(request: AgentRequest, dialect: Dialect) -> Json:
    """Return the parameters of the call that sends `request` and waits for its outcome."""
    message: Json = {
        "messageId": request.message_id,
        "contextId": request.context_id,
        "metadata": dict(request.metadata),
    }
    if request.task_id:
        message["taskId"] = request.task_id
    if dialect == "1.0":
        message |= {"role": "ROLE_USER", "parts": [{"text": request.text}]}
        return {"message": message, "configuration": {"returnImmediately": False}}
    message |= {"kind": "message", "role": "user", "parts": [{"kind": "text", "text": request.text}]}
    return {"message": message, "configuration": {"blocking": True}}


def task_params(task_id: str) -> Json:
    """Return the parameters of the call that asks for a task."""
    return {"id": task_id, "historyLength": 0}


def read_sent(result: Any, dialect: Dialect) -> Reply:
    """Read the result of a sent message: a message or a task.

    Raises:
        Unreadable: if it is neither.
    """
    document = _object(result, "the result")
    if dialect == "1.0":
        if "task" in document:
            return read_task(document["task"])
        if "message" in document:
            return _read_message(_object(document["message"], "the message"))
    elif document.get("kind") == "task" or "status" in document:
        return read_task(document)
    elif document.get("kind") == "message" or "parts" in document:
        return _read_message(document)
    raise Unreadable("the result is neither a message nor a task")


def read_task(result: Any) -> Reply:
    """Read a task with every part of its artifacts and of its status message.

    Raises:
        Unreadable: if it has no id or no state we know.
    """
    task = _object(result, "the task")
    status = _object(task.get("status"), "the task's status")
    parts = [part for artifact in _list(task.get("artifacts")) for part in _parts(artifact)]
    parts += _parts(status["message"]) if status.get("message") else []
    if not isinstance(task.get("id"), str) or not 0 < len(task["id"]) <= _ID_LENGTH:
        raise Unreadable("the task has no id, or one too long to keep")
    return _reply(parts, _state(status.get("state")), task["id"], task.get("contextId"))


def _read_message(message: Json) -> Reply:
    return _reply(_parts(message), None, None, message.get("contextId"))


def _reply(parts: Iterable[Json], state: TaskState | None, task_id: str | None, context_id: Any) -> Reply:
    texts: list[str] = []
    data: list[Any] = []
    files: list[FilePart] = []
    for part in parts:
        _sort_part(part, texts, data, files)
    context = context_id if isinstance(context_id, str) and 0 < len(context_id) <= _ID_LENGTH else None
    return Reply("\n".join(texts), tuple(data), tuple(files), state, task_id, context)


def _sort_part(part: Json, texts: list[str], data: list[Any], files: list[FilePart]) -> None:
    if isinstance(part.get("text"), str):
        if part["text"]:
            texts.append(part["text"])
    elif "file" in part:
        file = _object(part["file"], "a file part")
        files.append(_file(file.get("name"), file.get("mimeType"), file.get("bytes"), file.get("uri")))
    elif "raw" in part or "url" in part:
        files.append(_file(part.get("filename"), part.get("mediaType"), part.get("raw"), part.get("url")))
    elif "data" in part:
        data.append(_keepable(part["data"]))
    else:
        data.append(_keepable(part))  # a kind of part that neither version knows is kept, never dropped


def _keepable(data: Any) -> Any:
    """Return the data if it can be kept and passed on, some levels deeper than it came."""
    try:
        orjson.dumps([[[[[[[[[[[[data]]]]]]]]]]]])
    except TypeError as error:
        raise Unreadable("its data is nested too deeply") from error
    return data


def _file(name: Any, media_type: Any, content: Any, url: Any) -> FilePart:
    for value in (name, media_type, content, url):
        if value is not None and not isinstance(value, str):
            raise Unreadable("a file part has a field that is not text")
    return FilePart(name or None, media_type or None, content, url or None)


def _state(value: Any) -> TaskState:
    state = str(value).removeprefix("TASK_STATE_").replace("_", "-").lower()
    if state not in _STATES:
        raise Unreadable(f"{value!r} is not a task state")
    return state  # type: ignore[return-value]


def _parts(holder: Any) -> list[Json]:
    return [_object(part, "a part") for part in _list(_object(holder, "a message or artifact").get("parts"))]


def _list(value: Any) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise Unreadable("a list was expected")
    return value


def _object(value: Any, what: str) -> Json:
    if not isinstance(value, dict):
        raise Unreadable(f"{what} is not an object")
    return value
