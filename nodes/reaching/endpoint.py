"""What this process knows of one endpoint: how it does, who is there, and whether to send anybody else."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from nodes.reaching.circuit import Circuit
from nodes.reaching.pace import Pace
from nodes.spec import public_url

LONGEST_REST = 300.0
"""Seconds that an endpoint is left alone at most because it asked for it."""
MISSES = 2
"""So many probes in a row that fail make an endpoint unhealthy."""


@dataclass(frozen=True, slots=True)
class Probe:
    """What came of asking an endpoint for its card."""

    at: str
    """ISO 8601, UTC."""
    seconds: float
    """How long that took."""
    why: str | None
    """What went wrong; None if it answered."""


class Endpoint:
    """A URL at which agents answer; shared by all agents that have it.

    Args:
        url: where it answers, perhaps with credentials.
        clock: seconds that only grow.

    Attributes:
        public: its address without credentials.
        in_flight: how many requests of this process are there.
        elsewhere: how many of other replicas are.
        healthy: False if it did not answer when it was probed, several times in a row; None if nobody knows.
        probe: what came of it when it was probed last; None if it never was.
        used: when somebody was sent there last, on the clock.
        wanted: when somebody could have been sent there last, on the clock; None if nobody ever could.
    """

    def __init__(self, url: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.url = url
        self.public = public_url(url)
        self.circuit = Circuit(clock)
        self.pace = Pace(clock)
        self.in_flight = 0
        self.elsewhere = 0
        self.healthy: bool | None = None
        self.probe: Probe | None = None
        self.used = clock()
        self.wanted: float | None = None
        self._misses = 0
        self._clock = clock
        self._rests_until = 0.0

    @property
    def rests(self) -> float:
        """Seconds for which it asked to be left alone."""
        return max(0.0, self._rests_until - self._clock())

    def rest(self, seconds: float) -> None:
        """Leave it alone for so long."""
        self._rests_until = max(self._rests_until, self._clock() + min(seconds, LONGEST_REST))

    @property
    def idle_since(self) -> float:
        """When a call last was, or could have been, sent there, on the clock; when it became known if none ever."""
        return self.used if self.wanted is None else max(self.used, self.wanted)

    @property
    def in_doubt(self) -> bool:
        """Whether it is to be probed soon: its circuit is open, or a probe has failed for the first time."""
        return self.circuit.state != "closed" or 0 < self._misses < MISSES

    def probed(self, *, healthy: bool, seconds: float = 0.0, why: str | None = None) -> None:
        """Learn from a probe; an endpoint that is back is tried at once, but one that never was away when it is time:
        it may answer for its card and yet for nothing else.

        Args:
            healthy: whether it answered.
            seconds: how long that took.
            why: what went wrong if it did not.
        """
        self.probe = Probe(datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"), seconds, why)
        if not healthy:
            self._misses += 1
            self.healthy = self.healthy if self._misses < MISSES else False
            return
        if self._misses:
            self.circuit.try_now()
        self._misses, self.healthy = 0, True

    def not_probed(self) -> None:
        """Forget what probes told: there are no more."""
        self.probe, self.healthy, self._misses = None, None, 0

    def wait(self, otherwise: float) -> float:
        """Return how long an answer is to be expected to take: everybody who is there, and one more.

        Args:
            otherwise: seconds that an answer takes where nothing is known of it.
        """
        pace = self.pace.expected()
        return (self.in_flight + self.elsewhere + 1) * (otherwise if pace is None else pace)
