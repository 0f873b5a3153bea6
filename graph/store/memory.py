"""Calls in this process's memory: for notebooks and trials. They end with the process."""

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from langchain_core.runnables import RunnableConfig

from graph.store.calls import CallRecord, Moment, OpenTurn
from graph.store.errors import Busy, TurnLost
from graph.store.stock import TurnwiseMemorySaver
from nodes.state import Step

_SWEEP_SECONDS = 10.0


@dataclass(slots=True)
class _Kept:
    incarnation: str
    turn: str | None = None
    head: str | None = None
    steps: list[Step] = field(default_factory=list)
    expires: float = float("inf")
    """On the monotonic clock; a call does not expire while a turn is open."""


class MemoryCalls:
    """Calls in memory.

    Args:
        saver: the saver that holds the checkpoints.
        ttl: seconds a call lives after its last turn; 0 for ever.
    """

    def __init__(self, saver: TurnwiseMemorySaver, *, ttl: int = 0) -> None:
        self._saver = saver
        self._ttl = ttl or float("inf")
        self._calls: dict[str, _Kept] = {}
        self._next_sweep = 0.0

    async def begin(self, thread: str) -> OpenTurn:
        """Take the lease and load the call."""
        await self._sweep()
        kept = self._calls.setdefault(thread, _Kept(secrets.token_hex(16)))
        if kept.turn is not None:
            raise Busy("another turn of this call is in flight")
        loaded = await self._saver.aget_tuple(self._at(thread, kept.head)) if kept.head else None
        kept.turn = secrets.token_hex(8)
        return OpenTurn(thread, kept.turn, kept.incarnation, loaded, kept.head, calls=self)

    async def keep(self, turn: OpenTurn, steps: Sequence[Step], *, complete: bool) -> None:
        """Make what the saver saved the call's head, and go on."""
        kept = self._calls.get(turn.thread)
        if kept is None or kept.turn != turn.token or turn.saved is None:
            raise TurnLost("another turn of this call has begun; nothing of this one was saved")
        kept.head = turn.head = turn.saved
        kept.steps.extend(steps)
        kept.expires = time.monotonic() + self._ttl
        turn.trail = list(kept.steps) if complete else []

    async def finish(self, turn: OpenTurn, steps: Sequence[Step], *, complete: bool) -> None:
        """Make what the saver saved the call's head, unless it is, and give the lease back."""
        if turn.saved not in (None, turn.head):
            await self.keep(turn, steps, complete=complete)
        await self.abandon(turn)

    async def abandon(self, turn: OpenTurn) -> None:
        """Give the lease back; a new call leaves no trace."""
        turn.closed = True
        kept = self._calls.get(turn.thread)
        if kept is not None and kept.turn == turn.token:
            kept.turn = None
            if kept.head is None:
                del self._calls[turn.thread]

    async def renew(self, turn: OpenTurn) -> None:
        """Do nothing: a lease in memory has no end."""

    async def read(self, thread: str) -> CallRecord | None:
        """Return what was committed, and the trail."""
        await self._expire(thread)
        kept = self._calls.get(thread)
        loaded = await self._saver.aget_tuple(self._at(thread, kept.head)) if kept and kept.head else None
        if kept is None or loaded is None:
            return None
        return CallRecord(loaded.checkpoint["channel_values"], list(kept.steps))

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

    async def _sweep(self) -> None:
        """Forget what has expired, at most once in a while: nobody may ever ask for it again."""
        now = time.monotonic()
        if now >= self._next_sweep:
            self._next_sweep = now + _SWEEP_SECONDS
            for thread in [thread for thread, kept in self._calls.items() if kept.expires < now]:
                await self._forget(thread)

    async def _expire(self, thread: str) -> None:
        kept = self._calls.get(thread)
        if kept is not None and kept.turn is None and kept.expires < time.monotonic():
            await self._forget(thread)

    async def _forget(self, thread: str) -> None:
        self._calls.pop(thread, None)
        await self._saver.adelete_thread(thread)

    @staticmethod
    def _at(thread: str, head: str | None) -> RunnableConfig:
        return {"configurable": {"thread_id": thread, "checkpoint_ns": "", "checkpoint_id": head}}
