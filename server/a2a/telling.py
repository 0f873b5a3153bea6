"""What happens in a run, as the updates of its task: the events of its turns, and what the call itself says where
there were none, because a turn was not followed or its process died."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from a2a.types import a2a_pb2 as pb

from graph.store.events import Published
from nodes.state import Step
from server.a2a.runs import Run, artifacts_of, status_of, summary_artifact
from server.a2a.wording import artifact_of, message_of, struct_of, timestamp_of

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

    Args:
        run: the run as the client knows it already.
        restarts: whether the flow does; then there is no summary to tell.
    """

    def __init__(self, run: Run, *, restarts: bool) -> None:
        self._run = run
        self._restarts = restarts
        self._working_on: tuple[str, int] | None = None
        self._streamed = {(event["turn"], event["artifact"]["artifactId"]) for event in run.chunks}
        self.settled = not run.works
        """Whether the client knows the run as one that nobody works on."""

    @property
    def known(self) -> int:
        """How many steps of the run were told."""
        return len(self._run.steps)

    def hear(self, published: Published) -> Iterator[Update]:
        """Yield the updates that an event makes.

        Raises:
            TurnFailed: if the event says so.
        """
        event = published.event
        if event.get("run") != self._run.number:
            return
        if event["event"] == "turn":
            yield from self._end(replace(self._run, opened=None, summary=event.get("session_summary")))
        elif event["event"] == "error" and not self.settled:
            raise TurnFailed(event)
        elif _step_number(event) > self._last:
            yield from self._progress(published)

    def is_behind(self, run: Run) -> bool:
        """Tell whether the call knows more of the run than was told."""
        return len(run.steps) > self.known or not (run.works or self.settled)

    def catch_up(self, run: Run, *, before: Published | None = None) -> Iterator[Update]:
        """Yield what the call knows and was not told: of a turn that nobody followed, or whose process died.

        Args:
            run: the run as it is now.
            before: an event that is about to be heard; what it tells of, and all after it, is left to the events.
        """
        until = _step_number(before.event) if before else 0
        for step in run.steps:
            if step["number"] > self._last and not 0 < until <= step["number"]:
                yield from self._step(step, None)
        if before is None and not run.works:
            yield from self._end(run)

    @property
    def _last(self) -> int:
        return self._run.steps[-1]["number"] if self._run.steps else 0

    def _progress(self, published: Published) -> Iterator[Update]:
        event = published.event
        if event["event"] == "state_change":
            self.settled = False
            yield from self._working(published)
        elif event["event"] == "message_chunk":
            self.settled = False
            yield self._chunk(event)
        elif event["event"] == "step":
            yield from self._step(event["step"], event["turn"])

    def _working(self, published: Published) -> Iterator[Update]:
        """Tell that a stage begins, and whatever its agent says of its progress."""
        event = published.event
        parts = event.get("message", {}).get("parts")
        if self._working_on == (event["turn"], event["step"]) and not parts:
            return
        self._working_on = event["turn"], event["step"]
        said = f"{event['step']}-{published.position}"
        message = parts and message_of(
            pb.ROLE_AGENT, said, parts, context_id=self._run.call, task_id=self._run.task_id
        )
        at = datetime.fromtimestamp(int(published.position.partition("-")[0]) / 1000, UTC)
        status = pb.TaskStatus(state=pb.TASK_STATE_WORKING, message=message or None, timestamp=timestamp_of(at))
        yield self._status(status, _where(event, event["step"]))

    def _chunk(self, event: Mapping[str, Any]) -> Update:
        self._streamed.add((event["turn"], event["artifact"]["artifactId"]))
        return pb.TaskArtifactUpdateEvent(
            task_id=self._run.task_id,
            context_id=self._run.call,
            artifact=artifact_of(event["artifact"]),
            append=event["append"],
            last_chunk=event["last_chunk"],
        )

    def _step(self, step: Step, turn: str | None) -> Iterator[Update]:
        """Tell the answer's artifacts, those aside that were streamed in the same turn."""
        self._run = replace(self._run, steps=[*self._run.steps, step], opened=None)
        self.settled = False
        for artifact in artifacts_of(step):
            if (turn, artifact.artifact_id) not in self._streamed:
                yield self._whole(artifact)

    def _end(self, run: Run) -> Iterator[Update]:
        """Tell where the run stands, unless the client knows."""
        if self.settled:
            return
        self.settled = True
        if run.summary and not self._restarts:
            yield self._whole(summary_artifact(run.summary))
        last = run.steps[-1] if run.steps else None
        yield self._status(status_of(run), _where(last, last["number"]) if last else {})

    def _whole(self, artifact: pb.Artifact) -> Update:
        return pb.TaskArtifactUpdateEvent(
            task_id=self._run.task_id, context_id=self._run.call, artifact=artifact, last_chunk=True
        )

    def _status(self, status: pb.TaskStatus, where: Mapping[str, Any]) -> Update:
        return pb.TaskStatusUpdateEvent(
            task_id=self._run.task_id, context_id=self._run.call, status=status, metadata=struct_of(where)
        )


def _where(told: Mapping[str, Any], step: int) -> dict[str, Any]:
    return {"step": step, **{name: told[key] for key, name in _WHERE.items() if key in told}}


def _step_number(event: Mapping[str, Any]) -> int:
    """Return which step an event tells of; 0 for one that tells of none."""
    step = event.get("step", 0)
    number: int = step["number"] if isinstance(step, Mapping) else step
    return number
