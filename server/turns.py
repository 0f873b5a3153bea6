"""The turn, the centre of the house: begin → decide → run → commit. Every door goes through here.

begin   one script in the store takes the lease and loads the call
decide  the pure router: a turn that is not legal runs nothing and saves nothing
run     the graph, within the turn's deadline
commit  the saver's one `aput` (`core`), or `finish` for a saver that cannot commit
"""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import structlog

from graph.builder import CallGraph
from graph.routing import Refused, Routes, decide, same_account
from graph.store.calls import Calls, OpenTurn, new_steps
from graph.store.errors import Busy, StoreError
from graph.store.names import thread_name
from graph.store.redis_calls import LEASE_SECONDS
from graph.trail import answer, full_summary
from nodes.ports import TurnContext
from nodes.state import CallInput

Done = TypeVar("Done")

_FIRST_WAIT, _LONGEST_WAIT = 0.01, 0.2

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class TurnRequest:
    """One message from the caller, as any door hands it over."""

    call_identify_id: str
    account_id: str
    eci: str
    input_message: str
    intent: str | None = None
    language: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    traceparent: str | None = None


class Turns:
    """Takes turns on calls.

    Args:
        graph: the compiled flow.
        routes: the flow as the router sees it.
        calls: where the calls live.
        tenant: whose calls these are.
        turn_timeout: seconds a turn may take, waiting for a busy call included.
        busy_wait: seconds to wait for a call that is busy with another turn.
    """

    def __init__(
        self,
        graph: CallGraph,
        routes: Routes,
        calls: Calls,
        *,
        tenant: str,
        turn_timeout: float,
        busy_wait: float,
    ) -> None:
        self._graph = graph
        self._routes = routes
        self._calls = calls
        self._tenant = tenant
        self._turn_timeout = turn_timeout
        self._busy_wait = busy_wait
        self._waits = routes.flow.waits_for == "caller"
        self.refused: Counter[str] = Counter()
        """Turns that were not legal, by reason."""

    async def run(self, request: TurnRequest) -> dict[str, Any]:
        """Take one turn and return what the client is told.

        Raises:
            Refused: if the turn is not legal now; nothing was saved.
            Busy: if the call was still busy after the wait.
            SaveUnknown: if the store did not confirm that the turn was saved.
            StoreError: if the store failed otherwise; nothing was saved.
        """
        deadline = self._deadline()
        thread = thread_name(self._tenant, request.call_identify_id)
        turn = await self._once_free(lambda: self._calls.begin(thread), deadline)
        turn.one_save = self._waits
        try:
            async with self._renewing(turn):
                return await self._run(turn, request, deadline)
        except Refused as refusal:
            self.refused[refusal.reason] += 1
            log.info("turn refused", call=request.call_identify_id, reason=refusal.reason, intent=request.intent)
            raise
        finally:
            if not turn.closed:
                await self._abandon(turn)

    async def end(self, call_identify_id: str) -> bool:
        """Remove a call once it is not busy; tell whether there was one.

        Raises:
            Busy: if it was still busy after the wait.
        """
        thread = thread_name(self._tenant, call_identify_id)
        return await self._once_free(lambda: self._calls.delete(thread), self._deadline())

    def _deadline(self) -> float:
        return asyncio.get_running_loop().time() + self._turn_timeout

    async def _once_free(self, work: Callable[[], Awaitable[Done]], deadline: float) -> Done:
        clock = asyncio.get_running_loop()
        give_up = min(clock.time() + self._busy_wait, deadline)
        wait = _FIRST_WAIT
        while True:
            try:
                return await work()
            except Busy:
                if clock.time() >= give_up:
                    raise
            await asyncio.sleep(min(wait * random.uniform(0.5, 1), max(0.0, give_up - clock.time())))
            wait = min(wait * 2, _LONGEST_WAIT)

    async def _run(self, turn: OpenTurn, request: TurnRequest, deadline: float) -> dict[str, Any]:
        same_account(turn.state, request.account_id)
        decide(self._routes, turn.state, request.intent)
        context = TurnContext(self._tenant, deadline, request.language, request.traceparent)
        durability: Literal["exit", "async"] = "exit" if turn.one_save else "async"
        state = await self._graph.ainvoke(
            _inputs(turn, request), turn.config(), context=context, durability=durability
        )
        steps = new_steps(turn, state)
        await self._calls.finish(turn, steps, complete=bool(state.get("is_complete")))
        summary = full_summary(state.get("session_summary"), turn.trail)
        told = answer(request.call_identify_id, steps[-1], summary)
        log.info("turn", call=request.call_identify_id, **{key: told[key] for key in _LOGGED})
        return told

    @asynccontextmanager
    async def _renewing(self, turn: OpenTurn) -> AsyncIterator[None]:
        """Keep the lease while the turn runs: a timer that seldom fires, as most turns end long before."""
        loop = asyncio.get_running_loop()
        renewals: set[asyncio.Task[None]] = set()

        def renew() -> None:
            renewals.add(loop.create_task(self._renew(turn)))
            timers.append(loop.call_later(LEASE_SECONDS / 3, renew))

        timers = [loop.call_later(LEASE_SECONDS / 3, renew)]
        try:
            yield
        finally:
            timers[-1].cancel()
            for task in renewals:
                task.cancel()
            await asyncio.gather(*renewals, return_exceptions=True)

    async def _renew(self, turn: OpenTurn) -> None:
        try:
            await self._calls.renew(turn)
        except StoreError as error:
            log.warning("lease not renewed", reason=str(error))

    async def _abandon(self, turn: OpenTurn) -> None:
        """Give the lease back even if the client's task is cancelled; a store that fails lets it run out."""
        try:
            await asyncio.shield(asyncio.ensure_future(self._give_back(turn)))
        except StoreError as error:
            log.warning("lease not given back", reason=str(error))

    async def _give_back(self, turn: OpenTurn) -> None:
        """Give the lease back, but not under a save: that of a cancelled run goes on after the run has raised."""
        if turn.saving is not None and not turn.saving.done():
            await asyncio.wait({turn.saving}, timeout=LEASE_SECONDS)
        if not turn.closed:
            await self._calls.abandon(turn)


_LOGGED = ("step", "stage", "agent", "intent", "intent_source", "status", "next_flow_id", "duration_ms")


def _inputs(turn: OpenTurn, request: TurnRequest) -> CallInput:
    said: CallInput = {
        "input_message": request.input_message,
        "intent": request.intent,
        "metadata": dict(request.metadata),
        "eci": request.eci,
    }
    if turn.loaded is not None:
        return said
    return {
        **said,
        "call_identify_id": request.call_identify_id,
        "account_id": request.account_id,
        "incarnation": turn.incarnation,
    }
