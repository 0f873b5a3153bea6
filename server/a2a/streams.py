"""Answers on their way out: they read alike in every client, and what breaks a stream stays inside."""

import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import Any, cast

import orjson
import structlog
from a2a.server.events import Event
from a2a.utils.errors import A2AError, InternalError
from sse_starlette.event import ServerSentEvent
from sse_starlette.sse import EventSourceResponse
from starlette.responses import Response

from server.a2a.cards import Version
from server.a2a.wording import whole
from server.event_stream import READER_SECONDS, EventStream
from server.json_text import one_line

_NOTHING = b":\r\n\r\n"
_WRITTEN_AS_FLOAT = re.compile(r"\d\.0\b")

log = structlog.get_logger()


async def streamed(
    stream: AsyncGenerator[Event],
    written: Callable[[Event], Any],
    refused: Callable[[A2AError], Any],
    *,
    version: Version,
) -> EventStream:
    """Return the answer that sends events as they come.

    What goes wrong before the first is raised for 1.0, and the only event for 0.3, whose clients read nothing else.
    What goes wrong later is the last event; of what is not for clients they learn only that it did. No event is held
    once it was sent: a client may stay for hours, and the first event is a whole task.

    Args:
        stream: the events.
        written: the JSON-native document that an event is.
        refused: the one that an error is.
        version: which the client speaks.
    """
    if version == "1.0":
        return EventStream(_sent(stream, written, refused, await _next(stream), "error"))
    return EventStream(_sent(stream, written, refused))


async def _next(stream: AsyncGenerator[Event]) -> list[Event]:
    """Return the next event, to be taken out; an empty list if there is none."""
    try:
        return [await anext(stream)]
    except StopAsyncIteration:
        return []


async def _sent(
    stream: AsyncGenerator[Event],
    written: Callable[[Event], Any],
    refused: Callable[[A2AError], Any],
    waiting: list[Event] | None = None,
    name_of_errors: str | None = None,
) -> AsyncGenerator[bytes]:
    try:
        async with aclosing(stream):
            waiting = await _next(stream) if waiting is None else waiting
            while waiting:
                yield _line(written(waiting.pop()))
                yield _NOTHING  # in place of what sse-starlette sent last, and would hold until the next
                waiting = await _next(stream)
    except A2AError as error:
        yield _line(refused(error), name_of_errors)
    except Exception:
        log.exception("a2a stream failed")
        yield _line(refused(InternalError()), name_of_errors)


def _line(document: Any, event: str | None = None) -> bytes:
    return ServerSentEvent(one_line(orjson.dumps(whole(document)).decode()), event=event).encode()


def tidy(answer: Response, *, patience: float = READER_SECONDS) -> Response:
    """Return the answer with whole numbers as such, 1 and not 1.0, and each event on one line.

    Args:
        answer: as the sdk made it.
        patience: seconds a client may take over one event of a stream.
    """
    if isinstance(answer, EventStream):
        return answer
    if isinstance(answer, EventSourceResponse):
        return EventStream(_tidied(cast(AsyncIterator[Any], answer.body_iterator)), patience=patience)
    body = bytes(answer.body).decode()
    if not _WRITTEN_AS_FLOAT.search(body):
        return answer
    return Response(_with_whole_numbers(body), answer.status_code, media_type=answer.headers["content-type"])


async def _tidied(stream: Any) -> AsyncGenerator[Any]:
    async with aclosing(stream):
        async for event in stream:
            if isinstance(event, ServerSentEvent):
                event.data = one_line(_with_whole_numbers(event.data))
                yield event
            else:
                yield {**event, "data": one_line(_with_whole_numbers(event["data"]))}


def _with_whole_numbers(text: Any) -> str:
    return orjson.dumps(whole(orjson.loads(text))).decode() if _WRITTEN_AS_FLOAT.search(text) else text
