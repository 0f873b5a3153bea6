"""How much a run measures: the full plan, and a quick one that shows whether the bench works."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Plan:
    """Numbers of rounds, calls and turns."""

    rounds: int
    calls: dict[int, int]
    """Calls per round for each number in flight, of every contestant."""
    further: dict[int, int]
    """The same at further numbers in flight, of the service and the hand-written peer only."""
    points: tuple[int, ...]
    """The turns of a long call that are timed."""
    store_calls: int
    filled: tuple[int, ...]
    """Finished calls in the store while turns are timed."""
    filled_calls: int
    worker_calls: int
    a2a_calls: dict[int, int]
    starts: int
    lasting: tuple[int, ...]
    """Numbers of calls after which one process's memory is read; the last is held against the first."""


FULL = Plan(
    rounds=5,
    calls={1: 200, 8: 400, 32: 640},
    further={2: 120, 4: 200, 16: 320, 64: 640},
    points=(1, 10, 100, 1000),
    store_calls=200,
    filled=(0, 10_000, 100_000),
    filled_calls=120,
    worker_calls=480,
    a2a_calls={1: 100, 8: 200, 32: 320},
    starts=5,
    lasting=(10_000, 25_000, 50_000, 75_000, 100_000),
)
QUICK = Plan(
    rounds=2,
    calls={1: 40, 8: 80, 32: 160},
    further={4: 40, 64: 128},
    points=(1, 10, 100),
    store_calls=60,
    filled=(0, 1_000, 10_000),
    filled_calls=40,
    worker_calls=96,
    a2a_calls={1: 20, 8: 40, 32: 96},
    starts=2,
    lasting=(2_000, 5_000, 10_000, 20_000),
)
