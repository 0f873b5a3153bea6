"""How fast an endpoint answers: what is to be expected now, and what it was lately."""

import math
import time
from collections import deque
from collections.abc import Callable, Iterable

_FADES = 10.0
"""Seconds in which what was seen loses two thirds of its weight."""
_LATELY = 300.0
"""Seconds that the figures for people look back."""
_KEPT = 200
_FAILED_AS_SLOW = 1.0
"""A failure counts as an answer that took so many seconds at least: who fails fast is not to look fast."""


class Pace:
    """Of one endpoint.

    What is expected follows a slow answer at once and forgets it by and by ("peak EWMA"): an endpoint that was slow
    is avoided, and tried again after a while.

    Args:
        clock: seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._expected: float | None = None
        self._at = 0.0
        self._lately: deque[tuple[float, float, bool]] = deque(maxlen=_KEPT)

    def note(self, seconds: float, *, failed: bool) -> None:
        """Take in how long an answer, or a failure, took."""
        now = self._clock()
        self._lately.append((now, seconds, failed))
        seen = max(seconds, _FAILED_AS_SLOW) if failed else seconds
        before = self._faded(now)
        if before is None or seen >= before:
            self._expected = seen
        else:
            weight = math.exp(-max(now - self._at, 0.0) / _FADES)
            weight = min(weight, 0.9)  # many at once are as good as some time
            self._expected = before * weight + seen * (1 - weight)
        self._at = now

    def expected(self) -> float | None:
        """Seconds that an answer takes; None if nothing is known."""
        return self._faded(self._clock())

    def _faded(self, now: float) -> float | None:
        if self._expected is None:
            return None
        return self._expected * math.exp(-max(now - self._at, 0.0) / _FADES)

    def figures(self) -> dict[str, float | int | None]:
        """Return what it was lately: how many were asked, how many failed, and of those that answered the median and
        the 95th percentile (milliseconds)."""
        return together([self])

    def lately(self) -> list[tuple[float, bool]]:
        """Return how long each answer, or failure, took lately, and whether it was a failure."""
        since = self._clock() - _LATELY
        return [(seconds, failed) for at, seconds, failed in self._lately if at >= since]


def together(paces: Iterable[Pace]) -> dict[str, float | int | None]:
    """Return the figures of several endpoints as if they were one."""
    lately = [one for pace in paces for one in pace.lately()]
    answered = sorted(seconds for seconds, failed in lately if not failed)
    return {
        "calls": len(lately),
        "errors": len(lately) - len(answered),
        "p50_ms": _percentile(answered, 0.5),
        "p95_ms": _percentile(answered, 0.95),
    }


def _percentile(ordered: list[float], share: float) -> float | None:
    if not ordered:
        return None
    return round(ordered[math.ceil(share * len(ordered)) - 1] * 1000, 3)
