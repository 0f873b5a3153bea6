"""`POST /orchestrate/stream` and `GET /session/{call_identify_id}/events`: turns and calls as server-sent events."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated

import orjson
from fastapi import APIRouter, Header, Query, Request, Response
from sse_starlette.event import ServerSentEvent

from graph.store.calls import CallRecord
from graph.store.errors import StoreError
from graph.store.events import Published
from graph.store.names import thread_name
from nodes.runs import has_ended
from nodes.timing import Timing
from server.doors.documents import OrchestrateRequest
from server.doors.events import (
    ANOTHER_TURN,
    GONE,
    EventsGone,
    Silence,
    Told,
    failure,
    is_last,
    is_of_another_message,
    known_event,
    of_turn,
    rest_of_turn,
    shown,
)
from server.doors.keys import named_by
from server.doors.orchestrate import BODY, TURN, traceparent_of, turn_request
from server.doors.reading import read_document
from server.doors.sessions import CallId
from server.event_stream import HEARTBEAT_SECONDS, READER_SECONDS, EventStream, ending
from server.following import follow
from server.json_text import one_line
from server.problems import SessionNotFound, respond, responses
from server.runtime import Runtime

router = APIRouter(tags=["calls"])

_Stream = AsyncGenerator[Told, None]
_LastSeen = Annotated[
    str | None, Header(description="The id of the last event that came: go on after it, and take no turn.")
]
_LEAVE_IT_OUT = (
    "the event named by Last-Event-ID is of a turn with another message; leave the header out to take a turn with "
    "this one, or repeat that turn's message to go on after the event"
)
_ANSWER = {"description": "Events, the last of them `turn` or `error`", "content": {"text/event-stream": {}}}


@router.post(
    "/orchestrate/stream",
    summary="Take one turn of a call, and see what happens in it",
    response_model=None,
    openapi_extra=BODY,
    responses={
        200: _ANSWER,
        204: {"description": "The event named by Last-Event-ID was the last"},
        **responses(404, 409, 413, 415, 422, 503, 504),
    },
)
async def stream(request: Request, last_event_id: _LastSeen = None) -> Response:
    """Send what the caller said, as to `/orchestrate`, and get server-sent events: `state_change`, `message_chunk`
    and `step` as they happen, then `turn`, which is the answer of `/orchestrate`, or `error`, a problem document.

    The turn goes on if the client leaves. With `Last-Event-ID` the same request goes on after that event instead.
    """
    timing = Timing()
    runtime: Runtime = request.app.state.runtime
    sent = await read_document(request, OrchestrateRequest, runtime.settings.max_body_bytes)
    named = named_by(request, TURN, sent)
    if last_event_id:
        return await _resumed(runtime, sent, last_event_id)
    started = await runtime.turns.start(turn_request(sent, traceparent_of(request.headers), named, timing))
    # Not ended when the service stops: like any turn under way, it is given the time to be answered.
    return sse(of_turn(runtime.store.events, started), grace=runtime.settings.turn_timeout_seconds)


@router.get("/session/{call_identify_id}/events", response_model=None, include_in_schema=False)
async def events(
    call_identify_id: CallId,
    request: Request,
    last_event_id: _LastSeen = None,
    after: Annotated[str | None, Query(alias="last_event_id")] = None,
) -> Response:
    """Follow a call, as a browser's EventSource does: what happens in its streamed turns, until the call ends."""
    runtime: Runtime = request.app.state.runtime
    thread = thread_name(runtime.settings.tenant, call_identify_id)
    position = await runtime.store.events.last(thread)
    record = await runtime.store.calls.read(thread)
    if record is None:
        raise SessionNotFound(f"no session {call_identify_id!r}; it never began, was deleted, or has expired")
    if seen := last_event_id or after:
        try:
            await known_event(runtime.store.events, thread, seen)
        except EventsGone as error:
            return respond(GONE, str(error))
    if (seen or position) == position and await _is_over(runtime, record):
        return Response(status_code=204)  # EventSource connects again after anything else
    return ending(sse(_whole_call(runtime, thread, seen or position)), runtime.stopping)


def sse(
    told: _Stream, *, heartbeat: float = HEARTBEAT_SECONDS, patience: float = READER_SECONDS, grace: float = 0
) -> EventStream:
    """Return the answer that tells events, an `EventStream`."""
    return EventStream(_written(told), heartbeat=heartbeat, patience=patience, grace=grace)


async def _written(told: _Stream) -> AsyncGenerator[ServerSentEvent, None]:
    async with aclosing(told):
        async for one in told:
            yield ServerSentEvent(one_line(orjson.dumps(one.event).decode()), event=one.event["event"], id=one.id)


async def _resumed(runtime: Runtime, sent: OrchestrateRequest, seen: str) -> Response:
    """Go on after an event of a turn: nothing of it is told twice, and nothing is left out."""
    thread = thread_name(runtime.settings.tenant, sent.call_identify_id)
    try:
        known = await known_event(runtime.store.events, thread, seen)
    except EventsGone as error:
        return respond(GONE, str(error))
    if await is_of_another_message(runtime, thread, known, sent.input_message, sent.intent):
        return respond(ANOTHER_TURN, _LEAVE_IT_OUT)
    if is_last(known):
        return Response(status_code=204)
    return ending(sse(_told(rest_of_turn(runtime, thread, known))), runtime.stopping)


async def _told(published: AsyncGenerator[Published, None]) -> _Stream:
    """Show events; what goes wrong meanwhile is the last of them."""
    try:
        async with aclosing(published):
            async for one in published:
                yield shown(one)
    except (EventsGone, StoreError) as error:
        yield failure(error)


async def _whole_call(runtime: Runtime, thread: str, after: str) -> _Stream:
    """Yield what happens in a call, turn after turn, until it has ended."""
    silence = Silence()
    try:
        async with aclosing(follow(runtime.store.events, thread, after)) as following:
            async for published in following:
                if published is not None:
                    silence = Silence()
                    yield shown(published)
                    if _ends_run(published) and not await _goes_on(runtime, thread):
                        return
                else:
                    record = await runtime.store.calls.read(thread)
                    if record is None or (await _is_over(runtime, record) and silence.is_final()):
                        return
    except (EventsGone, StoreError) as error:
        yield failure(error)


def _ends_run(published: Published) -> bool:
    event = published.event
    return bool(event["event"] == "turn" and (event["is_complete"] or "ended" in event))


async def _goes_on(runtime: Runtime, thread: str) -> bool:
    record = await runtime.store.calls.read(thread)
    return bool(record and not await _is_over(runtime, record))


async def _is_over(runtime: Runtime, record: CallRecord) -> bool:
    """Tell whether nothing can happen in the call any more."""
    if record.opened or not has_ended(record.state):
        return False
    version = await runtime.flows.next_of(record.state)
    return not (version and version.flow.restarts)
