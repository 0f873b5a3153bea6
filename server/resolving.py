"""Writes whose outcomes nobody knows: which ones wait, and what becomes of a call when a person, or the agent asked
again, says what came of one."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import structlog
from langgraph.checkpoint.base import Checkpoint, empty_checkpoint

from graph.store.calls import CallRecord, Calls, OpenedTurn, OpenTurn
from graph.store.effects import Record, call_of
from graph.store.errors import OutcomeUnknown
from graph.store.names import decode
from nodes.outcome import now
from nodes.ports import Reply, Resolution
from nodes.runs import has_ended
from nodes.spec import UNKNOWN
from nodes.state import Step
from server.flows import Flows, Version
from server.leases import give_back
from server.notes import note
from server.problems import ParkedNotFound, ResolvedOtherwise
from server.running import Runner
from server.turn import NOT_SAID, said_again
from server.underway import Underway

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Settled:
    """What came of settling a parked write."""

    step: Step
    """The step that tells of it."""
    call: str
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
            raise ParkedNotFound(f"{parked!r} is not the name of a parked write; GET /parked tells them")
        return call

    def said_of(self, call: CallRecord | None, resolution: Resolution) -> Mapping[str, Any] | Settled:
        """Return what was said in the turn of a parked write; or what came of settling it, if it was settled before.

        Raises:
            ParkedNotFound: if nothing of that name waits.
            ResolvedOtherwise: if it was settled before, and otherwise.
        """
        for record in call.effects if call else ():
            if record.parked == resolution.parked:
                return record.said
        return Settled(_told_before(call, resolution), self.call_named(resolution.parked))

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
            OutcomeUnknown: if the stage would not take it, so that it waits still.
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
            known = await self._calls.look(turn.thread, 0)
            return Settled(_told_before(known, resolution), call)
        version = await self._flows.version_of(turn.state, turn.version)
        record = replace(record, effect=replace(record.effect, resolution=resolution))
        turn.effects[record.effect.message_id], turn.said = record, record.said
        if version and resolution.outcome == "done" and _stands_at(turn.state, record, version):
            return await self._go_on(turn, call, record, version, deadline)
        goes_on = _goes_on(turn, record, version)
        step = await self._noted(turn, call, record, version, stays_open=goes_on)
        opened = OpenedTurn(turn.token, False, record.said, committed=True)
        return Settled(step, call, goes_on=opened if goes_on else None)

    async def _go_on(self, turn: OpenTurn, call: str, record: Record, version: Version, deadline: float) -> Settled:
        """Have the stage learn what its agent did, as if it had answered just now."""
        request = said_again(call, OpenedTurn(turn.token, False, record.said, committed=True))
        request = replace(request, intent=request.intent or _intent_of(record))
        turn.key, turn.body, turn.rest = request.key, request.body, True
        turn.version, turn.one_save = version.key, version.saves_once
        begun = Underway(turn, request, version, deadline, turn.state.get("run", 1), followed=turn.followed)
        try:
            await self._runner.go(begun)
        except OutcomeUnknown:  # another write waits, of this stage or of one that the flow has come to
            log.info("another write is parked", call=call)
        parked = record.parked or ""
        step = next((one for one in turn.steps if one.get("resolution", {}).get("parked") == parked), None)
        if step is None:
            raise OutcomeUnknown([parked])
        return Settled(step, call)

    async def _noted(
        self, turn: OpenTurn, call: str, record: Record, version: Version | None, *, stays_open: bool
    ) -> Step:
        """Add a step that says what came of a write; the call stays where it is.

        Args:
            turn: the turn.
            call: the call.
            record: of the write.
            version: the flow version that the call is on; None if it is gone.
            stays_open: whether the turn is to be gone on with, whatever becomes of this process.
        """
        if record.effect.resolution and record.effect.resolution.outcome == "done" and not stays_open:
            turn.key, turn.body = record.said.get("key"), record.said.get("body", "")  # it has its answer now
        turn.version, turn.one_save = version.key if version else turn.version, not stays_open
        turn.ended = has_ended(turn.state)
        update = note(turn.state, record, version)
        if turn.loaded is None:
            update = {**_opening(turn, call, record, version), **update}
        turn.marks[record.effect.message_id] = None
        await self._saved(turn, record, version, update)
        if stays_open:
            await self._calls.let_go(turn)
        else:
            await self._calls.finish(turn, turn.steps or update["steps"], complete=False)
        return turn.steps[-1]

    async def _saved(
        self, turn: OpenTurn, record: Record, version: Version | None, update: Mapping[str, Any]
    ) -> None:
        if version is not None and turn.loaded is not None:
            await version.graph.aupdate_state(turn.config(), update, as_node=record.effect.stage)
            return
        # Without its flow or its state there is no graph to do it: the step is all that becomes of the call.
        before = turn.loaded.checkpoint if turn.loaded else empty_checkpoint()
        count = turn.state.get("step_count", 0) + 1
        values = {**before["channel_values"], **update, "step_count": count}
        versions = {**before["channel_versions"], **dict.fromkeys(update, count)}
        saved: Checkpoint = {**empty_checkpoint(), "channel_values": values, "channel_versions": versions}
        saved["versions_seen"] = before["versions_seen"]
        await self._calls.saver.aput(
            turn.config(), saved, {"source": "update", "step": count, "parents": {}}, versions
        )


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


def _goes_on(turn: OpenTurn, record: Record, version: Version | None) -> bool:
    """Tell whether the run is gone on with by itself once the write is settled."""
    goes_by_itself = version is not None and version.flow.waits_for == "nothing"
    return goes_by_itself and turn.loaded is not None and not has_ended(turn.state) and bool(record.said)


def _told_before(call: CallRecord | None, resolution: Resolution) -> Step:
    """Return the step that told of it when the same was said before; raises `ParkedNotFound`, `ResolvedOtherwise`."""
    for step in call.steps if call else ():
        told = step.get("resolution")
        if told and told["parked"] == resolution.parked:
            if told["outcome"] != resolution.outcome:
                raise ResolvedOtherwise(f"{resolution.parked!r} was settled as {told['outcome']} by {told['by']}")
            return step
    raise ParkedNotFound(f"no parked write {resolution.parked!r} waits; GET /parked tells which do")


def _opening(turn: OpenTurn, call: str, record: Record, version: Version | None) -> dict[str, Any]:
    """Return what a call has from its first turn on, where that saved nothing."""
    return {
        "call_identify_id": call,
        "account_id": record.said.get("account_id") or NOT_SAID,
        "eci": record.said.get("eci") or NOT_SAID,
        "incarnation": turn.incarnation,
        "created_at": now(),
        "flow": record.said.get("flow", ""),
        "flow_digest": version.flow.digest if version else turn.version.rpartition(" ")[2],
        "stage": record.effect.stage,
        "current_flow_id": version.routes.places[record.effect.stage].id if version else 0,
        "run": 1,
        "is_complete": False,
        "ended": None,
    }
