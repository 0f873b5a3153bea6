"""The stage node: asks one agent, and learns from its answer what that means for the call.

`ask` and `learn` are pure; the node only calls and measures between them. One class serves every stage and the
fallback, which answers at any stage and never moves the call.
"""

import hashlib
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import structlog
from langgraph.runtime import Runtime

from nodes.deadline import seconds_left
from nodes.ports import AgentCaller, AgentRequest, FilePart, Reply, TurnContext
from nodes.remote.errors import AgentError, RpcFailed, TimedOut
from nodes.spec import UNKNOWN, Agent, Place, public_url
from nodes.state import CallState, IntentSource, RemoteTask, Step, Summary, said

_WAITS = ("input-required", "auth-required")
_FAILED = ("failed", "rejected", "canceled")

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class FlowFacts:
    """What every stage node of a flow shares."""

    name: str
    digest: str
    agents: Mapping[str, Agent]
    places: Mapping[str, Place]
    fallback: str | None
    agent_timeout: float
    """Seconds one attempt may take where neither stage nor agent says otherwise."""

    @property
    def first(self) -> Place:
        return next(iter(self.places.values()))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of asking: a reply, or the error in its place."""

    reply: Reply | None
    error: AgentError | None
    started: str
    duration_ms: float


class StageNode:
    """A node of the graph: one stage of the flow, or its fallback when `place` is None."""

    def __init__(self, facts: FlowFacts, place: Place | None, caller: AgentCaller) -> None:
        self._facts = facts
        self._place = place
        self._caller = caller

    async def __call__(self, state: CallState, runtime: Runtime[TurnContext]) -> dict[str, Any]:
        """Ask the agent and return what the call learned."""
        context = runtime.context or TurnContext()
        place = self._place or self._facts.places.get(state.get("stage", ""), self._facts.first)
        state = _opened(state, self._facts, place)
        request = ask(self._facts, place, agent_at(self._facts, self._place, state), state, context)
        outcome = await self._call(request, context)
        return learn(state, place, request, outcome, advances=self._place is not None)

    async def _call(self, request: AgentRequest, context: TurnContext) -> Outcome:
        started, clock = _now(), time.perf_counter()
        reply: Reply | None = None
        error: AgentError | None = None
        try:
            if seconds_left(context, request.timeout) <= 0:
                raise TimedOut(request.agent, f"no time was left to ask agent {request.agent!r}")
            reply = await self._caller.call(request)
        except AgentError as caught:
            error = caught
            log.warning("agent failed", agent=request.agent, type=caught.kind, reason=str(caught))
        return Outcome(reply, error, started, round((time.perf_counter() - clock) * 1000, 3))


def agent_at(facts: FlowFacts, place: Place | None, state: CallState) -> str:
    """Return the name of the agent that answers: the stage's own, the intent's, or the fallback."""
    if place is not None and place.stage.agent:
        return place.stage.agent
    if place is not None:
        return place.stage.intents[state["intent"] or UNKNOWN]
    if facts.fallback is None:
        raise LookupError(f"flow {facts.name!r} has no fallback agent")
    return facts.fallback


def ask(facts: FlowFacts, place: Place, agent: str, state: CallState, context: TurnContext) -> AgentRequest:
    """Build the message to `agent` from what the call knows."""
    task: Mapping[str, Any] = state.get("remote_tasks", {}).get(agent, {})
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
        "intent": state.get("intent") or UNKNOWN,
        "tenant": context.tenant,
        "deadline_ms": int(timeout * 1000),
    }
    if context.language:
        metadata["language"] = context.language
    return AgentRequest(
        agent=agent,
        url=spec.url,
        text=said(state),
        message_id=message_id(context.tenant, state["incarnation"], facts.digest, place.name, number, agent),
        context_id=task.get("context_id") or f"{state['incarnation']}-{agent}",
        task_id=task.get("task_id") if task.get("stage") == place.name else None,
        timeout=timeout,
        metadata=metadata,
        traceparent=context.traceparent,
    )


def message_id(tenant: str, incarnation: str, digest: str, stage: str, number: int, agent: str) -> str:
    """Name a message by what it is about, so that an agent that dedupes sees one message however often it is sent."""
    facts = "\x1f".join((tenant, incarnation, digest, stage, str(number), agent))
    return hashlib.sha256(facts.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def learn(
    state: CallState, place: Place, request: AgentRequest, outcome: Outcome, *, advances: bool
) -> dict[str, Any]:
    """Return the update that the outcome makes to the call."""
    done = advances and outcome.reply is not None and outcome.reply.task_state in (None, "completed")
    step = _step(state, place, request, outcome, done)
    update: dict[str, Any] = {
        key: state[key] for key in ("call_identify_id", "account_id", "eci", "flow", "incarnation", "created_at")
    }
    update |= {
        "stage": (place.following if done else None) or place.name,
        "current_flow_id": step["next_flow_id"] or place.id,
        "completed_flows": state.get("completed_flows", []),
        "is_complete": step["is_complete"],
        "step_count": step["number"],
        "remote_tasks": _remote_tasks(state, place, request, outcome),
        "updated_at": _now(),
        "steps": [step],
    }
    if advances and outcome.reply is not None:
        update["last_agent"] = request.agent
    if done:
        update["completed_flows"] = list(dict.fromkeys([*update["completed_flows"], place.id]))
    if step["is_complete"]:
        update |= {"ended": "completed", "session_summary": _summary(update)}
    if state.get("messages"):
        spoken = response_text(step["response_data"])
        update["messages"] = [*state["messages"], {"role": "assistant", "content": spoken}]
    return update


def response_text(response: Mapping[str, Any]) -> str:
    """Return what a person would be told of a step's response."""
    return str(response.get("text") or response.get("error", {}).get("message", ""))


def _opened(state: CallState, facts: FlowFacts, place: Place) -> CallState:
    """Fill in what a call has from its first turn on."""
    opened: CallState = {
        "call_identify_id": "",
        "account_id": "",
        "eci": "",
        "incarnation": uuid.uuid4().hex,
        "created_at": _now(),
        "flow": facts.name,
        "stage": place.name,
        "current_flow_id": place.id,
    }
    opened.update(state)
    return opened


def _step(state: CallState, place: Place, request: AgentRequest, outcome: Outcome, done: bool) -> Step:
    ok = outcome.reply is not None and outcome.reply.task_state not in _FAILED
    next_id = place.next_id if done else place.id
    source: IntentSource = state.get("intent_source") or ("declared" if state.get("intent") else "none")
    return {
        "number": state.get("step_count", 0) + 1,
        "stage": place.name,
        "intent_flow_id": place.id,
        "intent": state.get("intent") or UNKNOWN,
        "intent_source": source,
        "input_message": request.text,
        "agent": request.agent,
        "a2a_agent_url": public_url(request.url),
        "message_id": request.message_id,
        "response_status": "success" if ok else "error",
        "response_data": _response(outcome, request.agent),
        "timestamp": outcome.started,
        "duration_ms": outcome.duration_ms,
        "next_flow_id": next_id,
        "is_complete": next_id is None,
    }


def _response(outcome: Outcome, agent: str) -> dict[str, Any]:
    if outcome.reply is None:
        error = outcome.error or AgentError(agent, "no answer")
        return {"error": {"type": error.kind, "message": str(error), "retryable": error.retryable}}
    reply = outcome.reply
    response: dict[str, Any] = {
        "text": reply.text,
        "data": list(reply.data),
        "files": [_file(file) for file in reply.files],
        "task_state": reply.task_state,
    }
    if reply.task_state in _FAILED:
        message = reply.text or f"agent {agent!r} ended its task as {reply.task_state}"
        response["error"] = {"type": f"task_{reply.task_state}", "message": message, "retryable": True}
    return {key: value for key, value in response.items() if value}


def _file(file: FilePart) -> dict[str, str]:
    fields = {"name": file.name, "media_type": file.media_type, "bytes": file.bytes, "url": file.url}
    return {key: value for key, value in fields.items() if value}


def _remote_tasks(state: CallState, place: Place, request: AgentRequest, outcome: Outcome) -> dict[str, RemoteTask]:
    """Keep the agent's context, and its task while that waits for the caller.

    A task the agent no longer takes messages for is forgotten, or the call could never leave its stage.
    """
    tasks = dict(state.get("remote_tasks", {}))
    kept: RemoteTask = {"context_id": request.context_id}
    if outcome.reply is not None:
        kept["context_id"] = outcome.reply.context_id or request.context_id
        if outcome.reply.task_state in _WAITS and outcome.reply.task_id:
            intent = state.get("intent") or UNKNOWN
            kept |= {"task_id": outcome.reply.task_id, "stage": place.name, "intent": intent}
    elif request.agent in tasks and not isinstance(outcome.error, RpcFailed):
        kept = tasks[request.agent]
    tasks[request.agent] = kept
    return tasks


def _summary(update: Mapping[str, Any]) -> Summary:
    return {
        "call_identify_id": update["call_identify_id"],
        "account_id": update["account_id"],
        "eci": update["eci"],
        "completed_flows": update["completed_flows"],
        "step_count": update["step_count"],
        "started_at": update["created_at"],
        "ended_at": update["updated_at"],
    }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
