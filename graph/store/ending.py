"""Ending what goes on in the background."""

import asyncio
from collections.abc import Collection
from typing import Any

_CANCEL_AGAIN = 1.0


async def ended(*tasks: asyncio.Task[Any]) -> None:
    """Cancel the tasks, and return once they have ended; what they raise is not told.

    Once may not do: before Python 3.12 `asyncio.wait_for`, which redis-py uses, may swallow a cancellation.
    """
    left: Collection[asyncio.Task[Any]] = tasks
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=_CANCEL_AGAIN)
    for task in tasks:
        if not task.cancelled():
            task.exception()  # retrieved here, so that it is not reported as lost
