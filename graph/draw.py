"""Draws a flow, from the Flow alone: as Mermaid text, and as a PNG that needs neither network nor system packages.

Flow ──drawing_of──► Drawing ─┬─► Mermaid text
                              └─► `graph.picture` ──► PNG
"""

from collections.abc import Iterator, Mapping

from graph.drawing import Drawing, Edge, Kind, Node
from graph.flow import Flow
from nodes.spec import END, UNKNOWN, Stage

_START = "start"
_END = "finish"
_FALLBACK = "fallback"
_ANYWHERE = "anywhere"
_ESCAPED = {ord(sign): f"#{name};" for sign, name in {"&": "amp", "<": "lt", ">": "gt", '"': "quot"}.items()}
_ESCAPED |= {ord(sign): f"#{ord(sign)};" for sign in "#`%"}
_ESCAPED |= {ord(sign): f"#{ord(sign)};#8203;" for sign in "$\\"}
"""Mermaid reads `$$` and `\\n` even where they are escaped; a space without width keeps them apart."""
_STYLES = """\
    classDef start,finish fill:#0f172a,color:#ffffff,stroke:#0f172a
    classDef stage fill:#ffffff,color:#0f172a,stroke:#64748b
    classDef write fill:#fff7ed,color:#0f172a,stroke:#c2410c,stroke-width:3px
    classDef aside fill:#f1f5f9,color:#0f172a,stroke:#64748b,stroke-dasharray:4"""


class DrawError(Exception):
    """A picture that cannot be painted here."""


def mermaid(flow: Flow) -> str:
    """Return the flow as a Mermaid flowchart, ready for a Markdown file."""
    drawing = drawing_of(flow)
    lines = [
        f"%% {drawing.title}",
        "flowchart TD",
        *(f"    {node.key}{_box(node)}:::{_style(node)}" for node in drawing.nodes),
        *(f"    {edge.source} {_arrow(edge)} {edge.target}" for edge in drawing.edges),
        _STYLES,
    ]
    return "\n".join(lines) + "\n"


def png(flow: Flow) -> bytes:
    """Return the flow as a PNG, at twice the usual resolution.

    Raises:
        DrawError: if the packages that paint are not installed.
    """
    try:
        from graph.picture import paint
    except ModuleNotFoundError as error:
        remedy = "pip install pillow grandalf"
        raise DrawError(f"a PNG needs the package {error.name!r}; {remedy}, or draw Mermaid text instead") from error
    return paint(drawing_of(flow))


def drawing_of(flow: Flow) -> Drawing:
    """Return what a picture of the flow shows."""
    keys = {name: f"stage{place}" for place, name in enumerate(flow.stages, start=1)}
    ids = flow.stage_ids()
    stages = [_stage_node(keys[name], name, ids[name], stage) for name, stage in flow.stages.items()]
    edges = [Edge(_START, next(iter(keys.values()))), *_ways(flow, {**keys, END: _END})]
    edges += [Edge(_END, _START, "next turn", True)] if flow.restarts else []
    nodes = [Node(_START, "start", "start"), *stages, Node(_END, "end", "end")]
    if flow.fallback:
        nodes.append(Node(_FALLBACK, "fallback", "aside", None, "", ((UNKNOWN, flow.fallback),)))
        edges += [Edge(keys[name], _FALLBACK, UNKNOWN, True) for name, stage in flow.stages.items() if stage.intents]
    if flow.anywhere:
        nodes.append(Node(_ANYWHERE, "anywhere", "aside", None, "", tuple(flow.anywhere.items())))
        edges += [Edge(keys[name], _ANYWHERE, "", True) for name, stage in flow.stages.items() if stage.intents]
    return Drawing(f"{flow.flow}, version {flow.version}", _told(flow), tuple(nodes), tuple(edges))


def _ways(flow: Flow, keys: Mapping[str, str]) -> Iterator[Edge]:
    """Yield an edge for every way of the flow, those on which the stage was not answered dashed."""
    for (name, stage), following in zip(flow.stages.items(), [*list(flow.stages)[1:], END], strict=True):
        if stage.repeat:
            yield Edge(keys[name], keys[name], f"until {stage.repeat.until}, at most {stage.repeat.at_most}", True)
        for way in stage.next:
            bound = f"at most {way.at_most}" if way.at_most else ""
            yield Edge(keys[name], keys[way.goto], ", ".join(filter(None, (way.when, bound))))
        if all(way.when or way.at_most for way in stage.next):
            yield Edge(keys[name], keys[following], "else" if stage.next else "")
        if stage.detour:
            yield Edge(keys[name], keys[stage.detour], "on error", True)


def _told(flow: Flow) -> str:
    several = flow.waits_for == "caller" and len(flow.stages) > 1
    waits = "Each stage after the first begins with the caller's next turn." if several else ""
    return " ".join(part for part in (flow.about.strip(), waits) if part)


def _stage_node(key: str, name: str, number: int, stage: Stage) -> Node:
    kind: Kind = "write" if stage.effect == "write" else "stage"
    rows = tuple(stage.intents.items()) or (("", stage.agent or ""),)
    return Node(key, name, kind, number, stage.about, rows)


def _box(node: Node) -> str:
    if node.kind in ("start", "end"):
        return f'(["{_escaped(node.title)}"])'
    lines = [f"<b>{_escaped(_heading(node))}</b>"]
    lines += [f"<i>{_escaped(node.about)}</i>"] if node.about else []
    lines += ["effect: write"] if node.kind == "write" else []
    lines += [_escaped(f"{what} → {who}" if what else f"→ {who}") for what, who in node.rows]
    return f'["{"<br/>".join(lines)}"]'


def _heading(node: Node) -> str:
    return node.title if node.number is None else f"{node.number} {node.title}"


def _style(node: Node) -> str:
    return node.key if node.kind in ("start", "end") else node.kind


def _arrow(edge: Edge) -> str:
    label = f'|"{_escaped(edge.label)}"|' if edge.label else ""
    return f"{'-.->' if edge.dashed else '-->'}{label}"


def _escaped(text: str) -> str:
    """Return text that Mermaid shows as it is: no markup, entity, formula or directive, in one line."""
    return " ".join(text.split()).translate(_ESCAPED)
