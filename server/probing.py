"""Looking after the endpoints of agents: those that matter are asked for their cards now and then, so that who does
not answer is left out, and who is back is found again, before a call has to find out.
"""

import asyncio
import heapq
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager

import structlog

from graph.store.ending import ended
from nodes.reaching.endpoint import Endpoint
from nodes.reaching.pool import Pool

MATTERS_SECONDS = 600.0
"""So long an endpoint matters after a call could have been sent there; one that is registered always does."""
SOON_SECONDS = 1.0
"""How often one is probed of which it is to be known soon whether it is there."""
MOST_AT_ONCE = 20
MOST_A_SECOND = 60
"""So many probes begin in a second: of thousands of endpoints each has its turn more seldom."""

_LOOK_SECONDS = 0.25
_MOST_A_LOOK = int(MOST_A_SECOND * _LOOK_SECONDS)

Ask = Callable[[str], Awaitable[str | None]]
"""Asks the agent at an address for its card; returns why that shows that it is not well, None if it does not."""

log = structlog.get_logger()
_jitter = random.Random()


@asynccontextmanager
async def probing(pool: Pool, ask: Ask, seconds: float) -> AsyncIterator[None]:
    """Probe the endpoints that matter while the context is open.

    Args:
        pool: whose endpoints they are.
        ask: asks for a card.
        seconds: how often each is probed; 0 for never.
    """
    if not seconds:
        yield
        return
    task = asyncio.create_task(_Probing(pool, ask, seconds).keep_probing())
    try:
        yield
    finally:
        await ended(task)


class _Probing:
    def __init__(self, pool: Pool, ask: Ask, seconds: float) -> None:
        self._pool = pool
        self._ask = ask
        self._seconds = seconds
        self._due: dict[Endpoint, float] = {}
        self._going: set[Endpoint] = set()

    async def keep_probing(self) -> None:
        async with asyncio.TaskGroup() as probes:
            while True:
                now = time.monotonic()
                self._plan(now)
                for endpoint in self._next(now):
                    self._going.add(endpoint)
                    probes.create_task(self._probe(endpoint))
                await asyncio.sleep(_LOOK_SECONDS)

    def _plan(self, now: float) -> None:
        """Know when each endpoint that matters is due, and forget how the others were."""
        due = {}
        for endpoint in self._mattering(now):
            at = self._due.get(endpoint)
            if at is None:
                at = now + _jitter.uniform(0, min(self._seconds, SOON_SECONDS))
            due[endpoint] = min(at, now + _about(SOON_SECONDS)) if endpoint.in_doubt else at
        for endpoint in self._due.keys() - due.keys():
            endpoint.not_probed()
        self._due = due

    def _mattering(self, now: float) -> Iterator[Endpoint]:
        registered = {one.url for one in self._pool.news.registered}
        for url in registered:
            yield self._pool.endpoint(url)
        for endpoint in self._pool.endpoints():
            lately = endpoint.wanted is not None and endpoint.wanted > now - MATTERS_SECONDS
            if lately and endpoint.url not in registered:
                yield endpoint

    def _next(self, now: float) -> list[Endpoint]:
        """Return those that are due, who waits longest first, as many as may be probed."""
        most = min(_MOST_A_LOOK, MOST_AT_ONCE - len(self._going))
        due = (one for one, at in self._due.items() if at <= now and one not in self._going)
        return heapq.nsmallest(most, due, key=self._due.__getitem__)

    async def _probe(self, endpoint: Endpoint) -> None:
        began, was_healthy = time.monotonic(), endpoint.healthy
        try:
            why = await self._ask(endpoint.url)
            endpoint.probed(healthy=why is None, seconds=time.monotonic() - began, why=why)
        except Exception:  # of one endpoint; the others are probed
            log.exception("agent endpoint not probed", url=endpoint.public)
        finally:
            self._going.discard(endpoint)
            self._due[endpoint] = time.monotonic() + _about(self._seconds)
        _tell(endpoint, was_healthy)


def _tell(endpoint: Endpoint, was_healthy: bool | None) -> None:
    """Log what has changed."""
    if endpoint.healthy is False and was_healthy is not False and endpoint.probe is not None:
        log.warning("agent endpoint unhealthy", url=endpoint.public, reason=endpoint.probe.why)
    elif endpoint.healthy and was_healthy is False:
        log.info("agent endpoint healthy again", url=endpoint.public)


def _about(seconds: float) -> float:
    """Return a time that replicas do not share."""
    return seconds * _jitter.uniform(0.8, 1.0)
