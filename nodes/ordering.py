"""The order that `needs` makes: which stages are ready, how a run of such a flow begins, and how it ends.

A stage's node is visited whenever a stage that it needs is done with, and passes unless all of them are. Stages that
are ready together run at once; what needs them begins when all that run have ended (LangGraph's super-steps).
"""

from collections.abc import Mapping
from typing import Any, Protocol

from langgraph.runtime import Runtime

from nodes.canceling import Canceled
from nodes.conditions import ExpressionFailed, holds
from nodes.jobs import ALL, Job, answers_at
from nodes.learning import at_the_end, carried, learn, opened, summary_of
from nodes.moving import CannotGoOn, Move, known_to
from nodes.outcome import WAITS, Outcome, now
from nodes.ports import Reply, TurnContext
from nodes.remote.errors import AgentError
from nodes.requests import request_for_nobody
from nodes.spec import FINISH, FlowFacts, Place
from nodes.state import CallState, Ended
from nodes.steps import response_text, step_of


class Node(Protocol):
    """A node of the graph."""

    async def __call__(self, state: CallState, runtime: Runtime[TurnContext]) -> dict[str, Any]:
        """Return an update of the call."""


class StagesFailed(AgentError):
    """Stages of a flow with `needs` failed, and the run cannot go on without them."""

    kind = "stages_failed"

    def __init__(self, message: str, *, retryable: bool) -> None:
        super().__init__(ALL, message)
        self.retryable = retryable


def ready(places: Mapping[str, Place], state: Mapping[str, Any]) -> list[str]:
    """Return the stages that can run now, in the file's order; none once the run is to end."""
    done = state.get("done", {})
    if _ends_early(done):
        return []
    return [name for name, place in places.items() if name not in done and _met(place, done)]


def _ends_early(done: Mapping[str, str]) -> bool:
    """Tell whether the run ends although stages are left: one failed for good, or it was canceled."""
    return any(how in ("fatal", "canceled") for how in done.values())


def _met(place: Place, done: Mapping[str, str]) -> bool:
    return all(name in done for name in place.stage.needs)


class BeginNode:
    """Opens the call, so that stages which begin at once find it open."""

    def __init__(self, facts: FlowFacts) -> None:
        self._facts = facts

    async def __call__(self, state: CallState) -> dict[str, Any]:
        """Write what a call has from its first turn on."""
        begun = opened(self._facts, state)
        first = {"is_complete": False, "ended": None, "updated_at": now()}
        return {**carried(state), **begun, **first, "goes_to": ready(self._facts.places, state)}


class InOrder:
    """Runs a stage's node once all that it needs is done with, unless it is to be skipped."""

    def __init__(self, facts: FlowFacts, place: Place, node: Node) -> None:
        self._facts = facts
        self._place = place
        self._node = node

    async def __call__(self, state: CallState, runtime: Runtime[TurnContext]) -> dict[str, Any]:
        """Return what the node learned, or that the stage is passed by."""
        if self._place.name not in ready(self._facts.places, state):
            return self._passes(state)
        try:
            skips = self._skips(state)
        except ExpressionFailed as failure:
            who = answers_at(self._place.stage)
            job = Job(self._place, self._place.name, who, order=(self._place.order,), alone=False)
            request = request_for_nobody(self._facts, job, state, runtime.context or TurnContext())
            error = CannotGoOn(who, str(failure))
            return learn(self._facts, state, job, request, Outcome(None, error, now(), 0.0))
        if self._waits_on(state):
            return {**carried(state), "goes_to": [FINISH]}
        if not skips and self._lets_others_begin(state):
            return {**carried(state), "goes_to": [self._place.name]}
        if not skips:
            return await self._node(state, runtime)
        done = {self._place.name: "skipped"}
        return {**carried(state), "done": done, "goes_to": list(self._place.leads_to) or [FINISH]}

    def _lets_others_begin(self, state: CallState) -> bool:
        """Tell whether stages with branches are to send these out first, so that all are asked in one super-step.

        A super-step ends with the slowest in it: branches sent out beside an agent at work would wait for it.
        """
        if self._place.stage.branches or self._place.stage.ask:
            return False
        known, places = state.get("branches", {}), self._facts.places
        wide = [name for name in ready(places, state) if places[name].stage.branches]
        begin = [name for name in wide if at_the_end(name) not in known]  # it is known of those that are stuck
        return bool(begin) and not any(name in known for name in begin)

    def _passes(self, state: CallState) -> dict[str, Any]:
        """Return the update of a visit that is not for the stage to run, or not any more as the run is to end."""
        if not _ends_early(state.get("done", {})):
            return {**carried(state), "goes_to": []}
        return {**carried(state), "goes_to": [FINISH], "branches": {self._place.name: None}}

    def _waits_on(self, state: CallState) -> bool:
        """Tell whether the stage waits for somebody, and the turn brings what another one waits for."""
        name = self._place.name
        answer = state.get("branches", {}).get(at_the_end(name)) or {}
        return state.get("answer_for", name) != name and answer.get("task_state") in WAITS

    def _skips(self, state: CallState) -> bool:
        """Tell whether the stage is to be skipped, as it is come to: not while it is at work."""
        name, when = self._place.name, self._place.stage.when
        at_work = name in {*state.get("branches", {}), *state.get("asked", {}), *state.get("passes", {})}
        if when is None or at_work:
            return False
        return not holds(when, known_to(self._facts, state, state.get("context", {})))


class FinishNode:
    """Takes stock when nothing is left to run: the run is complete, or has ended, or waits."""

    def __init__(self, facts: FlowFacts) -> None:
        self._facts = facts

    async def __call__(self, state: CallState, runtime: Runtime[TurnContext]) -> dict[str, Any]:
        """Record what came of the run, or why it cannot go on; not while a list's items are still asked.

        LangGraph runs a deferred node beside what `Send` sent out; the stage that sent them comes here afterwards.
        """
        done = state.get("done", {})
        if any(name in state.get("branches", {}) for name in self._facts.places):
            return {**carried(state), "goes_to": [FINISH]}
        left = [place for name, place in self._facts.places.items() if name not in done]
        ended = _ended(done, left)
        outcome = self._outcome(state, left, ended)
        place = left[0] if left else list(self._facts.places.values())[-1]
        job = Job(place, FINISH, ALL)
        request = request_for_nobody(self._facts, job, state, runtime.context or TurnContext())
        next_id = None if ended == "completed" else place.id
        step = step_of(state, job, request, outcome, Move(), next_flow_id=next_id, ended=ended)
        step["sums_up"] = True
        update: dict[str, Any] = {
            "steps": [step],
            "step_count": 1,
            "updated_at": now(),
            "stage": place.name,
            "current_flow_id": place.id,
            "is_complete": ended == "completed",
            "ended": ended,
            "completed_flows": [],
        }
        if ended == "completed":
            update["session_summary"] = summary_of(state, update, step["number"])
        if state.get("messages"):
            update["messages"] = [{"role": "assistant", "content": response_text(step["response_data"])}]
        return update

    def _outcome(self, state: CallState, left: list[Place], ended: Ended | None) -> Outcome:
        answers = state.get("branches", {})
        if ended == "canceled":
            return Outcome(None, Canceled(()), now(), 0.0)
        if ended == "completed":
            last = {name: answers[at_the_end(name)] for name in self._facts.places if at_the_end(name) in answers}
            return Outcome(_together(last), None, now(), 0.0)
        stuck = {place.name: answers[at_the_end(place.name)] for place in left if at_the_end(place.name) in answers}
        fatal = [name for name, how in state.get("done", {}).items() if how == "fatal"]
        stuck |= {name: answers[at_the_end(name)] for name in fatal if at_the_end(name) in answers}
        failed = {name: answer for name, answer in stuck.items() if answer["status"] == "error"}
        if not failed:
            return Outcome(_together(stuck, waits=True), None, now(), 0.0)
        told = "; ".join(f"stage {name!r}: {answer['error']['message']}" for name, answer in failed.items())
        return Outcome(
            None, StagesFailed(told, retryable=any(one["error"]["retryable"] for one in failed.values())), now(), 0.0
        )


def _ended(done: Mapping[str, str], left: list[Place]) -> Ended | None:
    if "canceled" in done.values():
        return "canceled"
    if "fatal" in done.values():
        return "failed"
    return None if left else "completed"


def _together(answers: Mapping[str, Mapping[str, Any]], *, waits: bool = False) -> Reply:
    """Return several answers as one: that of one stage as it is, of more by name."""
    text = "\n".join(answer["text"] for answer in answers.values() if answer["text"])
    data = [answer["data"] for answer in answers.values() if answer["data"]]
    if len(answers) > 1:
        data = [{name: {key: answer[key] for key in ("status", "text", "data")} for name, answer in answers.items()}]
    waiting = [answer["task_state"] for answer in answers.values() if answer["task_state"] in WAITS]
    return Reply(text, tuple(data), task_state=waiting[0] if waits and waiting else None)
