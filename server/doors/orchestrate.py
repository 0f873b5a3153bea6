"""`POST /orchestrate`: one turn of a call. How a request becomes a turn is told here for every door of its kind."""

import re
from collections.abc import Mapping
from typing import Any

import orjson
from fastapi import APIRouter, Request, Response

from nodes.timing import Timing
from server.doors.direct import Direct
from server.doors.documents import OrchestrateRequest, OrchestrateResponse
from server.doors.keys import WITH_KEY, Named, named_by
from server.doors.reading import read_document
from server.problems import responses
from server.runtime import Runtime
from server.turn import TurnRequest

router = APIRouter(tags=["calls"], route_class=Direct)

BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": OrchestrateRequest.model_json_schema()}},
    },
    **WITH_KEY,
}
"""The request, for the OpenAPI document."""
TURN = "turn"
"""The kind of door at which a key names a message of a call."""

_TRACEPARENT = re.compile("[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


@router.post(
    "/orchestrate",
    summary="Take one turn of a call",
    response_model=None,
    openapi_extra=BODY,
    responses={200: {"model": OrchestrateResponse}, **responses(409, 413, 415, 422, 503, 504)},
)
async def orchestrate(request: Request) -> Response:
    """Send what the caller said; a new `call_identify_id` begins a call.

    An agent that fails is not an HTTP error: the answer is 200 with `status: "error"`, and the turn can be retried.
    """
    timing = Timing()
    runtime: Runtime = request.app.state.runtime
    sent = await read_document(request, OrchestrateRequest, runtime.settings.max_body_bytes)
    named = named_by(request, TURN, sent)
    told = await runtime.turns.run(turn_request(sent, traceparent_of(request.headers), named, timing))
    return Response(orjson.dumps(told), 200, {"server-timing": server_timing(timing)}, "application/json")


def turn_request(
    sent: OrchestrateRequest, traceparent: str | None, named: Named | None = None, timing: Timing | None = None
) -> TurnRequest:
    """Return the turn that a client asks for.

    Args:
        sent: what the client sent.
        traceparent: the trace to go on with.
        named: what names this very message, if its client did.
        timing: where the time goes since it came in; None if that is now.
    """
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
        key=named.key if named else None,
        body=named.body if named else "",
        deadline=seconds(sent.deadline_ms),
        timing=timing or Timing(),
    )


def seconds(milliseconds: int | None) -> float | None:
    """Return a client's deadline as turns count it; None for none."""
    return None if milliseconds is None else milliseconds / 1000


def server_timing(timing: Timing) -> str:
    """Return where the time of a request went, the save included, as the header `Server-Timing` says it (W3C)."""
    return ", ".join(f"{name.removesuffix('_ms')};dur={spent}" for name, spent in timing.told().items())


def traceparent_of(headers: Mapping[str, str]) -> str | None:
    """Return the trace to go on with (W3C Trace Context); what is not one is as good as none."""
    sent = headers.get("traceparent", "")
    return sent if _TRACEPARENT.fullmatch(sent) else None
