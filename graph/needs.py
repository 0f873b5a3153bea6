"""What must hold of a flow whose order comes from `needs`: the stages it needs exist and do not need each other in a
circle, nothing else orders it, and stages that may run at once do not write the same name."""

import difflib
from collections.abc import Iterator, Mapping
from itertools import combinations, islice

from graph.flow import Flow, Gate

Place = tuple[str | int, ...]
Found = Iterator[tuple[Place, str]]


def needs_known(flow: Flow) -> Found:
    """Every stage that is needed exists, and the needs make no circle."""
    for name, stage in flow.stages.items():
        for number, need in enumerate(stage.needs):
            if need not in flow.stages:
                close = difflib.get_close_matches(need, flow.stages, n=1)
                remedy = f"did you mean {close[0]!r}?" if close else "define it under stages"
                yield ("stages", name, "needs", number), f"there is no stage {need!r}; {remedy}"
    if circle := _circle(flow):
        told = " → ".join(circle)
        yield ("stages", circle[0], "needs"), f"the stages need each other in a circle: {told}; remove one of them"


def needs_alone(flow: Flow) -> Found:
    """Where `needs` makes the order, nothing else does."""
    if not flow.is_dag:
        return
    if flow.waits_for == "caller":
        yield ("waits_for",), "a flow with `needs` runs to its end by itself; remove `waits_for`"
    for name, stage in flow.stages.items():
        for key in ("next", "intents", "several"):
            if getattr(stage, key):
                yield ("stages", name, key), f"`needs` makes the order of this flow; remove `{key}`"
        if stage.detours:
            yield ("stages", name, "on_error"), "`needs` makes the order of this flow; write `fail` or `continue`"


def written_at_once(flow: Flow) -> Found:
    """Whoever may write at once writes names of its own: nothing is merged by luck."""
    for name, stage in flow.stages.items():
        written = dict.fromkeys(stage.output.values(), "the stage itself") if stage.parallel else {}
        for branch, one in stage.parallel.items():
            for field, wrote in one.output.items():
                if wrote in written:
                    yield (
                        ("stages", name, "parallel", branch, "output", field),
                        f"{wrote!r} is written by {written[wrote]} as well; choose another name",
                    )
                written[wrote] = f"branch {branch!r}"
    if flow.is_dag and not _circle(flow):
        yield from _written_by_unordered(flow)


def _written_by_unordered(flow: Flow) -> Found:
    writers: dict[str, list[str]] = {}
    for name, stage in flow.stages.items():
        outputs = [
            *stage.output.values(),
            *(wrote for one in stage.parallel.values() for wrote in one.output.values()),
        ]
        for wrote in dict.fromkeys(outputs):
            writers.setdefault(wrote, []).append(name)
    before = before_each(flow)
    for wrote, names in writers.items():
        at_once = (pair for pair in combinations(names, 2) if not _ordered(before, *pair))
        for one, other in islice(at_once, 1):
            yield (
                ("stages", other, "output"),
                f"stages {one!r} and {other!r} may run at once and both write {wrote!r}; "
                "choose another name, or let one need the other",
            )


def _ordered(before: Mapping[str, frozenset[str]], one: str, other: str) -> bool:
    return one in before[other] or other in before[one]


def before_each(flow: Flow) -> dict[str, frozenset[str]]:
    """Return the stages that come before each whatever happens; those in a circle come after none."""
    left = {name: stage.needs for name, stage in flow.stages.items()}
    before: dict[str, frozenset[str]] = {}
    while ready := [name for name, needed in left.items() if not any(one in left for one in needed)]:
        for name in ready:
            needed = left.pop(name)
            before[name] = frozenset(needed).union(*(before.get(one, ()) for one in needed))
    return before | dict.fromkeys(left, frozenset())


def open_gate(flow: Flow, gate: Gate) -> str | None:
    """Tell how a stage can be reached before another was answered; None if it cannot."""
    told = f"stage {gate.stage!r} can be reached before {gate.after!r} was answered"
    if gate.after not in before_each(flow)[gate.stage]:
        return f"{told}: {' → '.join(_way_to(flow, gate.stage))}"
    guard = flow.stages[gate.after]
    if guard.when is not None:
        return f"{told}: {gate.after!r} may be skipped (`when`)"
    if guard.on_error == "continue":
        return f"{told}: the run goes on where {gate.after!r} fails (`on_error: continue`)"
    return None


def _way_to(flow: Flow, stage: str) -> list[str]:
    """Return a way that a run comes to a stage by."""
    way = [stage]
    while needs := flow.stages[way[-1]].needs:
        way.append(needs[0])
    return way[::-1]


def _circle(flow: Flow) -> list[str] | None:
    """Return a circle of stages that need each other, each before the one that needs it; None if there is none."""
    left = {name: [need for need in stage.needs if need in flow.stages] for name, stage in flow.stages.items()}
    while ready := [name for name, needed in left.items() if not any(one in left for one in needed)]:
        for name in ready:
            del left[name]
    if not left:
        return None
    way = [next(iter(left))]
    while True:
        way.append(next(need for need in left[way[-1]] if need in left))
        if way[-1] in way[:-1]:
            return way[way.index(way[-1]) :][::-1]
