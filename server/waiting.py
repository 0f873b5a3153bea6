"""A message whose call is busy: it waits for its turn, is refused, or takes the place of the one that is at work, as
the call's flow says (`while_busy`); the very message that is at work is waited for."""

import asyncio
import time

from graph.store.calls import CallRecord, Calls, OpenedTurn
from graph.store.errors import Replaced, StoreError
from graph.store.events import Events
from server.flows import Flows
from server.problems import FlowNotFound
from server.running import Runner
from server.turn import NO_ANSWER, TurnRequest, must_say_the_same

CAME = "came"
"""Where a turn says when its message came in: seconds since 1970, by the clock of the replica that got it."""
_LAST_STEP = -1
_ONCE_MORE = 0.1
"""Seconds in which a call that has just been given back is tried again."""


class Waiting:
    """One message that found its call busy.

    Args:
        calls: where the calls live.
        events: by which other replicas are told to give a turn up.
        flows: the flows that calls may be of.
        runner: knows the turns that run here.
        request: the message.
        thread: its call.
        patience: seconds to wait for a call that is busy with another message.
        deadline: when the turn is to be saved at the latest, on the loop's clock.
    """

    def __init__(
        self,
        calls: Calls,
        events: Events,
        flows: Flows,
        runner: Runner,
        request: TurnRequest,
        thread: str,
        *,
        patience: float,
        deadline: float,
    ) -> None:
        self._calls = calls
        self._events = events
        self._flows = flows
        self._runner = runner
        self._request = request
        self._thread = thread
        self._came = came_at(request)
        self._deadline = deadline
        self._until = min(deadline, asyncio.get_running_loop().time() + patience)
        self._looks_at = 0.0
        """When there is reason to look at the call again, on the loop's clock."""
        self.gives_way = False
        """Whether it was this very message that was at work, in a flow where a later one may take its place."""

    async def give_up(self) -> float:
        """Return until when to try, on the loop's clock, for a call that is busy now.

        Raises:
            KeyReused: if the message's key names another one, which is at work.
            Replaced: if a later message is to be answered in its place.
        """
        now = asyncio.get_running_loop().time()
        if now < self._looks_at:
            return self._until
        with self._request.timing.of("store"):
            record = await self._calls.look(self._thread, _LAST_STEP)
        if record is None or record.opened is None:  # by now it is free
            return max(self._until, min(self._deadline, now + _ONCE_MORE))
        while_busy = await self._while_busy(record)
        if self._is_this(record.opened):
            self.gives_way = while_busy == "replace"
            return self._deadline
        if while_busy == "replace":
            await self._take_the_place_of(record.opened)
        elif while_busy == "wait":
            self._looks_at = self._until
        return now if while_busy == "reject" else self._until

    def _is_this(self, opened: OpenedTurn) -> bool:
        if not self._request.key or opened.said.get("key") != self._request.key:
            return False
        must_say_the_same(self._request, opened.said.get("body", ""))
        return True

    async def _take_the_place_of(self, opened: OpenedTurn) -> None:
        """Ask for the place of a message that came before; give way to one that came later, or took this one's."""
        theirs = opened.said.get(CAME, 0.0)
        if theirs > self._came or self.gives_way:
            raise replaced()
        is_question_answered = self._request.answer is not NO_ANSWER
        if theirs == self._came or not opened.live or is_question_answered:
            return
        if not self._runner.replace(self._thread, opened.token):
            await self._events.ask_to_cancel(f"{self._thread}.={opened.token}")

    async def _while_busy(self, record: CallRecord) -> str:
        """Return what the flow of the call says; a call whose flow is gone waits."""
        said = record.opened.said.get("flow") if record.opened else None
        name = record.steps[-1].get("flow", said) if record.steps else said  # between its runs it is on no version
        try:
            version = await self._flows.version_of({}, record.version) if record.version else None
            version = version or await self._flows.find(name)
        except (FlowNotFound, StoreError):
            return "wait"
        return version.flow.while_busy


def replaced() -> Replaced:
    """Return what the client is told whose message is not answered for a later one."""
    return Replaced("a later message has taken this one's place; nothing of it was saved")


def came_at(request: TurnRequest) -> float:
    """Return when a message came in, seconds since 1970."""
    return time.time() - request.timing.elapsed
