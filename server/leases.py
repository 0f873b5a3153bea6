"""Waiting for a call's lease, keeping it while its turn runs, and giving it back whatever happens."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext
from typing import TypeVar

import structlog

from graph.store.calls import Calls, OpenTurn
from graph.store.errors import Busy, StoreError, StoreUnavailable
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
    """
    cut_off = False
    try:
        async with _renewing(calls, turn):
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


@asynccontextmanager
async def _renewing(calls: Calls, turn: OpenTurn) -> AsyncIterator[None]:
    """Renew the lease by a timer that seldom fires, as most turns end long before."""
    loop = asyncio.get_running_loop()
    renewals: set[asyncio.Task[None]] = set()

    def renew() -> None:
        renewals.add(loop.create_task(_renew(calls, turn)))
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


async def _renew(calls: Calls, turn: OpenTurn) -> None:
    try:
        await calls.renew(turn)
    except StoreError as error:
        log.warning("lease not renewed", reason=str(error))
