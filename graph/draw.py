"""Draws a flow, from the Flow alone: as Mermaid text, and as a PNG that needs neither network nor system packages.

Flow ──`graph.sketch`──► Drawing ─┬─► Mermaid text
                                  └─► `graph.picture` ──► PNG
"""

from collections.abc import Iterator

from graph.drawing import BADGES, Drawing, Edge, Kind, Node
from graph.flow import Flow
from graph.sketch import sketched

_ESCAPED = {ord(sign): f"#{name};" for sign, name in {"&": "amp", "<": "lt", ">": "gt", '"': "quot"}.items()}
_ESCAPED |= {ord(sign): f"#{ord(sign)};" for sign in "#`%"}
_ESCAPED |= {ord(sign): f"#{ord(sign)};#8203;" for sign in "$\\"}
"""Mermaid reads `$$` and `\\n` even where they are escaped; a space without width keeps them apart."""
_STYLES = {
    "start,finish": "fill:#0f172a,color:#ffffff,stroke:#0f172a",
    "stage": "fill:#ffffff,color:#0f172a,stroke:#64748b",
    "write": "fill:#fff7ed,color:#0f172a,stroke:#c2410c,stroke-width:3px",
    "model": "fill:#f5f3ff,color:#0f172a,stroke:#6d28d9",
    "person": "fill:#f0fdf4,color:#0f172a,stroke:#15803d",
    "joint": "fill:#64748b,color:#64748b,stroke:#64748b",
    "aside": "fill:#f1f5f9,color:#0f172a,stroke:#64748b,stroke-dasharray:4",
}
_SHAPES: dict[Kind, tuple[str, str]] = {
    **dict.fromkeys(("start", "end"), ("([", "])")),
    "model": ("{{", "}}"),
    "person": ("[/", "/]"),
}


class DrawError(Exception):
    """A picture that cannot be painted here."""


def mermaid(flow: Flow) -> str:
    """Return the flow as a Mermaid flowchart, ready for a Markdown file."""
    drawing = sketched(flow)
    lines = [
        f"%% {drawing.title}",
        "flowchart TD",
        *(line for node in drawing.nodes for line in _node(node)),
        *(f"    {edge.source} {_arrow(edge)} {edge.target}" for edge in drawing.edges),
        *_styles(drawing),
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
    return paint(sketched(flow))


def _node(node: Node) -> Iterator[str]:
    if not node.inner:
        yield f"    {node.key}{_box(node)}:::{_style(node)}"
        return
    branches = " & ".join(branch.key for branch in node.inner)
    yield f'    subgraph {node.key}["{_words(node)}"]'
    yield from (f"        {branch.key}{_box(branch)}:::{_style(branch)}" for branch in node.inner)
    yield f'        {node.key}fork((" ")):::joint --> {branches}'
    yield f'        {branches} --> {node.key}join((" ")):::joint'
    yield "    end"
    yield f"    class {node.key} {_style(node)}"


def _box(node: Node) -> str:
    opens, closes = ("[[", "]]") if node.stacked else _SHAPES.get(node.kind, ("[", "]"))
    return f'{opens}"{_words(node)}"{closes}'


def _words(node: Node) -> str:
    if node.kind in ("start", "end"):
        return _escaped(node.title)
    lines = [f"<b>{_escaped(_heading(node))}</b>"]
    lines += [f"<i>{_escaped(node.about)}</i>"] if node.about else []
    lines += [BADGES["write"]] if node.kind == "write" else []
    lines += [_escaped(f"{what} → {who}" if what else f"→ {who}") for what, who in node.rows]
    return "<br/>".join([*lines, *map(_escaped, node.notes)])


def _heading(node: Node) -> str:
    return node.title if node.number is None else f"{node.number} {node.title}"


def _style(node: Node) -> str:
    return node.key if node.kind in ("start", "end") else node.kind


def _styles(drawing: Drawing) -> Iterator[str]:
    """Yield the styles that every picture of ours has, and those of the kinds that are in this one."""
    every = [*drawing.nodes, *(branch for node in drawing.nodes for branch in node.inner)]
    here = {"start,finish", "stage", "write", "aside", *(node.kind for node in every)}
    here |= {"joint"} if any(node.inner for node in every) else set()
    return (f"    classDef {name} {style}" for name, style in _STYLES.items() if name in here)


def _arrow(edge: Edge) -> str:
    label = f'|"{_escaped(edge.label)}"|' if edge.label else ""
    return f"{'-.->' if edge.dashed else '-->'}{label}"


def _escaped(text: str) -> str:
    """Return text that Mermaid shows as it is: no markup, entity, formula or directive, in one line."""
    return " ".join(text.split()).translate(_ESCAPED)
