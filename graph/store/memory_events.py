"""Events in this process's memory."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import orjson

from graph.store.events import KEPT_EVENTS, KEPT_SECONDS, START, Bell, Published, Watch, numbers_of

_SWEEP_SECONDS = 10.0


@dataclass(slots=True)
class _Stream:
    entries: deque[tuple[tuple[int, int], bytes]] = field(default_factory=lambda: deque(maxlen=KEPT_EVENTS))
    expires: float = 0.0
    """On the monotonic clock."""


class MemoryEvents:
    """The events of calls.

    Args:
        seconds: how long a call's events are kept after the last of them.
    """

    def __init__(self, *, seconds: float = KEPT_SECONDS) -> None:
        self._seconds = seconds
        self._streams: dict[str, _Stream] = {}
        self._bells: dict[str, set[Bell]] = {}
        self._cancels: set[asyncio.Queue[str]] = set()
        self._newest = (0, 0)
        self._next_sweep = 0.0

    async def publish(self, thread: str, events: Sequence[Mapping[str, Any]]) -> None:
        """Append events and wake who watches."""
        self._sweep()
        if not events:
            return
        stream = self._stream(thread) or self._streams.setdefault(thread, _Stream())
        stream.expires = time.monotonic() + self._seconds
        stream.entries.extend((self._position(), orjson.dumps(event)) for event in events)
        for bell in self._bells.get(thread, ()):
            bell.ring()

    async def read(self, thread: str, after: str = START, *, limit: int = 256) -> list[Published]:
        """Return the events after the position, oldest first."""
        known = numbers_of(after)
        stream = self._stream(thread)
        later = (entry for entry in stream.entries if entry[0] > known) if stream else ()
        return [Published(_written(position), orjson.loads(event)) for position, event in islice(later, limit)]

    async def last(self, thread: str) -> str:
        """Return the position of the newest event."""
        stream = self._stream(thread)
        return _written(stream.entries[-1][0]) if stream else START

    @asynccontextmanager
    async def watch(self, thread: str) -> AsyncIterator[Watch]:
        """Watch a call."""
        bell = Bell()
        self._bells.setdefault(thread, set()).add(bell)
        try:
            yield bell
        finally:
            self._bells[thread].discard(bell)
            if not self._bells[thread]:
                del self._bells[thread]

    async def ask_to_cancel(self, thread: str) -> None:
        """Tell everybody in this process."""
        for asked in self._cancels:
            asked.put_nowait(thread)

    async def asked_to_cancel(self) -> AsyncIterator[str]:
        """Yield the threads that are to end."""
        asked: asyncio.Queue[str] = asyncio.Queue()
        self._cancels.add(asked)
        try:
            while True:
                yield await asked.get()
        finally:
            self._cancels.discard(asked)

    def watched(self, thread: str) -> bool:
        """Tell whether anybody watches the call."""
        return thread in self._bells

    def forget(self, thread: str) -> None:
        """Remove the events of a call."""
        self._streams.pop(thread, None)

    def _stream(self, thread: str) -> _Stream | None:
        stream = self._streams.get(thread)
        if stream is not None and stream.expires < time.monotonic():
            self.forget(thread)
            return None
        return stream

    def _position(self) -> tuple[int, int]:
        """Return a position that is later than any given before, as a stream in Redis does."""
        now, (newest, number) = time.time_ns() // 1_000_000, self._newest
        self._newest = (now, 0) if now > newest else (newest, number + 1)
        return self._newest

    def _sweep(self) -> None:
        """Forget what has expired, at most once in a while: nobody may ever ask for it again."""
        now = time.monotonic()
        if now >= self._next_sweep:
            self._next_sweep = now + _SWEEP_SECONDS
            for thread in [thread for thread, stream in self._streams.items() if stream.expires < now]:
                self.forget(thread)


def _written(position: tuple[int, int]) -> str:
    return f"{position[0]}-{position[1]}"
