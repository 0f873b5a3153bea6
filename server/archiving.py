"""Bringing the sealed trails of calls that are over to the archive: every replica looks for them, one has each."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import structlog

from graph.store.calls import Calls
from graph.store.ending import ended
from graph.store.errors import StoreError

LOOK_SECONDS = 5.0
"""How often a replica looks for trails that are due."""
_CLOSING_SECONDS = 5.0

log = structlog.get_logger()


@asynccontextmanager
async def archiving(calls: Calls, tenant: str) -> AsyncIterator[None]:
    """Archive the trails that are due while the context is open, and once more as it closes."""
    looking = asyncio.create_task(_keep_looking(calls, tenant))
    try:
        yield
    finally:
        await ended(looking)
        with suppress(TimeoutError):  # what is left is archived by another replica, or after the next start
            await asyncio.wait_for(_look(calls, tenant), _CLOSING_SECONDS)


async def _keep_looking(calls: Calls, tenant: str) -> None:
    while True:
        await _look(calls, tenant)
        await asyncio.sleep(LOOK_SECONDS * random.uniform(0.8, 1.2))


async def _look(calls: Calls, tenant: str) -> None:
    try:
        await calls.archive_due(tenant)
    except StoreError as error:
        log.warning("audit trails not archived; they wait in the store", reason=str(error))
    except Exception:  # the next look is another try
        log.exception("audit trails not archived")
