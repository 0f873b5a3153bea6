"""What happens in a run, as the updates of its task: the events of its turns, and what the call itself says where
there were none, because a turn was not followed or its process died."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from a2a.types import a2a_pb2 as pb

from graph.routing import Routes
from graph.store.events import Published
from nodes.state import Step
from server.a2a.runs import Run, artifacts_of, parked_of, place_of, status_of, summary_artifact
from server.a2a.wording import Json, artifact_of, message_of, metadata_of, timestamp_of, typed

Update = pb.TaskStatusUpdateEvent | pb.TaskArtifactUpdateEvent

_WHERE = {"stage": "stage", "intent_flow_id": "intentFlowId", "agent": "agent", "intent": "intent"}
"""What an update says of where it comes from, in the spelling of A2A."""


class TurnFailed(Exception):
    """The turn ended without an answer.

    Attributes:
        problem: the problem document.
    """

    def __init__(self, problem: Mapping[str, Any]) -> None:
        super().__init__(problem.get("detail", ""))
        self.problem = problem


class Teller:
    """Turns what happens in one run into updates of its task, each told once.

    It keeps no more of the run than what it needs to tell what is new: many follow runs in which nothing happens.

    Args:
        run: which it is.
        routes: the flow.
        last: the number of the run's last step that the client knows already; 0 for none.
        settled: whether the client knows the run as one that nobody works on.
    """

    def __init__(self, run: Run, routes: Routes, *, last: int = 0, settled: bool = True) -> None:
        self._run = replace(run, steps=(), opened=None, chunks=(), summary=None)
        self._routes = routes
        self._step: Step | None = None
        self._turn, self._nth = "", 0
        self._working: tuple[int, Any] = (0, None)
        self._streamed: set[str] = set()
        self.last = last
        """The number of the run's last step that was told."""
        self.settled = settled
        """Whether it was told that nobody works on the run."""

    def skip(self, event: Mapping[str, Any]) -> None:
        """Take note of an event of the run that the client knows of already."""
        self._note(event)
        if event["event"] == "state_change":
            self._working = event["step"], None
        elif event["event"] == "message_chunk":
            self._note_chunk(event)

    def follows(self, event: Mapping[str, Any]) -> bool:
        """Tell whether an event is the next of the turn that was heard last, so that nothing was missed."""
        return bool(event["turn"] == self._turn and event["nth"] == self._nth + 1)

    def can_end(self, event: Mapping[str, Any]) -> bool:
        """Tell whether an event, if it ends a turn, can be told without a look at the call."""
        return event["event"] != "turn" or self.settled or self._step is not None

    def hear(self, published: Published) -> Iterator[Update]:
        """Yield the updates that an event makes.

        Raises:
            TurnFailed: if the event says so.
        """
        event = published.event
        if event.get("run") != self._run.number:
            return
        self._note(event)
        if event["event"] == "error" and not self.settled:
            raise TurnFailed(event)
        if event["event"] == "turn" and self._step is not None:
            yield from self._end(replace(self._run, steps=[self._step], summary=event.get("session_summary")))
        elif _step_number(event) > self.last:
            yield from self._progress(published)

    def hear_parked(self, event: Mapping[str, Any]) -> Iterator[Update]:
        """Yield that a turn is over and a person has to say what came of a write, for those who read no errors."""
        self._note(event)
        if self._step is not None:
            yield from self._end(replace(self._run, steps=[self._step], parked=event["parked_ids"]))

    def is_behind(self, run: Run) -> bool:
        """Tell whether the call knows more of the run than was told."""
        return run.last > self.last or not (run.works or self.settled)

    def catch_up(self, run: Run, *, before: Published | None = None) -> Iterator[Update]:
        """Yield what the call knows and was not told: of a turn that nobody followed, or whose process died.

        Args:
            run: the run as it is now.
            before: an event that is about to be heard; what it tells of, and all after it, is left to the events.
        """
        until = _step_number(before.event) if before else 0
        for step in run.steps:
            if step["number"] > self.last and not 0 < until <= step["number"]:
                yield from self._told_step(step, but=())
        if before is None and not run.works:
            yield from self._end(run)

    def _note(self, event: Mapping[str, Any]) -> None:
        if not self.follows(event):
            self._streamed.clear()  # of what was streamed some may be missing: the step tells it whole
        if event["turn"] != self._turn:
            self._working = (0, None)
        self._turn, self._nth = event["turn"], event["nth"]

    def _note_chunk(self, event: Mapping[str, Any]) -> None:
        if not event["append"]:  # an artifact that it is appended to was heard from its beginning, or is not whole
            self._streamed.add(event["artifact"]["artifactId"])

    def _progress(self, published: Published) -> Iterator[Update]:
        event = published.event
        if event["event"] == "state_change":
            self.settled = False
            yield from self._at_work(published)
        elif event["event"] == "message_chunk":
            self.settled = False
            yield self._chunk(event)
        elif event["event"] == "step":
            yield from self._told_step(event["step"], but=self._streamed)

    def _at_work(self, published: Published) -> Iterator[Update]:
        """Tell that a stage begins, and whatever its agent says of its progress; not what was told already."""
        event = published.event
        step, parts = event["step"], event.get("message", {}).get("parts") or None
        if step == self._working[0] and parts in (None, self._working[1]):
            return
        self._working = step, parts
        at = datetime.fromtimestamp(int(published.position.partition("-")[0]) / 1000, UTC)
        status: Json = {"state": "TASK_STATE_WORKING", "timestamp": timestamp_of(at)}
        if parts:
            said, run = f"{event['step']}-{published.position}", self._run
            status["message"] = message_of("ROLE_AGENT", said, parts, context_id=run.call, task_id=run.task_id)
        yield self._status(status, _where(event, event["step"]))

    def _chunk(self, event: Mapping[str, Any]) -> Update:
        self._note_chunk(event)
        return self._artifact(artifact_of(event["artifact"]), append=event["append"], last=event["last_chunk"])

    def _told_step(self, step: Step, *, but: Collection[str]) -> Iterator[Update]:
        """Tell the answer's artifacts, those aside that were streamed as a whole."""
        self._step, self.last, self.settled = step, step["number"], False
        for artifact in artifacts_of(step):
            if artifact["artifactId"] not in but:
                yield self._whole(artifact)

    def _end(self, run: Run) -> Iterator[Update]:
        """Tell where the run stands, unless the client knows."""
        if self.settled:
            return
        self._step, self.settled = None, True
        if run.summary and not self._routes.flow.restarts:
            yield self._whole(summary_artifact(run.summary))
        last = run.steps[-1] if run.steps else None
        where = _where(last, last["number"]) if last else {}
        yield self._status(status_of(run), where | place_of(last, self._routes) | parked_of(run))

    def _whole(self, artifact: Json) -> Update:
        return self._artifact(artifact, append=False, last=True)

    def _artifact(self, artifact: Json, *, append: bool, last: bool) -> Update:
        told = {**self._named(), "artifact": artifact, "append": append, "lastChunk": last}
        return typed(told, pb.TaskArtifactUpdateEvent)

    def _status(self, status: Json, where: Json) -> Update:
        told = {**self._named(), "status": status, **({"metadata": metadata_of(where)} if where else {})}
        return typed(told, pb.TaskStatusUpdateEvent)

    def _named(self) -> Json:
        return {"taskId": self._run.task_id, "contextId": self._run.call}


def _where(told: Mapping[str, Any], step: int) -> dict[str, Any]:
    return {"step": step, **{name: told[key] for key, name in _WHERE.items() if key in told}}


def _step_number(event: Mapping[str, Any]) -> int:
    """Return which step an event tells of; 0 for one that tells of none."""
    step = event.get("step", 0)
    number: int = step["number"] if isinstance(step, Mapping) else step
    return number
