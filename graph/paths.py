"""The ways through a flow, all of them: what can be reached, what cannot end, and what must come before what."""

from collections import deque
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from graph.flow import Flow
from nodes.spec import END


@dataclass(frozen=True, slots=True)
class Step:
    """A step from one stage to another, as the flow allows it."""

    source: str
    target: str
    completes: bool
    """Whether the stage was answered for it: it was not where the stage is skipped, fails or is left by a detour."""


@dataclass(frozen=True)
class Paths:
    """Every step that a run of the flow may take, whatever its agents answer and its conditions say."""

    flow: Flow

    @cached_property
    def first(self) -> str:
        """Where a run begins."""
        return next(iter(self.flow.stages))

    @cached_property
    def firsts(self) -> list[str]:
        """Where a run begins: with `needs`, at every stage that needs none."""
        roots = [name for name, stage in self.flow.stages.items() if not stage.needs]
        return roots if self.flow.is_dag else [self.first]

    @cached_property
    def steps(self) -> Mapping[str, list[Step]]:
        """The steps from each stage."""
        if self.flow.is_dag:
            return self._by_needs()
        names = [*self.flow.stages, END]
        found: dict[str, list[Step]] = {}
        for name, following in pairwise(names):
            stage = self.flow.stages[name]
            ways = [way.goto for way in stage.next]
            if all(way.when is not None or way.at_most for way in stage.next):
                ways.append(following)
            steps = [Step(name, goto, True) for goto in ways]
            if stage.when is not None or stage.on_error == "continue":
                steps += [Step(name, goto, False) for goto in ways]
            steps += [Step(name, way.goto, False) for way in stage.detours]
            steps += [Step(name, target, False) for target in self.flow.anywhere.values() if target != name]
            found[name] = list(dict.fromkeys(steps))
        return found

    def _by_needs(self) -> Mapping[str, list[Step]]:
        """Return the steps that `needs` makes; what ends is what no other stage needs."""
        found: dict[str, list[Step]] = {name: [] for name in self.flow.stages}
        for name, stage in self.flow.stages.items():
            for source in stage.needs:
                before = self.flow.stages[source]
                sure = before.when is None and before.on_error != "continue"
                found[source].append(Step(source, name, sure))
        return {name: steps or [Step(name, END, True)] for name, steps in found.items()}

    def reachable(self, *, but: Container[Step] = ()) -> set[str]:
        """Return the stages (and perhaps `end`) that a run may come to without the steps of `but`."""
        return set(self._reached_by(but))

    def path_to(self, stage: str, *, but: Container[Step] = ()) -> list[str] | None:
        """Return a shortest way from the first stage to another without the steps of `but`; None if there is none."""
        reached = self._reached_by(but)
        if stage not in reached:
            return None
        path = [stage]
        while (before := reached[path[-1]]) is not None:
            path.append(before)
        return path[::-1]

    def around(self, steps: Iterable[Step]) -> list[str] | None:
        """Return a way from a stage to itself by some of the steps; None if there is none."""
        onward: dict[str, list[str]] = {}
        for step in steps:
            onward.setdefault(step.source, []).append(step.target)
        done: set[str] = set()
        for start in onward:
            if circle := _circle(onward, start, done):
                return circle
        return None

    def _reached_by(self, but: Container[Step]) -> dict[str, str | None]:
        """Return every stage a run may come to, each with the one before it on a shortest way."""
        reached: dict[str, str | None] = dict.fromkeys(self.firsts)
        waiting = deque(self.firsts)
        while waiting:
            for step in self.steps.get(waiting.popleft(), ()):
                if step.target not in reached and step not in but:
                    reached[step.target] = step.source
                    waiting.append(step.target)
        return reached


def _circle(onward: Mapping[str, list[str]], start: str, done: set[str]) -> list[str] | None:
    """Return the first circle found from `start`, depth first; no recursion, as flows may be long."""
    path: dict[str, None] = {}
    stack: list[tuple[str, bool]] = [(start, False)]
    while stack:
        name, leaving = stack.pop()
        if leaving:
            done.add(path.popitem()[0])
        elif name in path:
            names = list(path)
            return [*names[names.index(name) :], name]
        elif name not in done:
            path[name] = None
            stack.append((name, True))
            stack += [(target, False) for target in onward.get(name, ())]
    return None
