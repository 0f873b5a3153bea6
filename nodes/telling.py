"""What those who follow a turn are told while a stage is at work, through LangGraph's stream writer."""

from collections.abc import Callable, Mapping
from typing import Any

from nodes.artifacts import Artifacts
from nodes.parts import Folded, fold
from nodes.ports import Chunk, Progress


class Teller:
    """Hears what an agent does and tells of it; knows the agent's task and its pieces even if no answer comes.

    Args:
        write: takes the events; a no-op where nobody follows the turn.
        about: what every event says: which step, stage, agent and intent.
    """

    def __init__(self, write: Callable[[Any], None], about: Mapping[str, Any]) -> None:
        self._write = write
        self._about = about
        self.asked = False
        """Whether the agent was asked at all."""
        self.task_id: str | None = None
        """The agent's task, as far as it told of one."""
        self._artifacts = Artifacts()

    def begins(self) -> None:
        """Tell that the agent is about to be asked."""
        self.asked = True
        self._write({"event": "state_change", **self._about, "task_state": "working"})

    def __call__(self, news: Chunk | Progress) -> None:
        """Pass on what the agent tells."""
        self._write(self._chunk(news) if isinstance(news, Chunk) else self._progress(news))

    def so_far(self) -> Folded:
        """Return what the agent has handed over."""
        return fold(self._artifacts.all(), None)

    def _progress(self, progress: Progress) -> dict[str, Any]:
        self.task_id = progress.task_id or self.task_id
        message = {"message": {"parts": list(progress.parts)}} if progress.parts else {}
        return {"event": "state_change", **self._about, "task_state": progress.task_state, **message}

    def _chunk(self, chunk: Chunk) -> dict[str, Any]:
        self._artifacts.take(chunk.artifact, append=chunk.append)
        named = {
            **chunk.artifact,
            "artifactId": artifact_id(
                self._about.get("artifacts", self._about["step"]), chunk.artifact["artifactId"]
            ),
        }
        return {
            "event": "message_chunk",
            **self._about,
            "artifact": named,
            "append": chunk.append,
            "last_chunk": chunk.last,
        }


def artifacts_of(message_id: str) -> str:
    """Return what the ids of a step's artifacts begin with while its number is not known."""
    return message_id[:12]


def artifact_id(step: int | str, agents: str) -> str:
    """Return the id by which clients know an artifact that the agent of a step calls `agents`.

    The step goes by its number, or by its `artifacts` where it has that.
    """
    return f"{step}-{agents}"
