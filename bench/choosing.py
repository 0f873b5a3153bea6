"""Ways to choose among the endpoints of an agent, and what each comes to by simulation: three endpoints, of which one
is five times slower, on a clock of their own."""

import heapq
import math
import random
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import count

from nodes.reaching.pool import Member, Pool
from nodes.spec import Agent

FAST, SLOW = 0.05, 0.25
"""Seconds that an answer takes on average."""
SPREAD = 0.5
"""Of the logarithm of the seconds."""
AT_ONCE = 4
"""How many messages an endpoint works on at a time, where that is bounded; more wait."""
WARM_UP = 0.1
"""The share of the messages that is not counted: nobody knows the endpoints yet."""


class InTurn(Pool):
    """One after the other."""

    _turn = 0

    def _least(self, members: list[Member]) -> Member:
        self._turn += 1
        return members[self._turn % len(members)]


class InFlight(Pool):
    """Where the fewest are in flight; of equals any."""

    def _least(self, members: list[Member]) -> Member:
        return min(members, key=lambda one: (one.endpoint.in_flight, random.random()))


class InFlightThenLatency(Pool):
    """Where the fewest are in flight; of equals the fastest."""

    def _least(self, members: list[Member]) -> Member:
        return min(members, key=lambda one: (one.endpoint.in_flight, _latency(one), random.random()))


class Latency(Pool):
    """Where answers come fastest, however many are there."""

    def _least(self, members: list[Member]) -> Member:
        return min(members, key=lambda one: (_latency(one), random.random()))


def _latency(member: Member) -> float:
    return member.endpoint.pace.expected() or 0.0


OURS = "in flight × latency (ours)"
WAYS: dict[str, type[Pool]] = {
    "round robin": InTurn,
    "in flight": InFlight,
    "in flight, then latency": InFlightThenLatency,
    "latency alone": Latency,
    OURS: Pool,
}
MEASURED = ("round robin", "in flight, then latency", OURS)


@dataclass(frozen=True, slots=True)
class Load:
    """How messages come: so many a second at random, or each as soon as one of so many is answered."""

    per_second: float = 0
    in_flight: int = 0

    def __str__(self) -> str:
        return f"{self.per_second:g} a second" if self.per_second else f"{self.in_flight} in flight"


LOADS = (Load(per_second=20), Load(per_second=120), Load(in_flight=8), Load(in_flight=32))


@dataclass(frozen=True, slots=True)
class Seen:
    """What came of a load: milliseconds, messages a second, and the share that the slow endpoint got."""

    p50: float
    p95: float
    p99: float
    per_second: float
    slow: float

    def cells(self) -> list[str]:
        return [
            f"{self.p50:,.0f}",
            f"{self.p95:,.0f}",
            f"{self.p99:,.0f}",
            f"{self.per_second:.0f}",
            f"{self.slow:.1%}",
        ]


def seen(times: Sequence[float], seconds: float, slow: int) -> Seen:
    """Sum up the seconds that each message took, in the order of the answers."""
    counted = sorted(times[int(len(times) * WARM_UP) :])
    p50, p95, p99 = (percentile(counted, share) * 1000 for share in (0.5, 0.95, 0.99))
    return Seen(p50, p95, p99, len(times) / seconds, slow / len(times))


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return the value that so many do not exceed."""
    return ordered[math.ceil(share * len(ordered)) - 1]


class Simulation:
    """Three endpoints, one of them slow, on a clock of their own.

    Args:
        way: how an endpoint is chosen.
        load: how messages come.
        at_once: how many messages an endpoint works on at a time; the others wait in line.
        seed: of all that is random.
    """

    URLS = ("http://one:1", "http://two:1", "http://slow:1")

    def __init__(self, way: type[Pool], load: Load, at_once: float, seed: int = 1) -> None:
        self._now = 0.0
        self._pool, self._load, self._at_once = way(lambda: self._now), load, at_once
        self._spec = Agent(endpoints=list(self.URLS))
        self._random = random.Random(seed)
        random.seed(seed)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count()
        self._busy = dict.fromkeys(self.URLS, 0)
        self._lines: dict[str, list[Callable[[], None]]] = {url: [] for url in self.URLS}
        self._times: list[float] = []
        self._slow = 0

    def run(self, messages: int) -> Seen:
        """Let so many messages be answered."""
        for _ in range(self._load.in_flight or 1):
            self._after(self._random.random() * FAST, self._comes)
        while len(self._times) < messages:
            self._now, _, happens = heapq.heappop(self._events)
            happens()
        return seen(self._times, self._now, self._slow)

    def _after(self, seconds: float, happens: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self._now + seconds, next(self._numbers), happens))

    def _comes(self) -> None:
        choice = self._pool.choose("desk", self._spec, "call")
        trying = self._pool.trying(choice)
        trying.__enter__()
        url, since = choice.endpoint.url, self._now
        self._slow += url == self.URLS[2]
        self._lines[url].append(lambda: self._begins(url, since, trying))
        self._next_in(url)
        if self._load.per_second:
            self._after(self._random.expovariate(self._load.per_second), self._comes)

    def _next_in(self, url: str) -> None:
        if self._lines[url] and self._busy[url] < self._at_once:
            self._busy[url] += 1
            self._lines[url].pop(0)()

    def _begins(self, url: str, since: float, trying: AbstractContextManager[object]) -> None:
        mean = SLOW if url == self.URLS[2] else FAST
        self._after(about(mean, self._random), lambda: self._answers(url, since, trying))

    def _answers(self, url: str, since: float, trying: AbstractContextManager[object]) -> None:
        trying.__exit__(None, None, None)
        self._times.append(self._now - since)
        self._busy[url] -= 1
        self._next_in(url)
        if self._load.in_flight:
            self._comes()


def about(mean: float, chance: random.Random) -> float:
    """Return seconds that are so many on average, log-normal."""
    return mean * math.exp(chance.gauss(0, SPREAD) - SPREAD**2 / 2)
