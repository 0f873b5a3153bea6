"""The turn, the centre of the house: begin → decide → run → commit. Every door goes through here.

begin   one script in the store takes the lease and loads the call
decide  the pure router: a turn that is not legal runs nothing and saves nothing
run     the graph, within the turn's deadline
commit  the saver's one `aput` (`core`), or `finish` for a saver that cannot commit
"""

import asyncio
from collections import Counter
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar

import structlog

from graph.routing import Refused
from graph.store.calls import CallRecord, Calls, OpenedTurn, OpenTurn
from graph.store.effects import RESOLVES, Record, left_by, unsaid
from graph.store.errors import Busy, OutcomeUnknown, StoreError
from graph.store.events import Events
from graph.store.names import thread_name
from nodes.ports import AgentCaller, AgentRequest, Resolution
from nodes.reaching.pool import Pool
from nodes.remote.errors import AgentError
from nodes.spec import UNKNOWN
from server.beginning import Beginner, left_turn, times_resumed
from server.deadlines import Wanted, in_time
from server.deciding import Decider, run_of
from server.flows import Flows
from server.leases import give_back, once_free
from server.resolving import Resolver, Settled, resolution_of
from server.running import Runner
from server.turn import Begun, Started, Taken, TurnHook, TurnRequest, said_again
from server.underway import Audience, Underway

Done = TypeVar("Done")

MOST_RESUMED = 5
"""How often a run is gone on with at most that committed nothing since its process died: it may be why it did."""

_OBEYING_AGAIN_SECONDS = 1.0
_ASKING_SECONDS = 5.0
"""How long an agent has to say what became of a parked write."""

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
        self._started: set[asyncio.Task[Any]] = set()
        self._decider = Decider(flows)
        self._runner = Runner(calls, Audience(events, hooks), tenant=tenant)
        self._resolver = Resolver(calls, flows, self._runner, tenant=tenant)
        self._beginner = Beginner(
            flows,
            calls,
            events,
            self._decider,
            self._runner,
            self.settle,
            tenant=tenant,
            turn_timeout=turn_timeout,
            busy_wait=busy_wait,
            execution_ttl=execution_ttl,
        )

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
            OutcomeUnknown: if nobody can know what came of a write, of this turn or of one before it.
            Replaced: if a later message took the place of this one.
            OutOfTime: if the client's deadline passed; the turn goes on, and its message can be sent again.
            SaveUnknown: if the store did not confirm that the turn was saved.
            StoreError: if the store failed otherwise; nothing was saved.
        """
        return await self.in_time(request, self._take(request, wants_trail, once_begun))

    async def _take(self, request: TurnRequest, wants_trail: bool, once_begun: Begun | None) -> Taken:
        begun = await self._beginner.begin(request, wants_trail, once_begun)
        return begun if isinstance(begun, Taken) else await self._runner.go(begun)

    async def in_time(self, request: Wanted, work: Coroutine[Any, Any, Done]) -> Done:
        """Return what `work` returns, which goes on without the client if that is not before its deadline.

        Raises:
            OutOfTime: then.
        """
        if request.deadline is None:
            return await work
        return await in_time(request, self._kept(asyncio.create_task(work)))

    async def start(self, request: TurnRequest, *, once_begun: Begun | None = None) -> Started | Taken:
        """Begin a turn that goes on whoever follows it; raises what `take` raises until it has begun.

        A message that was answered before is returned as it was taken then.
        """
        return await self.in_time(request, self._start(request, once_begun))

    async def _start(self, request: TurnRequest, once_begun: Begun | None) -> Started | Taken:
        begun = await self._beginner.begin(request, True, once_begun)
        return begun if isinstance(begun, Taken) else self._going(begun)

    async def resume(self, call_identify_id: str, record: CallRecord) -> Started | None:
        """Go on with a turn where its process left it, if its run goes by itself, or if it had sent a write of which
        it is not known what came of it; None if that is not to be done, or another does it.

        Args:
            call_identify_id: the call.
            record: of the call, with the turn whose process died (`Calls.dead`).

        Raises:
            StoreError: if the store failed.
        """
        opened = record.opened
        if opened and opened.committed and not record.version:
            await self._close(call_identify_id, opened)
            return None
        version = await self._flows.version_of({}, record.version) if opened else None
        left = left_by(opened.token, record.effects, opened.said.get("resumed", 0)) if opened else None
        sent, opened = left is not None, left or opened
        if opened is None or not (sent or (version and version.flow.waits_for == "nothing")):
            return None
        if version is None or times_resumed(opened) > MOST_RESUMED:
            log.error("turn not gone on with: its flow is gone, or its process dies of it", call=call_identify_id)
            if sent:
                await self._park(call_identify_id, opened)
            return None
        begun = await self._go_on_with(call_identify_id, opened)
        return self._going(begun) if begun else None

    async def settle(self, call_identify_id: str, opened: OpenedTurn) -> None:
        """Find out what came of the writes of a turn whose process died: its message is gone on with.

        Raises:
            StoreError: if the store failed.
        """
        try:
            begun = await self._go_on_with(call_identify_id, opened)
            if begun is not None:
                await self._runner.go(begun)
        except OutcomeUnknown as unknown:
            log.warning("write parked", call=call_identify_id, parked=unknown.parked)

    async def _go_on_with(self, call_identify_id: str, opened: OpenedTurn) -> Underway | None:
        try:
            begun = await self._beginner.begin(said_again(call_identify_id, opened), True, None, died=opened)
        except Refused as refusal:
            log.warning("turn not gone on with", call=call_identify_id, reason=str(refusal))
            await self._park(call_identify_id, opened)
            return None
        except (Busy, OutcomeUnknown) as error:  # another goes on with it; or a person has to say something first
            log.info("turn not gone on with", call=call_identify_id, reason=str(error))
            return None
        return None if isinstance(begun, Taken) else begun

    async def _park(self, call_identify_id: str, opened: OpenedTurn) -> None:
        """Leave it to a person to say what came of the writes of a turn that cannot be gone on with."""
        thread = thread_name(self._tenant, call_identify_id)
        try:
            turn = await self._calls.begin(thread, said=opened.said, died=opened.token)
        except Busy:
            return
        sent = bool(turn.unsettled)
        if sent:
            await self._calls.settle(turn, unsaid(turn))
        await give_back(self._calls, turn, open_still=not sent, as_it_was=True)

    async def _close(self, call_identify_id: str, ended: OpenedTurn) -> None:
        """Give back the lease of a run that had ended, all but that, when its process died: now the call expires."""
        thread = thread_name(self._tenant, call_identify_id)
        try:
            turn = await self._calls.begin(thread, said=ended.said, resumes=True, died=ended.token)
        except Busy:
            return
        await give_back(self._calls, turn)

    def _going(self, begun: Underway) -> Started:
        begun.followed = True
        taking = self._kept(asyncio.create_task(self._runner.go(begun)))
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
        if (left := left_turn(turn)) is not None:  # it is asked what came of its writes, before it is canceled
            await give_back(self._calls, turn)
            await self.settle(call_identify_id, left)
            turn = await once_free(lambda: self._begin_or_interrupt(thread, run), deadline)
        try:
            version = await self._decider.version(turn, request)
        except BaseException:
            await give_back(self._calls, turn)
            raise
        is_there = turn.loaded is not None or turn.died is not None
        if not is_there or turn.state.get("ended") or run_of(turn, version) != run:
            is_left = await self._beginner.is_gone_on_with(turn)
            await give_back(self._calls, turn, open_still=is_left, as_it_was=is_left)
            return
        if turn.died is not None and turn.loaded is None:  # what it was told is part of what there is of it
            request = replace(said_again(call_identify_id, turn.died), intent=UNKNOWN, run=run)
        turn.wants_trail, turn.version, turn.one_save = bool(turn.push), version.key, version.saves_once
        begun = Underway(turn, request, version, deadline, run, followed=True)
        begun.cancel.set()
        await self._runner.go(begun)

    async def _obey_cancels(self) -> None:
        """Interrupt turns that are open here when another replica asks for it."""
        while True:
            try:
                async for asked in self._events.asked_to_cancel():
                    thread, _, what = asked.rpartition(".")
                    if what.startswith("="):
                        self._runner.replace(thread, what[1:])
                    else:
                        self._runner.interrupt(thread, int(what))
            except StoreError as error:
                log.warning("cancels of other replicas not heard", reason=str(error))
                await asyncio.sleep(_OBEYING_AGAIN_SECONDS)

    async def end(self, call_identify_id: str) -> bool:
        """Remove a call once it is not busy; tell whether there was one.

        Raises:
            Busy: if it was still busy after the wait.
            OutcomeUnknown: if nobody knows what came of a write of it.
        """
        thread = thread_name(self._tenant, call_identify_id)
        try:
            return await once_free(lambda: self._calls.delete(thread), self._in(self._busy_wait))
        except OutcomeUnknown:
            call = await self._calls.look(thread, 0)
            if call is None or call.opened is None or call.opened.live:
                raise
            await self._finish(call_identify_id, call)
        return await once_free(lambda: self._calls.delete(thread), self._in(self._busy_wait))

    def _in(self, seconds: float) -> float:
        return asyncio.get_running_loop().time() + min(seconds, self._turn_timeout)

    async def _begin_or_interrupt(self, thread: str, run: int) -> OpenTurn:
        """Begin, or tell the turn in flight to end, wherever it runs."""
        try:
            return await self._calls.begin(thread, said={})
        except Busy:
            if not self._runner.interrupt(thread, run):
                await self._events.ask_to_cancel(f"{thread}.{run}")
            raise

    async def parked(self) -> list[tuple[str, Record]]:
        """Return the writes that wait for a person, each with its call, the oldest first; raises `StoreError`."""
        return await self._resolver.waiting()

    async def resolve(self, resolution: Resolution) -> Settled:
        """Settle a parked write, and go on with what waited for that.

        Raises:
            ParkedNotFound: if nothing of that name waits.
            ResolvedOtherwise: if it was settled before, and otherwise.
            Busy: if the call was still busy after the wait.
            Refused: if the call's flow is gone.
            StoreError: if the store failed.
        """
        call = self._resolver.call_named(resolution.parked)
        thread = thread_name(self._tenant, call)
        deadline = self._in(self._turn_timeout)
        known = await self._calls.look(thread, 0)
        if known is not None and known.opened is not None and not known.opened.live:
            await self._finish(call, known)
            known = await self._calls.look(thread, 0)
        said = self._resolver.said_of(known, resolution)
        if isinstance(said, Settled):
            return said
        begin = partial(self._calls.begin, thread, said={**said, RESOLVES: resolution.parked}, resumes=True)
        turn = await once_free(begin, deadline)
        settled = await self._resolver.resolve(turn, call, resolution, deadline)
        if settled.goes_on is not None:
            begun = await self._go_on_with(call, settled.goes_on)
            if begun is not None:
                self._going(begun)
        return settled

    async def _finish(self, call: str, record: CallRecord) -> None:
        """Go on with the turn that a process left open when it died, and wait for its end."""
        started = await self.resume(call, record)
        if started is not None:
            await asyncio.wait({started.taking}, timeout=self._turn_timeout)

    async def ask_again(self, record: Record, caller: AgentCaller, pool: Pool) -> bool:
        """Ask the agent of a parked write what became of it, and settle that if it says so; tell whether it did."""
        effect, parked = record.effect, record.parked or ""
        flow = await self._flows.find(record.said.get("flow"))
        agent = flow.flow.agents.get(effect.agent)
        url = pool.where(effect.agent, agent, effect.url) if agent else ""
        if not url:
            return False
        request = AgentRequest(
            effect.agent, url, "", effect.message_id, effect.context_id, effect.task_id, _ASKING_SECONDS
        )
        try:
            reply = await caller.find(request)
        except AgentError:
            return False
        if reply is None:
            return False
        why = "asked again, it told what it had done"
        await self.resolve(resolution_of(parked, "done", f"agent {effect.agent}", why, reply))
        return True

    def _kept(self, taking: "asyncio.Task[Done]") -> "asyncio.Task[Done]":
        self._started.add(taking)
        taking.add_done_callback(self._settled)
        return taking

    def _settled(self, taking: asyncio.Task[Any]) -> None:
        """Forget a started turn; what it raised was told to its followers."""
        self._started.discard(taking)
        if not taking.cancelled() and (error := taking.exception()) is not None:
            log.warning("turn not answered", reason=str(error))
