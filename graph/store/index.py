"""Which calls a tenant has, the one that took a turn last first.

The index lies beside the calls, on a cluster in another slot, so it is written in the same round trip as a call but
not with it: for a moment it may name a call that is gone. What it names is always looked up before it is told.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import structlog
from redis.asyncio import Redis

from graph.store import scripts
from graph.store.asking import Asked, answering
from graph.store.errors import StoreUnavailable
from graph.store.names import PREFIX, encode, tenant_of

log = structlog.get_logger()


class Index:
    """The calls of each tenant in Redis: a sorted set, scored by when they were committed last (milliseconds), and a
    set of those that may have an open turn: they are named however long ago that was.

    Args:
        client: a client that returns bytes.
        ttl: seconds a call lives after its last turn; 0 for ever.
    """

    def __init__(self, client: Redis, *, ttl: int) -> None:
        self._client = client
        self._ttl = ttl
        self._touch = client.register_script(scripts.TOUCH)

    def begun(self, thread: str) -> Asked:
        """Return what to run with a turn's begin: a new call is named, the others keep their place.

        Its answer is 1 if only this has marked the call as one with an open turn.
        """
        return self._touched(thread, "begun")

    def committed(self, thread: str, *, release: bool) -> Asked:
        """Return what to run with a commit: the call comes first."""
        return self._touched(thread, "committed" if release else "kept")

    def abandoned(self, thread: str) -> Asked:
        """Return what to run as a turn gives its lease back: the call keeps its place."""
        return self._touched(thread, "abandoned")

    async def mark(self, thread: str) -> None:
        """Note that the call has an open turn, unless the store fails."""
        with _warning():
            async with answering():
                await self._client.sadd(_keys(tenant_of(thread))[1], thread)

    async def unmark(self, thread: str) -> None:
        """Note that the call has no open turn, unless the store fails: whoever reads the index looks the call up."""
        with _warning():
            async with answering():
                await self._client.srem(_keys(tenant_of(thread))[1], thread)

    async def drop(self, thread: str) -> None:
        """Forget a call that is gone, unless the store fails: what is named in vain is dropped when it is too old."""
        index, marked = _keys(tenant_of(thread))
        with _warning():
            async with answering(), self._client.pipeline(transaction=False) as pipe:
                pipe.zrem(index, thread)
                pipe.srem(marked, thread)
                await pipe.execute()

    async def recent(self, tenant: str) -> tuple[list[str], list[str]]:
        """Return the tenant's threads, the one committed last first; and those that are too old to be named, but may
        have an open turn."""
        index, marked = _keys(encode(tenant))
        async with answering(), self._client.pipeline(transaction=False) as pipe:
            pipe.zrevrange(index, 0, -1)
            pipe.smembers(marked)
            named, opened = await pipe.execute()
        threads = [member.decode() for member in named]
        return threads, sorted({member.decode() for member in opened}.difference(threads))

    def _touched(self, thread: str, what: str) -> Asked:
        return Asked(self._touch, _keys(tenant_of(thread)), [thread, self._ttl, what])


@contextmanager
def _warning() -> Iterator[None]:
    try:
        yield
    except StoreUnavailable as error:
        warn(error)


def warn(answer: object) -> None:
    """Log that the index was not written; the call itself is as it should be, and its next turn tries again."""
    if isinstance(answer, Exception):
        log.warning("index not written", reason=str(answer))


def _keys(encoded_tenant: str) -> list[str]:
    index = f"{PREFIX}index:{encoded_tenant}"
    return [index, f"{PREFIX}{{{index}}}:open"]
