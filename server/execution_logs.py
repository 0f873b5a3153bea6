"""The audit trail of an execution as log lines: what was asked of whom, what came of it, and what was passed over."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from nodes.jobs import PERSON
from nodes.outcome import WAITS
from nodes.state import Step
from server.executions import Execution, began_at

_ENDS = {
    "completed": ("info", "the execution is complete"),
    "failed": ("error", "the execution has failed"),
    "canceled": ("warning", "the execution was canceled"),
}


def logs_of(execution: Execution) -> list[dict[str, Any]]:
    """Return the lines, oldest first: `timestamp`, `level`, `step`, `message`, and facts about it."""
    return sorted(_lines(execution), key=lambda line: line["timestamp"])  # steps that ran at once overlap


def _lines(execution: Execution) -> Iterator[dict[str, Any]]:
    if began := began_at(execution):
        yield _line(_utc(began), "info", None, f"the execution of flow {execution.flow_name!r} began")
    for step in execution.made:
        yield from _of_step(execution, step)
    for stage, at in _skipped(execution):
        yield _line(at, "info", execution.named(stage), "skipped: its condition is not true")
    if question := execution.question:
        yield _line(_ended_at(execution), "info", question["step"], f"waits for an answer: {question['question']}")
    for parked, stage in execution.parked.items():
        waits = f"waits for somebody to say what came of a write: POST /parked/{parked}/resolve"
        yield _line(_ended_at(execution), "warning", execution.named(stage), waits, parked=parked)
    if execution.state.get("ended"):
        level, message = _ENDS[execution.state["ended"]]
        yield _line(_ended_at(execution), level, None, message)


def _of_step(execution: Execution, step: Step) -> Iterator[dict[str, Any]]:
    name = execution.named(step["stage"])
    about = {"agent": step["agent"], **({"branch": step["branch"]} if "branch" in step else {})}
    for failed in step.get("tried", ()):
        told = f"attempt {failed['attempt']} at {failed['agent']} failed: {failed['message']}"
        yield _line(step["timestamp"], "warning", name, told, agent=failed["agent"], error_type=failed["type"])
    yield _outcome(step, name, about)


def _skipped(execution: Execution) -> Iterator[tuple[str, str]]:
    """Yield the stages that were passed over, each with when: after the step that led past it, or what it needs."""
    for step in execution.made:
        for stage in step.get("skipped", ()):
            yield stage, end_of(step)
    for stage, how in execution.state.get("done", {}).items():
        if how == "skipped" and execution.flow:
            needed = [step for step in execution.made if step["stage"] in execution.flow.stages[stage].needs]
            yield stage, max(map(end_of, needed), default=_utc(began_at(execution) or execution.state["updated_at"]))


def _outcome(step: Step, name: str, about: dict[str, Any]) -> dict[str, Any]:
    about |= {"attempt": step.get("attempt", 1), "duration_ms": step["duration_ms"], "number": step["number"]}
    if told := step.get("resolution"):
        outcome = "not done" if told["outcome"] == "not_done" else "done"
        message = f"{told['by']} says of a write to {step['agent']} that it was {outcome}: {told['why']}"
        return _line(end_of(step), "info", name, message, **about, **told)
    if step["response_status"] == "success":
        asks = step["response_data"].get("task_state") in WAITS
        message = (
            f"{step['agent']} {'is asked' if asks and step['agent'] == PERSON else 'asks' if asks else 'answered'}"
        )
        return _line(end_of(step), "info", name, message, **about, response=step["response_data"])
    error = step["response_data"].get("error", {})
    about |= {"error_type": error.get("type")}
    return _line(end_of(step), "error", name, f"{step['agent']} failed: {error.get('message', '')}", **about)


def _line(timestamp: str, level: str, step: str | None, message: str, **facts: Any) -> dict[str, Any]:
    return {"timestamp": timestamp, "level": level, "step": step, "message": message, **facts}


def end_of(step: Step) -> str:
    ended = datetime.fromisoformat(step["timestamp"]) + timedelta(milliseconds=step["duration_ms"])
    return _utc(ended.isoformat(timespec="milliseconds"))


def _ended_at(execution: Execution) -> str:
    at: str = execution.state.get("updated_at") or execution.state["created_at"]
    return max(at, *(end_of(step) for step in execution.trail[-1:]), at)


def _utc(time: str) -> str:
    told = datetime.fromisoformat(time).astimezone(UTC).isoformat(timespec="milliseconds")
    return told.replace("+00:00", "Z")
