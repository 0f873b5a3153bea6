"""What comes of asking: the update that an outcome makes to the call. Pure.

A stage that is asked alone moves the call. Where several are asked at once, each writes only what has a reducer: a
branch its answer, a stage of a flow with `needs` that it is done with.
"""

import uuid
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from nodes.canceling import Canceled
from nodes.channels import kept, united, whole
from nodes.conditions import ExpressionFailed
from nodes.jobs import Job
from nodes.moving import Move, failed_by, kept_of, moved
from nodes.onward import Onward
from nodes.outcome import Outcome, now
from nodes.ports import AgentRequest
from nodes.requested import requests_after
from nodes.runs import begins_run
from nodes.spec import FINISH, FlowFacts, Place
from nodes.state import CARRIED, CallState, Done, Ended, Step, Summary
from nodes.steps import response_text, step_of
from nodes.talks import talks_after

_KEPT = (
    *("call_identify_id", "account_id", "eci", "flow", "flow_digest", "incarnation", "created_at"),
    *("run", "run_after", "run_began_at"),
)


def learn(facts: FlowFacts, state: CallState, job: Job, request: AgentRequest, outcome: Outcome) -> dict[str, Any]:
    """Return the update that the outcome of a whole stage, or of the fallback, makes to the call."""
    waited = state.get("requests") or []
    state = {**state, "requests": requests_after(state, job, outcome)}
    move = _move(facts, state, job, outcome)
    if facts.dag:
        return _learn_at_once(facts, state, job, request, outcome, move)
    onward = move.onward
    ended = _ended(job, outcome, onward)
    where_to = (onward or Onward(job.place.name)).stage
    next_id = facts.places[where_to].id if where_to else None
    step = step_of(state, job, request, outcome, move, next_flow_id=next_id, ended=ended)
    if state["requests"]:
        step["requests"] = [one["intent"] for one in state["requests"]]
    answered = where_to != job.place.name and outcome.succeeded
    update = _noted(state)
    update |= {
        "stage": where_to or job.place.name,
        "current_flow_id": next_id or job.place.id,
        "completed_flows": [job.place.id] if answered else [],
        "is_complete": step["is_complete"],
        "ended": ended,
        "session_summary": None,
        **_counted(state, job, move),
        **_told(state, job, request, outcome, step),
    }
    if state["requests"] != waited:
        update["requests"] = state["requests"]
    if move.news:
        update["context"] = dict(move.news)
    if not job.is_fallback and outcome.reply is not None:
        update["last_agent"] = request.agent
    if ended == "completed":
        update["session_summary"] = summary_of(state, update, step["number"])
    if begins_run(state):
        update |= _anew(update, state)
    if state.get("messages"):
        spoken = response_text(step["response_data"])
        update["messages"] = [*state["messages"], {"role": "assistant", "content": spoken}]
    goes_to = [onward.stage] if onward and onward.stage else []
    return update if facts.waits else {**carried(state), **update, "goes_to": goes_to}


def learn_branch(
    facts: FlowFacts, state: CallState, job: Job, request: AgentRequest, outcome: Outcome
) -> dict[str, Any]:
    """Return the update that the outcome of one of several makes, of which the stage then takes stock."""
    move, answer = Move(), outcome.answer()
    try:
        move = replace(move, news=kept_of(job.output, answer) if outcome.succeeded and not outcome.waits else {})
    except ExpressionFailed as failure:
        move = replace(move, wrong=str(failure))
        answer |= failed_by(str(failure))
    if outcome.parked or outcome.held_by:
        answer["parked"] = outcome.parked or outcome.held_by
    if isinstance(outcome.error, Canceled):
        answer["canceled"] = True
        if not outcome.error.tasks:  # nobody was asked: there is nothing to record
            return {**carried(state, intent=True), "branches": {job.where: answer}}
    step = step_of(state, job, request, outcome, move, next_flow_id=job.place.id, ended=None)
    return {
        **carried(state, intent=True),
        "branches": {job.where: answer},
        "context": dict(move.news),
        **_told(state, job, request, outcome, step),
    }


def opened(facts: FlowFacts, state: CallState) -> CallState:
    """Fill in what a call has from its first turn on."""
    begun: CallState = {
        "call_identify_id": "",
        "account_id": "",
        "eci": "",
        "incarnation": uuid.uuid4().hex,
        "created_at": now(),
        "flow": facts.name,
        "flow_digest": facts.digest,
        "stage": facts.first.name,
        "current_flow_id": facts.first.id,
        "run": 1,
    }
    begun.update(state)
    return begun


def begun(place: Place, state: CallState) -> dict[str, Any]:
    """Return what a stage writes before anybody has answered there."""
    update = _noted(state)
    update |= {"stage": place.name, "current_flow_id": place.id, "is_complete": False, "ended": None}
    if begins_run(state):
        update |= _anew(update, state)
    return update


def _noted(state: CallState) -> dict[str, Any]:
    """Return what is to be written of the call and its run: once, as every write costs time."""
    if state.get("step_count") and not begins_run(state):
        return {}
    return {key: state[key] for key in _KEPT if key in state}  # type: ignore[literal-required]


def carried(state: CallState, *, intent: bool = False) -> dict[str, Any]:
    """Return what the next node of the same turn still has to know of it; the intent only within a stage."""
    keys = (*CARRIED, *(("intent", "intent_source") if intent else ()))
    return {key: state[key] for key in keys if key in state}  # type: ignore[literal-required]


def summary_of(state: CallState, update: Mapping[str, Any], step_count: int) -> Summary:
    """Return the summary of a run that is complete with the update."""
    known: Mapping[str, Any] = {**state, **update}
    return {
        "call_identify_id": known["call_identify_id"],
        "account_id": known["account_id"],
        "eci": known["eci"],
        "completed_flows": united(state.get("completed_flows", []), update["completed_flows"]),
        "step_count": step_count - known.get("run_after", 0),
        "started_at": known.get("run_began_at", known["created_at"]),
        "ended_at": known["updated_at"],
        "run": known["run"],
    }


def _learn_at_once(
    facts: FlowFacts, state: CallState, job: Job, request: AgentRequest, outcome: Outcome, move: Move
) -> dict[str, Any]:
    """Return what a stage of a flow with `needs` writes; if it alone is the end, it completes the run."""
    done = _done(job, outcome, move)
    completes = done in ("answered", "failed") and _alone_at_the_end(facts, state, job.place)
    ended: Ended | None = "completed" if completes else None
    next_id = None if completes else job.place.id
    step = step_of(state, job, request, outcome, move, next_flow_id=next_id, ended=ended)
    name = job.place.name
    repeats = move.onward is not None and move.onward.repeats
    last = done not in ("answered", "failed") or not job.place.leads_to
    update = {
        **carried(state),
        **_told(state, job, request, outcome, step),
        "context": dict(move.news),
        "completed_flows": [job.place.id] if done == "answered" else [],
        "passes": {name: _passes(state, job, move)},
        "branches": {at_the_end(name): _answer(outcome, move) if last and not repeats else None},
        "done": {name: done} if done else {},
        "goes_to": [name] if repeats else [FINISH] if last else list(job.place.leads_to),
    }
    if not completes:
        return update
    whole_run: dict[str, Any] = {"is_complete": True, "ended": ended, "goes_to": []}
    whole_run["session_summary"] = summary_of(state, {**update, **whole_run}, step["number"])
    if state.get("messages"):
        spoken = response_text(step["response_data"])
        whole_run["messages"] = [*state["messages"], {"role": "assistant", "content": spoken}]
    return {**update, **whole_run}


def _alone_at_the_end(facts: FlowFacts, state: CallState, place: Place) -> bool:
    """Tell whether the run ends with this stage; where a flow has several ends, they are taken together."""
    others = [other for name, other in facts.places.items() if name != place.name]
    return all(other.leads_to and other.name in state.get("done", {}) for other in others)


def _answer(outcome: Outcome, move: Move) -> dict[str, Any]:
    """Return the answer; an error if the run cannot go on with it."""
    return outcome.answer() | (failed_by(move.wrong) if move.wrong else {})


def at_the_end(stage: str) -> str:
    """Return how the answer of a stage is known that no other needs, until the run ends."""
    return f"/{stage}"


def _move(facts: FlowFacts, state: CallState, job: Job, outcome: Outcome) -> Move:
    if job.is_fallback or outcome.waits or isinstance(outcome.error, Canceled):
        return Move()
    return moved(facts, state, job.place, outcome.answer())


def _done(job: Job, outcome: Outcome, move: Move) -> Done | None:
    """Tell how the stage is done with; None if it is not."""
    if isinstance(outcome.error, Canceled):
        return "canceled"
    if move.onward is not None:
        return None if move.onward.repeats else "answered" if outcome.succeeded else "failed"
    return "fatal" if _fails(job, outcome) else None


def _told(state: CallState, job: Job, request: AgentRequest, outcome: Outcome, step: Step) -> dict[str, Any]:
    """Return what every step writes."""
    told: dict[str, Any] = {
        "steps": [step],
        "step_count": 1,
        "remote_tasks": talks_after(state, job, request, outcome),
        "updated_at": now(),
    }
    if state.get("parts"):
        told["parts_told"] = True
    return told


def _passes(state: CallState, job: Job, move: Move) -> int | None:
    """Return how often the stage was passed in a row, to be remembered; None if it does not matter any more."""
    before = state.get("passes", {}).get(job.place.name, 0)
    if move.onward is None:
        return before or None
    return before + 1 if move.onward.repeats else None


def _counted(state: CallState, job: Job, move: Move) -> dict[str, Any]:
    """Return what the run has counted, where the flow counts anything."""
    counted: dict[str, Any] = {}
    if job.place.stage.repeat:
        counted["passes"] = {job.place.name: _passes(state, job, move)}
    if move.onward and move.onward.counted:
        counted["taken"] = dict(Counter(state.get("taken", {})) + Counter(move.onward.counted))
    return counted


def _ended(job: Job, outcome: Outcome, onward: Onward | None) -> Ended | None:
    """Tell how the run ended, if it ended here."""
    if isinstance(outcome.error, Canceled):
        return "canceled"
    if onward is not None:
        return "completed" if onward.stage is None else None
    return "failed" if _fails(job, outcome) else None


def _fails(job: Job, outcome: Outcome) -> bool:
    """Tell whether the run fails with the outcome."""
    fails = job.place.stage.on_error == "fail" and not job.is_fallback
    return fails and not outcome.succeeded and not outcome.waits


def _anew(update: Mapping[str, Any], state: CallState) -> dict[str, Any]:
    """Return what replaces all that a run before this one knew."""
    tasks = kept(state.get("remote_tasks", {}), update.get("remote_tasks", {}))
    news = {name: kept({}, update.get(name, {})) for name in ("context", "passes", "branches", "asked")}
    replaced = {**news, "remote_tasks": tasks, "completed_flows": update.get("completed_flows", [])}
    reset = {"taken": update.get("taken", {}), "requests": update.get("requests", [])}
    return {**reset, **{name: whole(value) for name, value in replaced.items()}}
