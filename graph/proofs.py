"""What is proven over all paths of a flow before it may run: every stage can be reached and left, no loop goes on for
ever, no name is read before something may have written it, and every gate holds."""

import difflib
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise

from graph.flow import Flow
from graph.needs import before_each, open_gate
from graph.paths import Paths
from nodes.conditions import holes_in, names_in
from nodes.spec import ANSWER, END, INDEX, ITEM, KNOWN, Llm, Stage

Place = tuple[str | int, ...]
Found = Iterator[tuple[Place, str]]


def unproven(flow: Flow) -> Found:
    """Yield what does not hold of the flow, as (place in the document, what and remedy).

    Every stage that the flow names exists.
    """
    paths = Paths(flow)
    for rule in (_reached, _left, _bounded, _named, _gated):
        yield from rule(flow, paths)


def _reached(flow: Flow, paths: Paths) -> Found:
    reached = paths.reachable()
    entered = () if flow.is_dag else (paths.first, *flow.anywhere.values())
    for name in entered:
        if flow.stages[name].when is not None:
            yield (
                ("stages", name, "when"),
                f"stage {name!r} is entered at once, so it cannot be skipped; remove `when`",
            )
    for name in flow.stages:
        if name not in reached:
            yield ("stages", name), f"no way leads to stage {name!r}; lead one there with `next`, or remove it"


def _left(flow: Flow, paths: Paths) -> Found:
    before: dict[str, list[str]] = {}
    for steps in paths.steps.values():
        for step in steps:
            before.setdefault(step.target, []).append(step.source)
    ends, waiting = {END}, [END]
    while waiting:
        news = [name for name in before.get(waiting.pop(), ()) if name not in ends]
        ends.update(news)
        waiting += news
    for name in flow.stages:
        if name not in ends:
            yield ("stages", name, "next"), f"from stage {name!r} no way leads to the end; let one lead to `end`"


def _bounded(flow: Flow, paths: Paths) -> Found:
    if flow.is_dag:
        return
    if flow.waits_for == "caller":
        return  # whoever calls decides how often
    endless = _without_bound(flow)
    unbounded = (step for steps in paths.steps.values() for step in steps if (step.source, step.target) in endless)
    if circle := paths.around(unbounded):
        told = " → ".join(circle)
        yield ("stages", circle[-2], "next"), f"nothing ends the loop {told}; give one of its ways `at_most: N`"


def _without_bound(flow: Flow) -> set[tuple[str, str]]:
    """Return the steps that a run may take any number of times: by a way without `at_most`, or to the next stage."""
    steps = set()
    for name, following in pairwise([*flow.stages, END]):
        stage = flow.stages[name]
        steps |= {(name, way.goto) for way in (*stage.next, *stage.detours) if not way.at_most}
        if all(way.when is not None or way.at_most for way in stage.next):
            steps.add((name, following))
    return steps


def _named(flow: Flow, paths: Paths) -> Found:
    written = names_of(flow)
    before = _written_before(flow, paths)
    for place, name, text in _reads(flow):
        stage = str(place[1])
        own = {stage, *(wrote for _, wrote in outputs_of(flow.stages[stage]))}
        own = own if ANSWER in _readable(place) else set()
        if name not in written | KNOWN | _readable(place):
            yield place, f"{text!r} reads {name!r}, which nothing writes; {_remedy(name, written | KNOWN)}"
        elif name in written and name not in before.get(stage, set()) | own:
            yield place, f"{text!r} reads {name!r} before anything writes it; no stage before {stage!r} does"


def names_of(flow: Flow) -> frozenset[str]:
    """Return every name that a run may know something by: inputs, outputs, and stages by their answers."""
    outputs = (name for stage in flow.stages.values() for _, name in outputs_of(stage))
    return frozenset([*flow.inputs, *flow.stages, *outputs])


def reads_of(flow: Flow) -> frozenset[str]:
    """Return the names that any expression of the flow reads."""
    return frozenset(name for _, name, _ in _reads(flow))


def _written_before(flow: Flow, paths: Paths) -> Mapping[str, set[str]]:
    """Return what may have been written when a run comes to each stage."""
    writes = {name: {name, *(wrote for _, wrote in outputs_of(stage))} for name, stage in flow.stages.items()}
    if flow.is_dag:
        return {
            name: set(flow.inputs).union(*(writes[other] for other in before))
            for name, before in before_each(flow).items()
        }
    # Sets of names as bits of one number, in the order of the file: a flow may have a thousand stages.
    names = list(dict.fromkeys([*flow.inputs, *(name for wrote in writes.values() for name in wrote)]))
    bit: dict[str, int] = {name: 1 << place for place, name in enumerate(names)}
    before: dict[str, int] = {paths.first: sum(bit[name] for name in set(flow.inputs))}
    changed = True
    while changed:
        changed = False
        for name in [stage for stage in flow.stages if stage in before]:
            own = sum(bit[wrote] for wrote in writes[name])
            stage = flow.stages[name]
            # Of a failure the run keeps the answer, and what those say who did not fail.
            failed = 0 if stage.on_error is None else own if stage.branches else bit[name]
            if stage.repeat:
                before[name] |= own
            for step in paths.steps.get(name, ()):
                news = before.get(step.target, 0) | before[name] | (own if step.completes else failed)
                changed |= before.get(step.target) != news
                before[step.target] = news
    return {stage: {name for name in names if bit[name] & known} for stage, known in before.items()}


def _reads(flow: Flow) -> Iterator[tuple[Place, str, str]]:
    """Yield every name that an expression of the flow reads, with its place and the expression."""
    for name, stage in flow.stages.items():
        for place, text in expressions_of(stage):
            for read in sorted(names_in(text)):
                yield ("stages", name, *place), read, text


def expressions_of(stage: Stage) -> Iterator[tuple[Place, str]]:
    """Yield every expression of a stage with its place there."""
    if stage.when is not None:
        yield ("when",), stage.when
    for name, text in stage.input.items():
        yield (*(("map",) if stage.map else ()), "input", name), text
    for branch, one in stage.parallel.items():
        for name, text in one.input.items():
            yield ("parallel", branch, "input", name), text
    if stage.map:
        yield ("map", "over"), stage.map.over
    for place, llm in llms_of(stage):
        for text in llm.holes():
            yield (*place, "prompt"), text
    for text in holes_in(stage.ask.question) if stage.ask else ():
        yield ("ask", "question"), text
    for number, way in enumerate(stage.on_error if isinstance(stage.on_error, list) else ()):
        if way.when is not None:
            yield ("on_error", number, "when"), way.when
    if stage.repeat is not None:
        yield ("repeat", "until"), stage.repeat.until
    for number, way in enumerate(stage.next):
        if way.when is not None:
            yield ("next", number, "when"), way.when


def outputs_of(stage: Stage) -> Iterator[tuple[Place, str]]:
    """Yield every name that a stage writes, with its place there."""
    for field, name in stage.output.items():
        yield ("output", field), name
    for branch, one in stage.parallel.items():
        for field, name in one.output.items():
            yield ("parallel", branch, "output", field), name


def llms_of(stage: Stage) -> Iterator[tuple[Place, Llm]]:
    """Yield every question of a stage to a model, with its place there."""
    if stage.llm:
        yield ("llm",), stage.llm
    if stage.map and stage.map.llm:
        yield ("map", "llm"), stage.map.llm
    for branch, one in stage.parallel.items():
        if one.llm:
            yield ("parallel", branch, "llm"), one.llm


def _readable(place: Place) -> set[str]:
    """Return what only some expressions may read: the answer, once there is one, and the item at hand."""
    if place[2] in ("next", "repeat", "on_error"):
        return {ANSWER}
    return {ITEM, INDEX} if place[2] == "map" and place[3] != "over" else set()


def _gated(flow: Flow, paths: Paths) -> Found:
    for number, gate in enumerate(flow.gates):
        if flow.is_dag:
            if wrong := open_gate(flow, gate):
                yield ("gates", number), wrong
            continue
        answered = {step for step in paths.steps[gate.after] if step.completes}
        way = paths.path_to(gate.stage, but=answered)
        if way is not None:
            told = " → ".join(way)
            yield ("gates", number), f"stage {gate.stage!r} can be reached before {gate.after!r} was answered: {told}"


def _remedy(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, sorted(known), n=1)
    written = "write it with `output`, name it under `inputs`, or quote it if it is a text"
    return f"did you mean {close[0]!r}?" if close else written
