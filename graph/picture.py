"""Paints a drawing as a PNG: measures what each box says, has them arranged, and draws boxes, lines and words."""

from collections.abc import Mapping, Sequence

from graph.canvas import Canvas, Style, text_width, wrapped
from graph.drawing import BADGES, Drawing, Edge, Kind, Node
from graph.layers import Box, Layout, Link, Point, Size, arrange

_INK, _SOFT, _PALE = "#0f172a", "#475569", "#cbd5e1"
_MARKED: dict[Kind, str] = {"write": "#c2410c", "model": "#6d28d9", "person": "#15803d"}
"""The colours of the kinds that have a badge."""
_STYLES: dict[Kind, Style] = {
    "start": Style(fill=_INK, edge=_INK, round=17),
    "end": Style(fill=_INK, edge=_INK, round=17),
    "stage": Style(fill="#ffffff", edge="#94a3b8"),
    "write": Style(fill="#fff7ed", edge=_MARKED["write"], line=2.5),
    "model": Style(fill="#f5f3ff", edge=_MARKED["model"]),
    "person": Style(fill="#f0fdf4", edge=_MARKED["person"]),
    "aside": Style(fill="#f1f5f9", edge="#94a3b8", dashed=True),
}
_HEADING, _WORDS, _SMALL = 17.0, 13.0, 12.0
_MARGIN, _PAD, _ROW, _LINE = 32.0, 16.0, 21.0, 17.0
_BADGE_HEIGHT = 20.0
_NUMBER = 24.0
_COLUMN = 44.0
"""Space between what may come and who answers it."""
_NARROWEST, _ABOUT_WIDTH = 220.0, 300.0
_ASIDE = 96.0
"""Space between the layers and what stands beside them."""
_LABEL, _LABEL_LINES, _LABEL_WIDTH = 48, 3, 230.0
"""How many letters a line of an edge's label has at most, how many lines, and where they are broken."""
_STACK = 6.0
"""How far the boxes of a stack stand out behind one another."""
_FORK = 22.0
"""Space above and below branches, for the lines that lead to them and from them."""
_CARDS_IN_A_ROW = 5


def paint(drawing: Drawing) -> bytes:
    """Return the drawing as a PNG at twice the usual resolution."""
    asides = {node.key: node for node in drawing.nodes if node.kind == "aside"}
    along = [edge for edge in drawing.edges if edge.target not in asides]
    across = [edge for edge in drawing.edges if edge.target in asides]
    sizes = {node.key: _size(node) for node in drawing.nodes if node.key not in asides}
    layout = arrange(sizes, [Link(edge.source, edge.target, _label_size(edge)) for edge in along])
    beside = _beside(layout, list(asides.values()), across)
    canvas = Canvas(_MARGIN)
    routes = [*layout.routes, *(_sideways(layout.boxes, edge.source, beside[edge.target].left) for edge in across)]
    for edge, route in zip([*along, *across], routes, strict=True):
        canvas.arrow(route, _SOFT, dashed=edge.dashed)
    for edge, label in zip(along, layout.labels, strict=True):
        _write_label(canvas, edge, label)
    for edge, route in zip(across, routes[len(along) :], strict=True):
        _write_label(canvas, edge, Box(layout.right + _ASIDE / 2, route[-1][1], *(_label_size(edge) or (0, 0))))
    boxes = {**layout.boxes, **beside}
    for node in drawing.nodes:
        _node(canvas, node, boxes[node.key])
    _header(canvas, drawing)
    return canvas.png()


def _size(node: Node) -> Size:
    if node.kind in ("start", "end"):
        return text_width(node.title, _WORDS) + 44, 34
    what, who = _columns(node)
    heading = text_width(node.title, _HEADING) + (_number_width(node) + 10 if node.number is not None else 0)
    badge = text_width(BADGES[node.kind], _SMALL) + 36 if _badge_on(node) else 0
    least = _NARROWEST if node.number is not None else 0.0
    across, down = _cards_size(node)
    lines = max((text_width(line, _SMALL) for line in [*_about(node), *node.notes]), default=0.0)
    width = max(least, heading + badge, what + _COLUMN + who if node.rows else 0, across, lines)
    deep = 2 * _STACK if node.stacked else 0.0
    return width + 2 * _PAD + deep, _rows_top(node) + _below(node) + down + _PAD - 4 + deep


def _below(node: Node) -> float:
    """Return how much room a box's rows and notes take."""
    return _ROW * len(node.rows) + _LINE * len(node.notes) + (4 if node.rows and node.notes else 0)


def _badge_on(node: Node) -> bool:
    return node.kind in BADGES and node.number is not None


def _about(node: Node) -> list[str]:
    return wrapped(node.about, _SMALL, _ABOUT_WIDTH)


def _rows_of_cards(node: Node) -> list[list[tuple[Node, Size]]]:
    """Return the branches as they stand, row by row, each as large as the largest."""
    sizes = [_size(branch) for branch in node.inner]
    largest = max((width for width, _ in sizes), default=0.0), max((height for _, height in sizes), default=0.0)
    cards = [(branch, largest) for branch in node.inner]
    return [cards[start : start + _CARDS_IN_A_ROW] for start in range(0, len(cards), _CARDS_IN_A_ROW)]


def _cards_size(node: Node) -> Size:
    """Return the room that branches take, fork and join included."""
    rows = _rows_of_cards(node)
    if not rows:
        return 0.0, 0.0
    width, height = rows[0][0][1]
    return len(rows[0]) * (width + _PAD) - _PAD, len(rows) * (height + _PAD) - _PAD + 2 * _FORK


def _number_width(node: Node) -> float:
    return max(_NUMBER, text_width(str(node.number), _WORDS) + 14)


def _columns(node: Node) -> Size:
    """Return the widths of what may come and of who answers it."""
    what = max((text_width(what, _WORDS) for what, _ in node.rows), default=0.0)
    return what, max((text_width(who, _WORDS) for _, who in node.rows), default=0.0)


def _rows_top(node: Node) -> float:
    return _PAD + _NUMBER + 4 + _LINE * len(_about(node)) + 14


def _label(edge: Edge) -> list[str]:
    lines = wrapped(edge.label, _SMALL, _LABEL_WIDTH)
    shown = lines[:_LABEL_LINES]
    if len(lines) > len(shown):
        shown[-1] += "…"
    return [line if len(line) <= _LABEL else f"{line[: _LABEL - 1]}…" for line in shown]


def _label_size(edge: Edge) -> Size | None:
    lines = _label(edge)
    return (max(text_width(line, _SMALL) for line in lines) + 12, _LINE * len(lines) + 1) if lines else None


def _beside(layout: Layout, asides: Sequence[Node], edges: Sequence[Edge]) -> dict[str, Box]:
    """Stand the nodes that belong to no layer at the right, each as tall as the lines that reach it need."""
    left = layout.right + _ASIDE
    boxes = {}
    for node in asides:
        width, height = _size(node)
        levels = [_sideways(layout.boxes, edge.source, left)[-1][1] for edge in edges if edge.target == node.key]
        top, bottom = min(levels, default=0.0), max(levels, default=0.0)
        boxes[node.key] = Box(left + width / 2, (top + bottom) / 2, width, max(height, bottom - top + 2 * _ROW))
        left += width + _COLUMN
    return boxes


def _sideways(boxes: Mapping[str, Box], source: str, target: float) -> list[Point]:
    """Lead a line to the right; boxes of the same layer that stand in its way share one line below them."""
    box = boxes[source]
    layer = [other for other in boxes.values() if abs(other.y - box.y) < 1]
    if box.right == max(other.right for other in layer):
        return [(box.right, box.y), (target, box.y)]
    start, below = box.right - _PAD, max(other.bottom for other in layer) + 14
    return [(start, box.bottom), (start, below), (target, below)]


def _write_label(canvas: Canvas, edge: Edge, place: Box | None) -> None:
    lines = _label(edge)
    if not lines or not place:
        return
    canvas.box(place, Style(fill="#ffffff", edge="#ffffff", round=4))
    for number, line in enumerate(lines):
        middle = place.y + _LINE * (number - (len(lines) - 1) / 2)
        canvas.words(line, _SMALL, _SOFT, (place.x, middle), "mm")


def _node(canvas: Canvas, node: Node, box: Box) -> None:
    box = _painted(canvas, node, box)
    if node.kind in ("start", "end"):
        canvas.words(node.title, _WORDS, "#ffffff", (box.x, box.y), "mm")
        return
    left, top = box.left + _PAD, max(box.top, box.y - _size(node)[1] / 2)
    _heading(canvas, node, box, top + _PAD + _NUMBER / 2)
    for place, line in enumerate(_about(node)):
        canvas.words(line, _SMALL, _SOFT, (left, top + _PAD + _NUMBER + 6 + _LINE * (place + 0.5)), "lm")
    first = top + _rows_top(node)
    canvas.rule((left, first - 5), (box.right - _PAD, first - 5), _PALE)
    for place, row in enumerate(node.rows):
        _row(canvas, node, row, (left, first + 2 + _ROW * (place + 0.5)))
    lowest = first + _below(node)
    for place, note in enumerate(reversed(node.notes)):
        canvas.words(note, _SMALL, _SOFT, (left, lowest - _LINE * (place + 0.5)), "lm")
    _cards(canvas, node, box.x, lowest)


def _painted(canvas: Canvas, node: Node, place: Box) -> Box:
    """Paint a node's box, or boxes behind one another, in its place; return the box that is written on."""
    style = _STYLES[node.kind]
    deep = 2 * _STACK if node.stacked else 0.0
    box = Box(place.x - deep / 2, place.y + deep / 2, place.width - deep, place.height - deep)
    for back in (2, 1) if node.stacked else ():
        canvas.box(Box(box.x + back * _STACK, box.y - back * _STACK, box.width, box.height), style)
    canvas.box(box, style)
    return box


def _cards(canvas: Canvas, node: Node, middle: float, top: float) -> None:
    """Paint the branches below `top`, where they fit in one row between lines that fork to them and join them."""
    rows = _rows_of_cards(node)
    for number, cards in enumerate(rows):
        width, height = cards[0][1]
        left = middle - (len(cards) * (width + _PAD) - _PAD) / 2
        upper = top + _FORK + number * (height + _PAD)
        boxes = [
            Box(left + place * (width + _PAD) + width / 2, upper + height / 2, width, height)
            for place in range(len(cards))
        ]
        if len(rows) == 1:
            _fork_and_join(canvas, boxes)
        for (branch, _), box in zip(cards, boxes, strict=True):
            _node(canvas, branch, box)


def _fork_and_join(canvas: Canvas, boxes: Sequence[Box]) -> None:
    above, below = boxes[0].top - _FORK + 6, boxes[0].bottom + _FORK - 8
    for level in (above, below):
        canvas.rule((boxes[0].x, level), (boxes[-1].x, level), _SOFT)
    for box in boxes:
        canvas.arrow([(box.x, above), (box.x, box.top)], _SOFT, head=6)
        canvas.rule((box.x, box.bottom), (box.x, below), _SOFT)


def _heading(canvas: Canvas, node: Node, box: Box, middle: float) -> None:
    left = box.left + _PAD
    colour = _MARKED.get(node.kind, _INK)
    if node.number is not None:
        width = _number_width(node)
        canvas.box(Box(left + width / 2, middle, width, _NUMBER), Style(fill=colour, edge=colour, round=_NUMBER / 2))
        canvas.words(str(node.number), _WORDS, "#ffffff", (left + width / 2, middle), "mm")
        left += width + 10
    canvas.words(node.title, _HEADING, _INK, (left, middle), "lm")
    if _badge_on(node):
        width = text_width(BADGES[node.kind], _SMALL) + 16
        badge = Box(box.right - _PAD - width / 2, middle, width, _BADGE_HEIGHT)
        canvas.box(badge, Style(fill=colour, edge=colour, round=_BADGE_HEIGHT / 2))
        canvas.words(BADGES[node.kind], _SMALL, "#ffffff", (badge.x, badge.y), "mm")


def _row(canvas: Canvas, node: Node, row: tuple[str, str], at: Point) -> None:
    what, who = row
    column = _columns(node)[0]
    start = at[0] + (column + 12 if column else 0)
    canvas.words(what, _WORDS, _INK, at, "lm")
    canvas.arrow([(start, at[1]), (start + 20, at[1])], "#94a3b8", head=5)
    canvas.words(who, _WORDS, _SOFT, (start + 32, at[1]), "lm")


def _header(canvas: Canvas, drawing: Drawing) -> None:
    left, top, right, _ = canvas.extent
    about = wrapped(drawing.about, _WORDS, max(_ABOUT_WIDTH, right - left))
    top -= 28 + _LINE * len(about) + 14
    canvas.words(drawing.title, 20, _INK, (left, top), "lm")
    for place, line in enumerate(about):
        canvas.words(line, _WORDS, _SOFT, (left, top + 26 + _LINE * place), "lm")
