"""Places boxes in layers and routes the lines between them, by the Sugiyama layout of `grandalf`.

Sizes go in, coordinates come out; nothing here knows what a box says or how it is painted.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from grandalf.graphs import Edge as _Line
from grandalf.graphs import Graph, Vertex
from grandalf.layouts import SugiyamaLayout

Point = tuple[float, float]
Size = tuple[float, float]

BESIDE = 36.0
"""Space between boxes of one layer."""
BETWEEN = 44.0
"""Space between layers, where lines may bend."""
_PORT = 28.0
_LINE_WIDTH = 28.0
_LOOP = 44.0
_STEPS = 24


@dataclass(frozen=True, slots=True)
class Link:
    """A line to be routed, with the size of its label."""

    source: str
    target: str
    label: Size | None = None


@dataclass(frozen=True, slots=True)
class Box:
    """Where a box stands: its centre and its size."""

    x: float
    y: float
    width: float
    height: float

    @property
    def left(self) -> float:
        return self.x - self.width / 2

    @property
    def right(self) -> float:
        return self.x + self.width / 2

    @property
    def top(self) -> float:
        return self.y - self.height / 2

    @property
    def bottom(self) -> float:
        return self.y + self.height / 2


@dataclass(frozen=True, slots=True)
class Layout:
    """Boxes by name; for each link the points that it passes, and where its label stands."""

    boxes: Mapping[str, Box]
    routes: Sequence[Sequence[Point]]
    labels: Sequence[Box | None]

    @property
    def right(self) -> float:
        """Where everything ends at the right."""
        boxes = [*self.boxes.values(), *filter(None, self.labels)]
        return max([*(box.right for box in boxes), *(x for route in self.routes for x, _ in route)], default=0.0)


@dataclass(slots=True)
class _View:
    """What grandalf writes a place into."""

    w: float
    h: float
    xy: Point = (0.0, 0.0)


@dataclass(slots=True)
class _Route:
    """What grandalf writes a line into."""

    path: list[Point] = field(default_factory=list)

    def setpath(self, path: list[Point]) -> None:
        self.path = path


def arrange(sizes: Mapping[str, Size], links: Sequence[Link]) -> Layout:
    """Lay the boxes out from top to bottom.

    Args:
        sizes: the boxes in reading order; a link against that order is routed upwards.
        links: the lines; both ends are boxes.
    """
    order = {name: place for place, name in enumerate(sizes)}
    vertices = {name: _vertex(_with_loops(name, size, links)) for name, size in sizes.items()}
    lines: dict[tuple[Any, Any], Any] = {}
    passes = [_passes(vertices, lines, link, order) for link in links]
    keepers = [keeper for _, keeper in passes if keeper]
    layers = _placed([*vertices.values(), *keepers], list(lines.values()))
    boxes = {name: _box(vertex, sizes[name]) for name, vertex in vertices.items()}
    ways = [[point for line in through for point in line.view.path[1:]][:-1] for through, _ in passes]
    routes = _routes(boxes, links, order, [_straightened(way, layers) for way in ways])
    beside = _beside_loops(boxes, links)
    labels = [
        beside.get(index) or _label(link, keeper)
        for index, (link, (_, keeper)) in enumerate(zip(links, passes, strict=True))
    ]
    return Layout(boxes, routes, labels)


def _box(vertex: Any, size: Size) -> Box:
    x, y = vertex.view.xy
    return Box(x, y, *size)


def _with_loops(name: str, size: Size, links: Sequence[Link]) -> Size:
    """Return the size of a box with the room that its lines to itself need, on both sides to keep it centred."""
    loops = [link.label or (0.0, 0.0) for link in links if link.source == link.target == name]
    if not loops:
        return size
    return size[0] + 2 * (_LOOP + max(width for width, _ in loops)), max(size[1], sum(height for _, height in loops))


def _beside_loops(boxes: Mapping[str, Box], links: Sequence[Link]) -> dict[int, Box]:
    """Stand the labels of a box's lines to itself at its right, one below the other; by the index of the link."""
    places: dict[int, Box] = {}
    for name, box in boxes.items():
        loops = [(index, link.label) for index, link in enumerate(links) if link.source == link.target == name]
        labels = [(index, label) for index, label in loops if label]
        top = box.y - sum(height for _, (_, height) in labels) / 2
        for index, (width, height) in labels:
            places[index] = Box(box.right + _LOOP + width / 2, top + height / 2, width, height)
            top += height
    return places


def _label(link: Link, keeper: Any) -> Box | None:
    return _box(keeper, link.label) if link.label and keeper else None


def _vertex(size: Size) -> Any:
    vertex = Vertex()
    vertex.view = _View(*size)
    return vertex


def _passes(
    vertices: Mapping[str, Any], lines: dict[tuple[Any, Any], Any], link: Link, order: Mapping[str, int]
) -> tuple[list[Any], Any]:
    """Return the lines that a link runs along, downwards, and the vertex that keeps its label's place free."""
    if link.source == link.target:
        return [], None
    upper, lower = sorted((link.source, link.target), key=lambda name: order[name])
    if link.label is None:
        return [_line(lines, vertices[upper], vertices[lower])], None
    label = _vertex(link.label)
    return [_line(lines, vertices[upper], label), _line(lines, label, vertices[lower])], label


def _line(lines: dict[tuple[Any, Any], Any], upper: Any, lower: Any) -> Any:
    if (upper, lower) not in lines:
        lines[upper, lower] = _Line(upper, lower)
        lines[upper, lower].view = _Route()
    return lines[upper, lower]


def _placed(vertices: list[Any], lines: list[Any]) -> list[tuple[float, float]]:
    """Give every vertex and line its place; unconnected parts stand side by side. Return the layers."""
    heights: dict[int, float] = defaultdict(float)
    parts = [_ranked(part) for part in Graph(vertices, lines).C]
    for part in parts:
        for rank, layer in enumerate(part.layers):
            heights[rank] = max(heights[rank], *(vertex.view.h for vertex in layer))
    tops = [sum(heights[above] + BETWEEN for above in range(rank)) for rank in sorted(heights)]
    layers = [(top, top + heights[rank]) for rank, top in enumerate(tops)]
    left = 0.0
    for part in parts:
        left = _set(part, left, layers) + BESIDE
    return layers


def _ranked(part: Any) -> Any:
    layout = SugiyamaLayout(part)
    layout.xspace, layout.yspace = BESIDE, BETWEEN
    layout.dw, layout.dh = _LINE_WIDTH, 1.0
    layout.init_all(inverted_edges=[])
    layout.draw(3)
    return layout


def _set(part: Any, left: float, layers: Sequence[tuple[float, float]]) -> float:
    """Move a part to the right of `left` and into the layers; return where it ends."""
    everything = [(rank, vertex.view) for rank, layer in enumerate(part.layers) for vertex in layer]
    shift = left - min(view.xy[0] - view.w / 2 for _, view in everything)
    for rank, view in everything:
        view.xy = (view.xy[0] + shift, sum(layers[rank]) / 2)
    part.draw_edges()
    return max(float(view.xy[0] + view.w / 2) for _, view in everything)


def _straightened(way: Iterable[Point], layers: Sequence[tuple[float, float]]) -> list[Point]:
    """Let a line cross each layer straight, so that it bends only between layers and never over a box."""
    return [(x, y) for x, middle in way for y in next(layer for layer in layers if layer[0] <= middle <= layer[1])]


def _routes(
    boxes: Mapping[str, Box], links: Sequence[Link], order: Mapping[str, int], ways: Sequence[list[Point]]
) -> list[list[Point]]:
    """Tie the lines to their boxes, side by side in the order in which they leave."""
    ends = list(_ends(boxes, links, order, ways))
    ports: dict[tuple[int, bool], Point] = {}
    for name, box in boxes.items():
        for leaves in (True, False):
            mine = sorted((towards, index) for index, at, below, towards in ends if (at, below) == (name, leaves))
            step = min(_PORT, box.width / (len(mine) + 1))
            for place, (_, index) in enumerate(mine):
                x = box.x + (place - (len(mine) - 1) / 2) * step
                ports[index, leaves] = (x, box.bottom if leaves else box.top)
    return [_route(boxes, link, order, ports, index, ways[index]) for index, link in enumerate(links)]


def _ends(
    boxes: Mapping[str, Box], links: Sequence[Link], order: Mapping[str, int], ways: Sequence[list[Point]]
) -> Iterator[tuple[int, str, bool, float]]:
    """Yield for each end of a link: its index, its box, whether it is the box's lower side, and where it heads."""
    for index, link in enumerate(links):
        if link.source == link.target:
            continue
        upper, lower = sorted((link.source, link.target), key=lambda name: order[name])
        way = ways[index]
        yield index, upper, True, way[0][0] if way else boxes[lower].x
        yield index, lower, False, way[-1][0] if way else boxes[upper].x


def _route(
    boxes: Mapping[str, Box],
    link: Link,
    order: Mapping[str, int],
    ports: Mapping[tuple[int, bool], Point],
    index: int,
    way: list[Point],
) -> list[Point]:
    if link.source == link.target:
        return _loop(boxes[link.source])
    points = [ports[index, True], *way, ports[index, False]]
    down = [point for start, end in zip(points[::2], points[1::2], strict=True) for point in _bend(start, end)]
    return down if order[link.source] < order[link.target] else down[::-1]


def _bend(start: Point, end: Point) -> list[Point]:
    """A curve that leaves and arrives upright; a straight line where it can be one."""
    if abs(start[0] - end[0]) < 0.5:
        return [start, end]
    middle = (start[1] + end[1]) / 2
    return _curve(start, (start[0], middle), (end[0], middle), end)


def _loop(box: Box) -> list[Point]:
    """A line from a box's right side to itself."""
    start, end = (box.right, box.y + box.height / 4), (box.right, box.y - box.height / 4)
    return _curve(start, (box.right + _LOOP, start[1]), (box.right + _LOOP, end[1]), end)


def _curve(start: Point, leave: Point, arrive: Point, end: Point) -> list[Point]:
    """A cubic Bézier curve."""
    return [_weighted((start, leave, arrive, end), step / _STEPS) for step in range(_STEPS + 1)]


def _weighted(points: tuple[Point, Point, Point, Point], at: float) -> Point:
    weights = ((1 - at) ** 3, 3 * at * (1 - at) ** 2, 3 * at**2 * (1 - at), at**3)
    return (
        sum(weight * x for weight, (x, _) in zip(weights, points, strict=True)),
        sum(weight * y for weight, (_, y) in zip(weights, points, strict=True)),
    )
