"""What replicas tell each other at once: Redis channels, all heard over one connection of the process.

callers ─► asked ─► writer ─┐
                            ├─ the connection, opened with the first channel and again whenever it is lost
hearers ◄───────── reader ◄─┘
"""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import structlog
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as ConnectionLost
from redis.exceptions import RedisError

from graph.store.cluster import Cluster
from graph.store.errors import StoreUnavailable

Tell = Callable[[bytes | None], None]
"""Is told a message; None if messages may have been lost meanwhile."""

SILENCE_SECONDS = 15.0

_OPENING_SECONDS = 5.0
_FIRST_WAIT, _DOUBLINGS = 0.05, 5

log = structlog.get_logger()


@dataclass(eq=False, slots=True)
class _Channel:
    name: str
    hearers: dict[object, Tell] = field(default_factory=dict)
    open: asyncio.Event = field(default_factory=asyncio.Event)
    interrupted: bool = False

    def tell(self, message: bytes | None) -> None:
        for tell in list(self.hearers.values()):
            tell(message)

    def opened(self) -> None:
        self.open.set()
        if self.interrupted:
            self.interrupted = False
            self.tell(None)

    def interrupt(self) -> bool:
        was_open = self.open.is_set()
        self.interrupted = self.interrupted or was_open
        self.open.clear()
        return was_open


class Channels:
    """The channels that this process hears.

    Args:
        client: whose server and user the connection has.
        silence: seconds without a message after which the server is asked for a sign of life, and seconds it has
            to give one.
    """

    def __init__(self, client: Redis, *, silence: float = SILENCE_SECONDS) -> None:
        self._client = client
        self._silence = silence
        self._channels: dict[bytes, _Channel] = {}
        self._asked: asyncio.Queue[tuple[str, ...]] = asyncio.Queue()
        self._unconfirmed: Counter[bytes] = Counter()
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    async def aclose(self) -> None:
        """Close the connection; nothing is heard any more."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    @asynccontextmanager
    async def heard(self, name: str, tell: Tell) -> AsyncIterator[None]:
        """Hear a channel: on entering, it is open.

        Raises:
            StoreUnavailable: if it cannot be opened in time.
        """
        channel, hearer = self._channels.get(name.encode()), object()
        if channel is None:
            channel = self._channels[name.encode()] = _Channel(name)
            self._ask("SUBSCRIBE", name)
        channel.hearers[hearer] = tell
        try:
            await self._opened(channel)
            yield
        finally:
            del channel.hearers[hearer]
            if not channel.hearers:
                del self._channels[name.encode()]
                self._ask("UNSUBSCRIBE", name)

    async def _opened(self, channel: _Channel) -> None:
        if self._closed:
            raise StoreUnavailable("the store is closed")
        if self._task is None:
            self._task = asyncio.create_task(self._stay_connected())
        try:
            async with asyncio.timeout(_OPENING_SECONDS):
                await channel.open.wait()
        except TimeoutError as error:
            raise StoreUnavailable("the store does not open a channel") from error

    def _ask(self, word: str, *names: str) -> None:
        self._asked.put_nowait((word, *names))
        if word == "SUBSCRIBE":
            self._unconfirmed.update(name.encode() for name in names)

    async def _stay_connected(self) -> None:
        attempt = 0
        while True:
            try:
                await self._hear()
            except* (RedisError, OSError, TimeoutError) as errors:
                attempt = 0 if self._interrupted() else attempt + 1
                if attempt <= 1:
                    log.warning("channels lost", reason=type(errors.exceptions[0]).__name__)
            await asyncio.sleep(_FIRST_WAIT * 2 ** min(attempt, _DOUBLINGS) * random.uniform(0.5, 1))

    def _interrupted(self) -> bool:
        """Note that no channel is open now; tell whether one was."""
        were_open = [channel.interrupt() for channel in self._channels.values()]
        return any(were_open)

    async def _hear(self) -> None:
        """Hear all channels until the connection is lost."""
        connection = self._connection()
        try:
            async with asyncio.timeout(_OPENING_SECONDS):
                await connection.connect()  # type: ignore[no-untyped-call]
            self._ask_for_all()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._write(connection))
                tasks.create_task(self._read(connection))
        finally:
            with suppress(RedisError, OSError):
                await connection.disconnect(nowait=True)

    def _connection(self) -> AbstractConnection:
        """Make a connection of its own: it waits for messages longer than an answer may take."""
        # A cluster passes a message on to all its nodes; if this one is lost, the next connection leads to another.
        client = self._client
        pool = client.some_pool() if isinstance(client, Cluster) else client.connection_pool
        options = {**pool.connection_kwargs, "protocol": 2, "socket_timeout": None}
        return pool.connection_class(**options)

    def _ask_for_all(self) -> None:
        self._asked, self._unconfirmed = asyncio.Queue(), Counter()
        if self._channels:
            self._ask("SUBSCRIBE", *(channel.name for channel in self._channels.values()))

    async def _write(self, connection: AbstractConnection) -> None:
        while True:
            await connection.send_command(*await self._asked.get())

    async def _read(self, connection: AbstractConnection) -> None:
        """Pass on what comes; a server that is silent is asked for a sign of life, and given up without one."""
        silent = False
        while True:
            said = await connection.read_response(timeout=self._silence, disconnect_on_error=False)
            if said is not None:
                silent = False
                if isinstance(said, list):
                    self._pass_on(*said)
            elif silent:
                raise ConnectionLost("no sign of life")
            else:
                silent = True
                self._ask("PING")

    def _pass_on(self, kind: bytes, name: bytes, message: bytes | int | None = None) -> None:
        channel = self._channels.get(name)
        if kind == b"subscribe":
            self._unconfirmed[name] -= 1
            # While another request is on its way, one to close the channel is before it.
            if not self._unconfirmed[name]:
                del self._unconfirmed[name]
                if channel is not None:
                    channel.opened()
        elif kind == b"message" and channel is not None and isinstance(message, bytes):
            channel.tell(message)
