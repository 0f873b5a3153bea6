"""The figures the design asks of `core` (section 11), held against what this run saw.

Ratios are to the hand-written peer of the same run; what this bench does not measure is not listed.
"""

from collections.abc import Callable
from dataclasses import dataclass

from bench.contestants import PEER, Name
from bench.results import Results

SUBJECT: Name = "core"


@dataclass(frozen=True, slots=True)
class Target:
    """One promise: what is measured and the bound it has to keep."""

    what: str
    bound: float
    at_least: bool
    seen: Callable[[Results], float]

    def kept(self, results: Results) -> bool:
        seen = self.seen(results)
        return seen >= self.bound if self.at_least else seen <= self.bound


def targets_of(results: Results) -> list[Target]:
    """The targets that this run can judge."""
    targets = list(STORE_TARGETS)
    if PEER in results.names:
        targets = [*PEER_TARGETS, *targets]
    if 1000 in results.points:
        targets.append(LONG_CALL)
    return targets if SUBJECT in results.names else []


def _throughput(results: Results) -> float:
    ours, theirs = results.speed(SUBJECT, 32), results.speed(PEER, 32)
    return ours.turns_per_second / theirs.turns_per_second


def _latency(results: Results) -> float:
    return results.speed(SUBJECT, 1).p50_ms / results.speed(PEER, 1).p50_ms


PEER_TARGETS = (
    Target("turns/s at 32 in flight, × hand-written", 1.0, True, _throughput),
    Target("p50 at 1 in flight, × hand-written", 1.25, False, _latency),
)
STORE_TARGETS = (
    Target("round trips of a read turn", 2, False, lambda results: results.store[SUBJECT].read_trips),
    Target("round trips of a write turn", 3, False, lambda results: results.store[SUBJECT].write_trips),
    Target("bytes of a finished call", 6144, False, lambda results: results.store[SUBJECT].key_bytes_per_call),
)
LONG_CALL = Target(
    "turn 1,000, × turn 1",
    1.2,
    False,
    lambda results: results.growth[SUBJECT][1000] / results.growth[SUBJECT][1],
)
