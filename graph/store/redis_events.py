"""Events in Redis: a stream for each call that is followed, and channels that wake its followers on all replicas."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import orjson
from redis.asyncio import Redis

from graph.store import scripts
from graph.store.asking import Argument, answering
from graph.store.channels import Channels
from graph.store.cluster import Cluster
from graph.store.errors import StoreUnavailable
from graph.store.events import KEPT_EVENTS, KEPT_SECONDS, START, Bell, Published, Watch, numbers_of
from graph.store.names import PREFIX, events_key, followed_key

_CANCEL = f"{PREFIX}cancel"
_TOLD_SECONDS = 60
"""How long a call of a cluster counts as followed; it is told anew in a third of that."""


class RedisEvents:
    """The events of calls.

    Args:
        client: a client that returns bytes.
        channels: what this process hears.
        seconds: how long a call's events are kept after the last of them.
    """

    def __init__(self, client: Redis, channels: Channels, *, seconds: int = KEPT_SECONDS) -> None:
        self._client = client
        self._channels = channels
        self._seconds = seconds
        self._publish = client.register_script(scripts.PUBLISH)

    async def publish(self, thread: str, events: Sequence[Mapping[str, Any]]) -> None:
        """Append events, in one round trip; a repeated publication is one publication."""
        if events:
            args: list[Argument] = [secrets.token_hex(8), KEPT_EVENTS, self._seconds, *map(orjson.dumps, events)]
            async with answering():
                await self._publish(keys=[events_key(thread)], args=args)

    async def read(self, thread: str, after: str = START, *, limit: int = 256) -> list[Published]:
        """Return the events after the position, oldest first."""
        numbers_of(after)
        async with answering():
            entries: Any = await self._client.xrange(events_key(thread), min=f"({after}", count=limit)
        return [Published(position.decode(), orjson.loads(fields[b"event"])) for position, fields in entries]

    async def last(self, thread: str) -> str:
        """Return the position of the newest event."""
        async with answering():
            entries: Any = await self._client.xrevrange(events_key(thread), count=1)
        return entries[0][0].decode() if entries else START

    @asynccontextmanager
    async def watch(self, thread: str) -> AsyncIterator[Watch]:
        """Watch a call, over the connection that all watches of the process share."""
        bell = Bell()
        async with self._channels.heard(events_key(thread), bell.ring):
            if not isinstance(self._client, Cluster):
                yield bell
                return
            watch = _Told(bell, self._client, followed_key(thread))
            async with answering():
                await watch.tell()
            yield watch

    async def ask_to_cancel(self, thread: str) -> None:
        """Tell all replicas that hear at this moment."""
        async with answering():
            await self._client.publish(_CANCEL, thread)

    async def asked_to_cancel(self) -> AsyncIterator[str]:
        """Yield the threads that are to end."""
        asked: asyncio.Queue[bytes | None] = asyncio.Queue()
        async with self._channels.heard(_CANCEL, asked.put_nowait):
            while True:
                thread = await asked.get()
                if thread is not None:
                    yield thread.decode()


class _Told:
    """A watch of which a call on a cluster is told: its node counts only who hears from that node."""

    def __init__(self, bell: Bell, client: Cluster, key: str) -> None:
        self._bell = bell
        self._client = client
        self._key = key
        self._tell_at = 0.0

    async def tell(self) -> None:
        """Say that the call is followed."""
        await self._client.set(self._key, "", ex=_TOLD_SECONDS)
        self._tell_at = asyncio.get_running_loop().time() + _TOLD_SECONDS / 3

    async def changed(self, timeout: float) -> bool:
        """Wait for a ring. If the store fails meanwhile, whoever reads what is new will be told."""
        if asyncio.get_running_loop().time() > self._tell_at:
            with suppress(StoreUnavailable):
                async with answering():
                    await self.tell()
        return await self._bell.changed(timeout)
