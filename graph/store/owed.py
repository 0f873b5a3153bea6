"""Leases that could not be given back because the store failed: it is told once it answers again.

Otherwise a call would stay busy until the lease runs out, long after the store is well.
"""

import asyncio
from collections.abc import Awaitable, Callable

from graph.store.ending import ended
from graph.store.errors import StoreError, StoreUnavailable

_FIRST_WAIT, _LONGEST_WAIT = 0.05, 1.0
_MOST = 1_000
"""How many leases are owed at a time; the others run out by themselves."""


class Owed:
    """What the store is still to be told.

    Args:
        seconds: how long that is tried; by then the lease has run out by itself.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._tasks: set[asyncio.Task[None]] = set()

    def owe(self, give_back: Callable[[], Awaitable[object]], *, may_be_taken_yet: bool = False) -> None:
        """Give a lease back as soon as the store answers.

        Args:
            give_back: does it; it may be done several times.
            may_be_taken_yet: whether the request that took the lease may still be on its way.
        """
        if len(self._tasks) >= _MOST:
            return
        task = asyncio.create_task(self._give(give_back, may_be_taken_yet))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def aclose(self) -> None:
        """Leave what is still owed to the leases' end."""
        await ended(*self._tasks)

    async def _give(self, give_back: Callable[[], Awaitable[object]], may_be_taken_yet: bool) -> None:
        clock, wait = asyncio.get_running_loop().time, _FIRST_WAIT
        deadline = clock() + self._seconds
        while clock() < deadline:
            await asyncio.sleep(wait)
            try:
                await give_back()
            except StoreUnavailable:
                wait = min(2 * wait, _LONGEST_WAIT)
                continue
            except StoreError:  # the lease has moved on
                return
            if not may_be_taken_yet:
                return
            wait *= 2
