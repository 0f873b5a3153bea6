"""Waiting for a call's lease, keeping it while its turn runs, and giving it back whatever happens."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext
from typing import TypeVar

import structlog

from graph.store.calls import Calls, OpenTurn
from graph.store.errors import Busy, StoreError, StoreUnavailable, TurnLost
from graph.store.redis_calls import LEASE_SECONDS
from nodes.timing import Timing

Done = TypeVar("Done")

_FIRST_WAIT, _LONGEST_WAIT = 0.01, 0.2

log = structlog.get_logger()


async def once_free(
    work: Callable[[], Awaitable[Done]],
    give_up: float | Callable[[], Awaitable[float]],
    timing: Timing | None = None,
) -> Done:
    """Return what `work` returns, tried again while the call is busy.

    Args:
        work: what needs the lease.
        give_up: when to stop trying, on the loop's clock, or what says so whenever the call is busy.
        timing: is told how long the wait was.

    Raises:
        Busy: if the call was busy until then.
    """
    clock, wait = asyncio.get_running_loop(), _FIRST_WAIT
    while True:
        try:
            return await work()
        except Busy:
            until = await give_up() if callable(give_up) else give_up
            if clock.time() >= until:
                raise
        with timing.of("queue") if timing else nullcontext():
            await asyncio.sleep(min(wait * random.uniform(0.5, 1), max(0.0, until - clock.time())))
        wait = min(wait * 2, _LONGEST_WAIT)


@asynccontextmanager
async def held(calls: Calls, turn: OpenTurn, *, resumes: bool = False) -> AsyncIterator[None]:
    """Hold the turn's lease while the context is open.

    Args:
        calls: where the call lives.
        turn: the turn.
        resumes: whether another is to go on with the turn if this task is cancelled, or the store fails.

    Raises:
        TurnLost: if another turn took the lease over; what goes on in the context is cancelled.
    """
    cut_off, lost = False, _Lost()
    try:
        with lost:
            async with _renewing(calls, turn, lost):
                yield
    except (asyncio.CancelledError, StoreUnavailable):
        cut_off = resumes
        raise
    finally:
        if not turn.closed:
            await give_back(calls, turn, open_still=cut_off)


async def give_back(calls: Calls, turn: OpenTurn, *, open_still: bool = False, as_it_was: bool = False) -> None:
    """Give the lease back even if the client's task is cancelled; a store that fails lets it run out.

    Args:
        calls: where the call lives.
        turn: the turn.
        open_still: whether the turn stays open, for another to go on with.
        as_it_was: whether that is the turn which it took over from.
    """
    try:
        await asyncio.shield(asyncio.ensure_future(_given_back(calls, turn, open_still, as_it_was)))
    except StoreError as error:
        log.warning("lease not given back", reason=str(error))


async def _given_back(calls: Calls, turn: OpenTurn, open_still: bool, as_it_was: bool) -> None:
    """Give the lease back, but not under a save: that of a cancelled run goes on after the run has raised."""
    if turn.saving is not None and not turn.saving.done():
        await asyncio.wait({turn.saving}, timeout=min(calls.lease, LEASE_SECONDS))
    if not turn.closed:
        await (calls.let_go(turn, as_it_was=as_it_was) if open_still else calls.abandon(turn))


class _Lost:
    """Ends what a task does in this context once its lease is lost."""

    def __init__(self) -> None:
        self._task = asyncio.current_task()
        self._error: TurnLost | None = None

    def __enter__(self) -> None:
        """Nothing is lost yet."""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, asyncio.CancelledError) and self._error is not None and self._task is not None:
            self._task.uncancel()
            raise self._error from error

    def tell(self, error: TurnLost) -> None:
        """Cancel the task, once."""
        if self._error is None and self._task is not None:
            self._error = error
            self._task.cancel()


@asynccontextmanager
async def _renewing(calls: Calls, turn: OpenTurn, lost: _Lost) -> AsyncIterator[None]:
    """Renew the lease by a timer that seldom fires, as most turns end long before."""
    loop = asyncio.get_running_loop()
    renewals: set[asyncio.Task[None]] = set()

    def renew() -> None:
        renewals.add(loop.create_task(_renew(calls, turn, lost)))
        timers.append(loop.call_later(every, renew))

    every = min(calls.lease, LEASE_SECONDS) / 3
    timers = [loop.call_later(every, renew)]
    try:
        yield
    finally:
        timers[-1].cancel()
        for task in renewals:
            task.cancel()
        await asyncio.gather(*renewals, return_exceptions=True)


async def _renew(calls: Calls, turn: OpenTurn, lost: _Lost) -> None:
    try:
        await calls.renew(turn)
    except TurnLost as error:
        if not (turn.closed or turn.ending):  # the last commit gives it back itself, and has its own fence
            lost.tell(error)
    except StoreError as error:
        log.warning("lease not renewed", reason=str(error))
