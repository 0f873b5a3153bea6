"""The stage node: asks one agent, and learns from its answer what that means for the call.

`ask` and `learn` are pure; the node only calls, tells and measures between them. One class serves every stage and
the fallback, which answers at any stage and never moves the call.
"""

import hashlib
import time
import uuid
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import structlog
from langgraph.runtime import Runtime

from nodes.canceling import cancel_all, open_tasks, unless
from nodes.deadline import seconds_left
from nodes.learning import FALLBACK, Outcome, learn, now
from nodes.moving import known_to, worked_out
from nodes.ports import AgentCaller, AgentRequest, Part, Reply, TurnContext
from nodes.remote.errors import AgentError, NoTimeLeft
from nodes.runs import at_its_run
from nodes.spec import UNKNOWN, FlowFacts, Place, public_url
from nodes.state import CallState, said, wanted
from nodes.telling import Teller

log = structlog.get_logger()


class StageNode:
    """A node of the graph: one stage of the flow, or its fallback when `place` is None."""

    def __init__(self, facts: FlowFacts, place: Place | None, caller: AgentCaller) -> None:
        self._facts = facts
        self._place = place
        self._caller = caller

    async def __call__(self, state: CallState, runtime: Runtime[TurnContext]) -> dict[str, Any]:
        """Ask the agent and return what the call learned."""
        context = runtime.context or TurnContext()
        state = at_its_run(state, self._facts.restarts)
        place = self._place or self._facts.places.get(state.get("stage", ""), self._facts.first)
        state = _opened(state, self._facts, place)
        where = FALLBACK if self._place is None else place.name
        request = ask(self._facts, place, where, agent_at(self._facts, self._place, state), state, context)
        tell = Teller(runtime.stream_writer, _about(state, place, request))
        outcome = await self._outcome(request, state, where, context, tell)
        update = learn(self._facts, state, place, where, request, outcome)
        return update if self._facts.waits else {**_carried(state), **update}

    async def _outcome(
        self, request: AgentRequest, state: CallState, where: str, context: TurnContext, tell: Teller
    ) -> Outcome:
        started, clock = now(), time.perf_counter()
        reply: Reply | None = None
        error: AgentError | None = None
        try:
            request = self._filled(request, state)
            reply = await self._reply(request, context, tell)
            if reply is None:
                asked = replace(request, task_id=tell.task_id or request.task_id) if tell.asked else None
                error = await cancel_all(self._caller, open_tasks(self._facts, state, where, asked))
        except AgentError as caught:
            error = caught
            log.warning("agent failed", agent=request.agent, url=public_url(request.url), type=caught.kind)
        so_far = tell.so_far() if reply is None else None
        return Outcome(reply, error, started, round((time.perf_counter() - clock) * 1000, 3), so_far)

    def _filled(self, request: AgentRequest, state: CallState) -> AgentRequest:
        """Return the request with what its stage's `input` says; raises `CannotGoOn`."""
        if self._place is None or not self._place.stage.input:
            return request
        told = worked_out(self._place.stage, request.agent, known_to(self._facts, state, state.get("context", {})))
        text = told.pop("text") if isinstance(told.get("text"), str) else ""
        parts: list[Part] = [{"text": text}] if text else []
        return replace(request, text=text, parts=(*parts, *([{"data": told}] if told else ())))

    async def _reply(self, request: AgentRequest, context: TurnContext, tell: Teller) -> Reply | None:
        """Return the agent's answer, or None if the call is to end before there is one."""
        if context.cancel is not None and context.cancel.is_set():
            return None
        if seconds_left(context, request.timeout) <= 0:
            raise NoTimeLeft(request.agent, f"no time was left to ask agent {request.agent!r}")
        tell.begins()
        return await unless(context.cancel, self._caller.call(request, tell))


def agent_at(facts: FlowFacts, place: Place | None, state: CallState) -> str:
    """Return the name of the agent that answers: the stage's own, the intent's, or the fallback."""
    if place is not None and place.stage.agent:
        return place.stage.agent
    if place is not None:
        return place.stage.intents[wanted(state) or UNKNOWN]
    if facts.fallback is None:
        raise LookupError(f"flow {facts.name!r} has no fallback agent")
    return facts.fallback


def ask(
    facts: FlowFacts, place: Place, where: str, agent: str, state: CallState, context: TurnContext
) -> AgentRequest:
    """Build the message to `agent` from what the call knows.

    It continues a task of that agent that was begun at the same place and waits for the caller. What an earlier turn
    of the same intent left without an answer is asked after, or sent again under the same id.
    """
    task: Mapping[str, Any] = state.get("remote_tasks", {}).get(agent, {})
    here = task.get("stage") == where
    again = here and task.get("intent") == (wanted(state) or UNKNOWN)
    works = bool(task.get("works"))
    number = state.get("step_count", 0) + 1
    spec = facts.agents[agent]
    timeout = seconds_left(context, place.stage.timeout or spec.timeout or facts.agent_timeout)
    metadata = {
        **(state.get("metadata") or {}),
        "call_identify_id": state.get("call_identify_id", ""),
        "account_id": state.get("account_id", ""),
        "eci": state.get("eci", ""),
        "flow": facts.name,
        "flow_id": place.id,
        "flow_label": place.name.upper(),
        "intent": wanted(state) or UNKNOWN,
        "tenant": context.tenant,
        "deadline_ms": int(timeout * 1000),
    }
    if context.language:
        metadata["language"] = context.language
    return AgentRequest(
        agent=agent,
        url=spec.url,
        text=said(state),
        message_id=(task.get("unanswered") if again else None)
        or message_id(context.tenant, state["incarnation"], facts.digest, place.name, number, agent),
        context_id=task.get("context_id") or f"{state['incarnation']}-{agent}",
        task_id=task.get("task_id") if (again if works else here) else None,
        task_works=again and works,
        timeout=timeout,
        metadata=metadata,
        traceparent=context.traceparent,
        parts=tuple(state.get("parts") or ()),
        streams=context.streams,
    )


def message_id(tenant: str, incarnation: str, digest: str, stage: str, number: int, agent: str) -> str:
    """Name a message by what it is about, so that an agent that dedupes sees one message however often it is sent."""
    facts = "\x1f".join((tenant, incarnation, digest, stage, str(number), agent))
    return hashlib.sha256(facts.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _opened(state: CallState, facts: FlowFacts, place: Place) -> CallState:
    """Fill in what a call has from its first turn on."""
    opened: CallState = {
        "call_identify_id": "",
        "account_id": "",
        "eci": "",
        "incarnation": uuid.uuid4().hex,
        "created_at": now(),
        "flow": facts.name,
        "stage": place.name,
        "current_flow_id": place.id,
        "run": 1,
    }
    opened.update(state)
    return opened


def _about(state: CallState, place: Place, request: AgentRequest) -> dict[str, Any]:
    """Return what every event of the stage says."""
    return {
        "step": state.get("step_count", 0) + 1,
        "run": state["run"],
        "stage": place.name,
        "intent_flow_id": place.id,
        "agent": request.agent,
        "intent": wanted(state) or UNKNOWN,
    }


def _carried(state: CallState) -> dict[str, Any]:
    """Return what the next stage of the same run still has to know of the turn."""
    carried = ("input_message", "metadata", "parts", "caller_message_id")
    return {key: state[key] for key in carried if key in state}  # type: ignore[literal-required]
