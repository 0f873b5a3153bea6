"""Running a turn's graph under its lease: what its nodes say goes to who follows, what it saves is its answer."""

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, Literal, TypeVar, cast

import structlog
from langgraph.types import Command, StreamMode

from graph.entering import entering
from graph.store.calls import Calls, OpenTurn, new_steps
from graph.store.effects import TurnEffects
from graph.store.errors import OutcomeUnknown, Replaced
from nodes.ports import TurnContext
from nodes.state import CallInput, Step
from server.leases import held
from server.problems import document_of
from server.turn import Taken
from server.underway import Audience, Underway

Done = TypeVar("Done")

log = structlog.get_logger()


class Runner:
    """Runs turns, and knows those that run here.

    Args:
        calls: where the calls live.
        audience: who is told what happens.
        tenant: whose calls these are.
    """

    def __init__(self, calls: Calls, audience: Audience, *, tenant: str) -> None:
        self._calls = calls
        self._audience = audience
        self._tenant = tenant
        self._open: dict[str, Underway] = {}

    async def go(self, begun: Underway) -> Taken:
        """Run the graph under the lease, and give the lease back whatever happens.

        Raises:
            OutcomeUnknown: if nobody can know what came of a write; all else of the turn was saved.
            Replaced: if a later message took the place of this one; nothing was saved.
            StoreError: if the store failed.
        """
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

    def interrupt(self, thread: str, run: int) -> bool:
        """Tell the turn that runs here on the call, if any, to end its run now; but spare one of another run."""
        begun = self._open.get(thread)
        if begun is not None and begun.run == run:
            begun.cancel.set()
        return begun is not None

    def replace(self, thread: str, token: str) -> bool:
        """Tell a turn, if it runs here, that a later message takes its place."""
        begun = self._open.get(thread)
        if begun is None or begun.turn.token != token:
            return False
        begun.replace.set()
        return True

    async def _run(self, begun: Underway) -> Taken:
        turn, request = begun.turn, begun.request
        state = await self._unless_replaced(begun, self._state_after(begun))
        made = turn.steps or new_steps(turn, state)
        await self._calls.finish(turn, made, complete=bool(state.get("is_complete")))
        steps = turn.steps or made or await self._steps_before(turn)
        taken = Taken(request, turn.incarnation, steps[-1], turn.trail or steps, state, routes=begun.version.routes)
        told = taken.answer()
        log.info("turn", call=request.call_identify_id, **{key: told[key] for key in _LOGGED})
        if (parked := waiting_in(made)) and state.get("ended") != "canceled":
            await self._audience.tell(begun, begun.fresh_steps())
            raise OutcomeUnknown(parked)
        await self._audience.tell(begun, [*begun.fresh_steps(), {"event": "turn", **told}])
        return taken

    async def _unless_replaced(self, begun: Underway, work: Coroutine[Any, Any, Done]) -> Done:
        """Return what `work` returns, unless a later message takes the turn's place before anything is written."""
        if begun.version.flow.while_busy != "replace":
            return await work
        doing, told = asyncio.create_task(work), asyncio.create_task(begun.replace.wait())
        try:
            await asyncio.wait({doing, told}, return_when=asyncio.FIRST_COMPLETED)
            if not doing.done() and not _has_written(begun.turn):
                begun.turn.replaced = True
                raise Replaced("a later message has taken this one's place; nothing of it was saved")
            return await doing
        finally:
            told.cancel()
            doing.cancel()
            await asyncio.gather(doing, told, return_exceptions=True)

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
            effects=TurnEffects(turn),
            timing=turn.timing,
        )
        inputs = request.inputs(turn)
        brought: CallInput | Command[Any] = inputs
        if turn.one_save:
            brought = entering(begun.version.routes, turn.state, inputs, graph.channels)
        modes: list[StreamMode] = ["custom", "values"] if begun.followed else ["values"]
        state: Mapping[str, Any] = {}
        async for told in graph.astream(
            brought, turn.config(), context=context, durability=durability, stream_mode=modes
        ):
            mode, value = cast(tuple[str, dict[str, Any]], told)
            if mode == "values":
                state = value
            if begun.followed:
                steps = [] if turn.one_save else begun.fresh_steps()  # an only step is told with the turn's end
                await self._audience.tell(begun, [*steps, *([value] if mode == "custom" else [])])
        return state

    async def _steps_before(self, turn: OpenTurn) -> list[Step]:
        """Return the steps of a call in which a run ended that had only to put together what was answered before."""
        record = await self._calls.read(turn.thread)
        return list(record.steps) if record else []


def waiting_in(steps: Sequence[Step]) -> list[str]:
    """Return the parked writes that have to be settled before the message of these steps is answered."""
    names = [step.get("parked") or step.get("held_by") for step in steps]
    return list(dict.fromkeys(name for name in names if name))


def _has_written(turn: OpenTurn) -> bool:
    """Tell whether anything of the turn was sent to be done, or saved."""
    return bool(turn.sent or turn.steps or turn.saving)


_LOGGED = ("step", "stage", "agent", "intent", "intent_source", "status", "next_flow_id", "duration_ms")
