"""What a node asks of the world, as frozen records and Protocols: somebody who reaches an agent, somebody who
recognises an intent, and what surrounds one turn."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from pydantic import InstanceOf
from pydantic.json_schema import SkipJsonSchema

from nodes.timing import Timing

TaskState = Literal[
    "submitted", "working", "input-required", "auth-required", "completed", "failed", "rejected", "canceled"
]

Part = dict[str, Any]
"""A part of a message or an artifact as A2A 1.0 writes it in JSON: one of `text`, `raw` (base64), `url` and `data`,
with `filename`, `mediaType` and `metadata` where they were given."""


@dataclass(frozen=True, slots=True)
class Resolution:
    """What a person, or the agent asked again, said of a write whose outcome nobody knew."""

    outcome: Literal["done", "not_done"]
    by: str
    why: str
    at: str
    """ISO 8601 in UTC."""
    parked: str
    """The name by which the write was parked."""
    reply: "Reply | None" = None
    """What the agent answered, as far as that is known; for `done`."""


@dataclass(frozen=True, slots=True)
class Effect:
    """A write that was sent, or is about to be, and whose outcome is not saved yet."""

    message_id: str
    agent: str
    where: str
    """The stage, or the stage and the branch (`stage/branch`)."""
    stage: str
    intent: str
    context_id: str
    task_id: str | None
    """The remote task that the message continues."""
    body: str
    """A hash of what is said in it."""
    sent_at: str
    """Just before it left, ISO 8601 in UTC."""
    after: int
    """How many steps the call had then."""
    run: int
    resolution: Resolution | None = None
    url: str = ""
    """The endpoint that it was sent to, without credentials; empty for one written down before version 0.2."""


class Effects(Protocol):
    """What is written down of the writes of a call: before they are sent, and until their outcomes are saved."""

    async def ready(self, after: int) -> None:
        """Return once the call is saved up to so many steps: what came of a write is, before the next one leaves."""

    def waiting(self) -> Sequence[str]:
        """Return the names of the call's writes that wait for a person: until they are settled it makes no other."""

    def must_be_known(self) -> None:
        """Refuse every further write while another of the call has an outcome that nobody knows.

        Raises:
            Exception: of the store; the turn ends.
        """

    def left_at(self, where: str, agent: str) -> Effect | None:
        """Return the write that was sent there by an earlier turn, if nobody knows yet what came of it."""

    async def sending(self, effect: Effect) -> float:
        """Write down that a write is about to leave; return until when it may, on the monotonic clock: later, another
        turn may have taken over.

        Raises:
            Exception: of the store, if it may not, as another turn has taken over. Then nothing is sent, and the
                turn ends.
        """

    def settled(self, message_id: str, *, acted: bool = True) -> None:
        """Note that it is known what came of a write; the record goes as soon as that is saved.

        Args:
            message_id: of the write.
            acted: False if its agent certainly did not act on it.
        """

    def parked(self, effect: Effect) -> str:
        """Note that nobody can know what came of a write, and return the name by which it is settled later."""


@dataclass(frozen=True, slots=True)
class TurnContext:
    """What surrounds one turn: not saved, and the same for every node of the run."""

    tenant: str = "default"
    deadline: float | None = None
    """On the event loop's clock, seconds."""
    language: str | None = None
    traceparent: str | None = None
    streams: bool = False
    """Whether somebody follows the turn: agents that can stream are asked to, and what they send is passed on."""
    cancel: SkipJsonSchema[InstanceOf[asyncio.Event] | None] = None
    """Set when the call is to end now: the agent at work is told, and nobody else is asked."""
    interrupts: bool = True
    """Whether a question to a person is LangGraph's `interrupt`, to be resumed; else the turn ends with the question
    and another turn brings the answer."""
    effects: SkipJsonSchema[InstanceOf[object] | None] = None
    """What is written down of writes (`Effects`); None where nobody keeps it."""
    timing: SkipJsonSchema[InstanceOf[Timing] | None] = None
    """Is told where the time goes."""


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
    parts: tuple[Part, ...] = ()
    """What the caller sent, if that is more than one text; it goes in place of `text`."""
    streams: bool = False
    """Whether the agent is asked to stream, if its card says that it can."""
    leave_by: float | None = None
    """Until when the message may be sent, on the monotonic clock; None for any time."""


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
    layout: Mapping[str, Any] | None = None
    """How text, data and files were laid out in artifacts and message (`nodes.parts`); None for plain text."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of an artifact, told as the agent streams it."""

    artifact: Mapping[str, Any]
    """As A2A 1.0 writes it in JSON: `artifactId`, `parts`, and `name`, `description`, `metadata`, `extensions`."""
    append: bool
    """Whether its parts continue those of the artifact with the same id."""
    last: bool


@dataclass(frozen=True, slots=True)
class Progress:
    """Where the agent's task stands while the agent is at work."""

    task_id: str
    task_state: TaskState
    parts: tuple[Part, ...] = ()
    """What the agent says of it."""


Tell = Callable[[Chunk | Progress], None]
"""Is told what an agent does while it is at work; returns at once."""


class AgentCaller(Protocol):
    """Somebody who can reach an agent."""

    async def call(self, request: AgentRequest, tell: Tell | None = None) -> Reply:
        """Send the message and return the agent's final answer; `tell` hears what happens until then.

        Raises:
            nodes.remote.errors.AgentError: whatever went wrong, in one tree.
        """

    async def cancel(self, request: AgentRequest) -> TaskState | None:
        """Cancel the task that `request` names, or else what the agent has open in the request's context.

        Returns the state the task is in afterwards; None if there is no such task, or the agent would not cancel it.

        Raises:
            nodes.remote.errors.AgentError: whatever went wrong, in one tree.
        """

    async def find(self, request: AgentRequest) -> Reply | None:
        """Return what became of a message that was sent before, by its `message_id`; never send it.

        Waits, within `request.timeout`, for a task that is still at work. None if the agent knows nothing of the
        message, or cannot be asked about it.

        Raises:
            nodes.remote.errors.AgentError: whatever went wrong, in one tree; `acted` is None in each of them.
        """


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """One question to a model."""

    prompt: str
    system: str | None
    schema: Mapping[str, Any] | None
    """The JSON Schema of the answer that is wanted; None for text."""
    model: str | None
    """Which model; None for the one that is configured."""
    temperature: float | None
    max_tokens: int | None
    timeout: float
    """Seconds."""


class Model(Protocol):
    """Somebody who can reach a language model."""

    @property
    def url(self) -> str:
        """Where it answers, without credentials."""

    async def complete(self, request: ModelRequest) -> str:
        """Return what the model says.

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
    several: bool = False
    """Whether the caller may want several things at once."""


@dataclass(frozen=True, slots=True)
class Guess:
    """A classifier's answer; `intent` is one of the legal ones or `unknown`."""

    intent: str
    source: Literal["llm", "triggers", "none"]
    further: Sequence[str] = ()
    """What else the caller wants, in the order of the words, if that was asked for."""
    confidence: float | None = None
    """How sure a model says it is, from 0 to 1."""
    because: Sequence[str] = ()
    """The triggers that were found, as the flow writes them; where a model gave no answer, why."""


class Classifier(Protocol):
    """Somebody who recognises the caller's intent. Never raises: `unknown` is an answer."""

    async def classify(self, utterance: Utterance, *, timeout: float) -> Guess: ...
