"""The pool: all endpoints that this process knows, and the choice among those of an agent.

A choice is made in memory: what the registry and other replicas say was told before (`Pool.told`). In order: an agent
that is switched off is not asked; a call stays with its version; endpoints that failed too often, that asked to be
left alone, or that cannot be reached are left out; of the others the one with the shortest wait is taken.
"""

import random
import time
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from nodes.ports import TaskState
from nodes.reaching.choices import AgentOff, Candidate, Choice, Excluded, NoEndpoint
from nodes.reaching.endpoint import Endpoint
from nodes.reaching.records import News, Off, Registered
from nodes.reaching.versions import Count, in_order
from nodes.remote.errors import (
    AgentError,
    BadReply,
    Disconnected,
    HttpFailed,
    ReplyTooLarge,
    RpcFailed,
    TimedOut,
    Unreachable,
)
from nodes.spec import Agent

FAILED_TASKS = ("failed", "rejected")
_LATELY, _KEPT = 300.0, 500
_AT_HAND = 1_000
_FORGOTTEN, _MOST = 3_600.0, 10_000
_TOLD_OF = 20
_FAULTS = (Unreachable, Disconnected, HttpFailed, BadReply, TimedOut)
"""What an endpoint is to blame for."""
_ANSWERED = (RpcFailed, ReplyTooLarge, HttpFailed, TimedOut)
"""What tells that it is there, where it is not to blame: it refused, or is at work."""


@dataclass(frozen=True, slots=True)
class Member:
    """An endpoint of an agent."""

    endpoint: Endpoint
    version: str | None
    registered: Registered | None = None
    """Its registration; None if it stands in a flow."""


@dataclass(frozen=True, slots=True)
class _Crew:
    """The endpoints of an agent, as long as nothing is told."""

    spec: Agent
    members: tuple[Member, ...]
    weights: Mapping[str, float]


class Pool:
    """The endpoints of all agents, and how they do.

    Args:
        clock: seconds that only grow.

    Attributes:
        clock: the same.
        hosts_of_flows: the hosts that flows name, in small letters; others were registered.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._endpoints: dict[str, Endpoint] = {}
        self._crews: OrderedDict[tuple[str, int], _Crew] = OrderedDict()
        self._news = News()
        self.hosts_of_flows: set[str] = set()
        self._lately: defaultdict[tuple[str, str], deque[tuple[float, bool]]] = defaultdict(
            lambda: deque(maxlen=_KEPT)
        )

    @property
    def news(self) -> News:
        """What was told last."""
        return self._news

    def told(self, news: News) -> None:
        """Take in what the registry says, and what other replicas have in flight, in place of what it said before."""
        if (news.registered, news.off, news.weights) != (self._news.registered, self._news.off, self._news.weights):
            self._crews.clear()
            self._forget(news)
        self._news = news
        for endpoint in self._endpoints.values():
            endpoint.elsewhere = news.loads.get(endpoint.public, 0)

    def off(self, agent: str, spec: Agent) -> Off | None:
        """Return who switched the agent off, or all of its type, and why; None if it is on."""
        if not self._news.off:
            return None
        return self._news.off.get(agent) or self._news.off.get(spec.type or agent)

    def choose(
        self,
        agent: str,
        spec: Agent,
        call: str,
        *,
        stay_at: str | None = None,
        must_stay: bool = False,
        avoid: Collection[str] = (),
    ) -> Choice:
        """Return the endpoint to ask.

        Args:
            agent: its name.
            spec: what its flow says of it.
            call: what stays the same as long as it is to be answered by the same version.
            stay_at: the endpoint (without credentials) where something of the call is under way: it is asked if it
                can be, whatever weight its version has by now, and waited for if it asked to be left alone.
            must_stay: whether it is waited for in any case, as long as it is known: nobody else may be asked.
            avoid: endpoints (without credentials) that failed just before: they are asked only if nobody else can be.

        Raises:
            AgentOff: if it is switched off.
            NoEndpoint: if nobody can be asked.
        """
        if self.off(agent, spec):
            raise AgentOff(agent)
        crew, now = self._crew(agent, spec), self.clock()
        for member in crew.members:
            member.endpoint.wanted = now
        if stay_at is not None and (there := self._there(agent, crew, stay_at, must_stay, avoid)):
            return there
        if len(crew.members) == 1:
            return self._only(agent, crew, avoid)
        versions = in_order(agent, call, crew.weights) if crew.weights else None
        why = {id(member): _excluded(member, crew.weights, avoid) for member in crew.members}
        chosen = self._chosen(crew, versions, why)
        if chosen is None:
            told = [Candidate(one.endpoint.public, one.version, why[id(one)]) for one in crew.members[:_TOLD_OF]]
            raise NoEndpoint(agent, *_told_why(crew.members, why), tuple(told))
        fresh = sum(reason in (None, "another_version") for reason in why.values())
        for member in crew.members:
            if why[id(member)] is None and versions and member.version != chosen.version:
                why[id(member)] = "another_version"
        why[id(chosen)] = None
        candidates = (Candidate(one.endpoint.public, one.version, why[id(one)]) for one in _first(crew, chosen))
        return Choice(agent, chosen.endpoint, chosen.version, tuple(candidates), fresh)

    def where(self, agent: str, spec: Agent, known: str | None) -> str:
        """Return the address (with credentials) at which to ask after what is under way; empty if there is none.

        Args:
            agent: its name.
            spec: what its flow says of it.
            known: the endpoint (without credentials) where that was begun, if that is known.
        """
        members = self._crew(agent, spec).members
        there = [member for member in members if member.endpoint.public == known] or members
        return there[0].endpoint.url if there else ""

    def trying(self, choice: Choice, *, fair: bool = True) -> "Trial":
        """Count somebody in flight while the context is open, and learn from what comes of it.

        Args:
            choice: where they are sent.
            fair: whether the time they have would do for an answer: else a timeout tells nothing.
        """
        return Trial(self, choice, fair=fair)

    def members(self, agent: str, spec: Agent) -> tuple[Member, ...]:
        """Return the endpoints of an agent."""
        return self._crew(agent, spec).members

    def weights(self, agent: str, spec: Agent) -> Mapping[str, float]:
        """Return the weight of each version; empty if all of them are one."""
        return self._crew(agent, spec).weights

    def endpoints(self) -> Iterable[Endpoint]:
        """Return every endpoint that is known."""
        return tuple(self._endpoints.values())

    def endpoint(self, url: str) -> Endpoint:
        """Return what is known of an endpoint, by its address as the flow or the registry has it."""
        return self._endpoint(url)

    def load(self) -> dict[str, int]:
        """Return how many requests this process has in flight, by endpoint (without credentials)."""
        return {one.public: one.in_flight for one in self._endpoints.values() if one.in_flight}

    def counts(self) -> dict[str, dict[str, Count]]:
        """Return how each version of each agent did here lately."""
        since = self.clock() - _LATELY
        told: dict[str, dict[str, Count]] = {}
        for (agent, version), lately in list(self._lately.items()):
            failed = [was for at, was in lately if at >= since]
            if not failed:
                del self._lately[agent, version]
                continue
            told.setdefault(agent, {})[version] = Count(len(failed), sum(failed))
        return told

    def forget_counts(self, agent: str) -> None:
        """Count anew how the versions of an agent do: their weights have changed."""
        for key in [key for key in self._lately if key[0] == agent]:
            del self._lately[key]

    def _crew(self, agent: str, spec: Agent) -> _Crew:
        key = agent, id(spec)
        crew = self._crews.get(key)
        if crew is None or crew.spec is not spec:
            crew = self._crews[key] = self._assembled(agent, spec)
            if len(self._crews) > _AT_HAND:
                self._crews.popitem(last=False)
        return crew

    def _assembled(self, agent: str, spec: Agent) -> _Crew:
        members = [Member(self._endpoint(url), version) for url, version in spec.endpoints_and_versions]
        self.hosts_of_flows.update(urlsplit(member.endpoint.url).hostname or "" for member in members)
        known = {member.endpoint.public for member in members}
        for one in self._news.registered:
            if belongs(one, agent, spec) and one.url not in known:
                members.append(Member(self._endpoint(one.url), one.version, one))
                known.add(one.url)
        said = self._news.weights.get(agent) or self._news.weights.get(spec.type or agent)
        return _Crew(spec, tuple(members), said.weights if said else spec.weights)

    def _endpoint(self, url: str) -> Endpoint:
        if url not in self._endpoints:
            self._endpoints[url] = Endpoint(url, self.clock)
            self._endpoints[url].elsewhere = self._news.loads.get(self._endpoints[url].public, 0)
        return self._endpoints[url]

    def _only(self, agent: str, crew: _Crew, avoid: Collection[str]) -> Choice:
        (member,) = crew.members
        reason = _excluded(member, crew.weights, ())
        if reason not in (None, "unhealthy"):
            raise NoEndpoint(agent, *_told_why(crew.members, {id(member): reason}))
        fresh = 0 if member.endpoint.public in avoid else 1
        return Choice(agent, member.endpoint, member.version, (), fresh)

    def _there(self, agent: str, crew: _Crew, stay_at: str, must_stay: bool, avoid: Collection[str]) -> Choice | None:
        """Return the endpoint where something is under way; None if another may be asked."""
        member = next((one for one in crew.members if one.endpoint.public == stay_at), None)
        if member is None:
            return None
        reason = _excluded(member, {}, () if must_stay else avoid)
        if reason in (None, "unhealthy"):
            told = (Candidate(one.endpoint.public, one.version, None) for one in _first(crew, member))
            candidates = tuple(told) if len(crew.members) > 1 else ()
            others = [one for one in crew.members if one is not member and not must_stay]
            fresh = 1 + sum(_excluded(one, crew.weights, avoid) is None for one in others)
            return Choice(agent, member.endpoint, member.version, candidates, fresh)
        if must_stay or reason == "resting":
            raise NoEndpoint(agent, *_told_why((member,), {id(member): reason}))
        return None

    def _chosen(self, crew: _Crew, versions: list[str] | None, why: Mapping[int, Excluded | None]) -> Member | None:
        """Return who is asked: first those nothing speaks against, then those that failed just before, or whose card
        cannot be had; where versions have weights, those of the call's version first."""
        for reasons in ((None,), _BETTER_THAN_NOBODY):
            able = [one for one in crew.members if why[id(one)] in reasons]
            for group in _by_version(able, versions):
                return self._least(group)
        return None

    def _least(self, members: list[Member]) -> Member:
        """Return the one with the shortest wait; of equals any."""
        if len(members) == 1:
            return members[0]
        known = [pace for one in members if (pace := one.endpoint.pace.expected()) is not None]
        otherwise = min(known, default=1.0)
        return min(members, key=lambda one: (one.endpoint.wait(otherwise), random.random()))

    def answered(self, choice: Choice, seconds: float, state: TaskState | None) -> None:
        """Learn from an answer, after so many seconds; its task, if it is one, is in this state."""
        choice.endpoint.circuit.succeeded()
        in_vain = state in FAILED_TASKS
        choice.endpoint.pace.note(seconds, failed=False, in_vain=in_vain)
        self._count(choice, failed=in_vain)

    def failed(self, choice: Choice, on_trial: int, seconds: float, error: AgentError | None, *, fair: bool) -> None:
        """Learn from an attempt without an answer; what the endpoint is not to blame for tells nothing of it."""
        endpoint, faulty = choice.endpoint, error is not None and _is_fault(error)
        if error is None or (isinstance(error, TimedOut) and not fair and error.task_id is None):
            if on_trial:
                endpoint.circuit.no_verdict(on_trial)
            return
        if error.retry_after is not None:
            endpoint.rest(error.retry_after)
        if faulty:
            endpoint.circuit.failed(on_trial=on_trial)
            endpoint.pace.note(seconds, failed=True)
        elif isinstance(error, _ANSWERED):
            endpoint.circuit.succeeded()
            endpoint.pace.note(seconds, failed=False, in_vain=True)
        elif on_trial:
            endpoint.circuit.no_verdict(on_trial)
        if faulty or isinstance(error, RpcFailed):
            self._count(choice, failed=True)

    def _count(self, choice: Choice, *, failed: bool) -> None:
        if choice.version is not None:
            self._lately[choice.agent, choice.version].append((self.clock(), failed))

    def _forget(self, news: News) -> None:
        """Forget endpoints that nobody wanted for long: instances come and go, each with an address of its own."""
        registered, before = {one.url for one in news.registered}, self.clock() - _FORGOTTEN
        idle = [url for url, one in self._endpoints.items() if not one.in_flight and one.idle_since < before]
        for url in idle:
            if url not in registered:
                del self._endpoints[url]
        if len(self._endpoints) > _MOST:
            oldest = sorted(self._endpoints.items(), key=lambda known: known[1].idle_since)
            for url, one in oldest[: len(self._endpoints) - _MOST]:
                if url not in registered and not one.in_flight:
                    del self._endpoints[url]


class Trial:
    """An attempt under way, as long as the context is open.

    Attributes:
        state: of the agent's task, once it has answered with one.
    """

    def __init__(self, pool: Pool, choice: Choice, *, fair: bool) -> None:
        self.state: TaskState | None = None
        self._pool = pool
        self._choice = choice
        self._fair = fair

    def __enter__(self) -> Self:
        endpoint = self._choice.endpoint
        self._began = endpoint.used = self._pool.clock()
        endpoint.in_flight += 1
        self._on_trial = endpoint.circuit.begins()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._choice.endpoint.in_flight -= 1
        seconds = self._pool.clock() - self._began
        if error is None:
            self._pool.answered(self._choice, seconds, self.state)
            return
        known = error if isinstance(error, AgentError) else None
        fair = self._fair and known is not None
        self._pool.failed(self._choice, self._on_trial, seconds, known, fair=fair)


_BETTER_THAN_NOBODY = (None, "failed_just_before", "unhealthy")


def belongs(registered: Registered, agent: str, spec: Agent) -> bool:
    """Tell whether an instance that registered is one of an agent: by its type, which is the agent's name or type."""
    return registered.agent_type in (agent, spec.type)


def _is_fault(error: AgentError) -> bool:
    if isinstance(error, TimedOut):
        return error.task_id is None
    if isinstance(error, HttpFailed):
        return error.retryable
    return isinstance(error, _FAULTS)


def _excluded(member: Member, weights: Mapping[str, float], avoid: Collection[str]) -> Excluded | None:
    endpoint = member.endpoint
    if member.version is not None and weights.get(member.version) == 0:
        return "no_weight"
    if not endpoint.circuit.lets_pass:
        return "circuit_open"
    if endpoint.rests:
        return "resting"
    if endpoint.public in avoid:
        return "failed_just_before"
    return "unhealthy" if endpoint.healthy is False else None


def _by_version(members: list[Member], versions: list[str] | None) -> Iterator[list[Member]]:
    """Yield those of each version in turn, and then those whose version nobody has given a weight."""
    if versions is None:
        if members:
            yield members
        return
    for version in versions:
        if group := [member for member in members if member.version == version]:
            yield group
    if others := [member for member in members if member.version not in versions]:
        yield others


def _first(crew: _Crew, chosen: Member) -> list[Member]:
    """Return the members to be told of: all, or of many the first and the chosen one."""
    told = list(crew.members[:_TOLD_OF])
    return told if chosen in told else [*told[:-1], chosen]


def _told_why(members: Collection[Member], why: Mapping[int, Excluded | None]) -> tuple[str, float | None]:
    """Say why nobody can be asked, and in how many seconds somebody can."""
    if not members:
        return "it has none; give it a `url` in its flow, or register one", None
    told = [f"{_WORDS[reason]}" for member in members if (reason := why[id(member)]) in _WORDS]
    counted = ", ".join(f"{told.count(words)} {words}" for words in dict.fromkeys(told))
    waits = [max(one.endpoint.rests, one.endpoint.circuit.seconds) for one in members if why[id(one)] != "no_weight"]
    return counted, min(waits, default=None)


_WORDS: Mapping[str | None, str] = {
    "circuit_open": "failed again and again",
    "resting": "asked to be left alone for a while",
    "no_weight": "of a version that gets no calls",
}
