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
from langgraph.checkpoint.base import BaseCheckpointSaver

from graph.archive import Archive, Reason
from graph.store.calls import CallRecord, Moment, OpenedTurn, OpenTurn, sealed, steps_before_run
from graph.store.effects import Change, Record, apply, changes_with, is_held, parked_name, unsaid
from graph.store.errors import Busy, OutcomeUnknown, TurnLost
from graph.store.events import START
from graph.store.memory_events import MemoryEvents
from graph.store.memory_trails import MemoryTrails
from graph.store.names import encode, tenant_of
from graph.store.stock import TurnwiseMemorySaver
from nodes.state import Step
from nodes.timing import Timing

_SWEEP_SECONDS = 10.0


@dataclass(slots=True)
class _Kept:
    incarnation: str
    named: int
    """Grows with each commit of any call."""
    turn: str | None = None
    said: Mapping[str, Any] = field(default_factory=dict)
    after: str = START
    head: str | None = None
    steps: list[Step] = field(default_factory=list)
    answers: dict[str, tuple[int, str]] = field(default_factory=dict)
    push: dict[str, Any] = field(default_factory=dict)
    version: str = ""
    ttl: int | None = None
    base: str | None = None
    """The head when the open turn began."""
    live: bool = False
    """Whether the open turn holds the lease; if not, it was cut off after it had sent a write."""
    chain: str = ""
    ended: bool = False
    archived: int = 0
    """How many steps went to the archive."""
    at: str = ""
    """The hash of the last of them."""
    effects: dict[str, Record] = field(default_factory=dict)
    expires: float = float("inf")
    """On the monotonic clock; a call does not expire while a turn is open."""


class MemoryCalls:
    """Calls in memory.

    Args:
        saver: the saver that holds the checkpoints.
        events: what happens in the calls; forgotten with them.
        ttl: seconds a call lives after its last turn; 0 for ever.
        audit_key: the secret that the hashes of the audit trail are made with; empty for none.
        archive: where audit trails go before they are gone; None for nowhere.
    """

    def __init__(
        self,
        saver: TurnwiseMemorySaver,
        events: MemoryEvents | None = None,
        *,
        ttl: int = 0,
        audit_key: bytes = b"",
        archive: Archive | None = None,
    ) -> None:
        self._audit_key = audit_key
        self._trails = MemoryTrails(archive) if archive else None
        self._saver = saver
        self._events = events
        self._ttl = ttl or float("inf")
        self._calls: dict[str, _Kept] = {}
        self._order = count()
        self._next_sweep = 0.0

    @property
    def saver(self) -> BaseCheckpointSaver[Any]:
        """Where the states of the calls are saved."""
        return self._saver

    @property
    def lease(self) -> float:
        """Return what a lease in memory has: no end."""
        return float("inf")

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
        body: str = "",
        timing: Timing | None = None,
    ) -> OpenTurn:
        """Take the lease and load the call."""
        await self._sweep()
        await self._expire(thread)
        kept = self._calls.get(thread)
        if kept is None:
            kept = self._calls[thread] = _Kept(secrets.token_hex(16), next(self._order))
        turn = OpenTurn(thread, secrets.token_hex(8), kept.incarnation, None, calls=self, key=key, body=body)
        turn.push, turn.timing = copy.deepcopy(kept.push), timing or turn.timing
        if key and key in kept.answers:
            turn.answered, turn.answered_body = kept.answers[key]
            turn.closed = True
            return turn
        if kept.turn is not None and (kept.live or died not in (None, kept.turn)):
            raise Busy("another turn of this call is in flight")
        if kept.turn is not None:
            turn.died, turn.died_on = self._opened(kept), kept.version
        if kept.head is None and version:
            kept.version = version
        if kept.head is None and ttl is not None:
            kept.ttl = ttl
        kept.turn, kept.base, kept.live = turn.token, kept.head, True
        turn.chain, turn.effects = kept.chain, dict(kept.effects)
        turn.version, turn.ttl = kept.version, kept.ttl if ttl is None else ttl
        kept.said = turn.said = {**(said or {}), "at": datetime.now(UTC).isoformat(timespec="milliseconds")}
        if self._events is not None:
            turn.after, turn.followed = await self._events.last(thread), self._events.watched(thread)
        kept.after, turn.head = turn.after, kept.head
        turn.loaded = await self._saver.aget_tuple(self._at(thread, kept.head)) if kept.head else None
        return turn

    async def keep(self, turn: OpenTurn, steps: Sequence[Step], *, complete: bool) -> None:
        """Make what the saver saved the call's head, and go on."""
        self._commit(turn, steps, complete=complete, last=False)

    def _commit(self, turn: OpenTurn, steps: Sequence[Step], *, complete: bool, last: bool) -> None:
        kept = self._calls.get(turn.thread)
        if kept is None or kept.turn != turn.token or turn.saved is None:
            raise TurnLost("another turn of this call has begun; nothing of this one was saved")
        kept.head = turn.head = turn.saved
        changes = changes_with(turn, steps, last=last)
        steps, kept.chain = sealed(turn, steps, self._audit_key, last=last or complete)
        turn.chain, kept.ended = kept.chain, turn.ended
        self._settled(turn, kept, changes)
        kept.steps.extend(steps)
        turn.committed(steps)
        kept.version, kept.ttl = "" if turn.ended else turn.version, turn.ttl
        kept.expires = self._end(kept)
        kept.named = next(self._order)
        wanted = complete or turn.wants_trail or kept.push
        turn.trail = kept.steps[steps_before_run(turn, steps) :] if wanted else []
        turn.push = copy.deepcopy(kept.push)

    async def finish(self, turn: OpenTurn, steps: Sequence[Step], *, complete: bool) -> None:
        """Make what the saver saved the call's head, unless it is, and give the lease back."""
        if turn.saved not in (None, turn.head):
            self._commit(turn, steps, complete=complete, last=True)
        kept = self._calls.get(turn.thread)
        if kept is not None and kept.turn == turn.token:
            self._settled(turn, kept, unsaid(turn))
            if turn.key and steps and not any(map(is_held, (*turn.steps, *steps))):
                kept.answers[turn.key] = steps[-1]["number"], turn.body
        await self.abandon(turn)

    async def abandon(self, turn: OpenTurn) -> None:
        """Give the lease back; a new call leaves no trace."""
        turn.closed = True
        kept = self._calls.get(turn.thread)
        if kept is not None and kept.turn == turn.token:
            self._settled(turn, kept, [(message_id, None) for message_id in turn.idle])
        if kept is not None and kept.turn == turn.token and turn.unsettled:
            self._leave_open(turn, kept)
        elif kept is not None and kept.turn == turn.token:
            kept.turn = None
            if kept.expires < time.monotonic():  # while the turn was open; whoever it concerns must get to see it
                kept.expires = self._end(kept)
            if kept.head is None and not kept.effects:
                del self._calls[turn.thread]

    def _leave_open(self, turn: OpenTurn, kept: _Kept) -> None:
        """Leave a turn open that sent writes and saved no outcome, or the one from which it took them over."""
        kept.live = False
        if not turn.sent and turn.died is not None:
            kept.said, kept.after = dict(turn.died.said), turn.died.after
            kept.base = None if turn.died.committed else kept.head

    async def send(self, turn: OpenTurn, record: Record, over: Sequence[str]) -> None:
        """Write down that a write is about to leave."""
        kept = self._held(turn)
        kept.effects[record.effect.message_id] = record
        for message_id in over:
            kept.effects.pop(message_id, None)

    async def settle(self, turn: OpenTurn, changes: Sequence[Change]) -> None:
        """Write down what is known of writes now."""
        self._settled(turn, self._held(turn), changes)

    async def parked(self, tenant: str) -> list[tuple[str, Record]]:
        """Return the writes that wait for a person."""
        mine = [(thread, kept) for thread, kept in self._calls.items() if tenant_of(thread) == encode(tenant)]
        found = [(thread, record) for thread, kept in mine for record in kept.effects.values() if record.parked]
        return sorted(found, key=lambda one: one[1].effect.sent_at)

    def _held(self, turn: OpenTurn) -> _Kept:
        kept = self._calls.get(turn.thread)
        if kept is None or kept.turn != turn.token:
            raise TurnLost("another turn of this call has begun")
        return kept

    @staticmethod
    def _settled(turn: OpenTurn, kept: _Kept, changes: Sequence[Change]) -> None:
        apply(turn, changes)
        for message_id, record in changes:
            if record is None:
                kept.effects.pop(message_id, None)
            else:
                kept.effects[message_id] = record

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
        """Return those that sent a write and were cut off; all others die with their turns."""
        mine = [(thread, kept) for thread, kept in self._calls.items() if tenant_of(thread) == encode(tenant)]
        threads = [thread for thread, kept in mine if kept.turn is not None and not kept.live]
        return {thread: record for thread in threads if (record := await self._record(thread))}

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
        if kept is None:
            await self._forget(thread, "deleted")  # events may tell of one that never began
            return False
        _must_be_free(thread, kept)
        if self._trails is not None:
            self._leave(thread, kept, "deleted")
            await self._trails.write()
            _must_be_free(thread, kept)  # a turn may have begun meanwhile
        await self._forget(thread, "deleted")
        return True

    async def archive_due(self, tenant: str) -> int:
        """Archive the trails of calls that have ended, and what was left of those that have expired."""
        if self._trails is None:
            return 0
        for thread, kept in list(self._calls.items()):
            await self._expire(thread)
            if kept.ended and thread in self._calls and tenant_of(thread) == encode(tenant):
                self._leave(thread, kept, "ended")
        return await self._trails.write()

    async def ping(self) -> None:
        """Return: memory always answers."""

    async def _record(self, thread: str) -> CallRecord | None:
        await self._expire(thread)
        kept = self._calls.get(thread)
        if kept is None:
            return None
        opened = self._opened(kept) if kept.turn else None
        effects = tuple(kept.effects.values())
        return CallRecord({}, list(kept.steps), kept.incarnation, opened, kept.version, effects, kept.chain)

    @staticmethod
    def _opened(kept: _Kept) -> OpenedTurn:
        committed = kept.base != kept.head
        return OpenedTurn(kept.turn or "", kept.live, copy.deepcopy(dict(kept.said)), kept.after, committed)

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
        if kept is not None and kept.turn is None and not kept.effects and kept.expires < time.monotonic():
            await self._forget(thread, "expired")

    def _leave(self, thread: str, kept: _Kept, reason: Reason) -> None:
        """Leave what is not archived yet of a trail to the archive."""
        if self._trails is not None and (steps := kept.steps[kept.archived :]):
            self._trails.leave(
                thread, kept.incarnation, reason, steps, after=kept.archived, at=kept.at, head=kept.chain
            )
            kept.archived, kept.at = len(kept.steps), kept.chain

    async def _forget(self, thread: str, reason: Reason) -> None:
        if (kept := self._calls.get(thread)) is not None:
            self._leave(thread, kept, reason)
        self._calls.pop(thread, None)
        if self._events is not None:
            self._events.forget(thread)
        await self._saver.adelete_thread(thread)

    @staticmethod
    def _at(thread: str, head: str | None) -> RunnableConfig:
        return {"configurable": {"thread_id": thread, "checkpoint_ns": "", "checkpoint_id": head}}


def _must_be_free(thread: str, kept: _Kept) -> None:
    """Refuse to delete a call that is at work, or has a write that nobody knows the outcome of."""
    if kept.turn is not None and kept.live:
        raise Busy("a turn of this call is in flight")
    if kept.effects:
        raise OutcomeUnknown([record.parked or parked_name(thread, one) for one, record in kept.effects.items()])
