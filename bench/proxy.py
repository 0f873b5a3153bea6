"""A TCP proxy in front of Redis that counts round trips.

A round trip is a burst from the client and its answer: a pipeline is one, however many commands it holds.
"""

import asyncio
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

CHUNK_BYTES = 1 << 20


class RoundTrips:
    """The round trips seen so far, over all connections."""

    def __init__(self) -> None:
        self.count = 0

    def new_connection(self) -> tuple[Callable[[], None], Callable[[], None]]:
        """What to call when the client of one connection speaks, and when the server does."""
        waiting = False

        def asked() -> None:
            nonlocal waiting
            self.count += not waiting
            waiting = True

        def answered() -> None:
            nonlocal waiting
            waiting = False

        return asked, answered


@asynccontextmanager
async def counting_proxy(redis_port: int) -> AsyncIterator[tuple[int, RoundTrips]]:
    """The port to connect to instead, and the counter."""
    trips = RoundTrips()

    async def serve(client_in: StreamReader, client_out: StreamWriter) -> None:
        asked, answered = trips.new_connection()
        redis_in, redis_out = await asyncio.open_connection("127.0.0.1", redis_port)
        await asyncio.gather(
            _pump(client_in, redis_out, asked),
            _pump(redis_in, client_out, answered),
        )

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], trips
    finally:
        server.close()


async def _pump(source: StreamReader, sink: StreamWriter, seen: Callable[[], None]) -> None:
    try:
        while chunk := await source.read(CHUNK_BYTES):
            seen()
            sink.write(chunk)
            await sink.drain()
    except ConnectionError:
        return
    finally:
        sink.close()
