"""Stages that ask several at once: the stage's node sends its branches out and joins them, each branch asks one.

A branch that failed is asked again when the call comes back to its stage; those that answered are not.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime
from typing import Any

from langgraph.runtime import Runtime
from langgraph.types import Send

from nodes.asking import World, asked
from nodes.canceling import Canceled, cancel_all, open_tasks
from nodes.conditions import ExpressionFailed, names_in, value_of
from nodes.jobs import ALL, Job, at_branch, branch_job, item_job
from nodes.learning import begun, carried, learn, learn_branch, opened
from nodes.moving import CannotGoOn, known_to, moved
from nodes.outcome import WAITS, Outcome, now
from nodes.ports import Reply, TurnContext
from nodes.remote.errors import AgentError
from nodes.requests import request_for_nobody
from nodes.runs import at_its_run
from nodes.spec import Branch, FlowFacts, Map, Place
from nodes.state import CallState

ITEM_NODE = "item"
"""The branch that a `map` sends every item of its list to."""
LONGEST_LIST = 10_000
_SENT = (
    *("call_identify_id", "account_id", "eci", "incarnation", "flow", "run", "step_count", "requests", "intent"),
    *("intent_source", "input_message", "metadata", "parts", "parts_told", "caller_message_id"),
)
"""What an item's branch needs to know of the call; the whole of it would be copied for every item."""


class BranchesFailed(AgentError):
    """Some of those that were asked at once failed."""

    kind = "branches_failed"

    def __init__(self, message: str, *, retryable: bool) -> None:
        super().__init__(ALL, message)
        self.retryable = retryable


class BranchesNode:
    """The node of a stage that asks several at once: visited first to send them out, then to join them."""

    def __init__(self, facts: FlowFacts, place: Place, world: World) -> None:
        self._facts = facts
        self._place = place
        self._world = world
        self._job = Job(place, place.name, ALL, output=place.stage.output, order=(place.order,), alone=not facts.dag)

    async def __call__(self, state: CallState, runtime: Runtime[TurnContext]) -> dict[str, Any]:
        """Send out the branches that have no answer yet, or return what the call learned from all of them."""
        state = opened(self._facts, at_its_run(state, self._facts.restarts))
        context = runtime.context or TurnContext()
        try:
            names = branches_of(self._facts, self._place, state)
        except ExpressionFailed as failure:
            return self._learned(state, context, Outcome(None, CannotGoOn(ALL, str(failure)), now(), 0.0), [])
        if missing := self._missing(state, names):
            return self._sends_out(state, missing)
        answers = {name: state["branches"][at_branch(self._place.name, name)] for name in names}
        began = state.get("branches", {}).get(self._place.name) or now()
        outcome = joined(self._place, answers, began)
        if isinstance(outcome.error, Canceled):  # what earlier stages left open, its branches know nothing of
            left_open = open_tasks(self._facts, self._world.pool, state, self._job, None)
            outcome = replace(outcome, error=await cancel_all(self._world.caller, left_open))
        return self._learned(state, context, outcome, self._forgotten(state, answers, outcome))

    def sends(self, state: CallState) -> list[Send]:
        """Return the items of the list that are to be sent out, each with what its branch must know."""
        over = self._place.stage.map
        if over is None or self._place.name not in state.get("branches", {}):
            return []
        values = items_of(self._facts, over, state)
        known = self._told(state)
        missing = self._missing(state, [str(index) for index in range(len(values))])
        return [
            Send(at_branch(self._place.name, ITEM_NODE), known | {"item": {"index": index, "value": values[index]}})
            for index in map(int, missing)
        ]

    def _missing(self, state: CallState, names: list[str]) -> list[str]:
        answers = state.get("branches", {})
        return [name for name in names if at_branch(self._place.name, name) not in answers]

    def _sends_out(self, state: CallState, missing: list[str]) -> dict[str, Any]:
        nodes = [] if self._place.stage.map else [at_branch(self._place.name, name) for name in missing]
        at_work = {"branches": {self._place.name: now()}, "goes_to": nodes}
        here = {} if self._facts.dag else begun(self._place, state)
        return {**carried(state, intent=True), **here, **at_work}

    def _told(self, state: CallState) -> dict[str, Any]:
        """Return the call as an item's branch gets it: as far as its expressions read it."""
        reads = list(self._place.stage.input.values())
        if over := self._place.stage.map:
            reads += over.llm.holes() if over.llm else []
        names = {name for text in reads for name in names_in(text)}
        context = {name: value for name, value in state.get("context", {}).items() if name in names}
        talks = {
            talk: task
            for talk, task in state.get("remote_tasks", {}).items()
            if str(task.get("stage", "")).startswith(at_branch(self._place.name, ""))
        }
        told = {key: state[key] for key in _SENT if key in state}  # type: ignore[literal-required]
        return {**told, "context": context, "remote_tasks": talks}

    def _forgotten(self, state: CallState, answers: Mapping[str, Any], outcome: Outcome) -> list[str]:
        """Name the branches whose answers are not needed any more: all of them, or those to be asked again."""
        left = [name for name, answer in answers.items() if _is_left(answer)]
        if not left or isinstance(outcome.error, Canceled):
            return list(answers)
        stays = outcome.waits or moved(self._facts, state, self._place, outcome.answer()).onward is None
        return left if stays else list(answers)

    def _learned(
        self, state: CallState, context: TurnContext, outcome: Outcome, forgotten: list[str]
    ) -> dict[str, Any]:
        request = request_for_nobody(self._facts, self._job, state, context)
        update = learn(self._facts, state, self._job, request, outcome)
        gone = {at_branch(self._place.name, name): None for name in forgotten} | {self._place.name: None}
        return {**update, "branches": {**update.get("branches", {}), **gone}}


class BranchNode:
    """The node of one branch of a stage."""

    def __init__(self, facts: FlowFacts, place: Place, name: str, branch: Branch, world: World) -> None:
        self._facts = facts
        self._job = branch_job(place, name, branch)
        self._world = world

    async def __call__(self, state: CallState, runtime: Runtime[TurnContext]) -> dict[str, Any]:
        """Ask, and return the answer for the stage to join."""
        request, outcome = await asked(self._facts, self._world, self._job, state, runtime)
        return learn_branch(self._facts, state, self._job, request, outcome)


class ItemNode:
    """The node that every item of a stage's list is sent to; so many at once as the flow says."""

    def __init__(self, facts: FlowFacts, place: Place, over: Map, world: World) -> None:
        self._facts = facts
        self._place = place
        self._world = world
        self._bounds = _Bounds(over.at_once)

    async def __call__(self, state: CallState, runtime: Runtime[TurnContext]) -> dict[str, Any]:
        """Ask, and return the answer for the stage to join."""
        job = item_job(self._place, state["item"])
        async with self._bounds.held((state["incarnation"], state.get("step_count", 0))):
            request, outcome = await asked(self._facts, self._world, job, state, runtime)
        return learn_branch(self._facts, state, job, request, outcome)


class _Bounds:
    """How many items are in flight, for each list by itself: LangGraph's own bound is the whole run's."""

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once
        self._open: dict[object, tuple[asyncio.Semaphore, int]] = {}

    @asynccontextmanager
    async def held(self, key: object) -> AsyncIterator[None]:
        """Wait until fewer than the bound are in flight."""
        semaphore, users = self._open.get(key) or (asyncio.Semaphore(self._at_once), 0)
        self._open[key] = (semaphore, users + 1)
        try:
            async with semaphore:
                yield
        finally:
            _, users = self._open.pop(key)
            if users > 1:
                self._open[key] = (semaphore, users - 1)


def branches_of(facts: FlowFacts, place: Place, state: CallState) -> list[str]:
    """Return the names of a stage's branches; of a list, the places of its items. Raises `ExpressionFailed`."""
    if place.stage.map:
        return [str(index) for index in range(len(items_of(facts, place.stage.map, state)))]
    return list(place.stage.parallel)


def items_of(facts: FlowFacts, over: Map, state: CallState) -> list[Any]:
    """Return the list that a stage is over; raises `ExpressionFailed`."""
    items = value_of(over.over, known_to(facts, state, state.get("context", {})))
    if not isinstance(items, list):
        raise ExpressionFailed(f"{over.over!r} is {type(items).__name__}, not a list; `map` needs one")
    if len(items) > LONGEST_LIST:
        raise ExpressionFailed(f"{over.over!r} has {len(items):,} items; `map` takes {LONGEST_LIST:,} at most")
    return items


def joined(place: Place, answers: Mapping[str, Mapping[str, Any]], began: str) -> Outcome:
    """Return what came of all branches as one outcome: of a list the results in its order, else each by name."""
    took = (datetime.now().astimezone() - datetime.fromisoformat(began)).total_seconds() * 1000
    results = _results(answers) if place.stage.map else _by_name(answers)
    outcome = Outcome(None, None, began, round(max(took, 0.0), 3), results=results)
    failed = {name: answer for name, answer in answers.items() if answer["status"] == "error"}
    if any(answer.get("canceled") for answer in failed.values()):
        return replace(outcome, error=Canceled(()))
    if failed:
        retryable = any(answer["error"]["retryable"] for answer in failed.values())
        error = BranchesFailed(_told_of(place, failed, len(answers)), retryable=retryable)
        parked = any(answer.get("parked") for answer in failed.values())
        return replace(outcome, error=error, stays=parked)
    waiting = [answer["task_state"] for answer in answers.values() if answer["task_state"] in WAITS]
    text = "\n".join(answer["text"] for answer in answers.values() if answer["text"])
    return replace(outcome, reply=Reply(text, (results,), task_state=waiting[0] if waiting else None))


def _is_left(answer: Mapping[str, Any]) -> bool:
    """Tell whether a branch is to be asked again when the call comes back."""
    return answer["status"] == "error" or answer["task_state"] in WAITS


def _results(answers: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    failed = [int(name) for name, answer in answers.items() if answer["status"] == "error"]
    return {"results": [_result(answer) for answer in answers.values()], "failed": failed}


def _result(answer: Mapping[str, Any]) -> Any:
    if answer["status"] == "error":
        return None
    return answer["data"] or answer["text"]


def _by_name(answers: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    told = ("status", "text", "data", "error")
    return {name: {key: answer[key] for key in told} for name, answer in answers.items()}


def _told_of(place: Place, failed: Mapping[str, Mapping[str, Any]], count: int) -> str:
    first, answer = next(iter(failed.items()))
    if not place.stage.map:
        return "; ".join(f"branch {name!r}: {one['error']['message']}" for name, one in failed.items())
    told = ", ".join(list(failed)[:20]) + (" …" if len(failed) > 20 else "")
    return f"{len(failed)} of {count} items failed: {told}; item {first}: {answer['error']['message']}"
