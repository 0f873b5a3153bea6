"""Going on with what a process that died left half done: runs, and writes of which nobody knows what came of them.
Every replica looks for them, and the lease lets one have each."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from graph.store.calls import CallRecord, Calls
from graph.store.effects import Record
from graph.store.ending import ended
from graph.store.errors import Busy, OutcomeUnknown, StoreError, StoreUnavailable
from graph.store.names import decode
from nodes.ports import AgentCaller
from nodes.reaching.pool import Pool
from server.flows import Flows
from server.turns import Turns

LOOK_SECONDS = 5.0
"""How often a replica looks for runs to go on with."""
KEEP_SECONDS = 3_600.0
"""How often the store is told which versions are served."""
LONGEST_SECONDS = 600.0
"""How seldom an agent is asked about a parked write at last."""
MOST_AT_ONCE = 20
"""How many runs a replica goes on with at a time: all of a service that died would be too many."""

log = structlog.get_logger()


@asynccontextmanager
async def keeping_on(
    turns: Turns, flows: Flows, calls: Calls, caller: AgentCaller, pool: Pool, tenant: str
) -> AsyncIterator[None]:
    """Go on with turns whose process died, ask agents again about writes that are parked, and keep the versions of
    the flows, while the context is open."""
    tasks = [
        asyncio.create_task(_Resuming(turns, calls, tenant).keep_looking()),
        asyncio.create_task(_AskingAgain(turns, caller, pool).keep_asking()),
        asyncio.create_task(_keep_versions(flows)),
    ]
    try:
        yield
    finally:
        await ended(*tasks)


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
        except StoreUnavailable:
            raise
        except Exception:  # of one run; the others are gone on with
            log.exception("run not gone on with", thread=thread)
            return
        if started is not None:
            log.info("run gone on with", call=started.request.call_identify_id, stage=started.turn.state.get("stage"))
            self._going.add(started.taking)
            started.taking.add_done_callback(self._going.discard)


class _AskingAgain:
    """Asks agents about parked writes that they could not be asked about, or knew nothing of, seldom and seldomer."""

    def __init__(self, turns: Turns, caller: AgentCaller, pool: Pool) -> None:
        self._turns = turns
        self._caller = caller
        self._pool = pool
        self._pauses: dict[str, float] = {}
        self._next: dict[str, float] = {}

    async def keep_asking(self) -> None:
        while True:
            try:
                await self._ask(await self._turns.parked())
            except StoreError as error:
                log.warning("parked writes not looked for", reason=str(error))
            await asyncio.sleep(LOOK_SECONDS * random.uniform(0.8, 1.2))

    async def _ask(self, parked: list[tuple[str, Record]]) -> None:
        names = {record.parked or "" for _, record in parked}
        for known in (self._pauses, self._next):
            for name in known.keys() - names:
                del known[name]
        for _, record in parked:
            name, now = record.parked or "", asyncio.get_running_loop().time()
            if now < self._next.get(name, 0.0):
                continue
            self._pauses[name] = min(self._pauses.get(name, LOOK_SECONDS) * 2, LONGEST_SECONDS)
            self._next[name] = now + self._pauses[name]
            await self._ask_one(record)

    async def _ask_one(self, record: Record) -> None:
        try:
            if await self._turns.ask_again(record, self._caller, self._pool):
                log.info("parked write settled by its agent", parked=record.parked, agent=record.effect.agent)
        except StoreUnavailable:
            raise
        except (Busy, OutcomeUnknown) as error:
            log.info("parked write not asked about", parked=record.parked, reason=str(error))
        except Exception:  # of one write; the others are asked about
            log.exception("parked write not asked about", parked=record.parked)


async def _keep_versions(flows: Flows) -> None:
    while True:
        await asyncio.sleep(KEEP_SECONDS * random.uniform(0.8, 1.2))
        try:
            await flows.keep()
        except StoreError as error:
            log.warning("flow versions not kept", reason=str(error))
