"""Which calls a tenant has, the one that took a turn last first.

The index lies beside the calls, on a cluster in another slot, so it is written in the same round trip as a call but
not with it: for a moment it may name a call that is gone. What it names is always looked up before it is told.
"""

import heapq
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import structlog
from redis.asyncio import Redis

from graph.store import scripts, trail_scripts
from graph.store.asking import Argument, Asked, answering
from graph.store.errors import StoreUnavailable
from graph.store.names import PREFIX, encode, tenant_of

_SELDOM_SECONDS = 24 * 3600
"""How often to look whether a call has steps to archive that does not expire."""

log = structlog.get_logger()


class Index:
    """The calls of each tenant in Redis: a sorted set, scored by when they were committed last (milliseconds);
    another of those that are kept for a time of their own, and a set of those that may have an open turn: they are
    named however long ago that was.

    Args:
        client: a client that returns bytes.
        ttl: seconds a call lives after its last turn; 0 for ever.
        archives: whether the index knows which calls have steps that are to be archived.
    """

    def __init__(self, client: Redis, *, ttl: int, archives: bool = False) -> None:
        self._client = client
        self._ttl = ttl
        self._archives = archives
        self._claim = client.register_script(trail_scripts.CLAIM)
        self._return = client.register_script(trail_scripts.RETURN)
        self._touch = client.register_script(scripts.TOUCH)
        self._mark_effect = client.register_script(scripts.MARK_EFFECT)
        self._unmark_effect = client.register_script(scripts.UNMARK_EFFECT)

    def begun(self, thread: str, *, ttl: int | None = None, resumes: bool = False) -> Asked:
        """Return what to run with a turn's begin: a new call is named, the others keep their place.

        Its answer is 1 if only this has marked the call as one with an open turn.

        Args:
            thread: the call.
            ttl: seconds the call is kept after its last turn, where that is its own.
            resumes: whether the turn is gone on with if its process dies.
        """
        return self._touched(thread, "begun", ttl, resumes, due=self._after(ttl))

    def committed(
        self, thread: str, *, release: bool, ttl: int | None = None, settled: str | None = None, ended: bool = False
    ) -> Asked:
        """Return what to run with a commit: the call comes first.

        Args:
            thread: the call.
            release: whether its turn is over with it.
            ttl: seconds the call is kept after its last turn, where that is its own.
            settled: when its last write was marked, if it is known now what came of all of them.
            ended: whether its run has ended, so that its steps are to be archived.
        """
        what, due = "committed" if release else "kept", 0 if ended else self._after(ttl)
        return self._touched(thread, what, ttl, not release, settled, due=due)

    def abandoned(self, thread: str, *, ttl: int | None = None) -> Asked:
        """Return what to run as a turn gives its lease back: the call keeps its place."""
        return self._touched(thread, "abandoned", ttl)

    def sending(self, thread: str) -> Asked:
        """Return what to run before a write of the call leaves: the call may have one whose outcome is not known."""
        keys = _keys(tenant_of(thread))
        return Asked(self._mark_effect, [keys[4], keys[1]], [thread])

    async def with_effects(self, tenant: str) -> list[tuple[str, float]]:
        """Return the tenant's threads that may have writes whose outcomes are not known, and when each was marked
        last (microseconds)."""
        async with answering():
            scored: list[Any] = await self._client.zrange(_keys(encode(tenant))[4], 0, -1, withscores=True)
        return [(member.decode(), score) for member, score in scored]

    async def without_effects(self, thread: str, score: float) -> None:
        """Note that the call had no such write, unless it has had a new one since, or the store fails."""
        with _warning():
            async with answering():
                key = _keys(tenant_of(thread))[4]
                await self._unmark_effect(keys=[key], args=[thread, f"{score:.0f}"])

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

    async def drop(self, thread: str, *, trail: bool = False) -> None:
        """Forget a call that is gone, unless the store fails: what is named in vain is dropped when it is too old.

        Args:
            thread: the call.
            trail: whether it has left no steps that are to be archived.
        """
        index, marked, lasting, ends, effects, trails = _keys(tenant_of(thread))
        with _warning():
            async with answering(), self._client.pipeline(transaction=False) as pipe:
                for scored in (index, lasting, ends, effects):
                    pipe.zrem(scored, thread)
                pipe.srem(marked, thread)
                if trail and self._archives:
                    pipe.zrem(trails, thread)
                await pipe.execute()

    async def recent(self, tenant: str) -> tuple[list[str], list[str]]:
        """Return the tenant's threads, the one committed last first; and those that are too old to be named, but may
        have an open turn."""
        index, marked, lasting, _, effects, _ = _keys(encode(tenant))
        async with answering(), self._client.pipeline(transaction=False) as pipe:
            for scored in (index, lasting):
                pipe.zrevrange(scored, 0, -1, withscores=True)
            pipe.smembers(marked)
            pipe.zrange(effects, 0, -1)
            named, kept, opened, with_effects = await pipe.execute()
        in_order = heapq.merge(named, kept, key=lambda one: one[1], reverse=True) if kept else named
        threads = list(dict.fromkeys(member.decode() for member, _ in in_order))
        return threads, sorted({member.decode() for member in (*opened, *with_effects)}.difference(threads))

    async def opened(self, tenant: str) -> list[str]:
        """Return the tenant's threads that may have an open turn, new calls aside that end by themselves."""
        async with answering():
            members: set[bytes] = await self._client.smembers(_keys(encode(tenant))[1])  # type: ignore[assignment]
        return sorted(member.decode() for member in members)

    async def claim_trails(self, tenant: str, most: int, *, seconds: int) -> tuple[str, list[str]]:
        """Return threads that may have steps to archive, which nobody else gets for a while, and what says so."""
        async with answering():
            score, threads = await self._claim(keys=[_keys(encode(tenant))[5]], args=[most, seconds * 1000])
        return score.decode(), [thread.decode() for thread in threads]

    async def return_trails(self, tenant: str, score: str, again: Mapping[str, int | None]) -> None:
        """Say in how many milliseconds to look again at threads that were claimed; None for never."""
        if again:
            args = [arg for thread, due in again.items() for arg in (thread, "" if due is None else due)]
            async with answering():
                await self._return(keys=[_keys(encode(tenant))[5]], args=[score, *args])

    def _after(self, ttl: int | None) -> int:
        """Return the milliseconds after which a call may have expired."""
        return 1000 * ((self._ttl if ttl is None else ttl) or _SELDOM_SECONDS) + 1000

    def _touched(
        self,
        thread: str,
        what: str,
        ttl: int | None,
        resumes: bool = False,
        settled: str | None = None,
        due: int | None = None,
    ) -> Asked:
        args: list[Argument] = [thread, self._ttl, what, "" if ttl is None else ttl, int(resumes)]
        args.append("" if settled is None else settled)
        args.append("" if due is None or not self._archives else due)
        return Asked(self._touch, _keys(tenant_of(thread)), args)


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
    return [index, *(f"{PREFIX}{{{index}}}:{part}" for part in ("open", "lasting", "ends", "effects", "trails"))]
