"""An agent's work on one message: what it streams, or answers when asked, folded into one task and told on; and the
patience to ask until it is done."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from nodes.artifacts import Artifacts
from nodes.parts import Json, Unreadable, as_object, read_artifact, read_said
from nodes.ports import AgentRequest, Chunk, Progress, Reply, Tell
from nodes.remote.dialect import (
    AT_WORK,
    WAITS,
    Dialect,
    read_event,
    read_message,
    read_state,
    read_task,
    read_task_id,
)
from nodes.remote.errors import Disconnected, HttpFailed, Unreachable

_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0

Told = TypeVar("Told")


class Patience:
    """Asks after a task, with pauses that grow; whoever uses it bounds the time."""

    def __init__(self) -> None:
        self._pause = _FIRST_PAUSE

    async def ask(self, asking: Callable[[], Awaitable[Told]]) -> Told:
        """Return what is told after a pause.

        Raises:
            AgentError: if asking again would not help.
        """
        while True:
            await asyncio.sleep(self._pause)
            self._pause = min(self._pause * 2, _LONGEST_PAUSE)
            try:
                return await asking()
            except (Unreachable, Disconnected, HttpFailed) as error:
                if not error.retryable:
                    raise
                # Asking changes nothing, so it may be asked again until the time is up.


class Work:
    """What is known of the work so far.

    Args:
        request: what the agent was asked.
        tell: hears of every piece of an artifact, and of every change while the agent is at work.

    Attributes:
        task_id: the agent's task, once it has begun one: known even if the time runs out.
    """

    def __init__(self, request: AgentRequest, tell: Tell | None) -> None:
        self.task_id = request.task_id if request.task_works else None
        self._continues = request.task_id is not None
        self._tell = tell
        self._task: Json = {}
        self._artifacts = Artifacts()
        self._status: Any = None

    def hear(self, result: Any, dialect: Dialect) -> Reply | None:
        """Take in one event of a stream; return the final answer, if the event makes it one.

        Raises:
            Unreadable: if it is no event, or tells of another task.
        """
        happened, event = read_event(result, dialect)
        if happened == "message":
            return read_message(event)
        if happened == "task":
            return self._hear_snapshot(event)
        self._name(event.get("taskId"), event.get("contextId"))
        if happened == "status":
            return self._move(event.get("status"))
        if self._status is None:
            self._move({"state": "working"})
        self._take(event)
        return None

    def hear_task(self, result: Any) -> Reply | None:
        """Take in the task as it is now; return the final answer, if the agent is no longer at work.

        Raises:
            Unreadable: if it is no task, or another one.
        """
        task = as_object(result, "the task")
        read = read_task(task)
        self._name(read.task_id, task.get("contextId"))
        artifacts = [
            read_artifact(artifact, number) for number, artifact in enumerate(task.get("artifacts") or (), 1)
        ]
        done = read.task_state not in AT_WORK
        if not done and task["status"] != self._status:
            self._move(task["status"])
        for artifact in self._artifacts.replace(artifacts):
            self._say(Chunk(artifact, append=False, last=done))
        return read if done else None

    def _hear_snapshot(self, task: Json) -> Reply | None:
        reply = self.hear_task(task)
        # A stream that continues a task may begin with the task as it was before.
        if reply is not None and reply.task_state in WAITS and self._continues:
            return None
        return reply

    def _name(self, task_id: Any, context_id: Any) -> None:
        if self.task_id not in (None, read_task_id(task_id)):
            raise Unreadable("it tells of another task")
        self.task_id = task_id
        self._task |= {"id": task_id, "contextId": context_id or self._task.get("contextId")}

    def _move(self, status: Any) -> Reply | None:
        fields = as_object(status, "the task's status")
        state = read_state(fields)
        if state not in AT_WORK:
            return read_task({**self._task, "status": fields, "artifacts": self._artifacts.all()})
        said = read_said(fields["message"])["parts"] if fields.get("message") else []
        self._status = fields
        self._say(Progress(read_task_id(self.task_id), state, tuple(said)))
        return None

    def _take(self, update: Json) -> None:
        """Take in a new artifact, another in its place, or what continues it."""
        artifact = read_artifact(update.get("artifact"))
        continues = self._artifacts.take(artifact, append=update.get("append") is True)
        self._say(Chunk(artifact, continues, update.get("lastChunk") is True))

    def _say(self, piece: Chunk | Progress) -> None:
        if self._tell is not None:
            self._tell(piece)
