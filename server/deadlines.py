"""A client's deadline: whoever waits for it is answered in time, by what it waits for or by word that there is no
answer yet. What is under way goes on."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Annotated, Protocol, TypeVar

from pydantic import Field

from nodes.timing import Timing
from server.problems import OutOfTime

Done = TypeVar("Done")

DeadlineMs = Annotated[int, Field(ge=1, le=86_400_000)]
"""Milliseconds within which a client wants its answer."""

_RESERVED, _MOST_RESERVED = 0.1, 0.25
"""How much of a deadline is kept for saving and answering: a part of it, and so many seconds at most."""
_TOLD, _MOST_TOLD = 0.05, 0.1
"""How much of it is kept for telling the client that its time is up."""


class Wanted(Protocol):
    """An answer that a client waits for; a `TurnRequest` is one."""

    @property
    def deadline(self) -> float | None:
        """Seconds within which it is wanted; None for any time."""

    @property
    def timing(self) -> Timing:
        """Knows how long ago the message came in."""


@dataclass(frozen=True, slots=True)
class Wait:
    """What is wanted by a client whose message is not read to its end yet."""

    deadline: float | None
    timing: Timing


def work_left(request: Wanted) -> float | None:
    """Return the seconds that are left to work on the answer; None for any time."""
    return _left(request, _RESERVED, _MOST_RESERVED)


def wait_left(request: Wanted) -> float | None:
    """Return the seconds that are left to wait for the answer; None for any time."""
    return _left(request, _TOLD, _MOST_TOLD)


def _left(request: Wanted, part: float, most: float) -> float | None:
    if request.deadline is None:
        return None
    return max(0.0, request.deadline - min(request.deadline * part, most) - request.timing.elapsed)


async def in_time(request: Wanted, work: "asyncio.Task[Done]") -> Done:
    """Return what a task returns, which goes on without the client if that is not in time.

    Raises:
        OutOfTime: then.
    """
    await asyncio.wait({work}, timeout=wait_left(request))
    if not work.done():
        raise out_of_time()
    return work.result()


async def each_in_time(request: Wanted, told: AsyncGenerator[Done, None]) -> AsyncGenerator[Done, None]:
    """Yield what is told until the client's time is up.

    Raises:
        OutOfTime: then.
    """
    async with aclosing(told):
        while True:
            try:
                async with asyncio.timeout(wait_left(request)):
                    one = await anext(told)
            except StopAsyncIteration:
                return
            except TimeoutError as error:
                raise out_of_time() from error
            yield one


def out_of_time() -> OutOfTime:
    """Return what a client is told whose time is up."""
    return OutOfTime(
        "the deadline passed before the turn was answered; it may be answered all the same: send the message again "
        "with the same Idempotency-Key, or look at the session"
    )
