"""Versions of an agent: which one a call is answered by, and which one does worse than the others. Pure."""

import hashlib
import math
from collections.abc import Mapping
from typing import NamedTuple

AT_LEAST = 30
"""So many calls a version has had before anything is concluded from its errors."""

_LARGEST = 2.0**64


class Count(NamedTuple):
    """How a version did lately."""

    calls: int
    errors: int

    @property
    def rate(self) -> float:
        """The share that failed."""
        return self.errors / self.calls if self.calls else 0.0


def in_order(agent: str, call: str, weights: Mapping[str, float]) -> list[str]:
    """Return the versions of an agent that have a weight, the one that a call is answered by first.

    The same call gets the same version (weighted rendezvous hashing); when weights change, only as many calls change
    theirs as have to.

    Args:
        agent: its name.
        call: what stays the same as long as the call is to be answered by one version.
        weights: of each version; those without one get no call.
    """
    chances = {version: weight for version, weight in weights.items() if weight > 0}
    return sorted(chances, key=lambda version: _score(agent, call, version, chances[version]))


def worse(counts: Mapping[str, Count], margin: float, *, at_least: int = AT_LEAST) -> str | None:
    """Return the version whose share of errors exceeds that of all others together by more than the margin; the
    worst, if several do; None if nothing can be said.

    Args:
        counts: how each version did lately.
        margin: from 0 to 1.
        at_least: how many calls a version, and the others together, must have had.
    """
    exceeding = {
        version: count.rate - rivals.rate
        for version, count in counts.items()
        if (rivals := _together(counts, version)).calls >= at_least and count.calls >= at_least
    }
    worst = max(exceeding, key=lambda version: exceeding[version], default=None)
    return worst if worst is not None and exceeding[worst] > margin else None


def _together(counts: Mapping[str, Count], without: str) -> Count:
    rivals = [count for version, count in counts.items() if version != without]
    return Count(sum(count.calls for count in rivals), sum(count.errors for count in rivals))


def _score(agent: str, call: str, version: str, weight: float) -> float:
    said = "\x1f".join((agent, call, version)).encode("utf-8", "surrogatepass")
    number = int.from_bytes(hashlib.sha256(said).digest()[:8], "big")
    return -math.log((number + 0.5) / _LARGEST) / weight
