"""`WS /ws/{call_identify_id}`: a conversation. Messages come in, one after the other is taken as a turn, and what
happens in it goes out as events; those of `POST /orchestrate/stream`, each with its `id`."""

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import ExitStack, aclosing, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import orjson
import structlog
from fastapi import APIRouter, WebSocket
from pydantic import Field, TypeAdapter, ValidationError
from starlette.websockets import WebSocketDisconnect

from graph.store.errors import StoreError
from graph.store.names import thread_name
from nodes.timing import Timing
from server.doors.documents import OrchestrateRequest
from server.doors.events import EventsGone, Told, failure, known_event, of_turn, problem, rest_of_call, shown
from server.doors.keys import Key, named
from server.doors.orchestrate import TURN, traceparent_of, turn_request
from server.doors.reading import checked, is_foreign_page, too_large
from server.event_stream import READER_SECONDS
from server.identifiers import ID_LENGTH, Id
from server.problems import BadInput, BodyTooLarge, Row, bad_input, respond
from server.runtime import Runtime

MOST_WAITING = 8
"""How many messages may wait on a socket while a turn is taken."""

router = APIRouter()

log = structlog.get_logger()

Result = TypeVar("Result")

_FOREIGN = Row(403, "foreign-page", "A web page of another site may not do this")
_TOO_MANY = Row(429, "too-many-messages", "Too many messages are waiting on this socket")
_FAREWELL_SECONDS = 1.0
_POLICY, _RESTART = 1008, 1012
_ID: TypeAdapter[str] = TypeAdapter(Id)


class SocketMessage(OrchestrateRequest):
    """One message from the caller; the socket's path names the call."""

    call_identify_id: Id = ""
    request_id: str | None = Field(default=None, max_length=ID_LENGTH)
    """Comes back in every event of the turn."""
    idempotency_key: Key | None = None


@router.websocket("/ws/{call_identify_id}")
async def talk(websocket: WebSocket, call_identify_id: str) -> None:
    """Hold a conversation with a client until it leaves or the service stops."""
    if is_foreign_page(websocket.headers):
        detail = "open it from a page of this service's own site, or from a program"
        await websocket.send_denial_response(respond(_FOREIGN, detail))
        return
    await websocket.accept()
    await Conversation(websocket, call_identify_id).hold()


class Conversation:
    """What goes on over one socket.

    Args:
        websocket: the socket, accepted.
        call: the call's name, as the client wrote it.
        patience: seconds a client may take over one event before it is left; its turn goes on.
    """

    def __init__(self, websocket: WebSocket, call: str, *, patience: float = READER_SECONDS) -> None:
        self._websocket = websocket
        self._runtime: Runtime = websocket.app.state.runtime
        self._call = call
        self._patience = patience
        self._waiting: asyncio.Queue[_Waiting] = asyncio.Queue(MOST_WAITING)
        self._sending = asyncio.Lock()

    async def hold(self) -> None:
        """Take the client's messages, one after the other, until it leaves or the service stops."""
        try:
            _ID.validate_python(self._call)
        except ValidationError as error:
            await self._refuse(bad_input(error))
            return
        left = asyncio.create_task(self._read())
        stopping = asyncio.create_task(self._runtime.stopping.wait())
        try:
            await self._talk(left, stopping)
            await self._close(_RESTART, "the service stops; connect again and send what was not answered")
        except WebSocketDisconnect:
            log.debug("client left", call=self._call)
        except TimeoutError:
            log.info("client left: it did not take its events", call=self._call)
            await self._close(_POLICY, "events were not taken; connect again and go on after the last one")
        finally:
            left.cancel()
            stopping.cancel()
            await asyncio.gather(left, stopping, return_exceptions=True)

    async def _talk(self, left: asyncio.Task[None], stopping: asyncio.Task[Any]) -> None:
        headers, query = self._websocket.headers, self._websocket.query_params
        if seen := query.get("last_event_id") or headers.get("last-event-id"):
            await _unless(self._go_on_after(seen), left, stopping)
        while waited := await _unless(self._waiting.get(), left, stopping):
            waited.counting.close()
            await self._take(waited.message, waited.timing, left)
        if left.done():
            left.result()
            raise WebSocketDisconnect

    async def _read(self) -> None:
        """Queue what the client sends, until it leaves."""
        while (frame := await self._websocket.receive())["type"] != "websocket.disconnect":
            text = frame.get("text")
            try:
                self._waiting.put_nowait(_Waiting(self._message(text)))
            except asyncio.QueueFull:
                detail = f"{MOST_WAITING} messages are waiting already; wait for a turn to end, then send it again"
                await self._tell(Told({"event": "error", **problem(_TOO_MANY, detail)}), _request_id(text))
            except (BadInput, BodyTooLarge) as error:
                await self._tell(failure(error), _request_id(text))

    def _message(self, text: str | None) -> SocketMessage:
        """Return the message that a frame is.

        Raises:
            BadInput: if it is none, or one for another call.
            BodyTooLarge: if it is longer than we read.
        """
        if text is None:
            raise _bad("body", "it is a binary frame; send JSON in a text frame")
        frame, most = text.encode(), self._runtime.settings.max_body_bytes
        if len(frame) > most:
            raise too_large(most)
        message = checked(SocketMessage, frame)
        if message.call_identify_id not in ("", self._call):
            raise _bad("call_identify_id", "it is not the call that this socket is for; leave it out")
        return message.model_copy(update={"call_identify_id": self._call})

    async def _take(self, message: SocketMessage, timing: Timing, left: asyncio.Task[None]) -> None:
        """Take a turn, and tell of it for as long as the client is there; it goes on without."""
        key = message.idempotency_key
        name = named(key, TURN, message) if key else None
        request = turn_request(message, traceparent_of(self._websocket.headers), name, timing)
        try:
            started = await self._runtime.turns.start(request)
        except Exception as error:  # noqa: BLE001  (told and logged: the next message may be taken)
            await self._tell(failure(error), message.request_id)
        else:
            told = of_turn(self._runtime.store.events, started)
            await _unless(self._tell_all(told, message.request_id), left)

    async def _go_on_after(self, seen: str) -> None:
        """Tell what was published after an event, while a socket that is no more was to tell it."""
        thread = thread_name(self._runtime.settings.tenant, self._call)
        try:
            known = await known_event(self._runtime.store.events, thread, seen)
            async with aclosing(rest_of_call(self._runtime, thread, known)) as following:
                async for published in following:
                    await self._tell(shown(published))
        except (BadInput, EventsGone, StoreError) as error:
            await self._tell(failure(error))

    async def _tell_all(self, told: AsyncGenerator[Told, None], request_id: str | None) -> None:
        async with aclosing(told):
            async for one in told:
                await self._tell(one, request_id)

    async def _tell(self, told: Told, request_id: str | None = None) -> None:
        """Send an event, and wait until the client has room for the next.

        Raises:
            TimeoutError: if that takes too long.
            WebSocketDisconnect: if the client has left.
        """
        named = {"id": told.id, "request_id": request_id}
        document = {**{name: value for name, value in named.items() if value is not None}, **told.event}
        async with asyncio.timeout(self._patience), self._sending:
            await self._websocket.send_text(orjson.dumps(document).decode())

    async def _refuse(self, error: BadInput) -> None:
        await self._tell(failure(error))
        await self._close(_POLICY, "the path does not name a call")

    async def _close(self, code: int, reason: str) -> None:
        """Close the socket; a client that takes nothing, or has just left, is left without a word."""
        with suppress(TimeoutError, WebSocketDisconnect, RuntimeError):
            async with asyncio.timeout(_FAREWELL_SECONDS):
                await self._websocket.close(code, reason)


@dataclass(slots=True)
class _Waiting:
    """A message that waits for those before it."""

    message: SocketMessage
    timing: Timing = field(default_factory=Timing)
    counting: ExitStack = field(default_factory=ExitStack)
    """Counts how long it waits, until it is closed."""

    def __post_init__(self) -> None:
        self.counting.enter_context(self.timing.of("queue"))


async def _unless(work: Coroutine[Any, Any, Result], *over: asyncio.Task[Any]) -> Result | None:
    """Return what `work` returns; None if one of the others is over before."""
    if any(task.done() for task in over):
        work.close()
        return None
    doing = asyncio.create_task(work)
    try:
        await asyncio.wait({doing, *over}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        doing.cancel()
        await asyncio.wait({doing})
    return None if doing.cancelled() else doing.result()


def _bad(field: str, message: str) -> BadInput:
    return BadInput([{"field": field, "message": message}])


def _request_id(text: str | None) -> str | None:
    """Return the `request_id` of a message that is wrong otherwise, so that the client knows which one that is."""
    try:
        document = orjson.loads(text or "")
    except orjson.JSONDecodeError:
        return None
    said = document.get("request_id") if isinstance(document, dict) else None
    return said if isinstance(said, str) and len(said) <= ID_LENGTH else None
