"""Writes whose outcomes nobody knows: which ones wait, and what becomes of a call when a person, or the agent asked
again, says what came of one."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import structlog

from graph.routing import Refused
from graph.store.calls import Calls, OpenedTurn, OpenTurn
from graph.store.effects import Record, call_of
from graph.store.errors import OutcomeUnknown
from graph.store.names import decode
from nodes.jobs import Job
from nodes.moving import Move
from nodes.outcome import Outcome, now
from nodes.ports import AgentRequest, Reply, Resolution
from nodes.remote.errors import AgentError
from nodes.runs import has_ended
from nodes.spec import UNKNOWN
from nodes.state import Step
from nodes.steps import step_of
from server.flows import Flows, Version
from server.leases import give_back
from server.problems import ParkedNotFound, ResolvedOtherwise
from server.running import Runner
from server.turn import said_again
from server.underway import Underway

log = structlog.get_logger()


class NotDone(AgentError):
    """A person says that an agent did not act on a write."""

    kind = "not_done"
    acted = False


@dataclass(frozen=True, slots=True)
class Settled:
    """What came of settling a parked write."""

    step: Step | None
    """The step that tells of it; None as long as others at the same stage wait."""
    call: str
    waits_for: tuple[str, ...] = ()
    """Parked writes of the same stage that have to be settled before the stage goes on."""
    goes_on: OpenedTurn | None = None
    """What is to be gone on with, in a flow that goes by itself."""


class Resolver:
    """Settles parked writes.

    Args:
        calls: where the calls live.
        flows: the flows that calls may be of.
        runner: runs turns.
        tenant: whose calls these are.
    """

    def __init__(self, calls: Calls, flows: Flows, runner: Runner, *, tenant: str) -> None:
        self._calls = calls
        self._flows = flows
        self._runner = runner
        self._tenant = tenant

    async def waiting(self) -> list[tuple[str, Record]]:
        """Return the writes that wait for a person, each with its call, the oldest first."""
        found = await self._calls.parked(self._tenant)
        return [(decode(thread.partition("__")[2]), record) for thread, record in found if record.waits]

    def call_named(self, parked: str) -> str:
        """Return the call of a parked write.

        Raises:
            ParkedNotFound: if there is no such name.
        """
        call = call_of(parked)
        if call is None:
            raise _not_found(parked)
        return call

    async def resolve(self, turn: OpenTurn, call: str, resolution: Resolution, deadline: float) -> Settled:
        """Settle a write under the lease of a turn that has begun for it, and give the lease back.

        Args:
            turn: the turn.
            call: the call.
            resolution: what came of the write.
            deadline: when the turn is to be over, on the loop's clock.

        Raises:
            ParkedNotFound: if nothing of that name waits.
            ResolvedOtherwise: if it was settled before, and otherwise.
            Refused: if the call's flow is gone.
            StoreError: if the store failed.
        """
        try:
            return await self._resolved(turn, call, resolution, deadline)
        finally:
            if not turn.closed:
                await give_back(self._calls, turn)

    async def _resolved(self, turn: OpenTurn, call: str, resolution: Resolution, deadline: float) -> Settled:
        record = next((one for one in turn.effects.values() if one.parked == resolution.parked), None)
        if record is None:
            return Settled(await self._before(turn, resolution), call)
        version = await self._flows.version_of(turn.state, turn.version)
        if version is None:
            raise Refused("flow-changed", "the flow of the call is gone; serve it again, and settle the write then")
        record = replace(record, effect=replace(record.effect, resolution=resolution))
        if resolution.outcome == "done" and _stands_at(turn.state, record, version):
            return await self._go_on(turn, call, record, version, deadline)
        turn.effects[record.effect.message_id] = record
        step = await self._noted(turn, record, version, resolution)
        opened = OpenedTurn(turn.token, False, record.said)
        goes_on = version.flow.waits_for == "nothing" and not has_ended(turn.state) and bool(record.said)
        return Settled(step, call, goes_on=opened if goes_on else None)

    async def _before(self, turn: OpenTurn, resolution: Resolution) -> Step:
        """Return the step that told of it when the same was said before."""
        call = await self._calls.look(turn.thread, 0)
        for step in call.steps if call else ():
            told = step.get("resolution")
            if told and told["parked"] == resolution.parked:
                if told["outcome"] != resolution.outcome:
                    raise ResolvedOtherwise(f"{resolution.parked!r} was settled as {told['outcome']} by {told['by']}")
                return step
        raise _not_found(resolution.parked)

    async def _go_on(self, turn: OpenTurn, call: str, record: Record, version: Version, deadline: float) -> Settled:
        """Have the stage learn what its agent did, as if it had answered just now."""
        message_id = record.effect.message_id
        others = [one for one in turn.effects.values() if one.waits and one.effect.message_id != message_id]
        beside = [one.parked for one in others if one.effect.stage == record.effect.stage and one.parked]
        if beside:
            await self._calls.settle(turn, [(message_id, record)])
            return Settled(None, call, waits_for=tuple(beside))
        turn.effects[message_id], turn.said = record, record.said
        request = said_again(call, OpenedTurn(turn.token, False, record.said))
        request = replace(request, intent=request.intent or _intent_of(record))
        turn.key, turn.body = request.key, request.body
        turn.version, turn.one_save = version.key, version.saves_once
        begun = Underway(turn, request, version, deadline, turn.state.get("run", 1), followed=turn.followed)
        try:
            await self._runner.go(begun)
        except OutcomeUnknown:  # a flow that goes by itself has gone on, and another write of it is parked now
            log.info("another write is parked", call=call)
        return Settled(next((step for step in turn.steps if "resolution" in step), None), call)

    async def _noted(self, turn: OpenTurn, record: Record, version: Version, resolution: Resolution) -> Step:
        """Add a step that says what came of a write; the call stays where it is."""
        turn.version, turn.one_save = version.key, True
        turn.ended = has_ended(turn.state)
        update = _note(turn.state, record, version, resolution)
        turn.marks[record.effect.message_id] = None
        await version.graph.aupdate_state(turn.config(), update, as_node=record.effect.stage)
        await self._calls.finish(turn, turn.steps or update["steps"], complete=False)
        return turn.steps[-1]


def resolution_of(
    parked: str, outcome: Literal["done", "not_done"], by: str, why: str, reply: Reply | None
) -> Resolution:
    """Return what somebody says now of a write."""
    return Resolution(outcome, by, why, now(), parked, reply)


def _stands_at(state: Mapping[str, Any], record: Record, version: Version) -> bool:
    """Tell whether the call still waits for what came of the write."""
    effect = record.effect
    if has_ended(state) or state.get("run", 1) != effect.run or not record.said:
        return False
    if version.flow.is_dag:
        return effect.stage not in state.get("done", {})
    return state.get("stage") == effect.stage


def _intent_of(record: Record) -> str | None:
    return record.effect.intent if record.effect.intent != UNKNOWN else None


def _note(state: Mapping[str, Any], record: Record, version: Version, resolution: Resolution) -> dict[str, Any]:
    effect = record.effect
    place = version.routes.places[effect.stage]
    alone = effect.where == effect.stage and not version.flow.is_dag
    job = Job(place, effect.where, effect.agent, alone=alone, branch=effect.where.partition("/")[2] or None)
    url = version.flow.agents[effect.agent].url if effect.agent in version.flow.agents else ""
    request = AgentRequest(
        effect.agent, url, record.said.get("input_message", ""), effect.message_id, effect.context_id, None, 0.0
    )
    done = resolution.outcome == "done"
    reply = (resolution.reply or Reply("")) if done else None
    error = None if done else NotDone(effect.agent, f"agent {effect.agent!r} did not act on it: {resolution.why}")
    outcome = Outcome(reply, error, now(), 0.0, resolution=resolution)
    turn_values = {"intent": effect.intent, "intent_source": "declared"}
    here: Any = {**state, **turn_values}
    next_id = None if state.get("is_complete") else state.get("current_flow_id")
    step = step_of(here, job, request, outcome, Move(), next_flow_id=next_id, ended=None)
    talk = {job.talk: {"context_id": effect.context_id}}  # the message is settled, and not sent again
    return {"steps": [step], "step_count": 1, "updated_at": now(), "remote_tasks": talk}


def _not_found(parked: str) -> ParkedNotFound:
    return ParkedNotFound(f"no parked write {parked!r} waits; GET /parked tells which do")
