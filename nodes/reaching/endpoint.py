"""What this process knows of one endpoint: how it does, who is there, and whether to send anybody else."""

import time
from collections.abc import Callable

from nodes.reaching.circuit import Circuit
from nodes.reaching.pace import Pace
from nodes.spec import public_url

LONGEST_REST = 300.0
"""Seconds that an endpoint is left alone at most because it asked for it."""


class Endpoint:
    """A URL at which agents answer; shared by all agents that have it.

    Args:
        url: where it answers, perhaps with credentials.
        clock: seconds that only grow.

    Attributes:
        public: its address without credentials.
        in_flight: how many requests of this process are there.
        elsewhere: how many of other replicas are.
        healthy: whether its card could be had when it was probed last; None if it never was.
        used: when somebody was sent there last, on the clock.
    """

    def __init__(self, url: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.url = url
        self.public = public_url(url)
        self.circuit = Circuit(clock)
        self.pace = Pace(clock)
        self.in_flight = 0
        self.elsewhere = 0
        self.healthy: bool | None = None
        self.used = clock()
        self._clock = clock
        self._rests_until = 0.0

    @property
    def rests(self) -> float:
        """Seconds for which it asked to be left alone."""
        return max(0.0, self._rests_until - self._clock())

    def rest(self, seconds: float) -> None:
        """Leave it alone for so long."""
        self._rests_until = max(self._rests_until, self._clock() + min(seconds, LONGEST_REST))

    def probed(self, *, healthy: bool) -> None:
        """Note whether its card could be had; one that is back is tried at once."""
        self.healthy = healthy
        if healthy:
            self.circuit.try_now()

    def wait(self, otherwise: float) -> float:
        """Return how long an answer is to be expected to take: everybody who is there, and one more.

        Args:
            otherwise: seconds that an answer takes where nothing is known of it.
        """
        pace = self.pace.expected()
        return (self.in_flight + self.elsewhere + 1) * (otherwise if pace is None else pace)
