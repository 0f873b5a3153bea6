"""A circuit breaker: after several failures in a row nobody is sent there for a while, then one, to see."""

import time
from collections.abc import Callable
from typing import Literal

CircuitState = Literal["closed", "open", "half_open"]

FAILURES = 5
"""So many in a row open it."""
FIRST_WAIT, LONGEST_WAIT = 1.0, 30.0
"""Seconds until one is let through; twice as long each time that one fails."""
TRIAL_SECONDS = 2.0
"""For so long the others wait for the one that was let through; then one more is: its work may just take long."""


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
        self._trials = 0
        self._trial, self._trial_until = 0, 0.0

    @property
    def state(self) -> CircuitState:
        """`open`: nobody is sent; `half_open`: one is, to see."""
        if self._open_until is None:
            return "closed"
        return "half_open" if self._clock() >= self._open_until else "open"

    @property
    def lets_pass(self) -> bool:
        """Whether somebody may be sent."""
        if self._open_until is None:
            return True
        now = self._clock()
        return now >= self._open_until and (not self._trial or now >= self._trial_until)

    @property
    def seconds(self) -> float:
        """Until one is let through; 0 if that is now."""
        return max(0.0, (self._open_until or 0.0) - self._clock())

    def begins(self) -> int:
        """Note that somebody is sent; return what names them if they are on trial, so that others wait, else 0."""
        if self._open_until is None or not self.lets_pass:
            return 0
        self._trials += 1
        self._trial, self._trial_until = self._trials, self._clock() + TRIAL_SECONDS
        return self._trial

    def succeeded(self) -> None:
        """Close it."""
        self._failures, self._wait, self._open_until, self._trial = 0, 0.0, None, 0

    def failed(self, *, on_trial: int = 0) -> None:
        """Count a failure; open it when they are too many, or at once when the one on trial failed."""
        self._failures += 1
        tried = on_trial and on_trial == self._trial
        if tried or (self._open_until is None and self._failures >= FAILURES):
            self._wait = min(max(2 * self._wait, FIRST_WAIT), LONGEST_WAIT)
            self._open_until, self._trial = self._clock() + self._wait, 0

    def no_verdict(self, on_trial: int) -> None:
        """Note that nothing came of the one on trial: another may be."""
        if on_trial == self._trial:
            self._trial = 0

    def try_now(self) -> None:
        """Let one through at once: its card was had, so it is worth a try."""
        if self._open_until is not None:
            self._open_until = min(self._open_until, self._clock())
