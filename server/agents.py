"""The agents of a service, from flows and from the registry: what they are, and keeping in touch with the registry
and the other replicas. No turn waits for that: the pool is told, and chooses in memory.
"""

import asyncio
import random
import secrets
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self

import structlog

from graph.loader import FlowError, parse_flow
from graph.store.ending import ended
from graph.store.errors import StoreError
from graph.store.registry import Counts, Registry, Report
from graph.workflows import DEFAULT_AGENTS, written
from nodes.outcome import now
from nodes.reaching.pool import Member, Pool, belongs
from nodes.reaching.records import News, Off, Registered, Weights
from nodes.spec import Agent
from server.a2a.push_guard import PushGuard
from server.flows import Flows
from server.problems import AgentNotFound

SYNC_SECONDS = 0.5
"""How often a replica tells what it has in flight, and is told what is new."""
MOST_REGISTERED = 1_000
"""How many agents may be registered at a time."""

_LEAVING_SECONDS = 1.0
_NAMED = 20
_OF_NO_FLOW = Agent()
"""What is known of an agent that no flow names."""

log = structlog.get_logger()
_jitter = random.Random()


@dataclass(frozen=True, slots=True)
class KnownAgent:
    """An agent that a flow names, or of which an instance is registered."""

    name: str
    flows: Mapping[str, Agent]
    """What each flow says of it, by the flow's name; empty if no flow names it."""
    otherwise: Agent = _OF_NO_FLOW
    """What is known of it then."""

    @property
    def specs(self) -> Iterable[Agent]:
        """What is said of it."""
        return self.flows.values() or (self.otherwise,)

    @property
    def spec(self) -> Agent:
        """What is said of it by the first flow."""
        return next(iter(self.specs))

    def has(self, instance: Registered) -> bool:
        """Tell whether an instance that registered is one of it."""
        return any(belongs(instance, self.name, spec) for spec in self.specs)


class Agents:
    """The agents of a service; in touch with the registry while it is entered.

    Args:
        registry: which all replicas share.
        pool: what turns choose from; it is told whatever is new.
        flows: which name agents.
        guard: says where agents may register themselves, on a service that others than this machine can reach.

    Attributes:
        versions: how each version of each agent did lately, summed over all replicas.
        heard_at: when the registry was heard of last, ISO 8601; None if it never was.
    """

    def __init__(self, registry: Registry, pool: Pool, flows: Flows, guard: PushGuard) -> None:
        self.registry = registry
        self.pool = pool
        self.guard = guard
        self.versions: Counts = {}
        self.heard_at: str | None = None
        self._flows = flows
        self._of_workflows = _of_workflows(flows.env)
        self._replica = secrets.token_hex(8)
        self._revision = ""
        self._failing = False
        self._syncing = asyncio.Lock()
        self._loop: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self.refresh()  # what is switched off is so from the first turn on
        self._loop = asyncio.create_task(self._keep_in_touch())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._loop is not None:
            await ended(self._loop)
        with suppress(StoreError, TimeoutError):  # the others stop counting on what it reported soon, anyway
            await asyncio.wait_for(self.registry.leave(self._replica), _LEAVING_SECONDS)

    async def refresh(self, *, whole: bool = False) -> None:
        """Hear what is new at once; if the store fails, what was heard last stays.

        Args:
            whole: whether also of heartbeats, which nobody is told of otherwise.
        """
        try:
            async with self._syncing:
                await self._sync("" if whole else self._revision)
        except StoreError as error:
            if not self._failing:
                log.warning("the registry of agents is not heard; what it said last stays", reason=str(error))
            self._failing = True

    def known(self) -> dict[str, KnownAgent]:
        """Return every agent, by name: those of flows that are served, and those that are only registered."""
        said: dict[str, dict[str, Agent]] = {}
        for flow in self._flows.names():
            for name, spec in self._flows.current(flow).flow.agents.items():
                said.setdefault(name, {})[flow] = spec
        agents = {name: KnownAgent(name, flows) for name, flows in said.items()}
        agents = {name: KnownAgent(name, {}, spec) for name, spec in self._of_workflows.items()} | agents
        names = set(agents) | {spec.type for flows in said.values() for spec in flows.values()}
        news = self.pool.news
        others = [one.agent_type for one in news.registered if one.agent_type not in names]
        for name in (
            *others,
            *news.off,
            *news.weights,
        ):  # what was switched off can be switched on, though it is gone
            agents.setdefault(name, KnownAgent(name, {}))
        return dict(sorted(agents.items()))

    def find(self, name: str) -> KnownAgent:
        """Return an agent.

        Raises:
            AgentNotFound: if there is none of that name.
        """
        known = self.known()
        if name not in known:
            raise AgentNotFound(self._no_agent(name, known))
        return known[name]

    def off(self, agent: KnownAgent) -> Off | None:
        """Return who switched the agent off, and why; None if it is on."""
        return next(filter(None, (self.pool.off(agent.name, spec) for spec in agent.specs)), None)

    def members(self, agent: KnownAgent) -> list[Member]:
        """Return the endpoints of an agent, in all flows."""
        members: dict[str, Member] = {}
        for spec in agent.specs:
            for member in self.pool.members(agent.name, spec):
                members.setdefault(member.endpoint.public, member)
        return list(members.values())

    def weights(self, agent: KnownAgent) -> Mapping[str, float]:
        """Return the weight of each version now; empty if it has no versions, or all of them are one."""
        return next(filter(None, (self.pool.weights(agent.name, spec) for spec in agent.specs)), {})

    async def register(self, instance: Registered, ttl_seconds: int | None) -> Registered:
        """Register an instance; this replica may choose it at once.

        Raises:
            RegistryFull: if too many are registered.
            StoreError: if the store failed.
        """
        kept = await self.registry.register(instance, ttl_seconds, MOST_REGISTERED)
        await self.refresh()
        return kept

    async def remove(self, name: str) -> bool:
        """Take an instance away; tell whether there was one."""
        removed = await self.registry.remove(name, "an administrator")
        await self.refresh()
        return removed

    async def switch_off(self, agent: str, by: str, reason: str) -> Off:
        """Let no call reach an agent, on any replica within a second."""
        off = Off(by, reason, now())
        await self.registry.switch_off(agent, off)
        log.warning("agent switched off", agent=agent, by=by, reason=reason)
        await self.refresh()
        return off

    async def switch_on(self, agent: str, by: str, why: str) -> bool:
        """Let calls reach an agent again; tell whether it was off."""
        was_off = await self.registry.switch_on(agent, by, why)
        if was_off:
            log.warning("agent switched on", agent=agent, by=by, why=why)
        await self.refresh()
        return was_off

    async def weigh(self, agent: str, weights: Mapping[str, float] | None, by: str, why: str) -> None:
        """Share out an agent's calls over its versions anew; None goes back to what its flow says."""
        if weights is None:
            await self.registry.unweigh(agent, by, why)
        else:
            await self.registry.weigh(agent, Weights(dict(weights), by, why, now()))
        log.info("agent weighed", agent=agent, weights=weights, by=by, why=why)
        await self.refresh()

    async def _keep_in_touch(self) -> None:
        while True:
            await asyncio.sleep(SYNC_SECONDS * _jitter.uniform(0.7, 1.0))
            try:
                await self.refresh()
            except Exception:  # the next time is another try
                log.exception("the registry of agents is not heard")

    async def _sync(self, revision: str) -> None:
        versions = {
            agent: {version: tuple(count) for version, count in counts.items()}
            for agent, counts in self.pool.counts().items()
        }
        report = Report(loads=self.pool.load(), versions=versions)
        synced = await self.registry.sync(self._replica, report, revision)
        self._take_in(synced.news or replace(self.pool.news, loads=synced.loads))
        self._revision, self.versions, self.heard_at = synced.revision, synced.versions, now()
        if self._failing:
            log.info("the registry of agents is heard again")
        self._failing = False

    def _take_in(self, news: News) -> None:
        before = self.pool.news.weights
        self.pool.told(news)
        for agent in before.keys() | news.weights.keys():
            if before.get(agent) != news.weights.get(agent):
                self.pool.forget_counts(agent)

    def _no_agent(self, name: str, known: Mapping[str, KnownAgent]) -> str:
        instance = next((one for one in self.pool.news.registered if one.name == name), None)
        owner = next((agent.name for agent in known.values() if instance and agent.has(instance)), None)
        if owner is not None:
            return f"{name!r} is an instance of agent {owner!r}; name that one"
        there = ", ".join(list(known)[:_NAMED]) + (" …" if len(known) > _NAMED else "")
        return (
            f"there is no agent {name!r}: no flow that is served names it, and no instance of it is registered; "
            + (f"there are {there}" if known else "there is none")
        )


def _of_workflows(env: Mapping[str, str]) -> Mapping[str, Agent]:
    """Return the agents that workflows may ask for although no flow has them."""
    stages = {f"stage_{name}": {"agent": name} for name in DEFAULT_AGENTS}
    text = written({"flow": "workflows", "agents": DEFAULT_AGENTS, "stages": stages})
    try:
        return parse_flow(text, "the agents of workflows", env).agents
    except FlowError as error:
        log.warning("the agents of workflows are not known", reason=str(error))
        return {}
