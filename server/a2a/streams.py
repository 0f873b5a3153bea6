"""Streams on their way out: what breaks one stays inside, and a stopping service ends it."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, cast

import structlog
from a2a.utils.errors import A2AError, InternalError
from sse_starlette.sse import EventSourceResponse
from starlette.responses import Response

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
