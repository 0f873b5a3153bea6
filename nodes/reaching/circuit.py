"""A circuit breaker: after several failures in a row nobody is sent there for a while, then one, to see."""

import time
from collections.abc import Callable
from typing import Literal

CircuitState = Literal["closed", "open", "half_open"]

FAILURES = 5
"""So many in a row open it."""
FIRST_WAIT, LONGEST_WAIT = 1.0, 30.0
"""Seconds until one is let through; twice as long each time that one fails."""


class Circuit:
    """Of one endpoint.

    Args:
        clock: seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures = 0
        self._wait = 0.0
        self._open_until: float | None = None
        self._on_trial = False

    @property
    def state(self) -> CircuitState:
        """`open`: nobody is sent; `half_open`: one is, to see."""
        if self._open_until is None:
            return "closed"
        return "half_open" if self._clock() >= self._open_until else "open"

    @property
    def lets_pass(self) -> bool:
        """Whether somebody may be sent."""
        return self._open_until is None or (not self._on_trial and self._clock() >= self._open_until)

    @property
    def seconds(self) -> float:
        """Until one is let through; 0 if that is now."""
        return max(0.0, (self._open_until or 0.0) - self._clock())

    def begins(self) -> bool:
        """Note that somebody is sent; tell whether they are on trial, on which the next depends."""
        on_trial = self._open_until is not None and not self._on_trial
        self._on_trial = self._on_trial or on_trial
        return on_trial

    def succeeded(self) -> None:
        """Close it."""
        self._failures, self._wait, self._open_until, self._on_trial = 0, 0.0, None, False

    def failed(self, *, on_trial: bool = False) -> None:
        """Count a failure; open it when they are too many, or at once when the one on trial failed."""
        self._failures += 1
        if on_trial or (self._open_until is None and self._failures >= FAILURES):
            self._wait = min(max(2 * self._wait, FIRST_WAIT), LONGEST_WAIT)
            self._open_until = self._clock() + self._wait
        if on_trial:
            self._on_trial = False

    def no_verdict(self) -> None:
        """Note that nothing came of the one on trial: another may be."""
        self._on_trial = False

    def try_now(self) -> None:
        """Let one through at once: its card was had, so it is worth a try."""
        if self._open_until is not None:
            self._open_until = min(self._open_until, self._clock())
