"""The stage that asks a person: the question goes out, the run waits, and a fitting answer lets it go on.

Where the host can resume an interrupt (LangGraph Studio, a notebook, `flows run`) the question is one; on the server
the turn ends with it, as it does when an agent waits for the caller, and another turn brings the answer.
"""

import json
import time
from collections.abc import Mapping
from typing import Any

from langgraph.runtime import Runtime
from langgraph.types import interrupt

from nodes.asking import World
from nodes.canceling import cancel_all, open_tasks
from nodes.conditions import ExpressionFailed, filled
from nodes.jobs import PERSON, Job
from nodes.learning import carried, learn, opened
from nodes.moving import CannotGoOn, known_to
from nodes.outcome import Outcome, now
from nodes.ports import Reply, TurnContext
from nodes.remote.errors import AgentError
from nodes.requests import request_for_nobody
from nodes.runs import at_its_run
from nodes.schemas import misfit
from nodes.spec import FINISH, Ask, FlowFacts, Place
from nodes.state import CallState, Question, said

_WORDS: Mapping[str, bool] = {"yes": True, "y": True, "true": True, "no": False, "n": False, "false": False}


class AnswerMisfit(AgentError):
    """A person's answer is not what was asked for; the question waits on."""

    kind = "answer_misfit"
    acted = False


class AskNode:
    """The node of a stage that asks a person."""

    def __init__(self, facts: FlowFacts, place: Place, ask: Ask, world: World) -> None:
        self._facts = facts
        self._ask = ask
        self._world = world
        self._place = place
        order, alone = (place.order,), not facts.dag
        self._job = Job(place, place.name, PERSON, output=place.stage.output, order=order, alone=alone)

    async def __call__(self, state: CallState, runtime: Runtime[TurnContext]) -> dict[str, Any]:
        """Put the question, or take the answer."""
        context = runtime.context or TurnContext()
        state = opened(self._facts, at_its_run(state, self._facts.restarts))
        question = state.get("asked", {}).get(self._place.name)
        if context.cancel is not None and context.cancel.is_set():
            canceled = await cancel_all(
                self._world.caller, open_tasks(self._facts, self._world.pool, state, self._job, None)
            )
            return self._learned(state, context, Outcome(None, canceled, now(), 0.0))
        if question is None:
            return self._puts(state, context)
        if context.interrupts:
            state = {**state, "answer": interrupt({"stage": self._place.name, **question})}
        elif not self._is_meant(state):
            return {**carried(state), "goes_to": [FINISH]} if self._facts.dag else self._puts(state, context)
        return self._takes(state, question, context)

    def _is_meant(self, state: CallState) -> bool:
        """Tell whether what the turn brings is the answer to this question: said so, or there is no other."""
        name = self._place.name
        return state.get("answer_for", name) == name and (len(state["asked"]) == 1 or "answer_for" in state)

    def _puts(self, state: CallState, context: TurnContext) -> dict[str, Any]:
        try:
            text = filled(self._ask.question, known_to(self._facts, state, state.get("context", {})))
        except ExpressionFailed as failure:
            return self._learned(state, context, Outcome(None, CannotGoOn(PERSON, str(failure)), now(), 0.0))
        question: Question = {"question": text, "schema": self._ask.schema_}
        reply = Reply(text, ({"schema": dict(self._ask.schema_)},), task_state="input-required")
        update = self._learned(state, context, Outcome(reply, None, now(), 0.0))
        # Until the question is put again the run goes nowhere, so nothing but the interrupt is left of it.
        again = {"goes_to": [self._place.name]} if context.interrupts else {}
        return {**update, "asked": {self._place.name: question}, **again}

    def _takes(self, state: CallState, question: Question, context: TurnContext) -> dict[str, Any]:
        started, clock = now(), time.perf_counter()
        value = answer_in(state, question["schema"])
        wrong = misfit(value, question["schema"])
        took = round((time.perf_counter() - clock) * 1000, 3)
        if wrong:
            error = AnswerMisfit(PERSON, f"the answer does not fit the question: {wrong}; answer again")
            update = self._learned(state, context, Outcome(None, error, started, took, stays=True))
            return {**update, "goes_to": [self._place.name]} if context.interrupts else update
        text = value if isinstance(value, str) else ""
        reply = Reply(text, () if isinstance(value, str) else (value,))
        update = self._learned(state, context, Outcome(reply, None, started, took))
        return {**update, "asked": {self._place.name: None}}

    def _learned(self, state: CallState, context: TurnContext, outcome: Outcome) -> dict[str, Any]:
        request = request_for_nobody(self._facts, self._job, state, context)
        return learn(self._facts, state, self._job, request, outcome)


def answer_in(state: CallState, schema: Mapping[str, Any]) -> Any:
    """Return the answer that a turn brings: as it is, or what the caller's words are worth under the schema."""
    if state.get("answer") is not None:
        return state["answer"]
    for part in state.get("parts") or ():
        if "data" in part:
            return part["data"]
    return worth(said(state).strip(), schema)


def worth(words: str, schema: Mapping[str, Any]) -> Any:
    """Return what words are worth under a schema: `yes` is true where it asks for a boolean, `7` a number."""
    kind = schema.get("type")
    if kind == "string":
        return words
    if kind == "boolean" and words.lower() in _WORDS:
        return _WORDS[words.lower()]
    try:
        return json.loads(words)
    except ValueError:
        return words
