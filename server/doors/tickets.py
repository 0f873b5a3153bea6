"""`/api/tickets`: support tickets, each an execution of the flow `ticket`."""

import hashlib
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Annotated

import orjson
from fastapi import APIRouter, Path, Query, Request, Response

from server.doors.execution_documents import TicketAnswer, TicketList, TicketRequest, body_of
from server.doors.executions import Limit, Offset, answered, page_of
from server.doors.keys import WITH_KEY, Named, named_by
from server.doors.orchestrate import traceparent_of
from server.doors.reading import read_document
from server.executing import Executions
from server.executions import Execution
from server.identifiers import Id
from server.problems import AlreadyBegun, ExecutionNotFound, TicketNotFound, TicketReused, responses
from server.runtime import Runtime
from server.tickets import FLOW, status_of, ticket_document
from server.turn import TurnRequest

router = APIRouter(prefix="/api/tickets", tags=["tickets"])

TicketId = Annotated[Id, Path(description="The ticket's name.")]


@router.post("/", include_in_schema=False)
@router.post(
    "",
    summary="Send a ticket",
    status_code=201,
    response_model=None,
    openapi_extra=body_of(TicketRequest) | WITH_KEY,
    responses={
        201: {"model": TicketAnswer, "description": "It is resolved or escalated"},
        202: {"model": TicketAnswer, "description": "It is being worked on"},
        **responses(404, 409, 413, 415, 422, 503),
    },
)
async def send(
    request: Request,
    wait: Annotated[bool, Query(description="Whether to answer when it is resolved or escalated.")] = True,
) -> Response:
    """Send a ticket: it is sorted, looked up, read for its mood, and resolved or escalated.

    The same ticket under the same `ticket_id` is worked on once, however often it is sent. The service has to serve
    the flow `ticket`.
    """
    runtime: Runtime = request.app.state.runtime
    sent = await read_document(request, TicketRequest, runtime.settings.max_body_bytes)
    await runtime.flows.find(FLOW)
    turn = _turn(sent, named_by(request, "ticket", sent), runtime.settings.execution_ttl_seconds)
    turn = replace(turn, traceparent=traceparent_of(request.headers))
    try:
        found = await Executions(runtime).run(turn, wait=wait)
    except AlreadyBegun as error:
        message = f"ticket_id {turn.call_identify_id!r} names another ticket; choose a new one, or leave it out"
        raise TicketReused(message) from error
    return answered(ticket_document(found), 201 if wait else 202)


@router.get("/", include_in_schema=False)
@router.get(
    "",
    summary="The tickets there are",
    response_model=None,
    responses={200: {"model": TicketList}, **responses(422, 503)},
)
async def tickets(
    request: Request,
    status: Annotated[str | None, Query(description="Only those that stand so, such as ESCALATED.")] = None,
    customer_id: Annotated[str | None, Query(description="Only this customer's.")] = None,
    limit: Limit = 50,
    offset: Offset = 0,
) -> Response:
    """List tickets, the one that moved last first."""
    matching = _matching(request.app.state.runtime, status, customer_id)
    found, following = await page_of(matching, limit, offset)
    return answered({"tickets": [ticket_document(ticket) for ticket in found], "next_offset": following})


@router.get(
    "/{ticket_id}",
    summary="A ticket",
    response_model=None,
    responses={200: {"model": TicketAnswer}, **responses(404, 422, 503)},
)
async def ticket(ticket_id: TicketId, request: Request) -> Response:
    """Say where a ticket stands, and what was found out."""
    try:
        found = await Executions(request.app.state.runtime).find(ticket_id)
    except ExecutionNotFound as error:
        raise _not_found(ticket_id) from error
    if found.flow_name != FLOW:
        raise _not_found(ticket_id)
    return answered(ticket_document(found))


def _turn(sent: TicketRequest, named: Named | None, ttl: float) -> TurnRequest:
    told = sent.model_dump(include={"customer_id", "subject", "body"})
    key = hashlib.sha256(orjson.dumps({**told, "metadata": sent.metadata}, option=orjson.OPT_SORT_KEYS)).hexdigest()
    tag = named.call() if named else uuid.uuid4().hex[:12]
    return TurnRequest(
        sent.ticket_id or f"TICKET-{tag.upper()}",
        sent.customer_id,
        None,
        sent.body,
        metadata=sent.metadata,
        key=named.key if named else key,
        body=named.body if named else "",
        begins=True,
        flow=FLOW,
        context=told,
        ttl=ttl,
    )


async def _matching(runtime: Runtime, status: str | None, customer_id: str | None) -> AsyncGenerator[Execution, None]:
    async with aclosing(Executions(runtime).listed(FLOW, None)) as listed:
        async for found in listed:
            known = ticket_document(found) if customer_id is not None else {}
            is_theirs = customer_id is None or known["customer_id"] == customer_id
            if is_theirs and (status is None or status.upper() == status_of(found)):
                yield found


def _not_found(ticket_id: str) -> TicketNotFound:
    return TicketNotFound(f"there is no ticket {ticket_id!r}; it was never sent, or has expired")
