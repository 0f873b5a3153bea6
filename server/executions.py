"""An execution is a call of a flow, told as what it is to whoever started it: where it stands, step by step.

Pure: from what the store keeps of the call, and the flow that it runs on.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from graph.flow import Flow
from graph.store.calls import CallRecord
from graph.workflows import outer_name
from nodes.jobs import PERSON
from nodes.outcome import WAITS
from nodes.spec import Stage
from nodes.state import Step

Status = Literal["running", "waiting", "completed", "failed", "canceled"]
StepStatus = Literal["pending", "running", "waiting", "completed", "skipped", "failed", "canceled"]

_NEVER_COME_TO: Mapping[str | None, StepStatus] = {
    "completed": "skipped",
    "failed": "skipped",
    "canceled": "canceled",
}
_DONE: Mapping[str, StepStatus] = {
    "answered": "completed",
    "skipped": "skipped",
    "failed": "failed",
    "fatal": "failed",
    "canceled": "canceled",
}
_AT_WORK = ("running", "waiting", "failed")


@dataclass(frozen=True, slots=True)
class Execution:
    """A call, and the flow it runs on.

    Attributes:
        id: the call's name.
        record: what the store keeps of it.
        flow: the version of the flow that it runs on; None if no service has it any more.
        is_workflow: whether the flow was made from a workflow document; then its names are told as they are there.
    """

    id: str
    record: CallRecord
    flow: Flow | None
    is_workflow: bool = False

    @property
    def state(self) -> Mapping[str, Any]:
        """What the call remembers, as committed last."""
        return self.record.state

    @property
    def flow_name(self) -> str | None:
        """The name of the flow."""
        said = self.record.opened.said if self.record.opened else {}
        name: str | None = self.state.get("flow") or said.get("flow") or (self.flow.flow if self.flow else None)
        return name

    @property
    def run(self) -> int:
        """Which run of the flow, in a call that has several."""
        run: int = self.state.get("run", 1)
        return run

    @property
    def trail(self) -> list[Step]:
        """The steps of the run, oldest first."""
        return [step for step in self.record.steps if step.get("run", 1) == self.run]

    @property
    def made(self) -> list[Step]:
        """The steps of the run that stages made, without those in which a flow with `needs` only takes stock."""
        return [step for step in self.trail if not step.get("sums_up")]

    @property
    def named(self) -> Callable[[str], str]:
        """Gives the name by which the author of the flow knows a step or a value."""
        return outer_name if self.is_workflow else str

    @property
    def status(self) -> Status:
        """Where it stands as a whole."""
        if self.state.get("ended"):
            ended: Status = self.state["ended"]
            return ended
        if self.record.opened and (self.record.opened.live or not self._calls):
            return "running"
        waits = self.state.get("asked") or self._agents_ask or self._calls or self.parked
        return "waiting" if waits or not self.has_failed else "failed"

    @property
    def is_interrupted(self) -> bool:
        """Whether the process that ran it has died, and none goes on with it yet."""
        opened = self.record.opened
        return bool(opened and not opened.live and self.status == "running")

    @property
    def parked(self) -> dict[str, str]:
        """The writes of the run of which a person has to say what came of them: their names, with their stages."""
        waiting = (record for record in self.record.effects if record.waits and record.effect.run == self.run)
        return {record.parked: record.effect.stage for record in waiting if record.parked}

    @property
    def last_error(self) -> Step | None:
        """The step that failed last, and that nothing has made good since."""
        return next((step for step in reversed(self._latest) if step["response_status"] == "error"), None)

    @property
    def response(self) -> dict[str, Any] | None:
        """What the step that ended it, or that it waits at, came to; null while it runs."""
        return self.trail[-1]["response_data"] if self.trail and self.status != "running" else None

    @property
    def timing(self) -> Mapping[str, float] | None:
        """Where the time of its last turn went; None while it runs."""
        return self.trail[-1].get("timing") if self.trail and self.status != "running" else None

    @property
    def questions(self) -> dict[str, dict[str, Any]]:
        """What it waits to be told, by the stage that asks."""
        if self.status != "waiting":
            return {}
        asked = {
            stage: {"step": self.named(stage), "question": asked["question"], "schema": asked["schema"]}
            for stage, asked in self.state.get("asked", {}).items()
        }
        agents = {
            step["stage"]: {
                "step": self.named(step["stage"]),
                "question": step["response_data"].get("text", ""),
                "schema": {"type": "string"},
            }
            for step in self._agents_ask
        }
        return {**agents, **asked}

    @property
    def question(self) -> dict[str, Any] | None:
        """The first of what it waits to be told, if it waits for somebody."""
        return next(iter(self.questions.values()), None)

    @property
    def _latest(self) -> list[Step]:
        """The last step of each stage, not those of its branches, in the order in which they were made."""
        return list({step["stage"]: step for step in self.made if "branch" not in step}.values())

    @property
    def has_failed(self) -> bool:
        """Whether the last thing that was done in it failed."""
        last = self.trail[-1:]
        return bool(last) and last[0]["response_status"] == "error"

    @property
    def _calls(self) -> bool:
        """Whether it waits for its caller between its steps, who may say it again."""
        return self.flow is not None and self.flow.waits_for == "caller"

    @property
    def _agents_ask(self) -> list[Step]:
        """The steps whose agents wait for an answer."""
        waits = (step for step in self._latest if step["response_data"].get("task_state") in WAITS)
        return [step for step in waits if self._is_at(step["stage"])]

    def status_of(self, stage: str) -> StepStatus:
        """Return where one of its steps stands."""
        steps = [step for step in self.made if step["stage"] == stage and "branch" not in step]
        if stage in self.state.get("asked", {}):
            return "canceled" if self.state.get("ended") else "waiting"
        if done := self.state.get("done", {}).get(stage):
            return _DONE[done]
        if self.status == "running" and self._is_at(stage):
            return "running"
        if stage in self.parked.values():
            return "canceled" if self.state.get("ended") else "waiting"
        if not steps:
            return "skipped" if self._was_skipped(stage) else _NEVER_COME_TO.get(self.state.get("ended"), "pending")
        if steps[-1]["response_status"] == "error":
            return "canceled" if steps[-1].get("ended") == "canceled" else "failed"
        return "waiting" if steps[-1] in self._agents_ask else "completed"

    def _is_at(self, stage: str) -> bool:
        if self.flow is not None and self.flow.is_dag:
            done = set(self.state.get("done", {}))
            return stage not in done and done.issuperset(self.flow.stages[stage].needs)
        first = next(iter(self.flow.stages), None) if self.flow else None
        return bool(self.state.get("stage", first) == stage)

    def _was_skipped(self, stage: str) -> bool:
        return any(stage in step.get("skipped", ()) for step in self.trail)

    def stages(self) -> list[str]:
        """Return the names of its stages, in the flow's order."""
        if self.flow is not None:
            return list(self.flow.stages)
        return list(dict.fromkeys(step["stage"] for step in self.made))


def document(execution: Execution) -> dict[str, Any]:
    """Return the execution as clients see it."""
    steps = steps_of(execution)
    error = execution.last_error if execution.status in ("failed", "waiting") and execution.has_failed else None
    known = execution.state.get("context", _said_first(execution))
    inputs, outputs = _names_of(execution)
    state, began = execution.state, began_at(execution)
    return {
        "execution_id": execution.id,
        **({"workflow_id": execution.flow_name} if execution.is_workflow else {}),
        "flow": execution.flow_name,
        "flow_digest": state.get("flow_digest") or (execution.flow.digest if execution.flow else None),
        "status": execution.status,
        **({"interrupted": True} if execution.is_interrupted else {}),
        "current_steps": [step["name"] for step in steps if step["status"] in _AT_WORK]
        if not _over(execution)
        else [],
        "steps": steps,
        "input_data": {execution.named(name): known.get(name) for name in inputs},
        "output_data": {execution.named(name): known[name] for name in outputs if name in known},
        "response": execution.response,
        "question": execution.question,
        "parked": list(execution.parked),
        "error": _error(execution, error) if error else None,
        "timing": execution.timing,
        "created_at": began,
        "updated_at": state.get("updated_at") or began,
    }


def began_at(execution: Execution) -> str | None:
    """Return when it began, ISO 8601."""
    state, opened = execution.state, execution.record.opened
    began: str | None = state.get("run_began_at") or state.get("created_at")
    return began or (opened.said.get("at") if opened else None)


def steps_of(execution: Execution) -> list[dict[str, Any]]:
    """Return its steps, those that are still to come among them."""
    return [_step(execution, stage) for stage in execution.stages()]


def _step(execution: Execution, stage: str) -> dict[str, Any]:
    made = [step for step in execution.made if step["stage"] == stage]
    whole = [step for step in made if "branch" not in step]
    branches = {step["branch"]: step for step in made if "branch" in step}
    declared = execution.flow.stages[stage] if execution.flow else None
    told: dict[str, Any] = {
        "name": execution.named(stage),
        "status": execution.status_of(stage),
        "agent": _agent(declared, whole),
        **(_measured(whole[-1]) if whole else {}),
    }
    if len(whole) > 1 and told["agent"] != PERSON:  # whose question is a step of its own
        told["times"] = len(whole)
    if branches:
        told["branches"] = [{"name": name, **_branch(step)} for name, step in branches.items()]
    return told


def _agent(stage: Stage | None, made: Sequence[Step]) -> str | None:
    if made:
        return made[-1]["agent"]
    return (
        (stage.agent or next((kind for kind in ("model", "person") if _asks(stage, kind)), None)) if stage else None
    )


def _asks(stage: Stage, kind: str) -> bool:
    return bool(stage.llm if kind == "model" else stage.ask)


def _branch(step: Step) -> dict[str, Any]:
    status = "completed" if step["response_status"] == "success" else "failed"
    return {"status": status, "agent": step["agent"], **_measured(step)}


def _measured(step: Step) -> dict[str, Any]:
    tried = step.get("tried", [])
    told: dict[str, Any] = {
        "started_at": step["timestamp"],
        "duration_ms": step["duration_ms"],
        "attempt": step.get("attempt", 1),
    }
    if tried:
        told["tried"] = tried
    if step["response_status"] == "error":
        told["error"] = _problem(step)
    return told


def _problem(step: Step) -> dict[str, Any]:
    error = step["response_data"].get("error", {})
    return {key: error[key] for key in ("type", "message", "retryable", "outcome") if key in error}


def _error(execution: Execution, step: Step) -> dict[str, Any]:
    return {"step": execution.named(step["stage"]), "agent": step["agent"], **_problem(step)}


def _over(execution: Execution) -> bool:
    return execution.status in ("completed", "canceled") or bool(execution.state.get("ended"))


def _said_first(execution: Execution) -> Mapping[str, Any]:
    """Return what an execution began with, while nothing of it is committed."""
    opened = execution.record.opened
    said: Mapping[str, Any] = opened.said.get("context", {}) if opened else {}
    return said


def _names_of(execution: Execution) -> tuple[list[str], list[str]]:
    """Return the names of what it was given, and of what its steps kept."""
    if execution.flow is None:
        return [], list(execution.state.get("context", {}))
    stages = execution.flow.stages.values()
    kept = [name for stage in stages for name in stage.output.values()]
    kept += [name for stage in stages for branch in stage.parallel.values() for name in branch.output.values()]
    return list(execution.flow.inputs), list(dict.fromkeys(kept))
