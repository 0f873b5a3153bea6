"""Where the time of a turn goes. What is done several times at once counts once."""

import time
from types import TracebackType
from typing import Literal

Part = Literal["queue", "store", "classify", "agent", "model"]


class Timing:
    """Adds up how long a turn was at each part of its work; one of these belongs to one turn."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._spent: dict[str, float] = {}
        self._at_work: dict[str, int] = {}
        self._since: dict[str, float] = {}

    def of(self, part: Part) -> "_Counted":
        """Count the time in the context towards a part."""
        return _Counted(self, part)

    def begins(self, part: Part) -> None:
        """Count the time from now on towards a part."""
        at_work = self._at_work.get(part, 0)
        self._at_work[part] = at_work + 1
        if not at_work:
            self._since[part] = time.perf_counter()

    def ends(self, part: Part) -> None:
        """Count no longer what began before."""
        at_work = self._at_work[part] = self._at_work[part] - 1
        if not at_work:
            self._spent[part] = self._spent.get(part, 0.0) + time.perf_counter() - self._since[part]

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
        return self._spent.get(part, 0.0) + (now - self._since[part] if self._at_work.get(part) else 0.0)


class _Counted:
    """A context whose time counts towards a part."""

    def __init__(self, timing: Timing, part: Part) -> None:
        self._timing = timing
        self._part: Part = part

    def __enter__(self) -> None:
        self._timing.begins(self._part)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timing.ends(self._part)


_ALWAYS = ("queue", "store", "classify", "agent")
