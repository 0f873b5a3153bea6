"""The turn, the centre of the house: begin → decide → run → commit. Every door goes through here.

begin   one script in the store takes the lease and loads the call
decide  the pure router: a turn that is not legal runs nothing and saves nothing
run     the graph, within the turn's deadline
commit  the saver's one `aput` (`core`), or `finish` for a saver that cannot commit
"""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any, Literal, Self, cast

import structlog

from graph.routing import Refused
from graph.store.calls import CallRecord, Calls, OpenedTurn, OpenTurn, new_steps
from graph.store.errors import Busy, StoreError
from graph.store.events import Events
from graph.store.names import thread_name
from nodes.ports import TurnContext
from nodes.spec import UNKNOWN
from nodes.state import Step
from server.deciding import Decider, run_of
from server.flows import Flows, Version
from server.leases import give_back, held, once_free
from server.problems import document_of
from server.turn import Begun, Started, Taken, TurnHook, TurnRequest, rest_of, said_again, taken_before
from server.underway import Audience, Underway

MOST_RESUMED = 5
"""How often a run is gone on with at most that committed nothing since its process died: it may be why it did."""

_OBEYING_AGAIN_SECONDS = 1.0

log = structlog.get_logger()


class Turns:
    """Takes turns on calls.

    Args:
        flows: the flows that calls may be of.
        calls: where the calls live.
        events: where those who follow a turn read what happens in it.
        tenant: whose calls these are.
        turn_timeout: seconds a turn may take where its flow does not say, waiting for a busy call included.
        busy_wait: seconds to wait for a call that is busy with another turn.
        execution_ttl: seconds a call is kept after its last turn if its flow goes by itself; None as any other call.
        hooks: who is told of turns.
    """

    def __init__(
        self,
        flows: Flows,
        calls: Calls,
        events: Events,
        *,
        tenant: str,
        turn_timeout: float,
        busy_wait: float,
        execution_ttl: int | None = None,
        hooks: Sequence[TurnHook] = (),
    ) -> None:
        self._flows = flows
        self._calls = calls
        self._events = events
        self._tenant = tenant
        self._turn_timeout = turn_timeout
        self._busy_wait = busy_wait
        self._execution_ttl = execution_ttl
        self._audience = Audience(events, hooks)
        self._open: dict[str, Underway] = {}
        self._started: set[asyncio.Task[Taken]] = set()
        self._decider = Decider(flows)

    @property
    def refused(self) -> Counter[str]:
        """Turns that were not legal, by reason."""
        return self._decider.refused

    async def __aenter__(self) -> Self:
        self._obeying = asyncio.create_task(self._obey_cancels())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait a while for the turns that were started; other replicas may still cancel them."""
        started = set(self._started)
        if started:
            await asyncio.wait(started, timeout=self._turn_timeout)
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
            FlowNotFound: if it names a flow that is not served; nothing was saved.
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
        return begun if isinstance(begun, Taken) else self._going(begun)

    async def resume(self, call_identify_id: str, record: CallRecord) -> Started | None:
        """Go on with a run that goes by itself, where its process left it; None if that is not to be done, or another
        does it.

        Args:
            call_identify_id: the call.
            record: of the call, with the turn whose process died (`Calls.dead`).

        Raises:
            StoreError: if the store failed.
        """
        opened = record.opened
        if opened and opened.committed and not record.version:
            await self._settle(call_identify_id, opened)
            return None
        version = await self._flows.version_of({}, record.version) if opened else None
        if opened is None or version is None or version.flow.waits_for == "caller":
            return None
        if _times_resumed(opened) > MOST_RESUMED:
            log.error("run not gone on with: its process dies of it", call=call_identify_id)
            return None
        try:
            begun = await self._begin(said_again(call_identify_id, opened), True, None, died=opened)
        except (Busy, Refused) as refusal:
            log.info("run not gone on with", call=call_identify_id, reason=str(refusal))
            return None
        return None if isinstance(begun, Taken) else self._going(begun)

    async def _settle(self, call_identify_id: str, ended: OpenedTurn) -> None:
        """Give back the lease of a run that had ended, all but that, when its process died: now the call expires."""
        thread = thread_name(self._tenant, call_identify_id)
        try:
            turn = await self._calls.begin(thread, said=ended.said, resumes=True, died=ended.token)
        except Busy:
            return
        await give_back(self._calls, turn)

    def _going(self, begun: Underway) -> Started:
        begun.followed = True
        taking = asyncio.create_task(self._go(begun))
        self._started.add(taking)
        taking.add_done_callback(self._settled)
        return Started(begun.request, begun.turn, begun.run, taking, begun.version.routes)

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
        try:
            version = await self._decider.version(turn, request)
        except BaseException:
            await give_back(self._calls, turn)
            raise
        is_there = turn.loaded is not None or turn.died is not None
        if not is_there or turn.state.get("ended") or run_of(turn, version) != run:
            is_left = await self._is_gone_on_with(turn)
            await give_back(self._calls, turn, open_still=is_left, as_it_was=is_left)
            return
        if turn.died is not None and turn.loaded is None:  # what it was told is part of what there is of it
            request = replace(said_again(call_identify_id, turn.died), intent=UNKNOWN, run=run)
        turn.wants_trail, turn.version, turn.one_save = bool(turn.push), version.key, version.saves_once
        begun = Underway(turn, request, version, deadline, run, followed=True)
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

    async def _begin(
        self, request: TurnRequest, wants_trail: bool, once_begun: Begun | None, *, died: OpenedTurn | None = None
    ) -> Underway | Taken:
        """Take the lease and find the turn legal, or find that the message was answered before."""
        now = asyncio.get_running_loop().time()
        thread = thread_name(self._tenant, request.call_identify_id)
        if_new = await self._flows.find(request.flow)
        turn = await self._begun(thread, request, if_new, now + self._seconds_of(if_new), died)
        if turn.answered is not None:
            return await self._taken_before(request, thread, turn.answered)
        try:
            version, run = await self._decider.legal(turn, request)
            turn.version, turn.one_save = version.key, version.saves_once
            if version.flow.waits_for == "nothing" and turn.ttl is None:
                turn.ttl = self._execution_ttl
            if once_begun is not None:
                await once_begun(turn, run)
        except BaseException as error:
            is_left = not isinstance(error, Refused) if died else await self._is_gone_on_with(turn)
            await give_back(self._calls, turn, open_still=is_left, as_it_was=is_left)
            raise
        notifies = bool(turn.push)
        turn.wants_trail = wants_trail or notifies
        deadline = now + self._seconds_of(version)
        followed = notifies or turn.followed
        return Underway(turn, rest_of(request, turn), version, deadline, run, followed=followed)

    async def _is_gone_on_with(self, turn: OpenTurn) -> bool:
        """Tell whether a turn took over from one that another is to go on with if this one does not."""
        if turn.died is None:
            return False
        try:
            version = await self._flows.version_of(turn.state, turn.died_on)
        except StoreError:
            return True
        return version is not None and version.flow.waits_for == "nothing"

    def _seconds_of(self, version: Version) -> float:
        """Return how long a turn of the flow may take."""
        return version.flow.turn_timeout or self._turn_timeout

    async def _begun(
        self, thread: str, request: TurnRequest, if_new: Version, deadline: float, died: OpenedTurn | None
    ) -> OpenTurn:
        if died is not None:
            said = {**request.said(), "flow": died.said.get("flow"), "resumed": _times_resumed(died)}
            return await self._calls.begin(thread, said=said, key=request.key, resumes=True, died=died.token)
        begin = partial(
            self._calls.begin,
            thread,
            said={**request.said(), "flow": if_new.flow.flow},
            key=request.key,
            version=if_new.key,
            ttl=None if request.ttl is None else max(1, round(request.ttl)),
            resumes=if_new.flow.waits_for == "nothing",
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

    async def _go(self, begun: Underway) -> Taken:
        """Run the graph under the lease, and give the lease back whatever happens."""
        thread = begun.turn.thread
        self._open[thread] = begun
        try:
            async with held(self._calls, begun.turn, resumes=begun.version.flow.waits_for == "nothing"):
                return await self._run(begun)
        except Exception as error:
            await self._audience.tell(begun, [{"event": "error", **document_of(error)}])
            raise
        finally:
            if self._open.get(thread) is begun:
                del self._open[thread]

    async def _run(self, begun: Underway) -> Taken:
        turn, request = begun.turn, begun.request
        state = await self._state_after(begun)
        steps = turn.steps or new_steps(turn, state)
        await self._calls.finish(turn, steps, complete=bool(state.get("is_complete")))
        steps = steps or await self._steps_before(turn)
        taken = Taken(request, turn.incarnation, steps[-1], turn.trail or steps, state, routes=begun.version.routes)
        told = taken.answer()
        log.info("turn", call=request.call_identify_id, **{key: told[key] for key in _LOGGED})
        await self._audience.tell(begun, [*begun.fresh_steps(), {"event": "turn", **told}])
        return taken

    async def _state_after(self, begun: Underway) -> Mapping[str, Any]:
        """Run the graph; what its nodes say meanwhile goes to who follows."""
        turn, request, graph = begun.turn, begun.request, begun.version.graph
        durability: Literal["exit", "async"] = "exit" if turn.one_save else "async"
        context = TurnContext(
            self._tenant,
            begun.deadline,
            request.language,
            request.traceparent,
            begun.followed,
            begun.cancel,
            interrupts=False,
        )
        inputs, config = request.inputs(turn), turn.config()
        if not begun.followed:
            return await graph.ainvoke(inputs, config, context=context, durability=durability)
        state: Mapping[str, Any] = {}
        async for told in graph.astream(
            inputs, config, context=context, durability=durability, stream_mode=["custom", "values"]
        ):
            mode, value = cast(tuple[str, dict[str, Any]], told)
            if mode == "values":
                state = value
            steps = [] if turn.one_save else begun.fresh_steps()  # an only step is told with the turn's end
            await self._audience.tell(begun, [*steps, *([value] if mode == "custom" else [])])
        return state

    async def _steps_before(self, turn: OpenTurn) -> list[Step]:
        """Return the steps of a call in which a run ended that had only to put together what was answered before."""
        record = await self._calls.read(turn.thread)
        return list(record.steps) if record else []

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


def _times_resumed(died: OpenedTurn) -> int:
    """Return how often a turn was gone on with since something of it was committed, if it is now."""
    return 1 if died.committed else int(died.said.get("resumed", 0)) + 1


_LOGGED = ("step", "stage", "agent", "intent", "intent_source", "status", "next_flow_id", "duration_ms")
