"""Decide: which version of which flow a turn is on, and whether it is legal there; one that is not saves nothing."""

from collections import Counter

import structlog

from graph.flow import Flow
from graph.routing import Refused, decide, next_run, same_account
from graph.store.calls import OpenTurn
from server.flows import Flows, Version
from server.problems import AlreadyBegun
from server.turn import NOT_SAID, TurnRequest, goes_on

log = structlog.get_logger()


class Decider:
    """Finds turns legal, or refuses them.

    Args:
        flows: the flows that calls may be of.
    """

    def __init__(self, flows: Flows) -> None:
        self._flows = flows
        self.refused: Counter[str] = Counter()
        """Turns that were not legal, by reason."""

    async def legal(self, turn: OpenTurn, request: TurnRequest) -> tuple[Version, int]:
        """Return the version of the flow that the turn is on, and the run that it belongs to.

        Raises:
            Refused: if the turn is not legal now.
            AlreadyBegun: if it was to begin a call that exists.
            FlowNotFound: if it was to begin a call of a flow that is not served.
        """
        if request.begins and turn.loaded is not None and not goes_on(request, turn):
            raise AlreadyBegun("the idempotency key named another message before; choose a new one for a new message")
        try:
            version = await self.version(turn, request)
            if request.account_id and turn.state.get("account_id") != NOT_SAID:
                same_account(turn.state, request.account_id)
            decide(version.routes, turn.state, request.intent)
            _has_its_inputs(version.flow, turn, request)
            run = run_of(turn, version)
            if request.run not in (None, run):
                raise Refused("call-ended", "the task that the message is meant for has ended; begin another")
        except Refused as refusal:
            self.refused[refusal.reason] += 1
            log.info("turn refused", call=request.call_identify_id, reason=refusal.reason, intent=request.intent)
            raise
        return version, run

    async def version(self, turn: OpenTurn, request: TurnRequest) -> Version:
        """Return the version that the call's run began with; for a new run, the current one of the flow.

        Raises:
            Refused: if the call is of another flow than the message names, or its version is gone.
            FlowNotFound: if a call would begin on a flow that is not served.
        """
        state = turn.state
        flow: str | None = state.get("flow")
        if flow is None:  # a first turn; if one died before this, the call stays on the version noted then
            return await self._flows.version_of({}, turn.version) or await self._flows.find(request.flow)
        if request.flow not in (None, flow):
            message = f"the call is of flow {flow!r}, not {request.flow!r}; leave out the flow, or begin another call"
            raise Refused("another-flow", message, flow=flow)
        version = await self._flows.next_of(state, turn.version)
        if version is None:
            message = f"the call is at stage {state.get('stage')!r} of a version of flow {flow!r} that is gone"
            raise Refused("flow-changed", f"{message}; serve a flow that has it, or end the call", flow=flow)
        return version


def _has_its_inputs(flow: Flow, turn: OpenTurn, request: TurnRequest) -> None:
    """Refuse to begin a run without what its flow reads."""
    missing = [name for name in flow.inputs if name not in request.context]
    if missing and not turn.state.get("stage"):
        told = f"flow {flow.flow!r} begins with its inputs; missing: {', '.join(missing)}"
        how = "send them as `input` to POST /flows/{flow}/runs, or over A2A as a data part"
        raise Refused("input-missing", f"{told}; {how}", missing=missing)


def run_of(turn: OpenTurn, version: Version) -> int:
    """Return the run that the turn belongs to."""
    return next_run(turn.state, version.flow.restarts)
