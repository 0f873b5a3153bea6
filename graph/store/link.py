"""How one server is asked many things at once: a few connections, each of which takes along whatever waits for it.

    callers ─► waiting ─► lane 1 … lane 4    a lane sends all that waits, reads the answers, sends what came since

A connection of redis-py's pool serves one caller at a time, and lending it costs more than what is asked here, as
does a pipeline. What knows the server is redis-py's all the same: a connection has its address, user, TLS and errors.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import hiredis
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as ConnectionLost
from redis.exceptions import ResponseError

from graph.store.asking import Argument
from graph.store.ending import ended

_LANES = 4
_CLOSED = "the connection was closed"
_packed: Callable[[tuple[Argument, ...]], bytes] = hiredis.pack_command  # type: ignore[assignment]  # it takes any number


@dataclass(slots=True)
class _Waiting:
    """Commands of one caller."""

    packed: bytes
    count: int
    answers: "asyncio.Future[list[Any]]"


class Link:
    """Asks one server.

    Whoever is cancelled before that is sent is never asked for; after it the answers are read and dropped, so that no
    connection has one that nobody has read.

    Args:
        client: whose server, user, time limit and ways to try again it has.
    """

    def __init__(self, client: Redis) -> None:
        self._pool = client.connection_pool
        self._most = min(_LANES, self._pool.max_connections)
        self._waiting: deque[_Waiting] = deque()
        self._idle: list[_Lane] = []
        self._at_work = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def ask(self, commands: Sequence[Sequence[Argument]]) -> list[Any]:
        """Run commands in one round trip; what the server refuses is returned in its place.

        Raises:
            redis.exceptions.RedisError: if the server does not answer; whether it ran them is not known.
            OSError: likewise.
            TimeoutError: likewise.
        """
        packed = b"".join([_packed((*command,)) for command in commands])
        one = _Waiting(packed, len(commands), asyncio.get_running_loop().create_future())
        self._waiting.append(one)
        if self._at_work < self._most:
            self._at_work += 1
            self._tasks.add(task := asyncio.create_task(self._serve()))
            task.add_done_callback(self._tasks.discard)
        return await one.answers

    async def aclose(self) -> None:
        """Close the connections; whoever still asks is told so."""
        _fail(self._waiting, ConnectionLost(_CLOSED))
        await ended(*self._tasks)
        while self._idle:
            await self._idle.pop().aclose()

    async def _serve(self) -> None:
        """Have a lane answer what waits until nothing does."""
        lane = self._idle.pop() if self._idle else self._lane()
        try:
            while self._waiting:
                batch = list(self._waiting)
                self._waiting.clear()
                await lane.answer(batch)
        finally:
            self._idle.append(lane)
            self._at_work -= 1

    def _lane(self) -> "_Lane":
        return _Lane(self._pool.make_connection())  # type: ignore[no-untyped-call]


class _Lane:
    """A connection that is asked by one task at a time."""

    def __init__(self, connection: AbstractConnection) -> None:
        self._connection = connection
        # The limit is ours to watch, once for all that is sent and read: `wait_for` makes a task of each sending.
        self._seconds, connection.socket_timeout = connection.socket_timeout, None

    async def answer(self, batch: Sequence[_Waiting]) -> None:
        """Ask what is waited for, and tell those who wait."""
        connection = self._connection
        try:
            await connection.retry.call_with_retry(partial(self._ask, batch), self._lost)
        except BaseException as error:
            await connection.disconnect(nowait=True)
            _fail(batch, error if isinstance(error, Exception) else ConnectionLost(_CLOSED))
            if not isinstance(error, Exception):
                raise

    async def aclose(self) -> None:
        """Close the connection."""
        await self._connection.disconnect()

    async def _ask(self, batch: Sequence[_Waiting]) -> None:
        connection = self._connection
        async with asyncio.timeout(self._seconds):
            if connection.is_connected and await connection.can_read():  # the server has closed it, or is out of step
                await connection.disconnect()
            if not connection.is_connected:
                await connection.connect()  # type: ignore[no-untyped-call]
            asked = _left(batch)
            if asked:
                await connection.send_packed_command([one.packed for one in asked])
            for one in asked:
                answers = [await self._next() for _ in range(one.count)]
                if not one.answers.done():
                    one.answers.set_result(answers)

    async def _next(self) -> Any:
        try:
            return await self._connection.read_response()
        except ResponseError as refusal:
            return refusal

    async def _lost(self, _: Exception) -> None:
        await self._connection.disconnect(nowait=True)


def _fail(batch: Iterable[_Waiting], error: Exception) -> None:
    for one in _left(batch):
        one.answers.set_exception(error)


def _left(batch: Iterable[_Waiting]) -> list[_Waiting]:
    """Return those who still wait: who was cancelled is not asked for any more, nor again who has its answer."""
    return [one for one in batch if not one.answers.done()]
