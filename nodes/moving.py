"""What an outcome means for where the run goes: what is kept of the answer, and which way is open. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nodes.conditions import ExpressionFailed, holds
from nodes.onward import Onward, after_error, onward
from nodes.remote.errors import AgentError
from nodes.spec import ANSWER, KNOWN, FlowFacts, Place
from nodes.state import CallState, said


class CannotGoOn(AgentError):
    """An expression of the flow could not be worked out: the flow needs mending."""

    kind = "expression_failed"
    retryable = False
    acted = False


def failed_by(wrong: str) -> dict[str, Any]:
    """Return what becomes of an answer that the run cannot go on with."""
    return {"status": "error", "error": {"type": CannotGoOn.kind, "message": wrong, "retryable": False}}


@dataclass(frozen=True, slots=True)
class Move:
    """Where the run goes after a stage."""

    onward: Onward | None = None
    """None: it stays where it is, or ends there."""
    news: Mapping[str, Any] = field(default_factory=dict)
    """What the run knows by name besides what it knew before."""
    wrong: str | None = None
    """Why the run cannot go on, though its agent answered."""


def moved(facts: FlowFacts, state: CallState, place: Place, answer: Mapping[str, Any]) -> Move:
    """Return where the run goes with its stage's answer, or its agent's failure."""
    taken, passes = state.get("taken", {}), state.get("passes", {}).get(place.name, 0) + 1
    try:
        news = _own(facts, place, answer) | kept_of(place.stage.output, answer)
        known = known_to(facts, state, {**state.get("context", {}), **news}) | {ANSWER: answer}
        if answer["status"] == "error":
            after = _after_error(facts, place, known, taken)
            return Move(after, news if after else {})
        return Move(_onward(facts, place, known, passes, taken), news)
    except ExpressionFailed as failure:
        return Move(None, {}, str(failure))


def known_to(facts: FlowFacts, state: CallState, context: Mapping[str, Any]) -> dict[str, Any]:
    """Return what expressions may read: every name of the flow, null where nothing was written yet."""
    always = {name: state.get(name) for name in KNOWN}
    always |= {"input_message": said(state), "requests": state.get("requests") or []}
    return {**dict.fromkeys(facts.names), **context, **always}


def kept_of(output: Mapping[str, str], answer: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `output` keeps of an answer; of a failure only what is there. Raises `ExpressionFailed`."""
    return {name: _field(answer, wanted) for wanted, name in output.items() if _there(answer, wanted)}


def _own(facts: FlowFacts, place: Place, answer: Mapping[str, Any]) -> dict[str, Any]:
    """Return the answer under the stage's own name, if any expression reads it."""
    return {place.name: dict(answer)} if place.name in facts.reads else {}


def _onward(
    facts: FlowFacts, place: Place, known: Mapping[str, Any], passes: int, taken: Mapping[str, int]
) -> Onward:
    if not facts.dag:
        return onward(facts.places, place, known, passes, taken)
    repeat = place.stage.repeat
    again = repeat is not None and passes < repeat.at_most and not holds(repeat.until, known)
    return Onward(place.name, repeats=again)


def _after_error(facts: FlowFacts, place: Place, known: Mapping[str, Any], taken: Mapping[str, int]) -> Onward | None:
    if facts.dag:
        return Onward(place.name) if place.stage.on_error == "continue" else None
    return after_error(facts.places, place, known, taken)


def _there(answer: Mapping[str, Any], wanted: str) -> bool:
    data = answer["data"]
    return answer["status"] != "error" or (isinstance(data, Mapping) and wanted in data)


def _field(answer: Mapping[str, Any], wanted: str) -> Any:
    data = answer["data"]
    if isinstance(data, Mapping) and wanted in data:
        return data[wanted]
    if wanted in ("text", "data"):
        return answer[wanted]
    has = ", ".join(map(repr, data)) if isinstance(data, Mapping) and data else "only text"
    raise ExpressionFailed(f"the answer has no {wanted!r}, which `output` keeps; it has {has}")
