"""Asking: whoever answers at a place is asked, again if that failed in a way that may pass, and then the fallback.

What is asked is `nodes.requests`' work, what comes of the answer `nodes.learning`'s.
"""

import asyncio
import math
import random
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import stamina
import structlog
from langgraph.runtime import Runtime

from nodes.canceling import cancel_all, open_tasks, unless
from nodes.deadline import seconds_left, timed
from nodes.fallbacks import in_turn, is_unanswered
from nodes.jobs import Job
from nodes.models import answer_of
from nodes.moving import CannotGoOn
from nodes.outcome import Outcome, now
from nodes.ports import AgentCaller, AgentRequest, Effect, Model, Reply, Resolution, TurnContext
from nodes.reaching.choices import AgentOff, Candidate, Choice, NoEndpoint
from nodes.reaching.endpoint import LONGEST_REST
from nodes.reaching.pool import Pool
from nodes.remote.errors import AgentError, NoTimeLeft, TimedOut
from nodes.requests import attempt_seconds, model_request, request_for_nobody, request_to, with_input
from nodes.spec import UNKNOWN, FlowFacts, public_url
from nodes.state import CallState, Tried, wanted
from nodes.telling import Teller, artifacts_of
from nodes.writing import Write, effects_of

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 2.0
ENDPOINTS_TRIED = 3
"""So many endpoints of an agent are asked in turn, whatever its `attempts`, where the first ones fail."""
_FAIR, _NEARLY = 0.5, 0.9
"""The share of an attempt's usual time that would do for an answer; and that which an agent must have had before it
is blamed for having given none."""
_FAILED = ("failed", "rejected")

Ask = Callable[[float], Coroutine[Any, Any, Reply]]
"""Asks, and returns the answer; for so many seconds."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class World:
    """Whom a flow's nodes can reach."""

    caller: AgentCaller
    model: Model
    pool: Pool = field(default_factory=Pool)
    """Where the agents answer."""


async def asked(
    facts: FlowFacts, world: World, job: Job, state: CallState, runtime: Runtime[TurnContext]
) -> tuple[AgentRequest, Outcome]:
    """Ask what the job says; return what was asked last, and what came of it."""
    context = runtime.context or TurnContext()
    asking = _Asking(facts, world, job, state, context, runtime.stream_writer)
    started, clock = now(), time.perf_counter()
    reply: Reply | None = None
    error: AgentError | None = None
    try:
        reply = await asking.answer()
    except _ToBeCanceled:
        error = await cancel_all(world.caller, open_tasks(facts, world.pool, state, job, asking.at_work()))
        if asking.write is not None:
            asking.write.canceled(error)
    except AgentError as caught:
        error = caught
        log.warning("agent failed", agent=asking.at.agent, url=public_url(asking.at.url), type=caught.kind)
    took = round((time.perf_counter() - clock) * 1000, 3)
    return asking.at, asking.outcome(reply, error, started, took)


class _ToBeCanceled(Exception):
    """The call is to end before there is an answer."""


@dataclass(slots=True)
class _Asking:
    """A job as it is asked, attempt by attempt."""

    facts: FlowFacts
    world: World
    job: Job
    state: CallState
    context: TurnContext
    say: Callable[[Any], None]
    at: AgentRequest = field(init=False)
    """What was asked last."""
    tell: Teller | None = None
    write: Write | None = None
    """The write as which it was sent last, if it is one."""
    resolution: Resolution | None = None
    """What a person said came of a write."""
    attempt: int = 1
    failed: list[Tried] = field(default_factory=list)
    choice: Choice | None = None
    """The endpoint that was asked last; None for a model, and where there was none to ask."""
    _failed_at: set[str] = field(default_factory=set)
    """The endpoints of the agent (without credentials) that failed just before."""
    _may_have_acted: bool = False
    """Whether nobody knows if an agent acted on a write that was sent in an attempt before."""
    _began: float = 0.0
    _rests: float = 0.0
    """Seconds to wait before the next attempt, as the agent asked to be left alone."""

    def __post_init__(self) -> None:
        self.at = self._to(self.job.agent)

    def at_work(self) -> AgentRequest | None:
        """Return what an agent was asked that may still be at it."""
        if self.job.llm or self.tell is None or not self.tell.asked:
            return None
        return replace(self.at, task_id=self.tell.task_id or self.at.task_id)

    def outcome(self, reply: Reply | None, error: AgentError | None, started: str, took: float) -> Outcome:
        """Return what came of it all."""
        version, candidates = self._chosen_from(error)
        parked, held_by, again = None, None, False
        if self.write is not None:
            parked, held_by, again = self.write.parked, self.write.held_by, self.write.may_be_said_again
        return Outcome(
            reply,
            error,
            started,
            took,
            self.tell.so_far() if reply is None and self.tell else None,
            self.attempt,
            tuple(self.failed if reply is not None else self.failed[:-1]),
            stays=bool(parked or held_by),
            parked=parked,
            resolution=(self.write.resolution or self.resolution) if self.write is not None else None,
            held_by=held_by,
            version=version,
            candidates=candidates,
            again=again,
        )

    def _chosen_from(self, error: AgentError | None) -> tuple[str | None, tuple[Candidate, ...]]:
        """Return the version that was asked last, and the endpoints that could have been."""
        if self.choice is not None:
            return self.choice.version, self.choice.candidates
        return None, error.candidates if isinstance(error, NoEndpoint) else ()

    async def answer(self) -> Reply:
        """Return the answer of the agent or of a fallback of it, or of the model.

        Raises:
            AgentError: if none of them gave a usable one.
            _ToBeCanceled: if the call is to end first.
        """
        if self.job.llm:
            return await self._again(self._of_the_model, self.job.llm.attempts)
        for agent in self._from_where_it_was_left():
            last = self.facts.agents[agent].fallback is None
            if agent != self.job.agent:
                self.at, self.choice = self._to(agent), None
                self._failed_at.clear()
            try:
                reply = await self._again(self._sent, self.facts.agents[agent].attempts)
            except AgentError as error:
                if last or not self._may_turn_to_another(error):
                    raise
            else:
                if last or reply.task_state not in self._left_to_others():
                    return reply
                self._note(f"task_{reply.task_state}", reply.text)
        raise LookupError(f"{self.job.where!r} has nobody to ask")

    def _left_to_others(self) -> tuple[str, ...]:
        """Return the states of a task with which the next is asked; a write that failed may have done half of it."""
        return _FAILED if self.job.effect == "read" else ("rejected",)

    def _from_where_it_was_left(self) -> list[str]:
        """Return those to ask in turn; not again those before one that was sent a write and never answered."""
        chain = list(in_turn(self.facts, self.job.agent))
        sent = (agent for agent in chain if is_unanswered(self.job, agent, self.state, self.context))
        left = next(sent, None)
        return chain[chain.index(left) :] if left else chain

    def _to(self, agent: str) -> AgentRequest:
        request = request_for_nobody if self.job.llm else partial(request_to, agent=agent)
        return request(self.facts, self.job, state=self.state, context=self.context)

    async def _again(self, ask: Ask, attempts: int) -> Reply:
        """Ask, and again while that fails in a way that may pass: at once where another endpoint has not been asked
        yet, else after a pause, and only so often."""
        self.attempt = 1
        most = max(attempts, min(self._endpoints(), ENDPOINTS_TRIED))
        if most == 1:
            return await self._once(ask)
        again = stamina.retry_context(
            on=partial(self._pause, attempts=attempts),
            attempts=most,
            timeout=None,
            wait_initial=_FIRST_PAUSE,
            wait_max=_LONGEST_PAUSE,
        )
        async for attempt in again:
            with attempt:
                self.attempt = attempt.num
                return await self._once(ask)
        raise LookupError(f"{self.job.where!r} may not ask even once")

    def _pause(self, error: Exception, *, attempts: int) -> bool | float:
        """Return the seconds to wait before the next attempt; True for the usual time, False to give up."""
        if not isinstance(error, AgentError) or not self._may_pass(error):
            return False
        if self.choice is not None and self.choice.fresh > 1 and self._may_turn_elsewhere(error):
            return 0.0 if self._would_do(0.0) else False
        if self.attempt >= attempts:
            return False
        if not error.retry_after:  # 0: whoever is sent there to see if it is back is on the way
            waits = error.retry_after is not None or not isinstance(error, NoEndpoint)
            return waits and self._would_do(_LONGEST_PAUSE)
        if error.retry_after > _LONGEST_PAUSE and self._has_fallback:
            return False
        pause = min(error.retry_after, LONGEST_REST) + random.uniform(0, _FIRST_PAUSE)  # not all at the same moment
        if not self._would_do(pause):
            return False
        self._rests = pause  # not stamina's to wait for: the call may be ended meanwhile
        return 0.0

    def _would_do(self, pause: float) -> bool:
        """Tell whether the time left after a pause would do for an answer. A write that is sent too late to be
        answered would be one of which nobody knows what came of it, and before it was certain."""
        if self.job.llm or (self.job.effect == "read" and pause <= _LONGEST_PAUSE):
            return True
        left = seconds_left(self.context, math.inf) - pause
        return left >= _FAIR * attempt_seconds(self.facts, self.job, self.at.agent)

    @property
    def _has_fallback(self) -> bool:
        return not self.job.llm and self.facts.agents[self.at.agent].fallback is not None

    def _endpoints(self) -> int:
        agent = self.at.agent
        return 1 if self.job.llm else len(self.world.pool.members(agent, self.facts.agents[agent]))

    async def _once(self, ask: Ask) -> Reply:
        """Ask once, unless the call is to end or no time is left; note a failure."""
        cancel = self.context.cancel
        if cancel is not None and cancel.is_set():
            raise _ToBeCanceled
        rests, self._rests = self._rests, 0.0
        if rests and await unless(cancel, asyncio.sleep(rests, True)) is None:
            raise _ToBeCanceled
        self._began = time.perf_counter()
        try:
            left = self._time_left()
            self.tell = Teller(self.say, about_events(self.state, self.job, self.at))
            with timed(self.context, "model" if self.job.llm else "agent"):
                reply: Reply | None = await unless(cancel, ask(left))
        except AgentError as caught:
            error = self._of_every_attempt(caught)
            self._note(error.kind, str(error))
            if isinstance(error, TimedOut) and error.task_id:
                self.at = replace(self.at, task_id=error.task_id, task_works=True)
            raise error from caught.__cause__
        if reply is None:
            raise _ToBeCanceled
        return reply

    def _of_every_attempt(self, error: AgentError) -> AgentError:
        """Return the error as what all attempts tell: that the last did not arrive says nothing of the others."""
        if self.job.effect == "write" and error.acted is not None and self._may_have_acted:
            error = error.unknown()
        self._may_have_acted = error.acted is None
        return error

    def _time_left(self) -> float:
        left = seconds_left(self.context, self.at.timeout)
        if left <= 0:
            raise NoTimeLeft(self.at.agent, f"no time was left to ask agent {self.at.agent!r}")
        return left

    async def _sent(self, timeout: float) -> Reply:
        """Send the message to the endpoint that is to have it; learn from what comes of it."""
        self.at, self.choice = with_input(self.at, self.facts, self.job, self.state), None
        try:
            self.choice = choice = self._chosen()
        except (AgentOff, NoEndpoint) as error:
            self.at = replace(self.at, url="", timeout=timeout)
            return await self._asked_after(error)
        self.at = replace(self.at, url=choice.endpoint.url, timeout=timeout)
        fair = timeout >= _NEARLY * attempt_seconds(self.facts, self.job, self.at.agent)
        with self.world.pool.trying(choice, fair=fair) as trial:
            try:
                reply = await self._handed_over(self._told())
            except AgentError as error:
                if self._may_turn_elsewhere(error):
                    self._failed_at.add(choice.endpoint.public)
                raise
            trial.state = reply.task_state
            return reply

    async def _asked_after(self, error: AgentError) -> Reply:
        """Ask what came of a write that was sent before, although nothing may be sent now; raise why otherwise."""
        agent = self.at.agent
        if not is_unanswered(self.job, agent, self.state, self.context):
            raise error
        url = self.world.pool.where(agent, self.facts.agents[agent], self._under_way_at())
        self.at = replace(self.at, url=url)
        return await self._handed_over(self._told(), closed=error)

    def _chosen(self) -> Choice:
        agent = self.at.agent
        spec, call = self.facts.agents[agent], self.state["incarnation"]
        stay_at = self._under_way_at()
        must_stay = stay_at is not None and is_unanswered(self.job, agent, self.state, self.context)
        return self.world.pool.choose(agent, spec, call, stay_at=stay_at, must_stay=must_stay, avoid=self._failed_at)

    def _left(self) -> Effect | None:
        effects = effects_of(self.context)
        return effects.left_at(self.job.where, self.at.agent) if effects else None

    def _under_way_at(self) -> str | None:
        """Return the endpoint that has the task which waits for the caller, or the write that was never answered."""
        left, talks = self._left(), self.state.get("remote_tasks", {})
        begun: Mapping[str, Any] = talks.get(self.job.talk_with(self.at.agent), {})
        return (left and left.url) or begun.get("url")

    def _may_turn_elsewhere(self, error: AgentError) -> bool:
        """Tell whether another endpoint may be asked: not what only the one that failed knows of, if it is there."""
        here = self.choice is not None and self.choice.endpoint.public == self._under_way_at()
        return not here or error.acted is False

    async def _handed_over(self, tell: Teller, *, closed: AgentError | None = None) -> Reply:
        if self.job.effect == "read":
            return await self.world.caller.call(self.at, tell)
        self.write = Write(self.facts, self.world.caller, self.job, self.state, self.context, self.at, closed)
        self.at = self.write.request
        try:
            return await self.write.answer(tell)
        finally:
            self.resolution = self.write.resolution or self.resolution

    async def _of_the_model(self, timeout: float) -> Reply:
        self.at = replace(self.at, url=self.world.model.url, timeout=timeout)
        request = model_request(self.facts, self.job, self.state, timeout)
        self.at = replace(self.at, text=request.prompt)
        self._told()
        return answer_of(await self.world.model.complete(request), request.schema)

    def _told(self) -> Teller:
        """Tell that somebody is about to be asked."""
        if self.tell is None:
            raise LookupError("nobody is told")
        self.tell.begins()
        return self.tell

    def _may_pass(self, error: AgentError) -> bool:
        """Tell whether it makes sense, and is safe, to ask the same one once more."""
        if not error.retryable or isinstance(error, AgentOff):
            return False
        if isinstance(error, NoEndpoint) and self._has_fallback:
            return False
        again = self.write is not None and self.write.may_be_sent_again and not isinstance(error, NoTimeLeft)
        return again or self._may_turn_to_another(error)

    def _may_turn_to_another(self, error: AgentError) -> bool:
        """Tell whether it makes sense, and is safe, to ask somebody else: no write may be acted on twice."""
        if isinstance(error, NoTimeLeft | CannotGoOn):
            return False
        return self.job.effect == "read" or error.acted is False

    def _note(self, kind: str, message: str) -> None:
        took = round((time.perf_counter() - self._began) * 1000, 3)
        tried: Tried = {"agent": self.at.agent, "attempt": self.attempt, "type": kind, "message": message}
        tried |= {"url": public_url(self.at.url), "duration_ms": took}
        if self.choice is not None and self.choice.version is not None:
            tried["version"] = self.choice.version
        self.failed.append(tried)


def about_events(state: CallState, job: Job, request: AgentRequest) -> dict[str, Any]:
    """Return what every event of a place says."""
    about: dict[str, Any] = {
        "step": state.get("step_count", 0) + 1,
        "run": state["run"],
        "stage": job.place.name,
        "intent_flow_id": job.place.id,
        "agent": request.agent,
        "intent": wanted(state) or UNKNOWN,
    }
    if job.branch is not None:
        about["branch"] = job.branch
    if not job.alone:
        about["artifacts"] = artifacts_of(request.message_id)
    return about
