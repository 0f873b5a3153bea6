"""How a turn begins: its call's lease is taken, what a killed process left half done is settled, and the turn is
found legal, or found to be answered already."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import structlog

from graph.routing import Refused
from graph.store.calls import CallRecord, Calls, OpenedTurn, OpenTurn
from graph.store.effects import left_by
from graph.store.errors import Busy, OutcomeUnknown, StoreError
from graph.store.events import Events
from graph.store.names import thread_name
from nodes.spec import UNKNOWN
from server.deadlines import out_of_time, work_left
from server.deciding import Decider
from server.flows import Flows, Version
from server.leases import give_back, once_free
from server.running import Runner
from server.turn import (
    NO_ANSWER,
    NO_STAGE,
    Begun,
    Taken,
    TurnRequest,
    goes_on,
    is_said_again,
    must_say_the_same,
    rest_of,
    taken_before,
)
from server.underway import Underway
from server.waiting import CAME, Waiting, came_at, replaced

_MOST_SETTLED = 3
"""How many turns that were cut off one message settles before its own begins."""

SettleDead = Callable[[str, OpenedTurn], Awaitable[None]]
"""Finds out what came of the writes of a turn whose process died."""

log = structlog.get_logger()


class Beginner:
    """Begins turns.

    Args:
        flows: the flows that calls may be of.
        calls: where the calls live.
        events: by which other replicas are told to give a turn up.
        decider: says whether a turn is legal.
        runner: knows the turns that run here.
        settle: finds out what came of the writes of a turn whose process died.
        tenant: whose calls these are.
        turn_timeout: seconds a turn may take where its flow does not say, waiting for a busy call included.
        busy_wait: seconds to wait for a call that is busy with another turn.
        execution_ttl: seconds a call is kept after its last turn if its flow goes by itself; None as any other call.
    """

    def __init__(
        self,
        flows: Flows,
        calls: Calls,
        events: Events,
        decider: Decider,
        runner: Runner,
        settle: SettleDead,
        *,
        tenant: str,
        turn_timeout: float,
        busy_wait: float,
        execution_ttl: int | None,
    ) -> None:
        self._flows = flows
        self._calls = calls
        self._events = events
        self._decider = decider
        self._runner = runner
        self._settle = settle
        self._tenant = tenant
        self._turn_timeout = turn_timeout
        self._busy_wait = busy_wait
        self._execution_ttl = execution_ttl

    async def begin(
        self, request: TurnRequest, wants_trail: bool, once_begun: Begun | None, *, died: OpenedTurn | None = None
    ) -> Underway | Taken:
        """Take the lease and find the turn legal, or find that the message was answered before.

        Args:
            request: the message.
            wants_trail: whether the audit trail of the whole run is to come with the answer.
            once_begun: what is to be done as soon as the turn has begun; what it raises ends the turn.
            died: the turn that this one goes on with, if it does.

        Raises:
            Refused: if the turn is not legal now.
            OutcomeUnknown: if it is known that nobody knows what came of this very message.
            KeyReused: if its key named another message before.
            Busy: if the call was still busy after the wait.
            Replaced: if a later message is to be answered in its place.
            OutOfTime: if the client's deadline leaves no time for it any more.
            StoreError: if the store failed otherwise.
        """
        now = asyncio.get_running_loop().time()
        thread = thread_name(self._tenant, request.call_identify_id)
        if_new = await self._flows.find(request.flow)
        turn = await self._begun(thread, request, if_new, self._deadline(if_new, request, now), died)
        if died is None:
            turn = await self._after_the_dead(turn, request, if_new, now)
        if turn.answered is not None:
            must_say_the_same(request, turn.answered_body)
            return await self._taken_before(request, thread, turn.answered)
        try:
            for before in (turn.died, left_turn(turn)):
                if before is not None and request.key and before.said.get("key") == request.key:
                    must_say_the_same(request, before.said.get("body", ""))
            _must_not_wait_for_a_person(request, turn)
            if work_left(request) == 0:
                raise out_of_time()
            version, run = await self._decider.legal(turn, request)
            turn.version, turn.one_save = version.key, version.saves_once
            if version.flow.waits_for == "nothing" and turn.ttl is None:
                turn.ttl = self._execution_ttl
            if once_begun is not None:
                await once_begun(turn, run)
        except BaseException as error:
            is_left = not isinstance(error, Refused | OutcomeUnknown) if died else await self.is_gone_on_with(turn)
            await give_back(self._calls, turn, open_still=is_left, as_it_was=is_left)
            raise
        notifies = bool(turn.push)
        turn.wants_trail = wants_trail or notifies
        deadline = self._deadline(version, request, now)
        return Underway(turn, _as_sent(request, turn), version, deadline, run, followed=notifies or turn.followed)

    def _deadline(self, version: Version, request: TurnRequest, began: float) -> float:
        """Return when a turn of the flow is to be saved at the latest, on the loop's clock."""
        deadline = began + (version.flow.turn_timeout or self._turn_timeout)
        left = work_left(request)
        return deadline if left is None else min(deadline, asyncio.get_running_loop().time() + left)

    async def is_gone_on_with(self, turn: OpenTurn) -> bool:
        """Tell whether a turn took over from one that another is to go on with if this one does not."""
        if turn.died is None:
            return False
        try:
            version = await self._flows.version_of(turn.state, turn.died_on)
        except StoreError:
            return True
        return version is not None and version.flow.waits_for == "nothing"

    async def _after_the_dead(self, turn: OpenTurn, request: TurnRequest, if_new: Version, now: float) -> OpenTurn:
        """Find out first what came of writes that a killed process had sent, unless this very message goes on."""
        for _ in range(_MOST_SETTLED):
            left = left_turn(turn)
            if left is None or is_said_again(request, left):
                return turn
            await give_back(self._calls, turn)
            await self._settle(request.call_identify_id, left)
            turn = await self._begun(turn.thread, request, if_new, self._deadline(if_new, request, now), None)
        return turn

    async def _begun(
        self, thread: str, request: TurnRequest, if_new: Version, deadline: float, died: OpenedTurn | None
    ) -> OpenTurn:
        named = partial(self._calls.begin, thread, key=request.key, body=request.body, timing=request.timing)
        if died is not None:
            said = {**request.said(), "flow": died.said.get("flow"), "resumed": times_resumed(died)}
            return await named(said=said, resumes=True, died=died.token)
        begin = partial(
            named,
            said={**request.said(), "flow": if_new.flow.flow, CAME: came_at(request)},
            version=if_new.key,
            ttl=None if request.ttl is None else max(1, round(request.ttl)),
            resumes=if_new.flow.waits_for == "nothing",
        )
        waiting = Waiting(
            self._calls,
            self._events,
            self._flows,
            self._runner,
            request,
            thread,
            patience=self._busy_wait if request.waits else 0.0,
            deadline=deadline,
        )
        turn = await once_free(begin, waiting.give_up, request.timing)
        if waiting.gives_way and turn.answered is None and not goes_on(request, turn):
            await give_back(self._calls, turn)
            raise replaced()  # as was the copy of it that was at work, or it had an answer
        return turn

    async def _taken_before(self, request: TurnRequest, thread: str, number: int) -> Taken:
        record: CallRecord | None = await self._calls.read(thread)
        if record is None:
            raise Busy("the call has just ended; send the message again")
        taken = taken_before(request, record, number)
        return replace(taken, state=await self._state_then(thread, taken)) if taken.is_of_an_earlier_run else taken

    async def _state_then(self, thread: str, taken: Taken) -> Mapping[str, Any]:
        """Return the call's state just after a turn: a run's summary is forgotten with the next run."""
        number = taken.step["number"]
        moments = await self._calls.history(thread)
        return next((moment.state for moment in moments if moment.state.get("step_count") == number), taken.state)


def left_turn(turn: OpenTurn) -> OpenedTurn | None:
    """Return the turn whose writes nobody has been asked about yet, as one to go on with under this one's name."""
    resumed = turn.died.said.get("resumed", 0) if turn.died else 0
    return left_by(turn.token, turn.effects.values(), resumed)


def times_resumed(died: OpenedTurn) -> int:
    """Return how often a turn was gone on with since something of it was committed, if it is now."""
    return 1 if died.committed else int(died.said.get("resumed", 0)) + 1


def _must_not_wait_for_a_person(request: TurnRequest, turn: OpenTurn) -> None:
    """Refuse a message of which it is known that nobody knows what came of it."""
    mine = [record for record in turn.effects.values() if record.waits and _is_of(request, record.said)]
    for record in mine:
        must_say_the_same(request, str(record.said.get("body", "")))
    if mine:
        raise OutcomeUnknown([record.parked for record in mine if record.parked])


def _is_of(request: TurnRequest, said: object) -> bool:
    return bool(request.key) and isinstance(said, dict) and said.get("key") == request.key


def _as_sent(request: TurnRequest, turn: OpenTurn) -> TurnRequest:
    """Return what of a message is still to be done; what was recognised in it then is not guessed anew."""
    left = left_turn(turn)
    if left is not None and is_said_again(request, left):
        turn.rest = left.committed
        intents = [record.effect.intent for record in turn.unsettled if record.effect.intent != UNKNOWN]
        request = replace(request, intent=request.intent or next(iter(intents), None))
        return replace(request, answer=NO_ANSWER, answer_for=NO_STAGE) if left.committed else request
    turn.rest = bool(turn.died and turn.died.committed and goes_on(request, turn))
    return rest_of(request, turn)
