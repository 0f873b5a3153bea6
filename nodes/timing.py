"""Where the time of a turn goes. What is done several times at once counts once."""

import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

Part = Literal["queue", "store", "classify", "agent", "model"]


class Timing:
    """Adds up how long a turn was at each part of its work; one of these belongs to one turn."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._spent: defaultdict[str, float] = defaultdict(float)
        self._at_work: Counter[str] = Counter()
        self._since: dict[str, float] = {}

    @contextmanager
    def of(self, part: Part) -> Iterator[None]:
        """Count the time in the context towards a part."""
        self._at_work[part] += 1
        if self._at_work[part] == 1:
            self._since[part] = time.perf_counter()
        try:
            yield
        finally:
            self._at_work[part] -= 1
            if not self._at_work[part]:
                self._spent[part] += time.perf_counter() - self._since[part]

    @property
    def elapsed(self) -> float:
        """Seconds since the turn came in."""
        return time.perf_counter() - self._began

    def told(self) -> dict[str, float]:
        """Return the milliseconds of each part, those still at work included, and of all since the turn came in."""
        now = time.perf_counter()
        spent = {part: self._so_far(part, now) for part in _ALWAYS}
        spent |= {part: seconds for part, seconds in self._spent.items() if part not in spent}
        milliseconds = {f"{part}_ms": round(seconds * 1000, 3) for part, seconds in spent.items()}
        return {**milliseconds, "total_ms": round((now - self._began) * 1000, 3)}

    def _so_far(self, part: str, now: float) -> float:
        return self._spent[part] + (now - self._since[part] if self._at_work[part] else 0.0)


_ALWAYS = ("queue", "store", "classify", "agent")
