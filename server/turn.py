"""What a turn is to the doors: the message as it comes in, the turn as it was taken, and who is told of it."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from graph.routing import Routes
from graph.store.calls import CallRecord, OpenedTurn, OpenTurn
from graph.trail import answer, full_summary
from nodes.ports import Part
from nodes.runs import has_ended
from nodes.state import CallInput, Step
from nodes.timing import Timing
from server.problems import KeyReused

NOT_SAID = "unknown"
"""What is recorded as account or eci of a call whose caller never said."""
NO_ANSWER: Any = object()
"""Stands for the answer of a message that brings none: null may be an answer."""
NO_STAGE = "-"
"""Stands for the stage whose question a message answers, if it answers none: no stage can be called so."""
_REMEMBERED = (
    *("account_id", "eci", "intent", "language", "metadata", "parts", "caller_message_id", "key"),
    *("run", "context", "further_intents", "answer_for", "body"),
)
"""What is said of an open turn besides the message, where there is something to say."""
_WORDS = ("input_message", "account_id", "eci", "intent", "metadata", "parts", "context", "further_intents", "answer")
"""What makes a message another one, where it has no key."""


@dataclass(frozen=True, slots=True)
class TurnRequest:
    """One message from the caller, as any door hands it over."""

    call_identify_id: str
    account_id: str | None
    """None if the caller does not say."""
    eci: str | None
    input_message: str
    intent: str | None = None
    language: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    traceparent: str | None = None
    parts: Sequence[Part] = ()
    """The message as it came, if it is more than one text."""
    caller_message_id: str | None = None
    key: str | None = None
    """Names this very message: it is answered once, however often it is sent."""
    body: str = ""
    """A hash of what it says, where its key is of the client's own making: under the same one may come another."""
    deadline: float | None = None
    """Seconds within which the client wants its answer, from when the message came in; None for any time."""
    waits: bool = True
    """Whether it waits for a call that is busy with another message."""
    run: int | None = None
    """The run of the flow that the message is meant for; None for whichever is open."""
    begins: bool = False
    """Whether the message is refused if it does not begin the call: its key named the call, and nothing else does."""
    flow: str | None = None
    """The flow that a new call begins on, by name; None for the default one. A call that exists has to be of it."""
    context: Mapping[str, Any] = field(default_factory=dict)
    """What a run knows by name as it begins: the flow's `inputs`. Of no meaning in a run that has begun."""
    answer: Any = NO_ANSWER
    """A person's answer to the question that the call waits with."""
    answer_for: str | None = None
    """The stage whose question it answers; where several wait, no other takes it."""
    further_intents: Sequence[str] = ()
    """What else the caller wants, besides `intent`."""
    ttl: float | None = None
    """Seconds the call is kept after its last turn from now on; None leaves that as it is."""
    timing: Timing = field(default_factory=Timing, compare=False, repr=False)
    """Where the time goes since the message came in."""

    def said(self) -> dict[str, Any]:
        """Return what readers may know of the turn while it is open: all that it takes to go on with it."""
        told = {name: getattr(self, name) for name in _REMEMBERED}
        said = {name: value for name, value in told.items() if value}
        answer = {} if self.answer is NO_ANSWER else {"answer": self.answer}
        return {"input_message": self.input_message, **said, **answer}

    def inputs(self, turn: OpenTurn) -> CallInput:
        """Return what the message brings into the graph; the first of a call also says whose it is, and that of a run
        what the run knows."""
        said: CallInput = {
            "input_message": self.input_message,
            "intent": self.intent,
            "metadata": dict(self.metadata),
        }
        if self.parts:
            said["parts"] = list(self.parts)
        if self.caller_message_id:
            said["caller_message_id"] = self.caller_message_id
        if self.further_intents:
            said["further_intents"] = list(self.further_intents)
        if self.answer is not NO_ANSWER:
            said["answer"] = self.answer
        if self.answer_for:
            said["answer_for"] = self.answer_for
        new = turn.loaded is None
        if self.context and (new or has_ended(turn.state)):
            said["context"] = dict(self.context)
        if self.eci or new:
            said["eci"] = self.eci or NOT_SAID
        if new or (self.account_id and turn.state.get("account_id") == NOT_SAID):
            said["account_id"] = self.account_id or NOT_SAID
        if new:
            said["call_identify_id"] = self.call_identify_id
            said["incarnation"] = turn.incarnation
        return said


def said_again(call_identify_id: str, opened: OpenedTurn) -> TurnRequest:
    """Return the message of a turn whose process died, to go on with it. Once something of it is committed it answers
    no question: it has, or what is asked now was asked after it."""
    said = {name: value for name, value in opened.said.items() if name in _REMEMBERED}
    answer = NO_ANSWER if opened.committed else opened.said.get("answer", NO_ANSWER)
    known = {"account_id": None, "eci": None, "input_message": opened.said.get("input_message", "")}
    answers = {"answer_for": NO_STAGE} if opened.committed else {}
    return TurnRequest(call_identify_id, **{**known, **said, **answers}, answer=answer)


def goes_on(request: TurnRequest, turn: OpenTurn) -> bool:
    """Tell whether the process died that was to answer this very message, so that it goes on with its turn."""
    return bool(turn.died and request.key and turn.died.said.get("key") == request.key)


def is_said_again(request: TurnRequest, opened: OpenedTurn | None) -> bool:
    """Tell whether a message is the one that a turn was to answer: by its key, or else by all that it says."""
    if opened is None:
        return False
    if request.key or opened.said.get("key"):
        return request.key == opened.said.get("key")
    said = request.said()
    return all(said.get(name) == opened.said.get(name) for name in _WORDS)


def must_say_the_same(request: TurnRequest, body: str) -> None:
    """Refuse another message under a key that named one before.

    Args:
        request: the message.
        body: the hash of what was said under its key.

    Raises:
        KeyReused: if it is another one.
    """
    if request.body and request.body != body:
        raise KeyReused("the idempotency key named another message before; choose a new one for a new message")


def rest_of(request: TurnRequest, turn: OpenTurn) -> TurnRequest:
    """Return what of a message its turn has still to do: it answers a question once, as in `said_again`."""
    if turn.died is not None and turn.died.committed and goes_on(request, turn):
        return replace(request, answer=NO_ANSWER, answer_for=NO_STAGE)
    return request


@dataclass(frozen=True, slots=True)
class Taken:
    """A turn that was taken."""

    request: TurnRequest
    incarnation: str
    step: Step
    """The one that answers."""
    steps: Sequence[Step]
    """The run's audit trail where it was asked for or the run is complete; else the turn's own."""
    state: Mapping[str, Any]
    before: bool = False
    """Whether it had answered the very same message before."""
    routes: Routes | None = None
    """The version of the flow that the run is on; None if the turn was taken before."""

    @property
    def is_of_an_earlier_run(self) -> bool:
        """Whether the state is that of a later run than the one which it completed."""
        return self.step["is_complete"] and self.state.get("run", 1) != self.step.get("run", 1)

    def answer(self) -> dict[str, Any]:
        """Return what the client is told."""
        until = [step for step in self.steps if step["number"] <= self.step["number"]]
        summary = full_summary(self.state.get("session_summary"), until)
        return answer(self.request.call_identify_id, self.step, summary)


@dataclass(frozen=True, slots=True)
class Started:
    """A turn that goes on by itself, for those who follow its events."""

    request: TurnRequest
    turn: OpenTurn
    run: int
    """The run of the flow it belongs to."""
    taking: "asyncio.Task[Taken]"
    routes: Routes
    """The version of the flow that the run is on."""


Begun = Callable[[OpenTurn, int], Awaitable[None]]
"""What a door still has to do with a turn, and the run it belongs to, once it has begun."""


class TurnHook(Protocol):
    """Somebody who is told of turns."""

    def told(self, turn: OpenTurn, call: str, events: Sequence[Mapping[str, Any]]) -> None:
        """Hear what happens in a turn; returns at once. What it raises is logged, and the turn goes on."""


def taken_before(request: TurnRequest, record: CallRecord, number: int) -> Taken:
    """Return the turn that answered the same message.

    Raises:
        LookupError: if the trail has no such step.
    """
    step = next((step for step in record.steps if step["number"] == number), None)
    if step is None:
        raise LookupError(f"the audit trail has no step {number}")
    return Taken(request, record.incarnation, step, record.steps, record.state, before=True)
