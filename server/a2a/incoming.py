"""A message from an A2A client, read as a turn: its text, what names call, account and intent, and the parts that go
on to the agent. Pure; what cannot be read is an error that says what to do."""

import hashlib
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from a2a.utils.errors import InvalidParamsError
from pydantic import BaseModel, ConfigDict, ValidationError

from graph.flow import Flow
from nodes.ports import Part
from server.a2a.wording import Json, whole
from server.deadlines import DeadlineMs
from server.identifiers import MESSAGE_LENGTH, Id, Intent
from server.problems import bad_input
from server.turn import TurnRequest

Document = TypeVar("Document", bound=BaseModel)

MOST_PARTS = 1_000
_KEY_LENGTH = 24
_CONTENTS = frozenset({"text", "raw", "url", "data"})


class _Said(BaseModel):
    """What a client may say beside its words: in a data part, in the message's metadata or in the request's."""

    model_config = ConfigDict(strict=True, extra="ignore")

    call_identify_id: Id | None = None
    account_id: Id | None = None
    eci: Id | None = None
    intent: Intent = None
    language: str | None = None


_NAMES = frozenset(_Said.model_fields)
DEADLINE = "deadline_ms"


class _Wanted(BaseModel):
    """How a client may say that it wants to be answered, in the message's metadata or in the request's."""

    model_config = ConfigDict(strict=True, extra="ignore")

    deadline_ms: DeadlineMs | None = None


class _ContextId(BaseModel):
    contextId: Id  # noqa: N815  (A2A's name, which the error repeats)


def read_message(sent: Json, *, call: str | None, run: int | None, idempotency_key: str | None = None) -> TurnRequest:
    """Return the turn that a message asks for.

    Args:
        sent: the request, as 1.0 writes it in JSON.
        call: the call of the task that the message continues, if it names one.
        run: the run that this task is.
        idempotency_key: what the client names a first message by, to be answered once.

    Raises:
        InvalidParamsError: if it cannot be understood.
    """
    message = sent["message"]
    _check(message)
    parts: list[Part] = [whole(part) for part in message["parts"]]
    of_request, of_message = whole(sent.get("metadata", {})), whole(message.get("metadata", {}))
    metadata = {**of_request, **of_message}
    metadata.pop(DEADLINE, None)
    said, rest = _said(of_request, parts, of_message)
    text = "\n".join(part["text"] for part in rest if part.get("text"))
    if len(text) > MESSAGE_LENGTH:
        raise InvalidParamsError(f"the message's text is longer than {MESSAGE_LENGTH:,} characters; send less")
    named = _call_of(message, said, call)
    begins = named is None and idempotency_key is not None
    return TurnRequest(
        call_identify_id=named or (_call_named_by(idempotency_key) if idempotency_key else str(uuid.uuid4())),
        account_id=said.account_id,
        eci=said.eci,
        input_message=text,
        intent=said.intent,
        language=said.language,
        metadata={
            **{key: value for key, value in metadata.items() if key not in _NAMES},
            "messageId": message["messageId"],
        },
        parts=() if _is_plain(rest) else tuple(rest),
        caller_message_id=message["messageId"],
        key=_key(message, metadata, idempotency_key),
        run=run,
        begins=begins,
    )


def deadline_in(sent: Json) -> float | None:
    """Return the seconds within which a client wants its answer, as its metadata says; None for any time.

    Raises:
        InvalidParamsError: if that cannot be understood.
    """
    said = {**sent.get("metadata", {}), **sent["message"].get("metadata", {})}.get(DEADLINE)
    wanted = None if said is None else _validated(_Wanted, {DEADLINE: whole(said)}).deadline_ms
    return None if wanted is None else wanted / 1000


def given_inputs(request: TurnRequest, flow: Flow) -> dict[str, Any]:
    """Return the flow's inputs that a message brings: fields of its data parts, or of `input` in its metadata; where
    the flow has one input and the message is only text, the text is it."""
    named = request.metadata.get("input")
    said = [part["data"] for part in request.parts if isinstance(part.get("data"), dict)]
    given = {name: value for one in (*said, named if isinstance(named, dict) else {}) for name, value in one.items()}
    if not given and len(flow.inputs) == 1 and request.input_message:
        return {flow.inputs[0]: request.input_message}
    return {name: given[name] for name in flow.inputs if name in given}


def _check(message: Json) -> None:
    if message["role"] == "ROLE_AGENT":
        raise InvalidParamsError("the message has the role of an agent; send it as ROLE_USER")
    if len(message["parts"]) > MOST_PARTS:
        raise InvalidParamsError(f"the message has {len(message['parts']):,} parts; send at most {MOST_PARTS:,}")
    if any(part.keys().isdisjoint(_CONTENTS) for part in message["parts"]):
        raise InvalidParamsError("a part of the message has no content; send text, raw, url or data")


def _said(
    of_request: Mapping[str, Any], parts: Sequence[Part], of_message: Mapping[str, Any]
) -> tuple[_Said, list[Part]]:
    """Read what names the call: in the message's metadata, else in a data part, else in the request's metadata.

    A data part that says nothing else does not go on to the agent, unless the message is nothing else.
    """
    named: dict[str, Any] = _names_in(of_request)
    rest: list[Part] = []
    for part in parts:
        data = part.get("data")
        data = data if isinstance(data, dict) else {}
        told = _names_in(data)
        named |= told
        if not told or told.keys() != data.keys():
            rest.append(part)
    return _validated(_Said, named | _names_in(of_message)), rest or list(parts)


def _names_in(said: Mapping[str, Any]) -> dict[str, Any]:
    return {key: said[key] for key in _NAMES & said.keys()}


def _call_of(message: Json, said: _Said, call: str | None) -> str | None:
    """Return the call: the task's, the context, or what the client calls it; None if it says nothing of it."""
    context: str | None = message.get("contextId") or None
    if context:
        _validated(_ContextId, {"contextId": context})
    for name in (call, context):
        if name and said.call_identify_id and said.call_identify_id != name:
            raise InvalidParamsError("call_identify_id and the message's context differ; the context is the call")
    return call or context or said.call_identify_id


def _call_named_by(idempotency_key: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"idempotency-key:{idempotency_key}"))


def _key(message: Json, metadata: Mapping[str, Any], idempotency_key: str | None) -> str:
    """Name the very message: by its id, or what the client names it by, and everything that is said with it."""
    body = {**message, "metadata": metadata}
    for name in ("messageId", "contextId", "taskId"):
        body.pop(name, None)
    named = (idempotency_key or message["messageId"], repr(_sorted(body)))
    return hashlib.sha256("\x1f".join(named).encode("utf-8", "surrogatepass")).hexdigest()[:_KEY_LENGTH]


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return sorted((key, _sorted(item)) for key, item in value.items())
    return [_sorted(item) for item in value] if isinstance(value, list) else value


def _is_plain(parts: Sequence[Part]) -> bool:
    return len(parts) == 1 and parts[0].keys() == {"text"} and bool(parts[0]["text"])


def _validated(document: type[Document], values: Mapping[str, Any]) -> Document:
    try:
        return document.model_validate(values)
    except ValidationError as error:
        said = str(bad_input(error)).replace("Input should be", "it has to be")  # pydantic's words stay inside
        raise InvalidParamsError(said) from error
