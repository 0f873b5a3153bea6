"""In which order the steps of a workflow may run: after what they depend on, and after what they read was written."""

import heapq
from collections import defaultdict
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Work:
    """What a step does to the names of its workflow."""

    depends_on: Sequence[str]
    reads: Set[str] = field(default_factory=frozenset)
    writes: Set[str] = field(default_factory=frozenset)


@dataclass(frozen=True, slots=True)
class Order:
    """What comes before what."""

    needs: Mapping[str, list[str]]
    """For each step, in the order of the document, the steps that must have been done."""
    inputs: Sequence[str]
    """The names that some step reads before any step writes them."""


class Circle(ValueError):
    """Steps that wait for each other.

    Attributes:
        steps: the way around, its first step again at the end.
    """

    def __init__(self, steps: Sequence[str]) -> None:
        super().__init__(" → ".join(steps))
        self.steps = list(steps)


def order_of(works: Mapping[str, Work]) -> Order:
    """Return the order of steps that name only each other.

    Beyond what they depend on, no two steps that write the same name run at once, nor one that writes what the other
    reads: there the document's order counts. So the outcome never depends on which agent is faster.

    Raises:
        Circle: if steps depend on each other.
    """
    needs: dict[str, list[str]] = {}
    before: dict[str, int] = {}
    bit = {name: 1 << place for place, name in enumerate(works)}
    writer: dict[str, str] = {}
    readers: dict[str, list[str]] = defaultdict(list)
    inputs: list[str] = []
    for step in _sorted(works):
        work = works[step]
        inputs += sorted(name for name in work.reads if name not in writer and name not in inputs)
        implied = [writer[name] for name in sorted(work.reads | work.writes) if name in writer]
        implied += [reader for name in sorted(work.writes) for reader in readers[name]]
        needs[step], before[step] = list(dict.fromkeys(work.depends_on)), 0
        for needed in needs[step]:
            before[step] |= before[needed] | bit[needed]
        for needed in implied:
            if not before[step] & bit[needed]:
                needs[step].append(needed)
                before[step] |= before[needed] | bit[needed]
        for name in work.writes:
            writer[name], readers[name] = step, []
        for name in work.reads - work.writes:
            readers[name].append(step)
    return Order({step: needs[step] for step in works}, inputs)


def _sorted(works: Mapping[str, Work]) -> list[str]:
    """Return the steps, each after what it depends on, else in the document's order."""
    names = list(works)
    place = {name: number for number, name in enumerate(names)}
    waits = {name: len(set(work.depends_on)) for name, work in works.items()}
    after: dict[str, list[str]] = defaultdict(list)
    for name, work in works.items():
        for needed in set(work.depends_on):
            after[needed].append(name)
    ready = [place[name] for name in names if not waits[name]]
    done: list[str] = []
    while ready:
        done.append(names[heapq.heappop(ready)])
        for name in after[done[-1]]:
            waits[name] -= 1
            if not waits[name]:
                heapq.heappush(ready, place[name])
    if len(done) < len(names):
        raise Circle(_around({name: works[name].depends_on for name in names if waits[name]}))
    return done


def _around(stuck: Mapping[str, Sequence[str]]) -> list[str]:
    """Return a way around among steps each of which waits for another of them."""
    way = [next(iter(stuck))]
    while True:
        following = next(needed for needed in stuck[way[-1]] if needed in stuck)
        if following in way:
            return [following, *reversed(way[way.index(following) :])]
        way.append(following)
