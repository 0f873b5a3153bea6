"""Which calls a tenant has, the one that took a turn last first.

The index lies beside the calls, on a cluster in another slot, so it is written in the same round trip as a call but
not with it: for a moment it may name a call that is gone. What it names is always looked up before it is told.
"""

from typing import Any

import structlog
from redis.asyncio import Redis

from graph.store import scripts
from graph.store.asking import Asked, answering
from graph.store.errors import StoreUnavailable
from graph.store.names import PREFIX, encode, tenant_of

log = structlog.get_logger()


class Index:
    """The calls of each tenant in Redis: a sorted set, scored by when they were committed last (milliseconds).

    Args:
        client: a client that returns bytes.
        ttl: seconds a call lives after its last turn; 0 for ever.
    """

    def __init__(self, client: Redis, *, ttl: int) -> None:
        self._client = client
        self._ttl = ttl
        self._touch = client.register_script(scripts.TOUCH)

    def begun(self, thread: str) -> Asked:
        """Return what to run with a turn's begin: a new call is named, the others keep their place."""
        return self._touched(thread, "1")

    def committed(self, thread: str) -> Asked:
        """Return what to run with a commit: the call comes first."""
        return self._touched(thread, "0")

    async def drop(self, thread: str) -> None:
        """Forget a call that is gone, unless the store fails: what is named in vain is dropped when it is too old."""
        try:
            async with answering():
                await self._client.zrem(_key(tenant_of(thread)), thread)
        except StoreUnavailable as error:
            warn(error)

    async def recent(self, tenant: str) -> list[str]:
        """Return the tenant's threads, the one committed last first."""
        async with answering():
            found: Any = await self._client.zrevrange(_key(encode(tenant)), 0, -1)
        return [member.decode() for member in found]

    def _touched(self, thread: str, once: str) -> Asked:
        return Asked(self._touch, [_key(tenant_of(thread))], [thread, self._ttl, once])


def warn(answer: object) -> None:
    """Log that the index was not written; the call itself is as it should be, and its next turn tries again."""
    if isinstance(answer, Exception):
        log.warning("index not written", reason=str(answer))


def _key(encoded_tenant: str) -> str:
    return f"{PREFIX}index:{encoded_tenant}"
