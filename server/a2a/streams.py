"""Answers on their way out: they read alike in every client, and what breaks a stream stays inside."""

import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any, cast

import orjson
import structlog
from a2a.utils.errors import A2AError, InternalError
from sse_starlette.event import ServerSentEvent
from sse_starlette.sse import EventSourceResponse
from starlette.responses import Response

from server.a2a.wording import whole
from server.event_stream import READER_SECONDS, EventStream
from server.json_text import one_line

_WRITTEN_AS_FLOAT = re.compile(r"\d\.0\b")

log = structlog.get_logger()


async def discreet(stream: Any) -> AsyncGenerator[Any]:
    """Yield what the stream yields; what goes wrong in it is logged here, and the client learns only that it did."""
    try:
        async with aclosing(stream):
            async for event in stream:
                yield event
    except A2AError:
        raise
    except Exception as error:
        log.exception("a2a stream failed")
        raise InternalError() from error


def tidy(answer: Response, *, patience: float = READER_SECONDS) -> Response:
    """Return the answer with whole numbers as such, 1 and not 1.0, and each event on one line.

    Args:
        answer: as the sdk made it.
        patience: seconds a client may take over one event of a stream.
    """
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
