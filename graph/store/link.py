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
from redis.exceptions import TimeoutError as TimedOut

from graph.store.asking import Argument
from graph.store.ending import ended

_LANES = 4
_CLOSED, _TOO_LATE = "the connection was closed", "the server did not answer in time"
_packed: Callable[[tuple[Argument, ...]], bytes] = hiredis.pack_command  # type: ignore[assignment]  # it takes any number


@dataclass(slots=True)
class _Waiting:
    """Commands of one caller."""

    packed: bytes
    count: int
    answers: "asyncio.Future[list[Any]]"
    is_taken: bool = False
    """Whether a lane has it."""
    over: "asyncio.Future[None] | None" = None
    """Is done once the lane has done with it, for one who was cancelled meanwhile."""

    def ends(self) -> None:
        """Note that the lane has done with it."""
        self.is_taken = False
        if self.over is not None and not self.over.done():
            self.over.set_result(None)


class Link:
    """Asks one server.

    Whoever is cancelled before that is sent is never asked for; after it they wait until the answers were read and
    dropped: so no connection has one that nobody has read, and what they ask for next, over another lane perhaps,
    cannot overtake what they asked for before.

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
        self._closed = False

    async def ask(self, commands: Sequence[Sequence[Argument]]) -> list[Any]:
        """Run commands in one round trip; what the server refuses is returned in its place.

        Raises:
            redis.exceptions.RedisError: if the server does not answer; whether it ran them is not known.
            OSError: likewise.
            TimeoutError: likewise.
        """
        if self._closed:
            raise ConnectionLost(_CLOSED)
        packed = b"".join([_packed((*command,)) for command in commands])
        one = _Waiting(packed, len(commands), asyncio.get_running_loop().create_future())
        self._waiting.append(one)
        if self._at_work < self._most:
            self._at_work += 1
            self._tasks.add(task := asyncio.create_task(self._serve()))
            task.add_done_callback(self._tasks.discard)
        try:
            return await one.answers
        except asyncio.CancelledError:
            if one.is_taken:
                one.over = asyncio.get_running_loop().create_future()
                await one.over
            raise

    async def aclose(self) -> None:
        """Close the connections; whoever still asks is told so."""
        self._closed = True
        _fail(self._waiting, ConnectionLost(_CLOSED))
        await ended(*self._tasks)
        while self._idle:
            await self._idle.pop().aclose()

    async def _serve(self) -> None:
        """Have a lane answer what waits until nothing does."""
        lane: _Lane | None = None
        try:
            lane = self._idle.pop() if self._idle else self._lane()
            while self._waiting:
                batch = list(self._waiting)
                self._waiting.clear()
                for one in batch:
                    one.is_taken = True
                try:
                    await lane.answer(batch)
                finally:
                    for one in batch:
                        one.ends()
        except Exception as error:  # noqa: BLE001  (whatever it is, those who wait are told)
            _fail(self._waiting, error)
            self._waiting.clear()
        finally:
            if lane is not None:
                self._idle.append(lane)
            self._at_work -= 1

    def _lane(self) -> "_Lane":
        return _Lane(self._pool.make_connection())  # type: ignore[no-untyped-call]


class Pipelines:
    """Asks one server on connections of its pool: what takes long to come, such as many trails, holds up nobody.

    Args:
        client: whose server it asks.
    """

    def __init__(self, client: Redis) -> None:
        self._client = client

    async def ask(self, commands: Sequence[Sequence[Argument]]) -> list[Any]:
        """Run commands in one round trip, as `Link` does."""
        async with self._client.pipeline(transaction=False) as pipe:
            for command in commands:
                pipe.execute_command(*command)
            return await pipe.execute(raise_on_error=False)


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
        try:
            await self._answered(batch)
        except TimeoutError as error:
            raise TimedOut(_TOO_LATE) from error

    async def _answered(self, batch: Sequence[_Waiting]) -> None:
        connection = self._connection
        async with asyncio.timeout(self._seconds) as limit:
            if connection.is_connected and await connection.can_read():  # the server has closed it, or is out of step
                await connection.disconnect()
            if not connection.is_connected:
                await connection.connect()  # type: ignore[no-untyped-call]
            asked = _left(batch)
            if asked:
                await connection.send_packed_command([one.packed for one in asked])
            for one in asked:
                answers = [await self._next(limit) for _ in range(one.count)]
                if not one.answers.done():
                    one.answers.set_result(answers)

    async def _next(self, limit: asyncio.Timeout) -> Any:
        """Return the next answer; each may take so long."""
        if self._seconds is not None:
            limit.reschedule(asyncio.get_running_loop().time() + self._seconds)
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
