"""What a turn is to the doors: the message as it comes in, the turn as it was taken, and who is told of it."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from graph.store.calls import CallRecord, OpenTurn
from graph.trail import answer, full_summary
from nodes.ports import Part
from nodes.state import CallInput, Step

NOT_SAID = "unknown"
"""What is recorded as account or eci of a call whose caller never said."""


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
    run: int | None = None
    """The run of the flow that the message is meant for; None for whichever is open."""
    begins: bool = False
    """Whether the message is refused if it does not begin the call: its key named the call, and nothing else does."""

    def said(self) -> dict[str, Any]:
        """Return what readers may know of the turn while it is open."""
        told = {"key": self.key, "caller_message_id": self.caller_message_id, "parts": list(self.parts)}
        return {"input_message": self.input_message, **{name: value for name, value in told.items() if value}}

    def inputs(self, turn: OpenTurn) -> CallInput:
        """Return what the message brings into the graph; the first of a call also says whose it is."""
        said: CallInput = {
            "input_message": self.input_message,
            "intent": self.intent,
            "metadata": dict(self.metadata),
        }
        if self.parts:
            said["parts"] = list(self.parts)
        if self.caller_message_id:
            said["caller_message_id"] = self.caller_message_id
        new = turn.loaded is None
        if self.eci or new:
            said["eci"] = self.eci or NOT_SAID
        if new or (self.account_id and turn.state.get("account_id") == NOT_SAID):
            said["account_id"] = self.account_id or NOT_SAID
        if new:
            said["call_identify_id"] = self.call_identify_id
            said["incarnation"] = turn.incarnation
        return said


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

    def answer(self) -> dict[str, Any]:
        """Return what the client is told."""
        summary = full_summary(self.state.get("session_summary"), list(self.steps))
        return answer(self.request.call_identify_id, self.step, summary)


@dataclass(frozen=True, slots=True)
class Started:
    """A turn that goes on by itself, for those who follow its events."""

    request: TurnRequest
    turn: OpenTurn
    run: int
    """The run of the flow it belongs to."""
    taking: "asyncio.Task[Taken]"


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
