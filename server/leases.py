"""Waiting for a call's lease, keeping it while its turn runs, and giving it back whatever happens."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from types import TracebackType
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


class held:  # noqa: N801  (used as a context, like the functions of contextlib)
    """Hold the turn's lease while the context is open, renewed by a timer that seldom fires: most turns end before.

    Args:
        calls: where the call lives.
        turn: the turn.
        resumes: whether another is to go on with the turn if this task is cancelled, or the store fails.

    Raises:
        TurnLost: if another turn took the lease over; what goes on in the context is cancelled.
    """

    def __init__(self, calls: Calls, turn: OpenTurn, *, resumes: bool = False) -> None:
        self._calls = calls
        self._turn = turn
        self._resumes = resumes
        self._every = min(calls.lease, LEASE_SECONDS) / 3
        self._renewals: set[asyncio.Task[None]] = set()
        self._lost: TurnLost | None = None

    async def __aenter__(self) -> None:
        """Begin to renew."""
        self._task = asyncio.current_task()
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(self._every, self._renew)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop renewing, and give the lease back."""
        ended_by, cut_off = error, self._resumes and isinstance(error, asyncio.CancelledError | StoreUnavailable)
        try:
            try:
                await self._stopped()
            except asyncio.CancelledError as cancelled:
                ended_by, cut_off = cancelled, self._resumes
            if isinstance(ended_by, asyncio.CancelledError) and self._lost is not None and self._task is not None:
                self._task.uncancel()
                cut_off = False
                raise self._lost from ended_by
            if ended_by is not None and ended_by is not error:
                raise ended_by
        finally:
            if not self._turn.closed:
                await give_back(self._calls, self._turn, open_still=cut_off)

    async def _stopped(self) -> None:
        self._timer.cancel()
        for task in self._renewals:
            task.cancel()
        if self._renewals:
            await asyncio.gather(*self._renewals, return_exceptions=True)

    def _renew(self) -> None:
        self._renewals.add(self._loop.create_task(self._renewed()))
        self._timer = self._loop.call_later(self._every, self._renew)

    async def _renewed(self) -> None:
        try:
            await self._calls.renew(self._turn)
        except TurnLost as error:
            if not (self._turn.closed or self._turn.ending):  # the last commit gives it back, and has its own fence
                self._tell(error)
        except StoreError as error:
            log.warning("lease not renewed", reason=str(error))

    def _tell(self, error: TurnLost) -> None:
        """Cancel the task, once."""
        if self._lost is None and self._task is not None:
            self._lost = error
            self._task.cancel()


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
