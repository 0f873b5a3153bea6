"""Turning down versions of agents: one whose share of errors exceeds that of the others by more than its flow allows
gets no more calls. Every replica looks at what all of them counted, and the first to see it does it.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

import structlog

from graph.store.ending import ended
from graph.store.errors import StoreError
from graph.store.registry import Counts
from nodes.outcome import now
from nodes.reaching.records import Weights
from nodes.reaching.versions import Count, worse
from server.agents import SYNC_SECONDS, Agents, KnownAgent

SETTLING_SECONDS = 3.0
"""So long after its weights have changed no version of an agent is judged: replicas that have not heard of it yet
still count what came before."""
_BY = "orchestrator"

log = structlog.get_logger()


@asynccontextmanager
async def turning_down(agents: Agents) -> AsyncIterator[None]:
    """Turn down versions that do worse than the others while the context is open."""
    looking = asyncio.create_task(_keep_looking(agents))
    try:
        yield
    finally:
        await ended(looking)


async def _keep_looking(agents: Agents) -> None:
    judge = TurningDown(agents)
    while True:
        await asyncio.sleep(SYNC_SECONDS)
        try:
            await judge.look(agents.versions)
        except StoreError as error:
            log.warning("a version that does worse than the others is not turned down", reason=str(error))
        except Exception:  # the next look is another try
            log.exception("versions of agents not looked at")


class TurningDown:
    """Judges versions by what all replicas counted.

    Args:
        agents: whose versions they are.
        clock: seconds that only grow.
    """

    def __init__(self, agents: Agents, clock: Callable[[], float] = time.monotonic) -> None:
        self._agents = agents
        self._clock = clock
        self._weighed: dict[str, tuple[Weights | None, float]] = {}

    async def look(self, counts: Counts) -> None:
        """Turn down the version of each agent that does worse than its flow allows, if there is one.

        Args:
            counts: of all replicas, as `Registry.sync` tells them.

        Raises:
            StoreError: if the store failed, or the registry is full.
        """
        several = {name: versions for name, versions in counts.items() if len(versions) > 1}
        known = self._agents.known() if several else {}
        for name, versions in several.items():
            if name in known and self._settled(name):
                await self._judge(known[name], versions)

    def _settled(self, name: str) -> bool:
        weights, at = self._agents.pool.news.weights.get(name), self._clock()
        if name not in self._weighed or self._weighed[name][0] != weights:
            self._weighed[name] = weights, at
        return at - self._weighed[name][1] >= SETTLING_SECONDS

    async def _judge(self, agent: KnownAgent, versions: Mapping[str, Sequence[int]]) -> None:
        margin = min((spec.error_margin for spec in agent.specs if spec.error_margin is not None), default=None)
        if margin is None:
            return
        counts = {version: Count(*count) for version, count in versions.items()}
        version = worse(counts, margin)
        if version is not None and (weights := self._without(agent, version)):
            self._weighed[agent.name] = self._weighed[agent.name][0], self._clock()
            why = f"{_told(version, counts)}; the margin is {margin:.0%}"
            await self._turn_down(agent.name, version, Weights(weights, _BY, why, now()))

    def _without(self, agent: KnownAgent, version: str) -> dict[str, float] | None:
        """Return the weights of the others, and none for the version; None if it has none, or is the last to have
        one."""
        there = sorted({member.version for member in self._agents.members(agent) if member.version is not None})
        weights = dict(self._agents.weights(agent)) or dict.fromkeys(there, 1.0)
        others = [one for one in there if one != version and weights.get(one)]
        return {**weights, version: 0} if weights.get(version) and others else None

    async def _turn_down(self, name: str, version: str, weights: Weights) -> None:
        judged_by = self._agents.pool.news.weights.get(name)
        if not await self._agents.registry.weigh(name, weights, "turned_down", unless_changed=judged_by):
            return  # another replica was first, or a person
        log.warning("version turned down", agent=name, version=version, reason=weights.why)
        await self._agents.refresh()


def _told(version: str, counts: Mapping[str, Count]) -> str:
    """Say how a version did, and then the others."""
    shares = {name: f"{count.errors} of {count.calls} calls ({count.rate:.0%})" for name, count in counts.items()}
    return ", ".join(f"{name!r} failed {shares[name]}" for name in sorted(counts, key=lambda name: name != version))
