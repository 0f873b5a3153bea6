"""The figures that are asked of the service (design, section 11; issue 7), held against what this run saw.

Ratios are to the peer of the same run; what the run did not measure is not listed. BEFORE.json has what was seen
before the work on speed began, under the same names.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench import a2a, workers
from bench.contestants import PEER, SUBJECT, Name
from bench.load import Speed
from bench.results import Results
from bench.rounds import Figure, Rounds

OTHER: Name = "langgraph-redis"
BEFORE = Path(__file__).with_name("BEFORE.json")


@dataclass(frozen=True, slots=True)
class Target:
    """One promise: what is measured, the bound it has to keep, and what was seen."""

    what: str
    bound: float
    at_least: bool
    seen: float
    pairs: tuple[float, ...] = ()
    """The same in each round by itself, if there are rounds."""

    @property
    def kept(self) -> bool:
        return self.seen >= self.bound if self.at_least else self.seen <= self.bound


def targets_of(results: Results) -> list[Target]:
    """The targets that this run can judge."""
    if SUBJECT not in results.names:
        return []
    parts = (_against_the_peer, _of_the_store, _of_a_long_call, _of_lasting, _of_workers, _of_a2a, _of_starting)
    return [target for part in parts for target in part(results)]


def seen_before() -> dict[str, float]:
    """What was seen before, by the name of its target."""
    before: dict[str, float] = json.loads(BEFORE.read_text())["targets"]
    return before


def _against_the_peer(results: Results) -> Iterator[Target]:
    rounds = results.rounds
    for name, speed, latency in ((SUBJECT, 1.0, 1.25), (OTHER, 0.6, 2.0)):
        if rounds.has(name, 32) and rounds.has(PEER, 32):
            at_32, at_1 = f"{name}: turns/s at 32 in flight", f"{name}: p50 at 1 in flight"
            yield _in_rounds(at_32, speed, True, rounds, (name, PEER, 32), _per_second)
            yield _in_rounds(at_1, latency, False, rounds, (name, PEER, 1), _p50)
    if rounds.has(SUBJECT, 1) and rounds.has(PEER, 1):
        for number in results.plan.calls:
            what = f"{SUBJECT}: CPU per turn at {number} in flight"
            yield _in_rounds(what, 1.0, False, rounds, (SUBJECT, PEER, number), _cpu)


def _of_the_store(results: Results) -> Iterator[Target]:
    if cost := results.store.get(SUBJECT):
        yield Target("round trips of a read turn", 2, False, cost.read_trips)
        yield Target("round trips of a write turn", 3, False, cost.write_trips)
        yield Target("bytes of a finished five-turn call", 6144, False, cost.key_bytes_per_call)


def _of_a_long_call(results: Results) -> Iterator[Target]:
    times = results.growth.get(SUBJECT, {})
    if 1000 in times:
        yield Target("turn 1,000, × turn 1", 1.2, False, times[1000] / times[1])


def _of_lasting(results: Results) -> Iterator[Target]:
    if seen := results.lasting:
        first, last = min(seen), max(seen)
        yield Target(f"memory after {last:,} calls, × after {first:,}", 1.05, False, seen[last] / seen[first])


def _of_workers(results: Results) -> Iterator[Target]:
    who = (workers.TWO, workers.ONE, workers.IN_FLIGHT)
    if results.workers.number:
        what = "two processes: turns per CPU second, × one"
        yield _in_rounds(what, 0.95, True, results.workers, who, workers.turns_per_cpu_second)


def _of_a2a(results: Results) -> Iterator[Target]:
    if results.a2a.number:
        what = f"A2A {a2a.OURS}: messages/s at 32 in flight, × {a2a.ECHO}"
        yield _in_rounds(what, 0.6, True, results.a2a, (a2a.OURS, a2a.ECHO, 32), _per_second)


def _of_starting(results: Results) -> Iterator[Target]:
    if answers := [start.answer for start in results.starts]:
        yield Target("seconds from start to first answer", 3.5, False, median(answers), tuple(answers))


def _in_rounds(
    what: str, bound: float, at_least: bool, rounds: Rounds, who: tuple[str, str, int], figure: Figure
) -> Target:
    seen, pairs = rounds.of_medians(*who, figure), rounds.in_pairs(*who, figure)
    name = what if "×" in what else f"{what}, × {who[1]}"
    return Target(name, bound, at_least, seen, tuple(pairs))


def _per_second(speed: Speed) -> float:
    return speed.turns_per_second


def _p50(speed: Speed) -> float:
    return speed.p50_ms


def _cpu(speed: Speed) -> float:
    return speed.cpu_ms
