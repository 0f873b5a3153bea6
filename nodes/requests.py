"""The message to an agent, built from what the call knows. Pure."""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from nodes.conditions import ExpressionFailed, filled, value_of
from nodes.deadline import seconds_left
from nodes.jobs import Job
from nodes.moving import CannotGoOn, known_to
from nodes.ports import AgentRequest, ModelRequest, Part, TurnContext
from nodes.spec import UNKNOWN, FlowFacts
from nodes.state import CallState, said, wanted


def request_to(facts: FlowFacts, job: Job, agent: str, state: CallState, context: TurnContext) -> AgentRequest:
    """Return the message to `agent`, as far as it does not depend on expressions, nor on which endpoint gets it.

    It continues a task of that agent that was begun at the same place and waits for the caller. What an earlier turn
    of the same intent left without an answer is asked after, or sent again under the same id.
    """
    talk = job.talk_with(agent)
    task: Mapping[str, Any] = state.get("remote_tasks", {}).get(talk, {})
    here = task.get("stage") == job.where
    again = here and task.get("intent") == (wanted(state) or UNKNOWN)
    works = bool(task.get("works"))
    timeout = seconds_left(context, attempt_seconds(facts, job, agent))
    return AgentRequest(
        agent=agent,
        url="",
        text=said(state),
        message_id=(task.get("unanswered") if again else None) or _message_id(facts, job, agent, state, context),
        context_id=task.get("context_id") or f"{state['incarnation']}-{talk}",
        task_id=task.get("task_id") if (again if works else here) else None,
        task_works=again and works,
        timeout=timeout,
        metadata=_metadata(facts, job, state, context, timeout),
        traceparent=context.traceparent,
        parts=tuple(state.get("parts") or ()),
        streams=context.streams,
    )


def attempt_seconds(facts: FlowFacts, job: Job, agent: str) -> float:
    """Return how long one attempt at an agent may take, where the turn has the time."""
    return job.place.stage.timeout or facts.agents[agent].timeout or facts.agent_timeout


def request_for_nobody(facts: FlowFacts, job: Job, state: CallState, context: TurnContext) -> AgentRequest:
    """Return what stands in a step where no agent was asked, but a model, a person, or several at once."""
    timeout = seconds_left(context, job.place.stage.timeout or facts.agent_timeout)
    message_id = _message_id(facts, job, job.agent, state, context)
    return AgentRequest(job.agent, "", said(state), message_id, state["incarnation"], None, timeout)


def with_input(request: AgentRequest, facts: FlowFacts, job: Job, state: CallState) -> AgentRequest:
    """Return the message with what its stage's `input` says in place of the caller's words; raises `CannotGoOn`.

    A task that waits for the caller gets the caller's words.
    """
    if not job.input or request.task_id:
        return request
    told = _worked_out(request.agent, job.input, _known(facts, job, state))
    text = told.pop("text") if isinstance(told.get("text"), str) else ""
    parts: list[Part] = [{"text": text}] if text else []
    return replace(request, text=text, parts=(*parts, *([{"data": told}] if told else ())))


def model_request(facts: FlowFacts, job: Job, state: CallState, timeout: float) -> ModelRequest:
    """Return what the model is asked; raises `CannotGoOn`."""
    if job.llm is None:
        raise LookupError(f"{job.where!r} asks no model")
    known = _known(facts, job, state)
    known |= _worked_out(job.agent, job.input, known)
    try:
        prompt = filled(job.llm.prompt, known)
        system = filled(job.llm.system, known) if job.llm.system else None
    except ExpressionFailed as failure:
        raise CannotGoOn(job.agent, str(failure)) from failure
    llm = job.llm
    return ModelRequest(prompt, system, llm.schema_, llm.model, llm.temperature, llm.max_tokens, timeout)


def _known(facts: FlowFacts, job: Job, state: CallState) -> dict[str, Any]:
    return known_to(facts, state, state.get("context", {})) | job.also_known()


def _worked_out(agent: str, wanted_input: Mapping[str, str], known: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return {name: value_of(text, known) for name, text in wanted_input.items()}
    except ExpressionFailed as failure:
        raise CannotGoOn(agent, str(failure)) from failure


def _message_id(facts: FlowFacts, job: Job, agent: str, state: CallState, context: TurnContext) -> str:
    number = state.get("step_count", 0) + 1
    return message_id(context.tenant, state["incarnation"], facts.digest, job.where, str(number), agent)


def message_id(*about: str) -> str:
    """Name a message by what it is about, so that an agent that dedupes sees one message however often it is sent."""
    return hashlib.sha256("\x1f".join(about).encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _metadata(facts: FlowFacts, job: Job, state: CallState, context: TurnContext, timeout: float) -> dict[str, Any]:
    metadata = {
        **(state.get("metadata") or {}),
        "call_identify_id": state.get("call_identify_id", ""),
        "account_id": state.get("account_id", ""),
        "eci": state.get("eci", ""),
        "flow": facts.name,
        "flow_id": job.place.id,
        "flow_label": job.place.name.upper(),
        "intent": wanted(state) or UNKNOWN,
        "tenant": context.tenant,
        "deadline_ms": int(timeout * 1000),
    }
    if job.branch is not None:
        metadata["branch"] = job.branch
    if context.language:
        metadata["language"] = context.language
    if request := _request_kept(state):
        metadata["request"] = request
    return metadata


def _request_kept(state: CallState) -> str | None:
    """Return the words by which the caller asked for what was kept until now."""
    kept = (one["input_message"] for one in state.get("requests") or () if one["intent"] == wanted(state))
    return next(kept, None)
