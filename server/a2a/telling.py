"""What happens in a run, as the updates of its task: the events of its turns, and what the call itself says where
there were none, because a turn was not followed or its process died."""

from collections.abc import Iterator, Mapping
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
        self._known = len(run.steps)
        self._working_on = 0
        self._streamed: set[str] = {event["artifact"]["artifactId"] for event in run.chunks}

    @property
    def known(self) -> int:
        """How many steps of the run were told."""
        return self._known

    def hear(self, published: Published) -> Iterator[Update]:
        """Yield the updates that an event makes.

        Raises:
            TurnFailed: if the event says so.
        """
        event = published.event
        if event.get("run") != self._run.number:
            return
        if event["event"] == "state_change":
            yield from self._working(published)
        elif event["event"] == "message_chunk":
            yield self._chunk(event)
        elif event["event"] == "step":
            yield from self._step(event["step"])
        elif event["event"] == "turn":
            yield from self._end(event.get("session_summary"))
        elif event["event"] == "error":
            raise TurnFailed(event)

    def catch_up(self, run: Run) -> Iterator[Update]:
        """Yield what the call knows and was not told: of a turn that nobody followed, or whose process died."""
        if run.works or len(run.steps) <= self._known:
            return
        for step in run.steps[self._known :]:
            yield from self._step(step)
        yield from self._end(run.summary)

    def _working(self, published: Published) -> Iterator[Update]:
        """Tell that a stage begins, and whatever its agent says of its progress."""
        event = published.event
        parts = event.get("message", {}).get("parts")
        if event["step"] == self._working_on and not parts:
            return
        self._working_on = event["step"]
        said = f"{event['step']}-{published.position}"
        message = parts and message_of(
            pb.ROLE_AGENT, said, parts, context_id=self._run.call, task_id=self._run.task_id
        )
        at = datetime.fromtimestamp(int(published.position.partition("-")[0]) / 1000, UTC)
        status = pb.TaskStatus(state=pb.TASK_STATE_WORKING, message=message or None, timestamp=timestamp_of(at))
        yield self._status(status, _where(event, event["step"]))

    def _chunk(self, event: Mapping[str, Any]) -> Update:
        self._streamed.add(event["artifact"]["artifactId"])
        return pb.TaskArtifactUpdateEvent(
            task_id=self._run.task_id,
            context_id=self._run.call,
            artifact=artifact_of(event["artifact"]),
            append=event["append"],
            last_chunk=event["last_chunk"],
        )

    def _step(self, step: Step) -> Iterator[Update]:
        """Tell the answer's artifacts, those aside that were streamed."""
        if step.get("run", 1) != self._run.number or any(
            step["number"] == known["number"] for known in self._run.steps
        ):
            return
        self._run = Run(self._run.call, self._run.number, self._run.incarnation, [*self._run.steps, step])
        self._known += 1
        for artifact in artifacts_of(step):
            if artifact.artifact_id not in self._streamed:
                yield self._whole(artifact)

    def _end(self, summary: Mapping[str, Any] | None) -> Iterator[Update]:
        if summary and not self._restarts:
            yield self._whole(summary_artifact(summary))
        last = self._run.steps[-1] if self._run.steps else None
        yield self._status(status_of(self._run), _where(last, last["number"]) if last else {})

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
