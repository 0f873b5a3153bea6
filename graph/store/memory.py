"""Calls in this process's memory: for notebooks and trials. They end with the process."""

import copy
import secrets
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import count
from typing import Any

from langchain_core.runnables import RunnableConfig

from graph.store.calls import CallRecord, Moment, OpenedTurn, OpenTurn, steps_before_run
from graph.store.errors import Busy, TurnLost
from graph.store.events import START
from graph.store.memory_events import MemoryEvents
from graph.store.names import encode, tenant_of
from graph.store.stock import TurnwiseMemorySaver
from nodes.state import Step

_SWEEP_SECONDS = 10.0


@dataclass(slots=True)
class _Kept:
    incarnation: str
    named: int
    """Grows with each commit of any call."""
    turn: str | None = None
    said: dict[str, Any] = field(default_factory=dict)
    after: str = START
    head: str | None = None
    steps: list[Step] = field(default_factory=list)
    answers: dict[str, int] = field(default_factory=dict)
    push: dict[str, Any] = field(default_factory=dict)
    version: str = ""
    ttl: int | None = None
    base: str | None = None
    """The head when the open turn began."""
    expires: float = float("inf")
    """On the monotonic clock; a call does not expire while a turn is open."""


class MemoryCalls:
    """Calls in memory.

    Args:
        saver: the saver that holds the checkpoints.
        events: what happens in the calls; forgotten with them.
        ttl: seconds a call lives after its last turn; 0 for ever.
    """

    def __init__(self, saver: TurnwiseMemorySaver, events: MemoryEvents | None = None, *, ttl: int = 0) -> None:
        self._saver = saver
        self._events = events
        self._ttl = ttl or float("inf")
        self._calls: dict[str, _Kept] = {}
        self._order = count()
        self._next_sweep = 0.0

    async def begin(
        self,
        thread: str,
        *,
        said: Mapping[str, Any] | None = None,
        key: str | None = None,
        version: str = "",
        ttl: int | None = None,
        resumes: bool = False,
        died: str | None = None,
    ) -> OpenTurn:
        """Take the lease and load the call."""
        await self._sweep()
        await self._expire(thread)
        kept = self._calls.get(thread)
        if kept is None:
            kept = self._calls[thread] = _Kept(secrets.token_hex(16), next(self._order))
        turn = OpenTurn(thread, secrets.token_hex(8), kept.incarnation, None, calls=self, key=key)
        turn.push = copy.deepcopy(kept.push)
        if key and key in kept.answers:
            turn.answered, turn.closed = kept.answers[key], True
            return turn
        if kept.turn is not None:
            raise Busy("another turn of this call is in flight")
        if kept.head is None and version:
            kept.version = version
        if kept.head is None and ttl is not None:
            kept.ttl = ttl
        kept.turn, kept.base = turn.token, kept.head
        turn.version, turn.ttl = kept.version, kept.ttl if ttl is None else ttl
        kept.said = {**(said or {}), "at": datetime.now(UTC).isoformat(timespec="milliseconds")}
        if self._events is not None:
            turn.after, turn.followed = await self._events.last(thread), self._events.watched(thread)
        kept.after, turn.head = turn.after, kept.head
        turn.loaded = await self._saver.aget_tuple(self._at(thread, kept.head)) if kept.head else None
        return turn

    async def keep(self, turn: OpenTurn, steps: Sequence[Step], *, complete: bool) -> None:
        """Make what the saver saved the call's head, and go on."""
        kept = self._calls.get(turn.thread)
        if kept is None or kept.turn != turn.token or turn.saved is None:
            raise TurnLost("another turn of this call has begun; nothing of this one was saved")
        kept.head = turn.head = turn.saved
        kept.steps.extend(steps)
        turn.steps += steps
        kept.version, kept.ttl = "" if turn.ended else turn.version, turn.ttl
        kept.expires = self._end(kept)
        kept.named = next(self._order)
        wanted = complete or turn.wants_trail or kept.push
        turn.trail = kept.steps[steps_before_run(turn, steps) :] if wanted else []
        turn.push = copy.deepcopy(kept.push)

    async def finish(self, turn: OpenTurn, steps: Sequence[Step], *, complete: bool) -> None:
        """Make what the saver saved the call's head, unless it is, and give the lease back."""
        if turn.saved not in (None, turn.head):
            await self.keep(turn, steps, complete=complete)
        kept = self._calls.get(turn.thread)
        if kept is not None and kept.turn == turn.token and turn.key and steps:
            kept.answers[turn.key] = steps[-1]["number"]
        await self.abandon(turn)

    async def abandon(self, turn: OpenTurn) -> None:
        """Give the lease back; a new call leaves no trace."""
        turn.closed = True
        kept = self._calls.get(turn.thread)
        if kept is not None and kept.turn == turn.token:
            kept.turn = None
            if kept.expires < time.monotonic():  # while the turn was open; whoever it concerns must get to see it
                kept.expires = self._end(kept)
            if kept.head is None:
                del self._calls[turn.thread]

    async def let_go(self, turn: OpenTurn, *, as_it_was: bool = False) -> None:
        """Give the lease back: nobody will go on with the turn when this process has ended."""
        await self.abandon(turn)

    async def renew(self, turn: OpenTurn) -> None:
        """Do nothing: a lease in memory has no end."""

    async def read(self, thread: str) -> CallRecord | None:
        """Return what was committed, the trail, and the open turn."""
        record = await self._record(thread)
        kept = self._calls.get(thread)
        if record is None or kept is None or kept.head is None:
            return record
        loaded = await self._saver.aget_tuple(self._at(thread, kept.head))
        return replace(record, state=loaded.checkpoint["channel_values"]) if loaded else None

    async def look(self, thread: str, after: int) -> CallRecord | None:
        """Return the open turn and the steps after one."""
        record = await self._record(thread)
        return replace(record, steps=record.steps[after:]) if record else None

    async def trails(self, threads: Sequence[str]) -> list[CallRecord | None]:
        """Return the calls without their state."""
        return [await self._record(thread) for thread in threads]

    async def recent(self, tenant: str) -> list[str]:
        """Return the tenant's calls, the one that took a turn last first."""
        mine = [(kept.named, thread) for thread, kept in self._calls.items() if tenant_of(thread) == encode(tenant)]
        return [thread for _, thread in sorted(mine, reverse=True)]

    async def dead(self, tenant: str) -> dict[str, CallRecord]:
        """Return none: calls in memory die with their turns."""
        return {}

    async def on_versions(self, tenant: str) -> Counter[str]:
        """Return how many calls are on each flow version."""
        records = await self.trails(await self.recent(tenant))
        return Counter(record.version for record in records if record and record.version)

    async def push_of(self, thread: str) -> dict[str, Any]:
        """Return where the call's clients want to be notified."""
        await self._expire(thread)
        kept = self._calls.get(thread)
        return copy.deepcopy(kept.push) if kept else {}

    async def change_push(self, thread: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        """Replace the notification configurations."""
        await self._expire(thread)
        kept = self._calls.get(thread)
        if kept is not None:
            kept.push = copy.deepcopy(change(copy.deepcopy(kept.push)))

    async def history(self, thread: str) -> list[Moment]:
        """Return the state after each turn, oldest first."""
        await self._expire(thread)
        kept = self._calls.get(thread)
        found = await self._saver.aget_tuple(self._at(thread, kept.head)) if kept and kept.head else None
        moments: list[Moment] = []
        while found is not None:
            moments.append(Moment(found.checkpoint["id"], found.checkpoint["ts"], found.checkpoint["channel_values"]))
            found = await self._saver.aget_tuple(found.parent_config) if found.parent_config else None
        return moments[::-1]

    async def delete(self, thread: str) -> bool:
        """Remove everything of the call."""
        await self._expire(thread)
        kept = self._calls.get(thread)
        if kept is not None and kept.turn is not None:
            raise Busy("a turn of this call is in flight")
        await self._forget(thread)
        return kept is not None

    async def ping(self) -> None:
        """Return: memory always answers."""

    async def _record(self, thread: str) -> CallRecord | None:
        await self._expire(thread)
        kept = self._calls.get(thread)
        if kept is None:
            return None
        opened = kept.turn and OpenedTurn(
            kept.turn, True, copy.deepcopy(kept.said), kept.after, kept.base != kept.head
        )
        return CallRecord({}, list(kept.steps), kept.incarnation, opened or None, kept.version)

    def _end(self, kept: _Kept) -> float:
        return time.monotonic() + (self._ttl if kept.ttl is None else kept.ttl)

    async def _sweep(self) -> None:
        """Forget what has expired, at most once in a while: nobody may ever ask for it again."""
        now = time.monotonic()
        if now >= self._next_sweep:
            self._next_sweep = now + _SWEEP_SECONDS
            for thread in list(self._calls):
                await self._expire(thread)

    async def _expire(self, thread: str) -> None:
        kept = self._calls.get(thread)
        if kept is not None and kept.turn is None and kept.expires < time.monotonic():
            await self._forget(thread)

    async def _forget(self, thread: str) -> None:
        self._calls.pop(thread, None)
        if self._events is not None:
            self._events.forget(thread)
        await self._saver.adelete_thread(thread)

    @staticmethod
    def _at(thread: str, head: str | None) -> RunnableConfig:
        return {"configurable": {"thread_id": thread, "checkpoint_ns": "", "checkpoint_id": head}}
