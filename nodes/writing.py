"""Sending a write: written down before it leaves, asked about when its answer is lost, and never sent a second time
unless its agent dedupes. What nobody can know is parked for a person."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

import structlog

from nodes.canceling import Canceled
from nodes.deadline import seconds_left
from nodes.jobs import Job
from nodes.outcome import now
from nodes.ports import AgentCaller, AgentRequest, Effect, Effects, Reply, Resolution, Tell, TurnContext
from nodes.remote.errors import AgentError, TimedOut
from nodes.spec import UNKNOWN, FlowFacts, public_url
from nodes.state import CallState, wanted

log = structlog.get_logger()


class OutcomeNotKnown(AgentError):
    """A write was sent by a turn that never saved what came of it, and its agent cannot say."""

    kind = "outcome_unknown"
    retryable = False

    def __init__(self, agent: str) -> None:
        super().__init__(agent, f"it is not known whether agent {agent!r} acted on the message that was sent to it")


class WriteHeld(AgentError):
    """A write was not sent: another one of the call has an outcome that nobody knows."""

    kind = "write_held"
    acted = False

    def __init__(self, agent: str, name: str) -> None:
        super().__init__(
            agent, f"nothing was sent to agent {agent!r}: first it has to be settled what came of {name!r}"
        )


@dataclass(slots=True)
class Write:
    """One write to one agent.

    Attributes:
        request: the message; what was sent before goes by the id that it had then.
        closed: why nothing may be sent now, so that it can only be asked what was sent before.
        parked: by which name it is settled later, if nobody can know what came of it.
        resolution: what a person said came of it.
        held_by: the parked write that has to be settled before this one may leave.
    """

    facts: FlowFacts
    caller: AgentCaller
    job: Job
    state: CallState
    context: TurnContext
    request: AgentRequest
    closed: AgentError | None = None
    parked: str | None = None
    resolution: Resolution | None = None
    held_by: str | None = None
    _left: Effect | None = field(default=None, init=False)
    _resent: bool = field(default=False, init=False)
    _at_work: bool = field(default=False, init=False)
    """Whether the agent is known to be still at work on it: the next turn asks after that."""

    def __post_init__(self) -> None:
        effects = effects_of(self.context)
        self._left = effects.left_at(self.job.where, self.request.agent) if effects else None
        if self._left is not None:
            left = self._left
            self.request = replace(
                self.request, message_id=left.message_id, context_id=left.context_id, task_id=left.task_id
            )

    @property
    def may_be_sent_again(self) -> bool:
        """Whether its agent acts once on it, however often it is sent."""
        return self.facts.agents[self.request.agent].idempotent

    @property
    def may_be_said_again(self) -> bool:
        """Whether the caller may say it again whatever came of it: it is not sent a second time, or does no harm."""
        return self.may_be_sent_again or self._at_work

    async def answer(self, tell: Tell) -> Reply:
        """Return what the agent answers, or answered before.

        Raises:
            AgentError: if it gave no usable answer; `parked` says whether it is known that it did not act.
        """
        if self._left is not None and self._left.resolution is not None:
            return self._resolved(self._left.resolution)
        await self._must_be_known()
        if self._was_sent_before() and not self.request.task_works:
            if found := await self._found():
                return found
            if not self.may_be_sent_again and self._keeps_records:
                self._park()
                raise OutcomeNotKnown(self.request.agent)
        if self.closed is not None and not self.request.task_works:  # asking after a task sends nothing
            return await self._after(self._of_every_time(self.closed))
        return await self._sent(tell)

    async def _must_be_known(self) -> None:
        """Refuse to send while another write of the call waits for a person. Where a turn is one stage, nothing of it
        is saved; else the stage waits, and whatever goes on beside it does."""
        effects = effects_of(self.context)
        if effects is None:
            return
        await effects.ready(self.state.get("step_count", 0))
        if names := effects.waiting():
            if self.facts.waits and self.job.alone:
                effects.must_be_known()
            self.held_by = names[0]
            raise WriteHeld(self.request.agent, names[0])

    def canceled(self, canceled: Canceled) -> None:
        """Note what came of it when the call was ended while the agent was at work."""
        mine = [task for task in canceled.tasks if task.request.message_id == self.request.message_id]
        if all(task.settled for task in mine):
            self._settle()
        else:
            self._park()

    @property
    def _keeps_records(self) -> bool:
        return self.context.effects is not None

    def _resolved(self, resolution: Resolution) -> Reply:
        self.resolution = resolution
        self._settle()
        return resolution.reply or Reply("")

    def _was_sent_before(self) -> bool:
        """Tell whether it was sent by a turn whose process died, or by an earlier turn that got no answer."""
        before: Mapping[str, Any] = self.state.get("remote_tasks", {}).get(self.job.talk_with(self.request.agent), {})
        return self._left is not None or before.get("unanswered") == self.request.message_id

    async def _sent(self, tell: Tell) -> Reply:
        effects, asks_after = effects_of(self.context), self.request.task_works
        if effects and not asks_after:
            self.request = replace(self.request, leave_by=await effects.sending(self._effect()))
        try:
            reply = await self.caller.call(self.request, tell)
        except AgentError as caught:
            error = self._of_every_time(caught)
            self._at_work = _is_at_work(error)
            if asks_after and error.retryable:  # the task is known, and can be asked after again
                raise error from caught
            if not self._resent and self.may_be_sent_again and _is_lost(error) and self._time_left() > 0:
                return await self._sent_once_more(tell)
            return await self._after(error)
        self._settle()
        return reply

    def _of_every_time(self, error: AgentError) -> AgentError:
        """Return the error as what is known of all the times that the message was sent: that this one did not arrive
        says nothing of those before."""
        return error.unknown() if error.acted is False and (self._resent or self._was_sent_before()) else error

    async def _sent_once_more(self, tell: Tell) -> Reply:
        """Send it again at once: its agent acts once on it, so that nothing has to be asked."""
        self._resent = True
        self.request = replace(self.request, timeout=self._time_left())
        return await self._sent(tell)

    async def _after(self, error: AgentError) -> Reply:
        """Return the answer that was lost, if the agent still has it; else raise what went wrong."""
        if error.acted is False or _is_at_work(error) or self.may_be_sent_again:
            self._settle(acted=error.acted is not False)
        elif found := await self._found():
            return found
        else:
            self._park()
        raise error

    async def _found(self) -> Reply | None:
        """Ask the agent what became of the message; None if it cannot say, or cannot be asked.

        Raises:
            TimedOut: if it is still at work on it: that much is known.
        """
        request = replace(self.request, timeout=self._time_left())
        if request.timeout <= 0:
            return None
        try:
            found = await self.caller.find(request)
        except AgentError as error:
            if _is_at_work(error):
                self._at_work = True
                self._settle()
                raise
            log.warning("agent could not be asked what it did", agent=request.agent, type=error.kind)
            return None
        if found is not None:
            self._settle()
        return found

    def _time_left(self) -> float:
        return seconds_left(self.context, self.request.timeout)

    def _settle(self, *, acted: bool = True) -> None:
        if effects := effects_of(self.context):
            effects.settled(self.request.message_id, acted=acted)

    def _park(self) -> None:
        if effects := effects_of(self.context):
            self.parked = effects.parked(self._left or self._effect())

    def _effect(self) -> Effect:
        request = self.request
        return Effect(
            message_id=request.message_id,
            agent=request.agent,
            where=self.job.where,
            stage=self.job.place.name,
            intent=wanted(self.state) or UNKNOWN,
            context_id=request.context_id,
            task_id=request.task_id,
            body=body_of(request),
            sent_at=now(),
            after=self.state.get("step_count", 0),
            run=self.state.get("run", 1),
            url=self._sent_to(),
        )

    def _sent_to(self) -> str:
        """Return the endpoint that was sent it, without credentials."""
        before: Mapping[str, Any] = self.state.get("remote_tasks", {}).get(self.job.talk_with(self.request.agent), {})
        where = (self._left.url if self._left else before.get("url")) if self._was_sent_before() else None
        return where or public_url(self.request.url)


def effects_of(context: TurnContext) -> Effects | None:
    """Return what is written down of writes, where anybody keeps it."""
    return cast(Effects | None, context.effects)


def body_of(request: AgentRequest) -> str:
    """Return a hash of what a message says: its words and parts, and the task that it continues."""
    said = json.dumps([request.text, request.parts, request.task_id], sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()


def _is_lost(error: AgentError) -> bool:
    """Tell whether it is not known whether the agent acted, and its task, if it has one, neither."""
    return error.acted is None and error.retryable and not _is_at_work(error)


def _is_at_work(error: AgentError) -> bool:
    return isinstance(error, TimedOut) and error.task_id is not None
