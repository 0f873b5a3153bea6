"""`/session/{call_identify_id}/explain`: why a call went where it went."""

import asyncio
from typing import Any

import orjson
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from graph.store.names import thread_name
from server.doors.sessions import CallId
from server.explaining import explained
from server.problems import SessionNotFound, responses
from server.runtime import Runtime

router = APIRouter(tags=["calls"])

_STEP: dict[str, JsonValue] = {
    "step": 3,
    "at": "2026-02-28T10:00:04.120Z",
    "flow": "call",
    "run": 1,
    "stage": "intent_capture",
    "intent_flow_id": 3,
    "intent": {"name": "refund_request", "source": "triggers", "because": ["refund*", "money back"]},
    "candidates": [
        {"url": "http://refund-1:8003", "version": "v1", "excluded": "circuit_open"},
        {"url": "http://refund-2:8003", "version": "v1"},
    ],
    "chosen": {
        "who": "agent",
        "agent": "refund",
        "version": "v1",
        "url": "http://refund-2:8003",
        "attempt": 1,
    },
    "tried": [],
    "outcome": {"status": "success", "duration_ms": 12.5},
    "next": {"flow_id": 4, "why": "answered", "is_complete": False, "stage": "fulfillment"},
    "story": ["Intent 'refund_request' was recognised by the flow's trigger words: 'refund*', 'money back'."],
}


class ExplainedStep(BaseModel):
    """Why one step was made as it was."""

    model_config = ConfigDict(json_schema_extra={"examples": [_STEP]}, extra="allow")

    step: int
    stage: str
    intent: dict[str, Any] = Field(description="`name`, `source`, `confidence`, `because`, `not_recorded`.")
    candidates: list[dict[str, Any]] = Field(
        description="The endpoints that could have been asked, and what `excluded`."
    )
    chosen: dict[str, Any] = Field(description="Who was asked: `who`, `agent`, `version`, `url`, `attempt`.")
    tried: list[dict[str, Any]] = Field(description="The attempts that failed before.")
    outcome: dict[str, Any] = Field(description="`status`, `error`, and what came of a write that was parked.")
    next: dict[str, Any] = Field(description="The next stage, and `why` it is that one.")
    story: list[str] = Field(description="The same in sentences.")


class Explanation(BaseModel):
    """Why a call went where it went."""

    call_identify_id: str
    steps: list[ExplainedStep]


@router.get(
    "/session/{call_identify_id}/explain",
    summary="Why the call went there",
    response_model=None,
    responses={200: {"model": Explanation}, **responses(404, 422, 503)},
)
async def explain(call_identify_id: CallId, request: Request) -> Response:
    """Explain every step of the call, oldest first, from its audit trail."""
    runtime: Runtime = request.app.state.runtime
    record = await runtime.store.calls.read(thread_name(runtime.settings.tenant, call_identify_id))
    if record is None or not record.state:
        raise SessionNotFound(f"no session {call_identify_id!r}; it never began, was deleted, or has expired")
    # A list of thousands of items has as many steps: other callers do not wait for that.
    steps = await asyncio.to_thread(explained, record.steps)
    document = {"call_identify_id": call_identify_id, "steps": steps}
    return Response(orjson.dumps(document), media_type="application/json")
