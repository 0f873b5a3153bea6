"""The record of a step: who was asked what, and what came of it. Pure."""

from collections.abc import Mapping
from typing import Any

from nodes.canceling import Canceled
from nodes.jobs import Job
from nodes.moving import CannotGoOn, Move
from nodes.outcome import FAILED, Outcome
from nodes.parts import Folded, unfold
from nodes.ports import AgentRequest, FilePart, Reply, Resolution
from nodes.reaching.choices import Candidate
from nodes.remote.errors import AgentError
from nodes.spec import UNKNOWN, public_url
from nodes.state import Asked, CallState, Ended, Recognised, Resolved, Step, wanted
from nodes.telling import artifacts_of


def step_of(
    state: CallState,
    job: Job,
    request: AgentRequest,
    outcome: Outcome,
    move: Move,
    *,
    next_flow_id: int | None,
    ended: Ended | None,
) -> Step:
    """Return the record; `next_flow_id` is None where the run is complete with it."""
    agent, url = request.agent, request.url
    if isinstance(outcome.error, Canceled):
        agent, url = outcome.error.agent, outcome.error.url
    step: Step = {
        "number": state.get("step_count", 0) + 1,
        "stage": job.place.name,
        "intent_flow_id": job.place.id,
        "intent": wanted(state) or UNKNOWN,
        "intent_source": _recognised(state)["source"],
        "input_message": request.text,
        "agent": agent,
        "a2a_agent_url": public_url(url),
        "message_id": request.message_id,
        "response_status": "success" if outcome.succeeded and not move.wrong else "error",
        "response_data": _response(state, job, request, outcome) | _wrong(move),
        "timestamp": outcome.started,
        "duration_ms": outcome.duration_ms,
        "next_flow_id": next_flow_id,
        "is_complete": next_flow_id is None,
        "run": state.get("run", 1),
    }
    if move.onward and move.onward.skipped:
        step["skipped"] = list(move.onward.skipped)
    return _with_the_rest(step, state, job, request, outcome, ended)


def response_text(response: Mapping[str, Any]) -> str:
    """Return what a person would be told of a step's response: what went wrong, or else what the agent said."""
    return str(response.get("error", {}).get("message") or response.get("text", ""))


def told_of(resolution: Resolution) -> Resolved:
    """Return how the trail tells what a person said of a write."""
    return {
        "parked": resolution.parked,
        "outcome": resolution.outcome,
        "by": resolution.by,
        "why": resolution.why,
        "at": resolution.at,
    }


def unsettled(state: CallState, job: Job, request: AgentRequest, error: AgentError) -> bool:
    """Tell whether a write may have been acted on: now, or when its message was sent an earlier time."""
    if isinstance(error, Canceled):
        return not all(task.settled for task in error.tasks)
    before: Mapping[str, Any] = state.get("remote_tasks", {}).get(job.talk_with(request.agent), {})
    sent_before = before.get("unanswered") == request.message_id
    return job.effect == "write" and (error.acted is None or sent_before)


def _recognised(state: CallState) -> Recognised:
    source = state.get("intent_source") or ("declared" if wanted(state) else "none")
    return {"source": source} if isinstance(source, str) else source


def _wrong(move: Move) -> dict[str, Any]:
    if not move.wrong:
        return {}
    return {"error": {"type": CannotGoOn.kind, "message": move.wrong, "retryable": False}}


def _with_the_rest(
    step: Step, state: CallState, job: Job, request: AgentRequest, outcome: Outcome, ended: Ended | None
) -> Step:
    """Add what only some steps have."""
    recognised = _recognised(state)
    if "confidence" in recognised:
        step["intent_confidence"] = recognised["confidence"]
    if "because" in recognised:
        step["intent_because"] = recognised["because"]
    if job.is_fallback:
        step["fallback"] = True
    if state.get("flow"):
        step["flow"] = state["flow"]
    if ended:
        step["ended"] = ended
    if state.get("caller_message_id"):
        step["caller_message_id"] = state["caller_message_id"]
    first = job.alone or not any(job.order[-1:])
    if first and state.get("parts") and not state.get("parts_told"):
        step["parts"] = state["parts"]  # they may be large: only to the first step of the turn
    handed_over = outcome.reply or outcome.so_far
    if handed_over is not None and handed_over.layout is not None:
        step["layout"] = handed_over.layout
    if outcome.attempt > 1:
        step["attempt"] = outcome.attempt
    if outcome.tried:
        step["tried"] = list(outcome.tried)
    if outcome.version is not None:
        step["agent_version"] = outcome.version
    if outcome.candidates:
        step["candidates"] = [_told(candidate) for candidate in outcome.candidates]
    if job.instead_of is not None:
        step["instead_of"] = {"agent": job.instead_of, "why": "off"}
    if outcome.parked:
        step["parked"] = outcome.parked
    if outcome.held_by:
        step["held_by"] = outcome.held_by
    if outcome.resolution:
        step["resolution"] = told_of(outcome.resolution)
    return _where_at_once(step, job, request)


def _told(candidate: Candidate) -> Asked:
    told: Asked = {"url": candidate.url}
    if candidate.version is not None:
        told["version"] = candidate.version
    if candidate.excluded is not None:
        told["excluded"] = candidate.excluded
    return told


def _where_at_once(step: Step, job: Job, request: AgentRequest) -> Step:
    """Add what tells steps apart that are made at once; `order` is for the trail, which numbers them."""
    if job.branch is not None:
        step["branch"] = job.branch
    if not job.alone:
        step["artifacts"] = artifacts_of(request.message_id)
        step["order"] = list(job.order)  # type: ignore[typeddict-unknown-key]  # a saver would make a list of it
    return step


def _response(state: CallState, job: Job, request: AgentRequest, outcome: Outcome) -> dict[str, Any]:
    if outcome.reply is None:
        error = outcome.error or AgentError(request.agent, "no answer")
        described = {"type": error.kind, "message": str(error), "retryable": error.retryable}
        is_unknown = outcome.resolution is None and unsettled(state, job, request, error)
        unknown = {"retryable": outcome.again, "outcome": "unknown"} if is_unknown else {}
        canceled = {"task_state": "canceled"} if isinstance(error, Canceled) and error.confirmed else {}
        results = {"data": [outcome.results]} if outcome.results else {}
        return {**_content(outcome.so_far), **results, "error": described | unknown, **canceled}
    reply = outcome.reply
    response = _content(reply)
    if reply.task_state:
        response["task_state"] = reply.task_state
    if reply.task_state in FAILED:
        message = _said(response, reply) or f"agent {request.agent!r} ended its task as {reply.task_state}"
        response["error"] = {"type": f"task_{reply.task_state}", "message": message, "retryable": True}
    return response


def _content(handed_over: Reply | Folded | None) -> dict[str, Any]:
    if handed_over is None:
        return {}
    files = [_file(file) for file in handed_over.files]
    content = {"text": handed_over.text, "data": list(handed_over.data), "files": files}
    return {key: value for key, value in content.items() if value}


def _said(response: Mapping[str, Any], reply: Reply) -> str:
    """Return the words of the agent's message, without those of its artifacts."""
    _, message = unfold(response, reply.layout)
    return "\n".join(part["text"] for part in (message or {}).get("parts", ()) if part.get("text"))


def _file(file: FilePart) -> dict[str, str]:
    fields = {"name": file.name, "media_type": file.media_type, "bytes": file.bytes, "url": file.url}
    return {key: value for key, value in fields.items() if value is not None}
