"""Everything one run saw, as plain values: what the measuring files fill in and the report reads.

What is empty was not measured.
"""

from dataclasses import dataclass, field

from bench.contestants import PEER, SUBJECT, Name
from bench.plan import Plan
from bench.rounds import Rounds
from bench.starting import Start
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
    plan: Plan
    rounds: Rounds = field(default_factory=Rounds)
    memory: dict[Name, Memory] = field(default_factory=dict)
    growth: dict[Name, dict[int, float]] = field(default_factory=dict)
    """Milliseconds of a turn, by how many its call has had."""
    store: dict[Name, StoreCost] = field(default_factory=dict)
    filled: Rounds = field(default_factory=Rounds)
    """By how many finished calls the store holds."""
    workers: Rounds = field(default_factory=Rounds)
    a2a: Rounds = field(default_factory=Rounds)
    starts: list[Start] = field(default_factory=list)
    lasting: dict[int, int] = field(default_factory=dict)
    """Resident bytes of one service process, by how many calls it has answered."""

    @property
    def curve_names(self) -> tuple[Name, ...]:
        """Those that are measured at every number in flight."""
        return tuple(name for name in self.names if name in (SUBJECT, PEER))

    @property
    def has_curves(self) -> bool:
        """Whether there is a curve to draw."""
        return bool(self.rounds.number and self.curve_names)

    @property
    def in_flight(self) -> list[int]:
        """Every number of calls in flight, least first."""
        return sorted(self.plan.calls | self.plan.further)
