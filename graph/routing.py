"""Pure decisions: which intents are legal, and whether a turn runs, is classified, falls back or is refused."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from graph.flow import Flow
from nodes.ordering import ready
from nodes.runs import has_ended
from nodes.runs import next_run as next_run
from nodes.spec import BEGIN, FALLBACK, FINISH, UNKNOWN, Place, Stage
from nodes.state import CallState

CLASSIFIER = "classifier"


Reason = Literal[
    "intent-not-legal",
    "call-complete",
    "call-ended",
    "another-account",
    "flow-changed",
    "another-flow",
    "input-missing",
]


class Refused(ValueError):
    """A turn that is not legal now; nothing runs and nothing is saved.

    A `ValueError`, so that LangGraph Studio shows its message.

    Attributes:
        reason: a stable name for machines.
        facts: what a client may want to know, JSON-native.
    """

    def __init__(
        self,
        reason: Reason,
        message: str,
        **facts: Any,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.facts = facts


@dataclass(frozen=True)
class Routes:
    """A flow as the router sees it."""

    flow: Flow
    places: Mapping[str, Place] = field(default_factory=dict)

    @cached_property
    def first(self) -> Place:
        """Where a new call begins."""
        return next(iter(self.places.values()))

    @cached_property
    def stages_of(self) -> Mapping[str, list[str]]:
        """The stages at which each intent is legal."""
        found: dict[str, list[str]] = {}
        for place in self.places.values():
            for intent in place.stage.intents:
                found.setdefault(intent, []).append(place.name)
        return found

    def legal_intents(self, stage: Stage) -> list[str]:
        """Return the intents a client may send at a stage."""
        return list(dict.fromkeys([*stage.intents, *self.flow.anywhere, UNKNOWN]))

    def place_of(self, state: Mapping[str, Any]) -> Place | None:
        """Return where a turn finds the call, by the stage's name; None if this flow has no such place."""
        if not state.get("stage"):
            return self.first
        if state.get("flow") != self.flow.flow:
            return None
        return self.first if self.flow.restarts and has_ended(state) else self.places.get(state["stage"])


def routes_of(flow: Flow) -> Routes:
    """Lay out the flow's stages in order, each with the one that follows."""
    ids = flow.stage_ids()
    names = list(flow.stages)
    following = dict(zip(names, [*names[1:], None], strict=True))
    places = {}
    for order, (name, stage) in enumerate(flow.stages.items()):
        after = following[name]
        leads_to = tuple(other for other in names if name in flow.stages[other].needs)
        places[name] = Place(name, ids[name], stage, after, ids[after] if after else None, order, leads_to)
    return Routes(flow, places)


def decide(routes: Routes, state: CallState | Mapping[str, Any], intent: str | None) -> str | list[str]:
    """Return the node, or the nodes, that this turn goes to.

    Raises:
        Refused: if the call is over, its stage is gone, or the intent is known but not legal there.
    """
    if has_ended(state) and not routes.flow.restarts:
        raise _over(state)
    place = routes.place_of(state)
    if place is None:
        raise _flow_changed(routes, state)
    if routes.flow.is_dag:
        return (ready(routes.places, state) or FINISH) if state.get("stage") else BEGIN
    if intent in routes.flow.anywhere:
        return routes.flow.anywhere[intent]
    if not place.stage.intents:
        return place.name
    if intent is None:
        return CLASSIFIER
    if intent in place.stage.intents:
        return place.name
    if intent == UNKNOWN or intent not in routes.stages_of:
        return FALLBACK
    raise _not_legal(routes, place, intent)


def same_account(state: Mapping[str, Any], account_id: str) -> None:
    """Refuse a turn that names another account than the call's.

    Raises:
        Refused: if it does; the call's own account is not told.
    """
    if state.get("account_id") and state["account_id"] != account_id:
        raise Refused(
            "another-account",
            "this call belongs to another account_id; use the one it began with, or a new call_identify_id",
        )


def _over(state: Mapping[str, Any]) -> Refused:
    if state.get("is_complete"):
        return Refused("call-complete", "the call is complete; start another with a new call_identify_id")
    ended = state["ended"]
    how = "was canceled" if ended == "canceled" else ended
    return Refused("call-ended", f"the call {how}; start another with a new call_identify_id", ended=ended)


def _flow_changed(routes: Routes, state: Mapping[str, Any]) -> Refused:
    return Refused(
        "flow-changed",
        f"the call is at stage {state['stage']!r} of flow {state.get('flow')!r}, which this service does not have; "
        "serve a flow that has it, or end the call",
        flow=routes.flow.flow,
    )


def _not_legal(routes: Routes, place: Place, intent: str) -> Refused:
    legal = routes.legal_intents(place.stage)
    return Refused(
        "intent-not-legal",
        f"intent {intent!r} is not legal at stage {place.name!r}; send one of {', '.join(legal)}, or none",
        current_flow_id=place.id,
        stage=place.name,
        legal_intents=legal,
        legal_at=routes.stages_of[intent],
    )
