"""What a picture of a flow shows: its stages as boxes, its ways as lines. Read off the Flow alone."""

from collections.abc import Iterator, Mapping

from graph.drawing import Drawing, Edge, Kind, Node
from graph.flow import Flow
from nodes.spec import END, UNKNOWN, Branch, Llm, Map, Stage, Way

_START = "start"
_END = "finish"
_FALLBACK = "fallback"
_ANYWHERE = "anywhere"
_LONGEST_NOTE = 60


def sketched(flow: Flow) -> Drawing:
    """Return what a picture of the flow shows."""
    keys = {name: f"stage{place}" for place, name in enumerate(flow.stages, start=1)}
    ids = flow.stage_ids()
    stages = [_stage(flow, keys[name], name, ids[name]) for name in _in_reading_order(flow)]
    nodes = [Node(_START, "start", "start"), *stages, Node(_END, "end", "end")]
    edges = [*_begun(flow, keys), *_ways(flow, {**keys, END: _END})]
    edges += [Edge(_END, _START, "next turn", True)] if flow.restarts else []
    if flow.fallback:
        nodes.append(Node(_FALLBACK, "fallback", "aside", rows=((UNKNOWN, _who(flow, flow.fallback)),)))
        edges += [Edge(keys[name], _FALLBACK, UNKNOWN, True) for name, stage in flow.stages.items() if stage.intents]
    if flow.anywhere:
        nodes.append(Node(_ANYWHERE, "anywhere", "aside", rows=tuple(flow.anywhere.items())))
        edges += [Edge(keys[name], _ANYWHERE, "", True) for name, stage in flow.stages.items() if stage.intents]
    return Drawing(f"{flow.flow}, version {flow.version}", _told(flow), tuple(nodes), tuple(edges))


def _told(flow: Flow) -> str:
    several = flow.waits_for == "caller" and len(flow.stages) > 1
    waits = "Each stage after the first begins with the caller's next turn." if several else ""
    return " ".join(part for part in (flow.about.strip(), waits) if part)


def _in_reading_order(flow: Flow) -> list[str]:
    """Return the stages so that each stands after those it needs, else in the file's order."""
    order: dict[str, None] = {}
    waiting = list(flow.stages)
    while waiting:
        left = set(waiting)
        free = [name for name in waiting if not left.intersection(flow.stages[name].needs)]
        order |= dict.fromkeys(free or waiting)
        waiting = [name for name in waiting if name not in order]
    return list(order)


def _begun(flow: Flow, keys: Mapping[str, str]) -> Iterator[Edge]:
    """Yield an edge to every stage at which a run begins."""
    if not flow.is_dag:
        yield Edge(_START, next(iter(keys.values())))
    else:
        yield from (Edge(_START, keys[name]) for name, stage in flow.stages.items() if not stage.needs)


def _ways(flow: Flow, keys: Mapping[str, str]) -> Iterator[Edge]:
    """Yield an edge for every way of the flow, those on which the stage was not answered dashed."""
    needed = {name for stage in flow.stages.values() for name in stage.needs}
    for (name, stage), following in zip(flow.stages.items(), [*list(flow.stages)[1:], END], strict=True):
        if stage.repeat:
            yield Edge(keys[name], keys[name], f"until {stage.repeat.until}, at most {stage.repeat.at_most}", True)
        yield from (Edge(keys[before], keys[name]) for before in stage.needs if before in keys)
        yield from (Edge(keys[name], keys[way.goto], _open_if(way)) for way in stage.next)
        if flow.is_dag:
            yield from [] if name in needed else [Edge(keys[name], keys[END])]
        elif all(way.when or way.at_most for way in stage.next):
            yield Edge(keys[name], keys[following], "else" if stage.next else "")
        yield from (
            Edge(keys[name], keys[way.goto], _joined("on error", _open_if(way)), True) for way in stage.detours
        )


def _open_if(way: Way) -> str:
    return _joined(way.when or "", f"at most {way.at_most}" if way.at_most else "")


def _joined(*parts: str) -> str:
    return ", ".join(filter(None, parts))


def _stage(flow: Flow, key: str, name: str, number: int) -> Node:
    stage = flow.stages[name]
    return Node(
        key,
        name,
        _kind(stage),
        number,
        stage.about,
        tuple(_rows(flow, stage)),
        tuple(_short(note) for note in _notes(stage)),
        stacked=stage.map is not None,
        inner=tuple(_branch(flow, key, place, *named) for place, named in enumerate(stage.parallel.items(), start=1)),
    )


def _branch(flow: Flow, stage: str, place: int, name: str, branch: Branch) -> Node:
    kind: Kind = "model" if branch.llm else "stage"
    return Node(f"{stage}_{place}", name, kind, rows=(("", _answering(flow, branch)),))


def _kind(stage: Stage) -> Kind:
    if stage.effect == "write":
        return "write"
    if stage.llm or (stage.map and stage.map.llm):
        return "model"
    return "person" if stage.ask else "stage"


def _rows(flow: Flow, stage: Stage) -> Iterator[tuple[str, str]]:
    yield from ((intent, _who(flow, agent)) for intent, agent in stage.intents.items())
    if stage.map:
        yield f"each of {_short(stage.map.over)}", _answering(flow, stage.map)
    elif stage.agent or stage.llm:
        yield "", _answering(flow, stage)
    elif stage.ask:
        yield f"“{_short(stage.ask.question)}”", "a person"


def _notes(stage: Stage) -> Iterator[str]:
    """Yield what no line of the picture shows."""
    if stage.when:
        yield f"skipped unless {stage.when}"
    if stage.parallel:
        yield f"all {len(stage.parallel)} at once"
    if stage.map:
        yield f"at most {stage.map.at_once} at once"
    if stage.on_error == "fail":
        yield "on error the run ends"
    if stage.on_error == "continue":
        yield "on error it goes on"


def _answering(flow: Flow, who: Stage | Branch | Map) -> str:
    return _who(flow, who.agent) if who.agent else _model(who.llm)


def _model(llm: Llm | None) -> str:
    return (llm and llm.model) or "the model"


def _who(flow: Flow, name: str) -> str:
    """Return an agent by name, with what stands in for it."""
    agent = flow.agents.get(name)
    if agent is None:
        return name
    attempts = f"{agent.attempts} attempts" if agent.attempts > 1 else ""
    return _joined(name, attempts, f"else {agent.fallback}" if agent.fallback else "")


def _short(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= _LONGEST_NOTE else f"{words[: _LONGEST_NOTE - 1]}…"
