"""What comes of asking an agent: the update that an outcome makes to the call. Pure."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

from nodes.canceling import Canceled, OpenTask
from nodes.moving import CannotGoOn, Move, moved
from nodes.onward import Onward
from nodes.parts import Folded, unfold
from nodes.ports import AgentRequest, FilePart, Reply
from nodes.remote.errors import AgentError, TimedOut
from nodes.spec import UNKNOWN, FlowFacts, Place, public_url
from nodes.state import CallState, Ended, IntentSource, RemoteTask, Step, Summary, wanted

_WAITS = ("input-required", "auth-required")
_FAILED = ("failed", "rejected", "canceled")
FALLBACK = "fallback"
"""Where the fallback's tasks were begun; no stage has this name."""
_KEPT = (
    *("call_identify_id", "account_id", "eci", "flow", "incarnation", "created_at"),
    *("run", "run_after", "run_began_at"),
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of asking: a reply, or the error in its place."""

    reply: Reply | None
    error: AgentError | None
    started: str
    duration_ms: float
    so_far: Folded | None = None
    """What the agent had handed over before the error."""


def learn(
    facts: FlowFacts, state: CallState, place: Place, where: str, request: AgentRequest, outcome: Outcome
) -> dict[str, Any]:
    """Return the update that the outcome makes to the call; the fallback (`where`) never advances it."""
    move = _move(facts, state, place, where, outcome)
    onward = move.onward
    ended = _ended(place, where, outcome, onward)
    step = _step(facts, state, place, request, outcome, move, ended)
    answered = onward is not None and not onward.repeats and _succeeded(outcome)
    update: dict[str, Any] = {key: state[key] for key in _KEPT if key in state}  # type: ignore[literal-required]
    update |= {
        "stage": (onward.stage if onward else None) or place.name,
        "current_flow_id": step["next_flow_id"] or place.id,
        "completed_flows": list(
            dict.fromkeys([*state.get("completed_flows", []), *([place.id] if answered else [])])
        ),
        "is_complete": step["is_complete"],
        "ended": ended,
        "session_summary": None,
        "step_count": step["number"],
        "remote_tasks": _remote_tasks(state, place, where, request, outcome),
        "updated_at": now(),
        "steps": [step],
        **_counted(state, move),
    }
    if where != FALLBACK and outcome.reply is not None:
        update["last_agent"] = request.agent
    if ended == "completed":
        update["session_summary"] = _summary(update)
    if state.get("messages"):
        spoken = response_text(step["response_data"])
        update["messages"] = [*state["messages"], {"role": "assistant", "content": spoken}]
    return update


def _move(facts: FlowFacts, state: CallState, place: Place, where: str, outcome: Outcome) -> Move:
    waits = outcome.reply is not None and outcome.reply.task_state in _WAITS
    if where == FALLBACK or waits or isinstance(outcome.error, Canceled):
        return Move(None, state.get("context", {}))
    return moved(facts, state, place, outcome.reply, outcome.error)


def _counted(state: CallState, move: Move) -> dict[str, Any]:
    """Return what the run has counted and kept, where the flow counts or keeps anything."""
    update: dict[str, Any] = {}
    if move.context != state.get("context", {}):
        update["context"] = dict(move.context)
    if move.onward is None:
        return update
    if move.onward.repeats or state.get("passes"):
        update["passes"] = state.get("passes", 0) + 1 if move.onward.repeats else 0
    if move.onward.counted:
        taken = Counter(state.get("taken", {})) + Counter(move.onward.counted)
        update["taken"] = dict(taken)
    return update


def _ended(place: Place, where: str, outcome: Outcome, onward: Onward | None) -> Ended | None:
    """Tell how the run ended, if it ended here."""
    if isinstance(outcome.error, Canceled):
        return "canceled"
    if onward is not None:
        return "completed" if onward.stage is None else None
    fails = where != FALLBACK and place.stage.on_error == "fail" and not _succeeded(outcome)
    return "failed" if fails else None


def _succeeded(outcome: Outcome) -> bool:
    return outcome.reply is not None and outcome.reply.task_state not in _FAILED


def response_text(response: Mapping[str, Any]) -> str:
    """Return what a person would be told of a step's response: what went wrong, or else what the agent said."""
    return str(response.get("error", {}).get("message") or response.get("text", ""))


def _step(
    facts: FlowFacts,
    state: CallState,
    place: Place,
    request: AgentRequest,
    outcome: Outcome,
    move: Move,
    ended: Ended | None,
) -> Step:
    onward = move.onward or Onward(place.name)
    next_id = facts.places[onward.stage].id if onward.stage else None
    source: IntentSource = state.get("intent_source") or ("declared" if wanted(state) else "none")
    agent, url = request.agent, request.url
    if isinstance(outcome.error, Canceled):
        agent, url = outcome.error.agent, outcome.error.url
    step: Step = {
        "number": state.get("step_count", 0) + 1,
        "stage": place.name,
        "intent_flow_id": place.id,
        "intent": wanted(state) or UNKNOWN,
        "intent_source": source,
        "input_message": request.text,
        "agent": agent,
        "a2a_agent_url": public_url(url),
        "message_id": request.message_id,
        "response_status": "success" if _succeeded(outcome) and not move.wrong else "error",
        "response_data": _response(state, place, request, outcome) | _wrong(move),
        "timestamp": outcome.started,
        "duration_ms": outcome.duration_ms,
        "next_flow_id": next_id,
        "is_complete": next_id is None,
        "run": state.get("run", 1),
    }
    if onward.skipped:
        step["skipped"] = list(onward.skipped)
    return _with_the_rest(step, state, outcome, ended)


def _wrong(move: Move) -> dict[str, Any]:
    if not move.wrong:
        return {}
    return {"error": {"type": CannotGoOn.kind, "message": move.wrong, "retryable": False}}


def _with_the_rest(step: Step, state: CallState, outcome: Outcome, ended: Ended | None) -> Step:
    """Add what only some steps have; the caller's parts, which may be large, only to the first step of the turn."""
    if state.get("flow"):
        step["flow"] = state["flow"]
    if ended:
        step["ended"] = ended
    if state.get("caller_message_id"):
        step["caller_message_id"] = state["caller_message_id"]
    if state.get("parts") and not state.get("steps"):
        step["parts"] = state["parts"]
    handed_over = outcome.reply or outcome.so_far
    if handed_over is not None and handed_over.layout is not None:
        step["layout"] = handed_over.layout
    return step


def _response(state: CallState, place: Place, request: AgentRequest, outcome: Outcome) -> dict[str, Any]:
    if outcome.reply is None:
        error = outcome.error or AgentError(request.agent, "no answer")
        described = {"type": error.kind, "message": str(error), "retryable": error.retryable}
        unknown = {"retryable": False, "outcome": "unknown"} if _unsettled(state, place, request, error) else {}
        canceled = {"task_state": "canceled"} if isinstance(error, Canceled) and error.confirmed else {}
        return {**_content(outcome.so_far), "error": described | unknown, **canceled}
    reply = outcome.reply
    response = _content(reply)
    if reply.task_state:
        response["task_state"] = reply.task_state
    if reply.task_state in _FAILED:
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


def _unsettled(state: CallState, place: Place, request: AgentRequest, error: AgentError) -> bool:
    """Tell whether a write may have been acted on: now, or when its message was sent an earlier time."""
    if isinstance(error, Canceled):
        return not all(task.settled for task in error.tasks)
    before: Mapping[str, Any] = state.get("remote_tasks", {}).get(request.agent, {})
    sent_before = before.get("unanswered") == request.message_id
    return place.stage.effect == "write" and (error.acted is None or sent_before)


def _file(file: FilePart) -> dict[str, str]:
    fields = {"name": file.name, "media_type": file.media_type, "bytes": file.bytes, "url": file.url}
    return {key: value for key, value in fields.items() if value is not None}


def _remote_tasks(
    state: CallState, place: Place, where: str, request: AgentRequest, outcome: Outcome
) -> dict[str, RemoteTask]:
    tasks = dict(state.get("remote_tasks", {}))
    begun: RemoteTask = {"context_id": request.context_id, "stage": where, "intent": wanted(state) or UNKNOWN}
    if isinstance(outcome.error, Canceled):
        return tasks | {task.request.agent: _after_cancel(task) for task in outcome.error.tasks}
    if outcome.reply is not None:
        tasks[request.agent] = _after_reply(begun, outcome.reply)
    elif outcome.error is not None:
        tasks[request.agent] = _after_error(state, begun, place, request, outcome.error)
    return tasks


def _after_reply(begun: RemoteTask, reply: Reply) -> RemoteTask:
    """Keep the agent's context, and its task while that waits for the caller."""
    context_id = reply.context_id or begun["context_id"]
    if reply.task_state in _WAITS and reply.task_id:
        return {**begun, "context_id": context_id, "task_id": reply.task_id}
    return {"context_id": context_id}


def _after_error(
    state: CallState, begun: RemoteTask, place: Place, request: AgentRequest, error: AgentError
) -> RemoteTask:
    """Keep what the next turn needs in order to ask first, or to send the same message and not a second one.

    A task the agent no longer takes messages for is forgotten, or the call could never leave its stage.
    """
    kept = dict(begun)
    if isinstance(error, TimedOut) and error.task_id:
        kept |= {"task_id": error.task_id, "works": True}
    elif error.retryable and request.task_id:
        kept |= {"task_id": request.task_id, "works": request.task_works}
    if _unsettled(state, place, request, error):
        kept["unanswered"] = request.message_id
    return cast(RemoteTask, kept)


def _after_cancel(task: OpenTask) -> RemoteTask:
    """Keep the agent's context; of a write that the agent did not confirm as canceled, all that is known."""
    return {"context_id": task.request.context_id} if task.settled else task.entry


def _summary(update: Mapping[str, Any]) -> Summary:
    return {
        "call_identify_id": update["call_identify_id"],
        "account_id": update["account_id"],
        "eci": update["eci"],
        "completed_flows": update["completed_flows"],
        "step_count": update["step_count"] - update.get("run_after", 0),
        "started_at": update.get("run_began_at", update["created_at"]),
        "ended_at": update["updated_at"],
        "run": update["run"],
    }


def now() -> str:
    """Return the time, ISO 8601 in UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
