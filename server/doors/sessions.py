"""`/session/{call_identify_id}`: where a call stands, what was done in it, and its end."""

import asyncio
from dataclasses import asdict
from functools import partial
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Path, Query, Request, Response

from graph.audit import start_of
from graph.audit import verify as audit_faults
from graph.store.calls import CallRecord
from graph.store.names import thread_name
from graph.trail import full_summary
from nodes.runs import has_ended
from server.doors.documents import Deleted, Moment, Session, Step, Verified
from server.identifiers import Id
from server.problems import SessionNotFound, responses
from server.runtime import Runtime

router = APIRouter(prefix="/session/{call_identify_id}", tags=["calls"])

CallId = Annotated[Id, Path(description="The call's name.", examples=["CALL-001"])]
Verify = Annotated[bool, Query(description="Whether to say if a step was changed, removed, added or moved.")]


@router.get(
    "",
    summary="Where a call stands",
    response_model=None,
    responses={200: {"model": Session}, **responses(404, 422, 503)},
)
async def session(call_identify_id: CallId, request: Request) -> Response:
    """Return the session document, with the whole audit trail."""
    runtime: Runtime = request.app.state.runtime
    record = await _record(runtime, call_identify_id)
    return _json(await _session(runtime, record))


@router.get(
    "/steps",
    summary="The audit trail",
    response_model=None,
    responses={200: {"model": list[Step] | Verified}, **responses(404, 422, 503)},
)
async def steps(call_identify_id: CallId, request: Request, verify: Verify = False) -> Response:
    """Return every step of the call, oldest first; with `verify`, in a document that says whether they are sound."""
    runtime: Runtime = request.app.state.runtime
    record = await _record(runtime, call_identify_id)
    if not verify:
        return _json(record.steps)
    start = start_of(_thread(runtime, call_identify_id), record.incarnation)
    head, count = record.chain or start, record.state.get("step_count", 0)
    check = partial(audit_faults, record.steps, start, head=head, count=count, key=runtime.settings.audit_secret)
    faults = [asdict(fault) for fault in await asyncio.to_thread(check)]
    proof = {"verified": not faults, "faults": faults, "count": count, "head": head}
    return _json({**proof, "steps": record.steps})


@router.get(
    "/history",
    summary="The state after each turn",
    response_model=None,
    responses={200: {"model": list[Moment]}, **responses(404, 422, 503)},
)
async def history(call_identify_id: CallId, request: Request) -> Response:
    """Return the state after each turn, oldest first, with the step that led to it."""
    runtime: Runtime = request.app.state.runtime
    record = await _record(runtime, call_identify_id)
    by_number = {step["number"]: step for step in record.steps}
    moments = await runtime.store.calls.history(_thread(runtime, call_identify_id))
    return _json(
        [
            {
                "checkpoint_id": moment.checkpoint_id,
                "saved_at": moment.saved_at,
                **{key: moment.state.get(key) for key in _REMEMBERED},
                "completed_flows": moment.state.get("completed_flows", []),
                "step": by_number.get(moment.state.get("step_count", 0)),
            }
            for moment in moments
        ]
    )


@router.delete(
    "",
    summary="End a call",
    response_model=None,
    responses={200: {"model": Deleted}, **responses(404, 409, 422, 503)},
)
async def delete(call_identify_id: CallId, request: Request) -> Response:
    """End the call and remove everything that is kept of it."""
    runtime: Runtime = request.app.state.runtime
    if not await runtime.turns.end(call_identify_id):
        raise _not_found(call_identify_id)
    return _json({"call_identify_id": call_identify_id, "deleted": True})


_REMEMBERED = (
    *("call_identify_id", "account_id", "eci", "flow", "stage", "current_flow_id"),
    *("is_complete", "ended", "step_count", "created_at", "updated_at"),
)


async def _session(runtime: Runtime, record: CallRecord) -> dict[str, Any]:
    state = record.state
    complete, version = bool(state.get("is_complete")), await runtime.flows.next_of(record.state, record.version)
    place = version.routes.place_of(state) if version else None
    over = has_ended(state) and not (version and version.flow.restarts)
    legal = version.routes.legal_intents(place.stage) if version and place and not over else []
    return {
        "call_identify_id": state["call_identify_id"],
        "account_id": state["account_id"],
        "eci": state["eci"],
        "flow": state["flow"],
        "current_flow_id": place.id if place else state["current_flow_id"],
        "stage": state["stage"],
        "legal_intents": legal,
        "completed_flows": state.get("completed_flows", []),
        "requests": state.get("requests", []),
        "parked": [effect.parked for effect in record.effects if effect.waits],
        "is_complete": complete,
        "ended": state.get("ended"),
        "session_summary": full_summary(state.get("session_summary"), list(record.steps)) if complete else None,
        "steps": record.steps,
        "created_at": state["created_at"],
        "updated_at": state["updated_at"],
    }


async def _record(runtime: Runtime, call_identify_id: str) -> CallRecord:
    record = await runtime.store.calls.read(_thread(runtime, call_identify_id))
    if record is None or not record.state:  # of a first turn that is still open there is nothing to tell yet
        raise _not_found(call_identify_id)
    return record


def _thread(runtime: Runtime, call_identify_id: str) -> str:
    return thread_name(runtime.settings.tenant, call_identify_id)


def _not_found(call_identify_id: str) -> SessionNotFound:
    return SessionNotFound(f"no session {call_identify_id!r}; it never began, was deleted, or has expired")


def _json(document: Any) -> Response:
    return Response(orjson.dumps(document), media_type="application/json")
