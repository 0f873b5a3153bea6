"""Our tasks and messages as A2A 0.3 writes them, made of what 1.0 writes."""

from collections.abc import Mapping
from typing import Any

from a2a.compat.v0_3.conversions import to_compat_part
from a2a.types import a2a_pb2 as pb

from server.a2a.wording import Json, typed, whole

_PLAIN = {"text"}
_STATE = "TASK_STATE_"
_ROLE = "ROLE_"


def answer_03(answer: Json) -> Json:
    """Return the `SendMessageResponse` of 1.0 as the result of `message/send`."""
    return _task(answer["task"]) if "task" in answer else _message(answer["message"])


def _task(task: Json) -> Json:
    lists = {"artifacts": _artifact, "history": _message}
    written = {name: [write(each) for each in task[name]] for name, write in lists.items() if name in task}
    return {**task, **written, "kind": "task", "status": _status(task["status"])}


def _status(status: Json) -> Json:
    said = {"message": _message(status["message"])} if "message" in status else {}
    return {**status, **said, "state": _named(status["state"], _STATE)}


def _message(message: Json) -> Json:
    return {**_artifact(message), "kind": "message", "role": _named(message["role"], _ROLE)}


def _artifact(artifact: Json) -> Json:
    return {**artifact, "parts": [_part(part) for part in artifact.get("parts", ())]}


def _part(part: Mapping[str, Any]) -> Json:
    if part.keys() == _PLAIN:
        return {"kind": "text", "text": part["text"]}
    written: Json = to_compat_part(typed(part, pb.Part)).model_dump(mode="json", by_alias=True, exclude_none=True)
    return {name: whole(value) for name, value in written.items()}


def _named(word: str, kind: str) -> str:
    return word.removeprefix(kind).lower().replace("_", "-")
