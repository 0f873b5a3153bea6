"""What a node asks of the world, as frozen records and Protocols: somebody who reaches an agent, somebody who
recognises an intent, and what surrounds one turn."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

TaskState = Literal[
    "submitted", "working", "input-required", "auth-required", "completed", "failed", "rejected", "canceled"
]


@dataclass(frozen=True, slots=True)
class TurnContext:
    """What surrounds one turn: not saved, and the same for every node of the run."""

    tenant: str = "default"
    deadline: float | None = None
    """On the event loop's clock, seconds."""
    language: str | None = None
    traceparent: str | None = None


@dataclass(frozen=True, slots=True)
class AgentRequest:
    """One message to one agent."""

    agent: str
    url: str
    text: str
    message_id: str
    context_id: str
    task_id: str | None
    """The remote task this message continues."""
    timeout: float
    """Seconds for the whole attempt, card and polling included."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    traceparent: str | None = None
    task_works: bool = False
    """Whether the task was still at work when the time of an earlier turn ran out: ask after it, send nothing."""


@dataclass(frozen=True, slots=True)
class FilePart:
    """A file an agent sent, by value (base64) or by address."""

    name: str | None
    media_type: str | None
    bytes: str | None = None
    url: str | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """What an agent answered, read whole."""

    text: str
    data: tuple[Any, ...] = ()
    files: tuple[FilePart, ...] = ()
    task_state: TaskState | None = None
    """None for a bare message."""
    task_id: str | None = None
    context_id: str | None = None


class AgentCaller(Protocol):
    """Somebody who can reach an agent."""

    async def call(self, request: AgentRequest) -> Reply:
        """Send the message and return the agent's final answer.

        Raises:
            nodes.remote.errors.AgentError: whatever went wrong, in one tree.
        """


@dataclass(frozen=True, slots=True)
class Utterance:
    """What a classifier may look at: the caller's words and the part of the call they fall in."""

    text: str
    stage: str
    legal: Sequence[str]
    """The intents legal at this stage, without `unknown`."""
    at_hand: Sequence[str] = ()
    """Those of them that belong to the agent the caller talked to last: the likelier ones in doubt."""
    about: str = ""
    """What the stage is for."""


@dataclass(frozen=True, slots=True)
class Guess:
    """A classifier's answer; `intent` is one of the legal ones or `unknown`."""

    intent: str
    source: Literal["llm", "triggers", "none"]


class Classifier(Protocol):
    """Somebody who recognises the caller's intent. Never raises: `unknown` is an answer."""

    async def classify(self, utterance: Utterance, *, timeout: float) -> Guess: ...
