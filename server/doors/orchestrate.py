"""`POST /orchestrate`: one turn of a call. How a request becomes a turn is told here for every door of its kind."""

import re
from collections.abc import Mapping
from typing import Any

import orjson
from fastapi import APIRouter, Request, Response

from server.doors.documents import OrchestrateRequest, OrchestrateResponse
from server.doors.reading import read_document
from server.problems import responses
from server.runtime import Runtime
from server.turn import TurnRequest

router = APIRouter(tags=["calls"])

BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": OrchestrateRequest.model_json_schema()}},
    }
}
"""The request body, for the OpenAPI document."""

_TRACEPARENT = re.compile("[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


@router.post(
    "/orchestrate",
    summary="Take one turn of a call",
    response_model=None,
    openapi_extra=BODY,
    responses={200: {"model": OrchestrateResponse}, **responses(409, 413, 415, 422, 503)},
)
async def orchestrate(request: Request) -> Response:
    """Send what the caller said; a new `call_identify_id` begins a call.

    An agent that fails is not an HTTP error: the answer is 200 with `status: "error"`, and the turn can be retried.
    """
    runtime: Runtime = request.app.state.runtime
    sent = await read_document(request, OrchestrateRequest, runtime.settings.max_body_bytes)
    told = await runtime.turns.run(turn_request(sent, traceparent_of(request.headers)))
    return Response(orjson.dumps(told), media_type="application/json")


def turn_request(sent: OrchestrateRequest, traceparent: str | None) -> TurnRequest:
    """Return the turn that a client asks for."""
    return TurnRequest(
        call_identify_id=sent.call_identify_id,
        account_id=sent.account_id,
        eci=sent.eci,
        input_message=sent.input_message,
        intent=sent.intent,
        language=sent.language,
        metadata=sent.metadata,
        traceparent=traceparent,
        flow=sent.flow,
        further_intents=sent.further_intents,
    )


def traceparent_of(headers: Mapping[str, str]) -> str | None:
    """Return the trace to go on with (W3C Trace Context); what is not one is as good as none."""
    sent = headers.get("traceparent", "")
    return sent if _TRACEPARENT.fullmatch(sent) else None
