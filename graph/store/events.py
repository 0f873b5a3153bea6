"""What happens in a call while a turn runs, for whoever follows it: kept in order for a while, and read by position.

Any replica may publish and any may read; a reader asks for what comes after the position it has, so that a slow one
costs no memory and one that lost its connection misses nothing. What is kept is for followers only: the call itself
is in `graph.store.calls`.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol

START = "0-0"
"""The position before the first event."""

KEPT_EVENTS = 10_000
"""How many of a call's events are kept, at least."""

KEPT_SECONDS = 300
"""How long a call's events are kept after the last of them."""

_LARGEST = 2**63


@dataclass(frozen=True, slots=True)
class Published:
    """An event with its position."""

    position: str
    """`MILLISECONDS-NUMBER`, growing."""
    event: Mapping[str, Any]


class Watch(Protocol):
    """Somebody who waits for news of one call."""

    async def changed(self, timeout: float) -> bool:
        """Wait until something was published since the last return, or the seconds are over; tell which."""


class Events(Protocol):
    """The events of calls. Every method may raise `StoreUnavailable`."""

    async def publish(self, thread: str, events: Sequence[Mapping[str, Any]]) -> None:
        """Append events, JSON-native, and wake who watches."""

    async def read(self, thread: str, after: str = START, *, limit: int = 256) -> list[Published]:
        """Return the events after the position, oldest first.

        Raises:
            ValueError: if that is no position.
        """

    async def last(self, thread: str) -> str:
        """Return the position of the newest event; `START` if there is none."""

    def watch(self, thread: str) -> AbstractAsyncContextManager[Watch]:
        """Watch a call; all watches of a process share one connection."""

    async def ask_to_cancel(self, thread: str) -> None:
        """Tell all replicas that the call is to end now."""

    def asked_to_cancel(self) -> AsyncIterator[str]:
        """Yield the threads for which that was said, on any replica, while iterated."""


class Bell:
    """A watch that is rung when there is news."""

    def __init__(self) -> None:
        self._rung = asyncio.Event()

    def ring(self, message: bytes | None = None) -> None:
        """Tell that something was published, or that it may have been."""
        self._rung.set()

    async def changed(self, timeout: float) -> bool:
        """Wait for a ring."""
        try:
            async with asyncio.timeout(timeout):
                await self._rung.wait()
        except TimeoutError:
            return False
        self._rung.clear()
        return True


def numbers_of(position: str) -> tuple[int, int]:
    """Return the milliseconds and the number of a position.

    Raises:
        ValueError: if it is none.
    """
    milliseconds, dash, number = position.partition("-")
    if dash and all(part.isascii() and part.isdigit() and int(part) < _LARGEST for part in (milliseconds, number)):
        return int(milliseconds), int(number)
    raise ValueError(f"{position!r} is not the position of an event")
