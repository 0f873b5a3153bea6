"""Going on with runs whose process died: every replica looks for them, and the lease lets one have each."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from graph.store.calls import CallRecord, Calls
from graph.store.errors import StoreError
from graph.store.names import decode
from server.flows import Flows
from server.turns import Turns

LOOK_SECONDS = 5.0
"""How often a replica looks for runs to go on with."""
KEEP_SECONDS = 3_600.0
"""How often the store is told which versions are served."""
MOST_AT_ONCE = 20
"""How many runs a replica goes on with at a time: all of a service that died would be too many."""

log = structlog.get_logger()


@asynccontextmanager
async def keeping_on(turns: Turns, flows: Flows, calls: Calls, tenant: str) -> AsyncIterator[None]:
    """Go on with runs whose process died, and keep the versions of the flows, while the context is open."""
    tasks = [
        asyncio.create_task(_Resuming(turns, calls, tenant).keep_looking()),
        asyncio.create_task(_keep_versions(flows)),
    ]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Resuming:
    def __init__(self, turns: Turns, calls: Calls, tenant: str) -> None:
        self._turns = turns
        self._calls = calls
        self._tenant = tenant
        self._going: set[asyncio.Task[object]] = set()

    async def keep_looking(self) -> None:
        while True:
            try:
                for thread, record in (await self._calls.dead(self._tenant)).items():
                    await self._resume(thread, record)
            except StoreError as error:
                log.warning("runs not looked for that are to be gone on with", reason=str(error))
            await asyncio.sleep(LOOK_SECONDS * random.uniform(0.8, 1.2))

    async def _resume(self, thread: str, record: CallRecord) -> None:
        while len(self._going) >= MOST_AT_ONCE:
            await asyncio.wait(self._going, return_when=asyncio.FIRST_COMPLETED)
        try:
            started = await self._turns.resume(decode(thread.partition("__")[2]), record)
        except StoreError:
            raise
        except Exception:  # of one run; the others are gone on with
            log.exception("run not gone on with", thread=thread)
            return
        if started is not None:
            log.info("run gone on with", call=started.request.call_identify_id, stage=started.turn.state.get("stage"))
            self._going.add(started.taking)
            started.taking.add_done_callback(self._going.discard)


async def _keep_versions(flows: Flows) -> None:
    while True:
        await asyncio.sleep(KEEP_SECONDS * random.uniform(0.8, 1.2))
        try:
            await flows.keep()
        except StoreError as error:
            log.warning("flow versions not kept", reason=str(error))
