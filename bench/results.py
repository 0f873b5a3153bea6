"""Everything one run saw, as plain values: what the measuring files fill in and the report reads."""

from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median

from bench.contestants import Name
from bench.load import Speed
from bench.store_cost import StoreCost


@dataclass(slots=True)
class Memory:
    """Resident bytes of a service process, and the calls it has answered in between."""

    ready_bytes: int
    end_bytes: int = 0
    calls: int = 0


@dataclass(slots=True)
class Results:
    """The figures of one run."""

    names: tuple[Name, ...]
    in_flight: tuple[int, ...]
    points: tuple[int, ...]
    rounds: dict[tuple[Name, int], list[Speed]] = field(default_factory=dict)
    memory: dict[Name, Memory] = field(default_factory=dict)
    growth: dict[Name, dict[int, float]] = field(default_factory=dict)
    store: dict[Name, StoreCost] = field(default_factory=dict)

    def speed(self, name: Name, in_flight: int) -> Speed:
        """The median round, figure by figure."""
        rounds = self.rounds[name, in_flight]

        def middle(figure: Callable[[Speed], float]) -> float:
            return median(figure(speed) for speed in rounds)

        return Speed(
            turns=sum(speed.turns for speed in rounds),
            turns_per_second=middle(lambda speed: speed.turns_per_second),
            p50_ms=middle(lambda speed: speed.p50_ms),
            p99_ms=middle(lambda speed: speed.p99_ms),
            cpu_ms=middle(lambda speed: speed.cpu_ms),
        )
