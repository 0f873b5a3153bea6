"""The registry of agents in this process's memory, for a service of one process."""

import time
from collections import Counter, deque
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field, replace
from typing import Any

from graph.store.registry import (
    ALWAYS,
    MOST_SETTINGS,
    SILENT_SECONDS,
    Always,
    RegistryFull,
    Report,
    Synced,
    came,
    concerning,
    cut,
    event,
    others,
    summed,
)
from graph.store.registry_scripts import HISTORY
from nodes.reaching.records import Happening, News, Off, Registered, Weights


@dataclass(slots=True)
class _Kept:
    """An instance, and how long it lives without a heartbeat."""

    registered: Registered
    ttl: int | None

    def beat(self) -> Registered:
        ends = None if self.ttl is None else time.time() + self.ttl
        self.registered = replace(self.registered, expires_at=ends)
        return self.registered


@dataclass(slots=True)
class _Heard:
    """The last report of a replica."""

    at: float = 0.0
    loads: Mapping[str, int] = field(default_factory=dict)
    report: Report = field(default_factory=lambda: Report(loads={}, versions={}))


class MemoryRegistry:
    """The registry of a tenant in memory.

    Args:
        tenant: whose agents they are.
    """

    def __init__(self, tenant: str) -> None:
        self.tenant = tenant
        self._revision = 0
        self._kept: dict[str, _Kept] = {}
        self._off: dict[str, Off] = {}
        self._weights: dict[str, Weights] = {}
        self._reports: dict[str, _Heard] = {}
        self._history: deque[Happening] = deque(maxlen=HISTORY)

    async def register(self, registered: Registered, ttl_seconds: int | None, most: int) -> Registered:
        """Register an instance."""
        self._expire()
        had = self._kept.get(registered.name)
        if had is None and len(self._kept) >= most:
            raise RegistryFull("agents are registered", most)
        same = had and replace(
            had.registered, registered_at=registered.registered_at, expires_at=registered.expires_at
        )
        if had and same == registered:
            registered = had.registered
        else:
            self._changed(came(registered))
        kept = self._kept[registered.name] = _Kept(registered, ttl_seconds)
        return kept.beat()

    async def heartbeat(self, name: str, ttl_seconds: int | None = None) -> Registered | None:
        """Keep an instance for another while."""
        self._expire()
        kept = self._kept.get(name)
        if kept is None:
            return None
        kept.ttl = kept.ttl if ttl_seconds is None else ttl_seconds
        return kept.beat()

    async def remove(self, name: str, by: str = "", why: str = "") -> bool:
        """Take an instance away."""
        self._expire()
        return self._remove(name, "removed", by, why)

    async def get(self, name: str) -> Registered | None:
        """Return an instance."""
        self._expire()
        kept = self._kept.get(name)
        return kept.registered if kept else None

    async def all(self) -> News:
        """Return all that is registered and set."""
        self._expire()
        instances = tuple(kept.registered for _, kept in sorted(self._kept.items()))
        return News(instances, dict(self._off), dict(self._weights))

    async def switch_off(self, agent: str, off: Off) -> None:
        """Let no call reach an agent."""
        self._put(
            self._off, agent, off, "agents are switched off", event(agent, "off", off.by, off.reason, at=off.at)
        )

    async def switch_on(self, agent: str, by: str, why: str) -> bool:
        """Let calls reach an agent again."""
        return self._take(self._off, agent, event(agent, "on", by, why))

    async def weigh(
        self, agent: str, weights: Weights, what: str = "weights", *, unless_changed: Weights | Always | None = ALWAYS
    ) -> bool:
        """Share out an agent's calls over its versions anew."""
        if unless_changed is not ALWAYS and self._weights.get(agent) not in (unless_changed, weights):
            return False
        entry = event(agent, what, weights.by, weights.why, at=weights.at, weights=dict(weights.weights))
        self._put(self._weights, agent, weights, "agents have weights set at run time", entry)
        return True

    async def unweigh(self, agent: str, by: str, why: str) -> bool:
        """Go back to the weights of the flow."""
        return self._take(self._weights, agent, event(agent, "weights_of_the_flow", by, why))

    async def sync(self, replica: str, report: Report, revision: str = "") -> Synced:
        """Tell, and be told."""
        self._expire()
        mine = cut(report["loads"])
        self._reports[replica] = _Heard(time.monotonic(), mine, report)
        silent = time.monotonic() - SILENT_SECONDS
        self._reports = {name: heard for name, heard in self._reports.items() if heard.at > silent}
        totals = sum((Counter(heard.loads) for heard in self._reports.values()), Counter())
        loads = others(totals, mine)
        versions = summed(heard.report["versions"] for heard in self._reports.values())
        news = None if revision == str(self._revision) else replace(await self.all(), loads=loads)
        return Synced(str(self._revision), loads, versions, news)

    async def leave(self, replica: str) -> None:
        """Take back what a replica reported."""
        self._reports.pop(replica, None)

    async def happened(self, happening: Happening) -> None:
        """Keep something in the history."""
        self._history.appendleft(happening)

    async def history(self, *about: str, limit: int = 100) -> list[Happening]:
        """Return what happened last."""
        return concerning(self._history, about, limit)

    def _expire(self) -> None:
        now = time.time()
        for name, kept in list(self._kept.items()):
            if kept.registered.expires_at is not None and kept.registered.expires_at <= now:
                self._remove(name, "expired", "registry", f"no heartbeat for {kept.ttl} s")

    def _remove(self, name: str, what: str, by: str, why: str) -> bool:
        kept = self._kept.pop(name, None)
        if kept is None:
            return False
        one = kept.registered
        self._changed(event(name, what, by, why, agent_type=one.agent_type, url=one.url, version=one.version))
        return True

    def _put(self, kept: MutableMapping[str, Any], agent: str, value: Any, what: str, entry: dict[str, Any]) -> None:
        if agent not in kept and len(kept) >= MOST_SETTINGS:
            raise RegistryFull(what, MOST_SETTINGS)
        if kept.get(agent) != value:
            kept[agent] = value
            self._changed(entry)

    def _take(self, kept: MutableMapping[str, Any], agent: str, entry: dict[str, Any]) -> bool:
        if kept.pop(agent, None) is None:
            return False
        self._changed(entry)
        return True

    def _changed(self, entry: dict[str, Any]) -> None:
        self._revision += 1
        self._history.appendleft(Happening(**entry))


def _same(one: Registered, other: Registered) -> bool:
    """Whether two registrations differ in their times alone."""
    return replace(one, registered_at="", expires_at=None) == replace(other, registered_at="", expires_at=None)
