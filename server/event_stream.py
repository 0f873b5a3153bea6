"""Answers that are streams of events, whichever door they leave by: they give signs of life, leave a client that
stops reading, and end when the service stops."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable
from typing import Any, cast

import structlog
from sse_starlette.sse import EventSourceResponse, SendTimeoutError
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

HEARTBEAT_SECONDS = 15.0
"""How often an idle stream gives a sign of life, so that proxies leave it open."""

READER_SECONDS = 30.0
"""How long a client may take over one event before it is left; the turn goes on."""

_CANCEL_AGAIN_SECONDS = 0.1

log = structlog.get_logger()


class EventStream(EventSourceResponse):
    """Sends events one by one as the client takes them; none is held in store for it.

    Args:
        events: what is sent.
        heartbeat: seconds between signs of life.
        patience: seconds a client may take over one event.
        grace: seconds the stream may go on once uvicorn itself was told to stop.
    """

    def __init__(
        self,
        events: AsyncIterable[Any],
        *,
        heartbeat: float = HEARTBEAT_SECONDS,
        patience: float = READER_SECONDS,
        grace: float = 0,
    ) -> None:
        super().__init__(events, ping=heartbeat, shutdown_grace_period=grace)
        self._patience = patience

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def in_time(message: Message) -> None:  # sse-starlette's own limit leaves out the last of them
            try:
                async with asyncio.timeout(self._patience):
                    await send(message)
            except TimeoutError as error:
                raise SendTimeoutError from error

        try:
            await super().__call__(scope, receive, in_time)
        except* SendTimeoutError:
            log.info("client left: it did not take its events", path=scope["path"])


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
            following = None
            yield event
            del event  # neither is held while the client waits for the next
    finally:
        stopped.cancel()
        while following and following.cancel():  # before Python 3.12, `wait_for` may swallow it (gh-86296)
            await asyncio.wait({following}, timeout=_CANCEL_AGAIN_SECONDS)
        await stream.aclose()
