"""Rounds that alternate between contestants, so that a machine that gets busy shifts them all."""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields
from statistics import median

from bench.load import Speed

Figure = Callable[[Speed], float]


@dataclass(slots=True)
class Rounds:
    """What each contestant showed in each round, by its name and the number of calls in flight."""

    seen: dict[tuple[str, int], list[Speed]] = field(default_factory=dict)

    @property
    def number(self) -> int:
        """How many rounds there were."""
        return max(map(len, self.seen.values()), default=0)

    def has(self, name: str, in_flight: int) -> bool:
        return (name, in_flight) in self.seen

    def speed(self, name: str, in_flight: int) -> Speed:
        """The median round, figure by figure."""
        rounds = self.seen[name, in_flight]
        return Speed(*(median(getattr(speed, figure.name) for speed in rounds) for figure in fields(Speed)))

    def of_medians(self, name: str, peer: str, in_flight: int, figure: Figure) -> float:
        """A figure's median over its peer's."""
        return figure(self.speed(name, in_flight)) / figure(self.speed(peer, in_flight))

    def in_pairs(self, name: str, peer: str, in_flight: int, figure: Figure) -> list[float]:
        """A figure over its peer's in each round: what made a whole round slow cancels out."""
        pairs = zip(self.seen[name, in_flight], self.seen[peer, in_flight], strict=True)
        return [figure(ours) / figure(theirs) for ours, theirs in pairs]

    async def take(
        self,
        number: int,
        names: Sequence[str],
        in_flight: Iterable[int],
        measure: Callable[[str, int], Awaitable[Speed]],
    ) -> None:
        """Measure each contestant once at each number in flight; each round begins with another one."""
        # Nobody always runs on the machine its predecessor warmed up.
        first = number % max(1, len(names))
        for flight in in_flight:
            for name in (*names[first:], *names[:first]):
                self.seen.setdefault((name, flight), []).append(await measure(name, flight))
