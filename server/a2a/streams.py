"""Answers on their way out: they read alike in every client, what breaks a stream stays inside, and a stopping
service ends it."""

import asyncio
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
from server.json_text import one_line

_WRITTEN_AS_FLOAT = re.compile(r"\d\.0\b")
_CANCEL_AGAIN_SECONDS = 0.1

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


def tidy(answer: Response) -> Response:
    """Return the answer with whole numbers as such, 1 and not 1.0, and each event on one line."""
    if isinstance(answer, EventSourceResponse):
        answer.body_iterator = _tidied(cast(AsyncIterator[Any], answer.body_iterator))
        return answer
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


def ending(answer: Response, stopping: asyncio.Event | None) -> Response:
    """Let a stream end when the service stops: sse-starlette asks uvicorn's signal handlers, which are not ours."""
    if stopping and isinstance(answer, EventSourceResponse):
        answer.body_iterator = _until(stopping, cast(AsyncGenerator[Any], answer.body_iterator))
    return answer


async def _until(stopping: asyncio.Event, stream: AsyncGenerator[Any]) -> AsyncGenerator[Any]:
    stopped = asyncio.ensure_future(stopping.wait())
    following: asyncio.Future[Any] | None = None
    try:
        while not stopping.is_set():
            following = asyncio.ensure_future(anext(stream, None))
            await asyncio.wait({following, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if not following.done() or (event := following.result()) is None:
                return
            yield event
    finally:
        stopped.cancel()
        while following and following.cancel():  # before Python 3.12, `wait_for` may swallow it (gh-86296)
            await asyncio.wait({following}, timeout=_CANCEL_AGAIN_SECONDS)
        await stream.aclose()
