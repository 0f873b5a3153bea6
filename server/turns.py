"""The turn, the centre of the house: begin → decide → run → commit. Every door goes through here.

begin   one script in the store takes the lease and loads the call
decide  the pure router: a turn that is not legal runs nothing and saves nothing
run     the graph, within the turn's deadline
commit  the saver's one `aput` (`core`), or `finish` for a saver that cannot commit
"""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, Self, cast

import structlog

from graph.builder import CallGraph
from graph.routing import Refused, Routes, decide, next_run, same_account
from graph.store.calls import Calls, OpenTurn, new_steps
from graph.store.errors import Busy, StoreError
from graph.store.events import Events
from graph.store.names import thread_name
from nodes.ports import TurnContext
from nodes.spec import UNKNOWN
from server.leases import give_back, held, once_free
from server.problems import KeyReused, document_of
from server.turn import NOT_SAID, Begun, Started, Taken, TurnHook, TurnRequest, taken_before

_OBEYING_AGAIN_SECONDS = 1.0

log = structlog.get_logger()


@dataclass(slots=True)
class _Begun:
    """A turn that holds its lease and was found legal."""

    turn: OpenTurn
    request: TurnRequest
    deadline: float
    run: int
    followed: bool = False
    """Whether anybody hears what happens in it: who follows its events, or is notified."""
    told: int = 0
    """How many events were told of it."""
    cancel: asyncio.Event = field(default_factory=asyncio.Event)


class Turns:
    """Takes turns on calls.

    Args:
        graph: the compiled flow.
        routes: the flow as the router sees it.
        calls: where the calls live.
        events: where those who follow a turn read what happens in it.
        tenant: whose calls these are.
        turn_timeout: seconds a turn may take, waiting for a busy call included.
        busy_wait: seconds to wait for a call that is busy with another turn.
        stop_timeout: seconds that turns under way have to end when the service stops; a turn's time by default.
        hooks: who is told of turns.
    """

    def __init__(
        self,
        graph: CallGraph,
        routes: Routes,
        calls: Calls,
        events: Events,
        *,
        tenant: str,
        turn_timeout: float,
        busy_wait: float,
        stop_timeout: float | None = None,
        hooks: Sequence[TurnHook] = (),
    ) -> None:
        self._graph = graph
        self._routes = routes
        self._calls = calls
        self._events = events
        self._tenant = tenant
        self._turn_timeout = turn_timeout
        self._busy_wait = busy_wait
        self._stop_timeout = turn_timeout if stop_timeout is None else stop_timeout
        self._hooks = hooks
        self._waits = routes.flow.waits_for == "caller"
        self._open: dict[str, _Begun] = {}
        self._started: set[asyncio.Task[Taken]] = set()
        self.refused: Counter[str] = Counter()
        """Turns that were not legal, by reason."""

    async def __aenter__(self) -> Self:
        self._obeying = asyncio.create_task(self._obey_cancels())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait a while for the turns that were started; other replicas may still cancel them."""
        started = set(self._started)
        if started:
            await asyncio.wait(started, timeout=self._stop_timeout)
        self._obeying.cancel()
        for taking in started:
            taking.cancel()
        await asyncio.gather(self._obeying, *started, return_exceptions=True)

    async def run(self, request: TurnRequest) -> dict[str, Any]:
        """Take one turn and return what the client is told; raises what `take` raises."""
        return (await self.take(request)).answer()

    async def take(
        self, request: TurnRequest, *, wants_trail: bool = False, once_begun: Begun | None = None
    ) -> Taken:
        """Take one turn.

        Args:
            request: the message.
            wants_trail: whether the audit trail of the whole run is to come with it.
            once_begun: what is to be done as soon as the turn has begun; what it raises ends the turn.

        Raises:
            Refused: if the turn is not legal now; nothing was saved.
            KeyReused: if the message's key named another message before.
            Busy: if the call was still busy after the wait.
            SaveUnknown: if the store did not confirm that the turn was saved.
            StoreError: if the store failed otherwise; nothing was saved.
        """
        begun = await self._begin(request, wants_trail, once_begun)
        return begun if isinstance(begun, Taken) else await self._go(begun)

    async def start(self, request: TurnRequest, *, once_begun: Begun | None = None) -> Started | Taken:
        """Begin a turn that goes on whoever follows it; raises what `take` raises until it has begun.

        A message that was answered before is returned as it was taken then.
        """
        begun = await self._begin(request, True, once_begun)
        if isinstance(begun, Taken):
            return begun
        begun.followed = True
        taking = asyncio.create_task(self._go(begun))
        self._started.add(taking)
        taking.add_done_callback(self._settled)
        return Started(request, begun.turn, begun.run, taking)

    async def cancel(self, call_identify_id: str, run: int) -> None:
        """End a run of the call now: the graph at work, the agents' open tasks, then the run; not one that has ended.

        Raises:
            Busy: if the turn in flight would not end in time.
            StoreError: if the store failed.
        """
        request = TurnRequest(call_identify_id, None, None, "", UNKNOWN, run=run)
        thread = thread_name(self._tenant, call_identify_id)
        deadline = self._in(self._turn_timeout)
        turn = await once_free(lambda: self._begin_or_interrupt(thread, run), deadline)
        if turn.state.get("ended") or self._run_of(turn) != run:
            await give_back(self._calls, turn)
            return
        turn.wants_trail = bool(turn.push)
        begun = _Begun(turn, request, deadline, run, followed=True)
        begun.cancel.set()
        await self._go(begun)

    def _interrupt(self, thread: str, run: int) -> bool:
        """Tell the turn that is open here on the call, if any, to end now; but spare one of another run."""
        begun = self._open.get(thread)
        if begun is not None and begun.run == run:
            begun.cancel.set()
        return begun is not None

    async def _obey_cancels(self) -> None:
        """Interrupt turns that are open here when another replica asks for it."""
        while True:
            try:
                async for asked in self._events.asked_to_cancel():
                    thread, _, run = asked.rpartition(".")
                    self._interrupt(thread, int(run))
            except StoreError as error:
                log.warning("cancels of other replicas not heard", reason=str(error))
                await asyncio.sleep(_OBEYING_AGAIN_SECONDS)

    async def end(self, call_identify_id: str) -> bool:
        """Remove a call once it is not busy; tell whether there was one.

        Raises:
            Busy: if it was still busy after the wait.
        """
        thread = thread_name(self._tenant, call_identify_id)
        return await once_free(lambda: self._calls.delete(thread), self._in(self._busy_wait))

    def _in(self, seconds: float) -> float:
        return asyncio.get_running_loop().time() + min(seconds, self._turn_timeout)

    async def _begin_or_interrupt(self, thread: str, run: int) -> OpenTurn:
        """Begin, or tell the turn in flight to end, wherever it runs."""
        try:
            return await self._calls.begin(thread, said={})
        except Busy:
            if not self._interrupt(thread, run):
                await self._events.ask_to_cancel(f"{thread}.{run}")
            raise

    async def _begin(self, request: TurnRequest, wants_trail: bool, once_begun: Begun | None) -> _Begun | Taken:
        """Take the lease and find the turn legal, or find that the message was answered before."""
        deadline = self._in(self._turn_timeout)
        thread = thread_name(self._tenant, request.call_identify_id)
        turn = await self._begun(thread, request, deadline)
        if turn.answered is not None:
            return await self._taken_before(request, thread, turn.answered)
        turn.one_save = self._waits
        try:
            run = self._legal(turn, request)
            if once_begun is not None:
                await once_begun(turn, run)
        except BaseException:
            await give_back(self._calls, turn)
            raise
        notifies = bool(turn.push)
        turn.wants_trail = wants_trail or notifies
        return _Begun(turn, request, deadline, run, followed=notifies or turn.followed)

    async def _begun(self, thread: str, request: TurnRequest, deadline: float) -> OpenTurn:
        async def begin() -> OpenTurn:
            return await self._calls.begin(
                thread, said={**request.said(), "flow": self._routes.flow.flow}, key=request.key
            )

        try:
            return await once_free(begin, self._in(self._busy_wait))
        except Busy:
            if not await self._is_in_flight(thread, request):
                raise
            return await once_free(begin, deadline)

    async def _is_in_flight(self, thread: str, request: TurnRequest) -> bool:
        """Tell whether this very message is being answered: then the answer is worth waiting for."""
        record = await self._calls.read(thread) if request.key else None
        return bool(record and record.opened and record.opened.said.get("key") == request.key)

    def _legal(self, turn: OpenTurn, request: TurnRequest) -> int:
        """Return the run that the turn belongs to.

        Raises:
            Refused: if the turn is not legal now.
            KeyReused: if it was to begin a call that exists.
        """
        if request.begins and turn.loaded is not None:
            raise KeyReused("the idempotency key named another message before; choose a new one for a new message")
        try:
            if request.account_id and turn.state.get("account_id") != NOT_SAID:
                same_account(turn.state, request.account_id)
            decide(self._routes, turn.state, request.intent)
            run = self._run_of(turn)
            if request.run not in (None, run):
                raise Refused("call-ended", "the task that the message is meant for has ended; begin another")
        except Refused as refusal:
            self.refused[refusal.reason] += 1
            log.info("turn refused", call=request.call_identify_id, reason=refusal.reason, intent=request.intent)
            raise
        return run

    def _run_of(self, turn: OpenTurn) -> int:
        return next_run(turn.state, self._routes.flow.restarts)

    async def _go(self, begun: _Begun) -> Taken:
        """Run the graph under the lease, and give the lease back whatever happens."""
        thread = begun.turn.thread
        self._open[thread] = begun
        try:
            async with held(self._calls, begun.turn):
                return await self._run(begun)
        except Exception as error:
            await self._tell(begun, [{"event": "error", **document_of(error)}])
            raise
        finally:
            if self._open.get(thread) is begun:
                del self._open[thread]

    async def _run(self, begun: _Begun) -> Taken:
        turn, request = begun.turn, begun.request
        state = await self._state_after(begun)
        steps = new_steps(turn, state)
        await self._calls.finish(turn, steps, complete=bool(state.get("is_complete")))
        taken = Taken(request, turn.incarnation, steps[-1], turn.trail or steps, state)
        told = taken.answer()
        log.info("turn", call=request.call_identify_id, **{key: told[key] for key in _LOGGED})
        await self._tell(begun, [*({"event": "step", "step": step} for step in steps), {"event": "turn", **told}])
        return taken

    async def _state_after(self, begun: _Begun) -> Mapping[str, Any]:
        """Run the graph; what its nodes say meanwhile goes to who follows."""
        turn, request = begun.turn, begun.request
        durability: Literal["exit", "async"] = "exit" if turn.one_save else "async"
        context = TurnContext(
            self._tenant, begun.deadline, request.language, request.traceparent, begun.followed, begun.cancel
        )
        inputs, config = request.inputs(turn), turn.config()
        if not begun.followed:
            return await self._graph.ainvoke(inputs, config, context=context, durability=durability)
        state: Mapping[str, Any] = {}
        async for told in self._graph.astream(
            inputs, config, context=context, durability=durability, stream_mode=["custom", "values"]
        ):
            mode, value = cast(tuple[str, dict[str, Any]], told)
            if mode == "values":
                state = value
            else:
                await self._tell(begun, [value])
        return state

    async def _tell(self, begun: _Begun, events: Sequence[Mapping[str, Any]]) -> None:
        """Publish events to followers, and tell the hooks; neither can fail the turn."""
        marked = [
            {**event, "run": begun.run, "turn": begun.turn.token, "nth": nth}
            for nth, event in enumerate(events, begun.told + 1)
        ]
        begun.told += len(events)
        if begun.followed:
            try:
                await self._events.publish(begun.turn.thread, marked)
            except StoreError as error:
                log.warning("events not published", reason=str(error))
        for hook in self._hooks:
            try:
                hook.told(begun.turn, begun.request.call_identify_id, marked)
            except Exception:
                log.exception("hook failed", hook=type(hook).__name__)

    async def _taken_before(self, request: TurnRequest, thread: str, number: int) -> Taken:
        record = await self._calls.read(thread)
        if record is None:
            raise Busy("the call has just ended; send the message again")
        return taken_before(request, record, number)

    def _settled(self, taking: asyncio.Task[Taken]) -> None:
        """Forget a started turn; what it raised was told to its followers."""
        self._started.discard(taking)
        if not taking.cancelled() and (error := taking.exception()) is not None:
            log.warning("turn not answered", reason=str(error))


_LOGGED = ("step", "stage", "agent", "intent", "intent_source", "status", "next_flow_id", "duration_ms")
