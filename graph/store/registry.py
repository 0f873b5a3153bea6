"""The registry of agents: who registered, what is switched off, how versions are weighed, and what each replica has
in flight where. Replicas hear of each other here alone, in one round trip now and then, never on the way of a turn.
"""

import heapq
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Protocol, TypedDict

from graph.store.errors import StoreError
from nodes.reaching.records import Happening, News, Off, Registered, Weights

SILENT_SECONDS = 5.0
"""A replica that has not reported for so long counts as gone, and what it had in flight too."""
MOST_ENDPOINTS = 2_000
"""So many endpoints of a report are kept, those with the most in flight."""
MOST_SETTINGS = 1_000
"""So many agents may be switched off, and so many weighed, at a time."""

Counts = Mapping[str, Mapping[str, Sequence[int]]]
"""Agent → version → how many calls, and how many of them were errors."""


class Always(Enum):
    """Says that something is done whatever there was before."""

    ALWAYS = "always"


ALWAYS = Always.ALWAYS


class Report(TypedDict):
    """What a replica tells the others."""

    loads: Mapping[str, int]
    """Endpoint, without credentials → requests in flight."""
    versions: Counts


@dataclass(frozen=True, slots=True)
class Synced:
    """What a replica is told in return."""

    revision: str
    """To be said the next time."""
    loads: Mapping[str, int]
    """Endpoint → what the OTHER replicas have in flight."""
    versions: Counts
    """Summed over all replicas, the one that asks among them."""
    news: News | None
    """Everything there is to know, `loads` included; None if nothing but those may have changed."""


class RegistryFull(StoreError):
    """No more may be registered, switched off or weighed until something is taken away."""

    def __init__(self, what: str, most: int) -> None:
        super().__init__(f"{most:,} {what} already, which is the most; take some away first")
        self.most = most


class Registry(Protocol):
    """The registry of one tenant. Every method may raise `StoreUnavailable`."""

    async def register(self, registered: Registered, ttl_seconds: int | None, most: int) -> Registered:
        """Register an instance, in place of one of the same name; the very same again is no more than a heartbeat.

        Args:
            registered: the instance; what it says of its expiry is not read.
            ttl_seconds: how long it is kept without a heartbeat; None for ever.
            most: how many may be registered at a time.

        Raises:
            RegistryFull: if there are so many.
        """

    async def heartbeat(self, name: str, ttl_seconds: int | None = None) -> Registered | None:
        """Keep an instance for another while: that which it registered with, unless told otherwise.

        Returns None if it is not registered. No replica is told of it: `News` may say an earlier expiry.
        """

    async def remove(self, name: str, by: str = "", why: str = "") -> bool:
        """Take an instance away; tell whether there was one."""

    async def get(self, name: str) -> Registered | None:
        """Return an instance."""

    async def all(self) -> News:
        """Return all that is registered and set, without loads."""

    async def switch_off(self, agent: str, off: Off) -> None:
        """Let no call reach an agent.

        Raises:
            RegistryFull: if too many are switched off.
        """

    async def switch_on(self, agent: str, by: str, why: str) -> bool:
        """Let calls reach an agent again; tell whether it was switched off."""

    async def weigh(
        self, agent: str, weights: Weights, what: str = "weights", *, unless_changed: Weights | Always | None = ALWAYS
    ) -> bool:
        """Share out an agent's calls over its versions anew; tell whether that was done.

        Args:
            agent: the agent.
            weights: the weights.
            what: what the history calls it.
            unless_changed: the weights that were seen; if there are others by now, nothing is done.

        Raises:
            RegistryFull: if too many are weighed.
        """

    async def unweigh(self, agent: str, by: str, why: str) -> bool:
        """Go back to the weights of the flow; tell whether there were others."""

    async def sync(self, replica: str, report: Report, revision: str = "") -> Synced:
        """Tell what a replica has in flight, and be told of the others and of what is new since a revision."""

    async def leave(self, replica: str) -> None:
        """Take back what a replica reported: it ends."""

    async def happened(self, happening: Happening) -> None:
        """Keep something in the history, in place of the oldest when there is too much."""

    async def history(self, *about: str, limit: int = 100) -> list[Happening]:
        """Return what happened last, the last first: all, or what concerns agents, types or instances of a name."""


def event(agent: str, what: str, by: str, why: str, *, at: str | None = None, **details: Any) -> dict[str, Any]:
    """Return an entry of the history."""
    return {"at": at or moment(time.time()), "agent": agent, "what": what, "by": by, "why": why, "details": details}


def came(registered: Registered) -> dict[str, Any]:
    """Return the entry that an instance is registered."""
    one = registered
    by = "its card" if one.by_card else "itself"
    details = {"agent_type": one.agent_type, "url": one.url, "version": one.version}
    return event(one.name, "registered", by, "", at=one.registered_at, **details)


def moment(seconds: float) -> str:
    """Return a time as the registry writes it."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def cut(loads: Mapping[str, int]) -> dict[str, int]:
    """Return where something is in flight, at the endpoints with the most of it."""
    busy = {url: load for url, load in loads.items() if load > 0}
    if len(busy) <= MOST_ENDPOINTS:
        return busy
    return dict(heapq.nlargest(MOST_ENDPOINTS, busy.items(), key=lambda one: one[1]))


def others(loads: Mapping[str, int], mine: Mapping[str, int]) -> dict[str, int]:
    """Return what others have in flight."""
    return {url: load - mine.get(url, 0) for url, load in loads.items() if load > mine.get(url, 0)}


def summed(counts: Iterable[Counts]) -> dict[str, dict[str, list[int]]]:
    """Return calls and errors over all replicas."""
    calls: Counter[tuple[str, str]] = Counter()
    errors: Counter[tuple[str, str]] = Counter()
    for agents in counts:
        for agent, versions in agents.items():
            for version, (called, failed) in versions.items():
                calls[agent, version] += called
                errors[agent, version] += failed
    sums: dict[str, dict[str, list[int]]] = {}
    for agent, version in calls:
        sums.setdefault(agent, {})[version] = [calls[agent, version], errors[agent, version]]
    return sums


def concerning(happenings: Iterable[Happening], about: Sequence[str], limit: int) -> list[Happening]:
    """Return the first ones that concern agents, types or instances of a name; any if none is named."""
    wanted = [one for one in happenings if not about or {one.agent, one.details.get("agent_type")} & set(about)]
    return wanted[:limit]
