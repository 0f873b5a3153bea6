"""What an outcome means for where the run goes: what is kept of the answer, and which way is open. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nodes.conditions import ExpressionFailed, value_of
from nodes.onward import Onward, after_error, onward
from nodes.ports import Reply
from nodes.remote.errors import AgentError
from nodes.spec import ANSWER, KNOWN, FlowFacts, Place, Stage
from nodes.state import CallState, said


class CannotGoOn(AgentError):
    """An expression of the flow could not be worked out: the flow needs mending."""

    kind = "expression_failed"
    retryable = False
    acted = False


@dataclass(frozen=True, slots=True)
class Move:
    """Where the run goes after a stage."""

    onward: Onward | None = None
    """None: it stays where it is, or ends there."""
    context: Mapping[str, Any] = field(default_factory=dict)
    """What the run knows by name from now on."""
    wrong: str | None = None
    """Why the run cannot go on, though its agent answered."""


def moved(facts: FlowFacts, state: CallState, place: Place, reply: Reply | None, error: AgentError | None) -> Move:
    """Return where the run goes after its stage was answered (`reply`), or its agent failed."""
    before = state.get("context", {})
    try:
        answer = _answer(reply, error)
        if error is not None or reply is None or answer["status"] == "error":
            known = known_to(facts, state, before) | {ANSWER: answer}
            return Move(after_error(facts.places, place, known, state.get("taken", {})), before)
        context = {**before, **_kept(facts, place, answer)}
        known = known_to(facts, state, context) | {ANSWER: answer}
        passes = state.get("passes", 0) + 1
        return Move(onward(facts.places, place, known, passes, state.get("taken", {})), context)
    except ExpressionFailed as failure:
        return Move(None, before, str(failure))


def known_to(facts: FlowFacts, state: CallState, context: Mapping[str, Any]) -> dict[str, Any]:
    """Return what expressions may read: every name of the flow, null where nothing was written yet."""
    always = {name: state.get(name) for name in KNOWN}
    return {**dict.fromkeys(facts.names), **context, **always, "input_message": said(state)}


def worked_out(stage: Stage, agent: str, known: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the stage's agent gets, by name; raises `CannotGoOn`."""
    try:
        return {name: value_of(text, known) for name, text in stage.input.items()}
    except ExpressionFailed as failure:
        raise CannotGoOn(agent, str(failure)) from failure


def _answer(reply: Reply | None, error: AgentError | None) -> dict[str, Any]:
    """Return the answer as expressions read it."""
    if reply is None:
        kind, message = (error.kind, str(error)) if error else ("agent_error", "no answer")
        told = {"type": kind, "message": message}
        return {"status": "error", "text": "", "data": {}, "files": [], "task_state": None, "error": told}
    failed = reply.task_state in ("failed", "rejected", "canceled")
    return {
        "status": "error" if failed else "success",
        "text": reply.text,
        "data": _data(reply.data),
        "files": [{"name": file.name, "media_type": file.media_type, "url": file.url} for file in reply.files],
        "task_state": reply.task_state,
        "error": {"type": f"task_{reply.task_state}", "message": reply.text} if failed else None,
    }


def _data(parts: tuple[Any, ...]) -> Any:
    """Return what the data parts say: all objects as one, or else the first part; {} if there is none."""
    if all(isinstance(part, dict) for part in parts):
        return {key: value for part in parts for key, value in part.items()}
    return parts[0]


def _kept(facts: FlowFacts, place: Place, answer: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: _field(answer, wanted) for wanted, name in place.stage.output.items()}
    return kept | ({place.name: dict(answer)} if place.name in facts.reads else {})


def _field(answer: Mapping[str, Any], wanted: str) -> Any:
    data = answer["data"]
    if isinstance(data, dict) and wanted in data:
        return data[wanted]
    if wanted in ("text", "data"):
        return answer[wanted]
    has = ", ".join(map(repr, data)) if isinstance(data, dict) and data else "only text"
    raise ExpressionFailed(f"the answer has no {wanted!r}, which `output` keeps; it has {has}")
