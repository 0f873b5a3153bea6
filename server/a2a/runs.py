"""A task is a run of the flow: read from the call's steps and its open turn, never kept twice. Pure.

Tasks are JSON-native, as A2A 1.0 writes them; what else they are written as is made of that.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from a2a.types import a2a_pb2 as pb

from graph.routing import Routes
from graph.store.calls import CallRecord, OpenedTurn
from nodes.jobs import ALL
from nodes.parts import unfold
from nodes.ports import Part
from nodes.state import Step
from nodes.steps import response_text
from nodes.telling import artifact_id
from server.a2a.wording import Json, artifact_of, message_of, metadata_of, timestamp_of, typed

_TAG_LENGTH = 16
_ENDED = {"canceled": "TASK_STATE_CANCELED", "failed": "TASK_STATE_FAILED"}
_OF_A_FAILED_AGENT = {"rejected": "TASK_STATE_REJECTED", "canceled": "TASK_STATE_CANCELED"}
_WAITING = ("input-required", "auth-required")
_NOT_ANSWERED = "The last message was not answered; send it again."
_A_PERSON_DECIDES = (
    "It is not known whether {agent} did what it was asked to do. It is not asked again; a person has to find out "
    "and say so ({parked}). Until then nothing else is changed here; whatever changes nothing can be asked for."
)


@dataclass(frozen=True, slots=True)
class TaskName:
    """Which run of which call a task id names."""

    call: str
    run: int
    tag: str

    def fits(self, incarnation: str) -> bool:
        """Tell whether that call is the one meant, and not another that was given the same name later."""
        return self.tag == _tag(incarnation, self.run)


def task_id(call: str, run: int, incarnation: str) -> str:
    """Return the id of a run as a task: it says where to find it, and cannot be guessed."""
    return f"{call}.{run}.{_tag(incarnation, run)}"


def read_task_id(text: str) -> TaskName | None:
    """Return what a task id names; None if it is none of ours."""
    call, _, rest = text.rpartition(".")
    call, _, run = call.rpartition(".")
    if not call or not run.isascii() or not run.isdigit() or run != str(int(run[:9])) or len(rest) != _TAG_LENGTH:
        return None
    return TaskName(call, int(run), rest)


def _tag(incarnation: str, run: int) -> str:
    return hashlib.sha256(f"{incarnation}.{run}".encode()).hexdigest()[:_TAG_LENGTH]


@dataclass(frozen=True, slots=True)
class Run:
    """A run of the flow, as far as it has come."""

    call: str
    number: int
    incarnation: str
    steps: Sequence[Step]
    opened: OpenedTurn | None = None
    """The turn that is open in it, or was when its process died."""
    chunks: Sequence[Mapping[str, Any]] = ()
    """What an agent streamed in the open turn: the events, in order."""
    summary: Mapping[str, Any] | None = field(default=None, compare=False)
    version: str = field(default="", compare=False)
    """The version of the flow that its call is on, as the store notes it."""
    parked: Sequence[str] = field(default=(), compare=False)
    """Its writes of which a person has to say what came of them, by the names by which they are settled."""
    task_id: str = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "task_id", task_id(self.call, self.number, self.incarnation))

    @property
    def works(self) -> bool:
        return self.opened is not None and self.opened.live

    @property
    def last(self) -> int:
        """The number of its last step; 0 before there is one."""
        return self.steps[-1]["number"] if self.steps else 0


def runs_of(call: str, record: CallRecord, *, restarts: bool) -> list[Run]:
    """Return the runs of a call, oldest first; the open turn belongs to the last of them."""
    grouped: dict[int, list[Step]] = {}
    for step in record.steps:
        grouped.setdefault(step.get("run", 1), []).append(step)
    opened_in = _opened_in(grouped, restarts) if record.opened else None
    if opened_in:
        grouped.setdefault(opened_in, [])
    summarised = record.state.get("run", 1)
    return [
        Run(
            call,
            number,
            record.incarnation,
            steps,
            record.opened if number == opened_in else None,
            summary=record.state.get("session_summary") if number == summarised else None,
            version=record.version,
            parked=_parked_in(record, number),
        )
        for number, steps in grouped.items()
    ]


def run_since(name: TaskName, record: CallRecord) -> Run:
    """Return a run that had not ended, from a record that has only the call's later steps."""
    steps = [step for step in record.steps if step.get("run", 1) == name.run]
    opened = None if steps and _is_over(steps[-1]) else record.opened
    parked = _parked_in(record, name.run)
    return Run(name.call, name.run, record.incarnation, steps, opened, version=record.version, parked=parked)


def flow_of(record: CallRecord) -> str | None:
    """Return the flow that the call belongs to; None if the record does not say."""
    of_step: Any = record.steps[-1].get("flow") if record.steps else None
    of_turn: Any = record.opened.said.get("flow") if record.opened and not record.steps else None
    flow: str | None = record.state.get("flow") or of_step or of_turn
    return flow


def _parked_in(record: CallRecord, run: int) -> list[str]:
    return [one.parked for one in record.effects if one.waits and one.parked and one.effect.run == run]


def _opened_in(grouped: Mapping[int, Sequence[Step]], restarts: bool) -> int | None:
    """Return the run that the open turn belongs to; None if the call has ended, and the turn will be refused."""
    last = max(grouped, default=0)
    if not last:
        return 1
    if not _is_over(grouped[last][-1]):
        return last
    return last + 1 if restarts else None


def as_task(run: Run, routes: Routes) -> pb.Task:
    """Return the run as a task of `a2a-sdk`."""
    return typed(task_of(run, routes), pb.Task)


def task_of(run: Run, routes: Routes) -> Json:
    """Return the run as a task, with its whole history and all its artifacts."""
    status = status_of(run)
    artifacts, history = [*_artifacts(run, routes)], [*_history(run)]
    if "message" in status and history and history[-1]["messageId"] == status["message"]["messageId"]:
        history.pop()  # what the agent said last is the status; it joins the history when somebody answers
    return {
        "id": run.task_id,
        "contextId": run.call,
        "status": status,
        **({"artifacts": artifacts} if artifacts else {}),
        **({"history": history} if history else {}),
        "metadata": metadata_of(place_of(run.steps[-1] if run.steps else None, routes) | parked_of(run)),
    }


def status_of(run: Run) -> Json:
    """Return where the run stands."""
    if run.works and run.opened is not None:
        return {"state": "TASK_STATE_WORKING", "timestamp": timestamp_of(_moment(run.opened.said["at"]))}
    if not run.steps:
        at = _moment(run.opened.said["at"]) if run.opened else datetime.now(UTC)
        said = [{"text": _NOT_ANSWERED}]
        message = _message(run, "ROLE_AGENT", f"{run.task_id}-unanswered", said)
        return {"state": "TASK_STATE_INPUT_REQUIRED", "message": message, "timestamp": timestamp_of(at)}
    last = run.steps[-1]
    answered = agent_message(run, last)
    return {
        "state": _state_after(last),
        **({"message": answered} if answered else {}),
        "timestamp": timestamp_of(_end_of(last)),
    }


def updated_at(run: Run) -> datetime:
    """Return when the run's status last changed."""
    if run.opened is not None and (run.works or not run.steps):
        return _moment(run.opened.said["at"])
    return _end_of(run.steps[-1])


def agent_message(run: Run, step: Step) -> Json | None:
    """Return what the agent said in the step, or what went wrong; None if it said nothing.

    Where the run goes on, the caller has to be told something: without a message, the text of its artifacts.
    """
    response = step["response_data"]
    _, message = unfold(response, step.get("layout"))
    said, error = message or {}, response.get("error")
    parts = said.get("parts") or ()
    if error and not _is_over(step) and (waits := _waits_for_a_person(run, step)):
        parts = [{"text": waits}]
    if not parts and (error or not _is_over(step)):
        text = response_text(response)
        parts = [{"text": text}] if text else ()
    if not parts:
        return None
    return message_of(
        "ROLE_AGENT",
        f"{step['message_id']}-answer",
        parts,
        context_id=run.call,
        task_id=run.task_id,
        metadata={**(said.get("metadata") or {}), **({"error": error} if error else {})},
        extensions=said.get("extensions") or (),
    )


def parked_of(run: Run) -> dict[str, Any]:
    """Say which writes wait for a person, if any do."""
    return {"parked": list(run.parked)} if run.parked else {}


def _waits_for_a_person(run: Run, step: Step) -> str | None:
    """Return what is to be said of a run that waits for a person because of its last step; None if it does not."""
    if not run.parked or step["number"] != run.last:
        return None
    agent = "one of those asked" if step["agent"] == ALL else f"agent {step['agent']!r}"
    return _A_PERSON_DECIDES.format(agent=agent, parked=", ".join(run.parked))


def artifacts_of(step: Step) -> list[Json]:
    """Return the artifacts of the step's answer: the agent's own, or its message as one where that is the result."""
    response = step["response_data"]
    artifacts, said = unfold(response, step.get("layout"))
    if not artifacts and said and step["response_status"] == "success" and response.get("task_state") not in _WAITING:
        artifacts = [{"artifactId": "answer", "name": step["stage"], "parts": said.get("parts") or []}]
    named = step.get("artifacts", step["number"])
    return [
        artifact_of({**artifact, "artifactId": artifact_id(named, artifact["artifactId"])}) for artifact in artifacts
    ]


def summary_artifact(summary: Mapping[str, Any]) -> Json:
    """Return the summary of a completed call, without the audit trail, as its last artifact."""
    kept = {key: value for key, value in summary.items() if key != "steps"}
    return artifact_of({"artifactId": "summary", "name": "session_summary", "parts": [{"data": kept}]})


def bare_message(run: Run) -> Json | None:
    """Return the agent's message where the whole run was just that; None where there is a task to speak of."""
    if len(run.steps) != 1 or run.steps[0].get("ended") != "completed":
        return None
    step = run.steps[0]
    if step["response_data"].get("task_state"):
        return None
    message = agent_message(run, step)
    if message is not None:
        del message["taskId"]
    return message


def _is_over(step: Step) -> bool:
    return bool(step.get("ended") or step["is_complete"])


def _state_after(step: Step) -> str:
    told = step["response_data"].get("task_state")
    if step.get("ended") == "completed" or step["is_complete"]:
        return "TASK_STATE_COMPLETED"
    if step.get("ended") == "failed" and told in _OF_A_FAILED_AGENT:
        return _OF_A_FAILED_AGENT[told]
    if step.get("ended"):
        return _ENDED[step["ended"]]
    return "TASK_STATE_AUTH_REQUIRED" if told == "auth-required" else "TASK_STATE_INPUT_REQUIRED"


def _history(run: Run) -> Iterator[Json]:
    for step in run.steps:
        said = step.get("parts") or ([{"text": step["input_message"]}] if step["input_message"] else [])
        if said:
            yield _message(run, "ROLE_USER", step.get("caller_message_id") or f"{step['message_id']}-caller", said)
        answered = agent_message(run, step)
        if answered is not None:
            yield answered
    if run.opened is not None:
        yield from _open_message(run, run.opened.said)


def _open_message(run: Run, said: Mapping[str, Any]) -> Iterator[Json]:
    text = said.get("input_message")
    parts = said.get("parts") or ([{"text": text}] if text else [])
    if parts:
        yield _message(run, "ROLE_USER", said.get("caller_message_id") or f"{run.task_id}-caller", parts)


def _message(run: Run, role: str, message_id: str, parts: Sequence[Part]) -> Json:
    return message_of(role, message_id, parts, context_id=run.call, task_id=run.task_id)


def _artifacts(run: Run, routes: Routes) -> Iterator[Json]:
    for step in run.steps:
        yield from artifacts_of(step)
    streamed: dict[str, Json] = {}
    for event in run.chunks:
        piece = artifact_of(event["artifact"])
        if event["append"] and (begun := streamed.get(piece["artifactId"])):
            piece = begun | ({"parts": [*begun.get("parts", ()), *piece["parts"]]} if "parts" in piece else {})
        streamed[piece["artifactId"]] = piece
    yield from streamed.values()
    if run.summary and not routes.flow.restarts:
        yield summary_artifact(run.summary)


def place_of(last: Step | None, routes: Routes) -> dict[str, Any]:
    """Say where the call is after its last step, and what it may be sent: for clients that name intents."""
    if last is not None and _is_over(last):
        return {"flow": routes.flow.flow, "stage": last["stage"], "intentFlowId": last["intent_flow_id"]}
    following = last["next_flow_id"] if last else routes.first.id
    place = next((place for place in routes.places.values() if place.id == following), routes.first)
    told = {"flow": routes.flow.flow, "stage": place.name, "intentFlowId": place.id}
    return told | ({"legalIntents": routes.legal_intents(place.stage)} if place.stage.intents else {})


def _end_of(step: Step) -> datetime:
    return _moment(step["timestamp"]) + timedelta(milliseconds=step["duration_ms"])


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)
