"""What came of asking, as a value."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from nodes.parts import Folded
from nodes.ports import Reply, Resolution
from nodes.reaching.choices import Candidate
from nodes.remote.errors import AgentError
from nodes.state import Tried

WAITS = ("input-required", "auth-required")
FAILED = ("failed", "rejected", "canceled")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of asking: a reply, or the error in its place."""

    reply: Reply | None
    error: AgentError | None
    started: str
    duration_ms: float
    so_far: Folded | None = None
    """What the agent had handed over before the error."""
    attempt: int = 1
    """Which attempt it is the outcome of."""
    tried: tuple[Tried, ...] = ()
    """The attempts that failed before."""
    results: Any = None
    """What those answered who were asked at once, by branch or in the list's order; also where some failed."""
    stays: bool = False
    """Whether the stage waits on whatever its `on_error` says."""
    parked: str | None = None
    """The name by which a write is settled later of which nobody can know what came of it."""
    resolution: Resolution | None = None
    """What a person said came of a write, if it is that which is the outcome."""
    held_by: str | None = None
    """The parked write that has to be settled before this one may be sent."""
    version: str | None = None
    """The version of the agent that was asked last."""
    candidates: tuple[Candidate, ...] = ()
    """The endpoints that could have been asked, where there were several."""
    again: bool = False
    """Whether it is a write that the caller may ask for again whatever came of it."""

    @property
    def waits(self) -> bool:
        """Whether an agent, or a person, waits for the caller."""
        return self.stays or (self.reply is not None and self.reply.task_state in WAITS)

    @property
    def succeeded(self) -> bool:
        """Whether there is an answer that is no failure."""
        return self.reply is not None and self.reply.task_state not in FAILED

    def answer(self) -> dict[str, Any]:
        """Return the answer as expressions read it."""
        if self.reply is None:
            kind, message = (self.error.kind, str(self.error)) if self.error else ("agent_error", "no answer")
            told = {"type": kind, "message": message, "retryable": not self.error or self.error.retryable}
            data = self.results or {}
            return {"status": "error", "text": "", "data": data, "files": [], "task_state": None, "error": told}
        return _answer(self.reply)


def _answer(reply: Reply) -> dict[str, Any]:
    failed = reply.task_state in FAILED
    return {
        "status": "error" if failed else "success",
        "text": reply.text,
        "data": _data(reply.data),
        "files": [{"name": file.name, "media_type": file.media_type, "url": file.url} for file in reply.files],
        "task_state": reply.task_state,
        "error": {"type": f"task_{reply.task_state}", "message": reply.text, "retryable": True} if failed else None,
    }


def _data(parts: tuple[Any, ...]) -> Any:
    """Return what the data parts say: all objects as one, or else the first part; {} if there is none."""
    if all(isinstance(part, Mapping) for part in parts):
        return {key: value for part in parts for key, value in part.items()}
    return parts[0]


def now() -> str:
    """Return the time, ISO 8601 in UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
