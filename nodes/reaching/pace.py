"""How fast an endpoint answers: what is to be expected now, and what it was lately."""

import math
import time
from collections import deque
from collections.abc import Callable, Iterable

_FADES = 10.0
"""Seconds in which what was seen loses two thirds of its weight."""
_LATELY = 300
"""Seconds that the figures for people look back."""
_SPAN = 10
"""Seconds of calls that are counted together."""
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
        self._counts: dict[int, tuple[int, int]] = {}

    def note(self, seconds: float, *, failed: bool, in_vain: bool = False) -> None:
        """Take in how long an answer, or a failure, took.

        Args:
            seconds: how long.
            failed: whether there was no answer.
            in_vain: whether the answer was that the task failed, or a refusal: an error, but the endpoint is well.
        """
        now = self._clock()
        self._lately.append((now, seconds, failed))
        self._count(now, failed or in_vain)
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

    def _count(self, now: float, failed: bool) -> None:
        """Count a call, and forget those of long ago; many go into one span of time."""
        span = int(now // _SPAN)
        calls, errors = self._counts.pop(span, (0, 0))
        self._counts[span] = calls + 1, errors + failed
        while next(iter(self._counts)) < span - _LATELY // _SPAN:
            del self._counts[next(iter(self._counts))]

    def counts(self) -> tuple[int, int]:
        """Return how many were asked lately, and how many of them failed."""
        first = int(self._clock() // _SPAN) - _LATELY // _SPAN + 1
        lately = [count for span, count in self._counts.items() if span >= first]
        return sum(calls for calls, _ in lately), sum(errors for _, errors in lately)

    def figures(self) -> dict[str, float | int | None]:
        """Return what it was lately: how many were asked, how many failed, and of those that answered the median and
        the 95th percentile (milliseconds)."""
        return together([self])

    def lately(self) -> list[tuple[float, bool]]:
        """Return how long each answer, or failure, took lately, and whether it was a failure; of many the last."""
        since = self._clock() - _LATELY
        return [(seconds, failed) for at, seconds, failed in self._lately if at >= since]


def together(paces: Iterable[Pace]) -> dict[str, float | int | None]:
    """Return the figures of several endpoints as if they were one."""
    paces = list(paces)
    counts, lately = [pace.counts() for pace in paces], [one for pace in paces for one in pace.lately()]
    answered = sorted(seconds for seconds, failed in lately if not failed)
    return {
        "calls": sum(calls for calls, _ in counts),
        "errors": sum(errors for _, errors in counts),
        "p50_ms": _percentile(answered, 0.5),
        "p95_ms": _percentile(answered, 0.95),
    }


def _percentile(ordered: list[float], share: float) -> float | None:
    if not ordered:
        return None
    return round(ordered[math.ceil(share * len(ordered)) - 1] * 1000, 3)
