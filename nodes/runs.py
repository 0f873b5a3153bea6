"""A run of the flow within a call: whether one has ended, and the call as the next one finds it."""

from collections.abc import Mapping
from typing import Any, cast

from nodes.outcome import now
from nodes.state import CallState, RemoteTask

_OF_THE_LAST_RUN = (
    *("stage", "current_flow_id", "session_summary", "flow_digest", "completed_flows", "context"),
    *("passes", "taken", "branches", "asked", "requests"),
)


def has_ended(state: Mapping[str, Any]) -> bool:
    """Tell whether the call's last run is over: completed, failed or canceled."""
    return bool(state.get("is_complete") or state.get("ended"))


def next_run(state: Mapping[str, Any], restarts: bool) -> int:
    """Return the run, from 1, that a turn begun now would belong to."""
    run: int = state.get("run", 1)
    return run + 1 if restarts and has_ended(state) else run


def at_its_run(state: CallState, restarts: bool) -> CallState:
    """Return the call as a turn begun now finds it: where it was, or before the first stage of its next run."""
    if not (restarts and has_ended(state)):
        return state
    kept = {key: value for key, value in state.items() if key not in _OF_THE_LAST_RUN}
    begun: CallState = {
        "run": next_run(state, restarts),
        "run_began_at": now(),
        "run_after": state.get("step_count", 0),
        "is_complete": False,
        "ended": None,
        "remote_tasks": {agent: _kept(task) for agent, task in state.get("remote_tasks", {}).items()},
    }
    return cast(CallState, kept | begun)


def begins_run(state: CallState) -> bool:
    """Tell whether the turn begins a run after another in the same call."""
    return state.get("run", 1) > 1 and state.get("run_after") == state.get("step_count")


def _kept(task: RemoteTask) -> RemoteTask:
    """Keep the agent's context, not its task; but a write without an answer is asked after, in whichever run."""
    return task if task.get("unanswered") else {"context_id": task["context_id"]}
