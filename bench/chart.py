"""Draws latency against load as SVG: a line for each contestant and percentile, a dot for each number in flight.

Pure text from plain values: the same figures give the same picture.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 760, 440
LEFT, RIGHT, TOP, BOTTOM = 72, 24, 78, 54
TICKS = (0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
STEPS = (50, 100, 200, 250, 500, 1000, 2000, 5000)
MOST_STEPS = 8
COLOURS = ("ours", "peer")

# The picture brings its own background: GitHub's theme need not be that of the reader's system.
STYLE = """\
.back { fill: #ffffff; stroke: #d0d7de }
text { font: 12px -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; fill: #57606a }
.title { font-size: 15px; font-weight: 600; fill: #24292f }
.grid { stroke: #d0d7de; stroke-width: 1 }
.line { fill: none; stroke-width: 2 }
.p99 { stroke-dasharray: 5 4 }
.ours { stroke: #0969da } .dot.ours, .mark.ours { fill: #0969da }
.peer { stroke: #bc4c00 } .dot.peer, .mark.peer { fill: #bc4c00 }
.mark { font-size: 11px; font-weight: 600; paint-order: stroke; stroke: #ffffff; stroke-width: 3px }
@media (prefers-color-scheme: dark) {
  .back { fill: #0d1117; stroke: #30363d }
  text { fill: #9198a1 }
  .title { fill: #f0f6fc }
  .grid { stroke: #30363d }
  .ours { stroke: #58a6ff } .dot.ours, .mark.ours { fill: #58a6ff }
  .peer { stroke: #f0883e } .dot.peer, .mark.peer { fill: #f0883e }
  .mark { stroke: #0d1117 }
}"""


class Point(NamedTuple):
    """What was seen at one number of calls in flight; milliseconds."""

    in_flight: int
    turns_per_second: float
    p50: float
    p99: float


@dataclass(frozen=True, slots=True)
class Curve:
    """A contestant and its points, fewest in flight first."""

    name: str
    points: Sequence[Point]


@dataclass(frozen=True, slots=True)
class _Scale:
    """Where a load and a latency lie in the picture: the one linear, the other logarithmic."""

    step: int
    most: int
    ticks: tuple[float, ...]

    def x(self, turns_per_second: float) -> float:
        return LEFT + turns_per_second / self.most * (WIDTH - LEFT - RIGHT)

    def y(self, milliseconds: float) -> float:
        low, high = math.log(self.ticks[0]), math.log(self.ticks[-1])
        part = (math.log(milliseconds) - low) / (high - low)
        return HEIGHT - BOTTOM - part * (HEIGHT - TOP - BOTTOM)


def draw(curves: Sequence[Curve]) -> str:
    """The picture of up to two curves."""
    scale = _scale([point for curve in curves for point in curve.points])
    named = list(zip(curves, COLOURS, strict=False))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        'role="img" aria-label="Latency against load">',
        f"<style>\n{STYLE}\n</style>",
        f'<rect class="back" x="0.5" y="0.5" width="{WIDTH - 1}" height="{HEIGHT - 1}" rx="6"/>',
        f'<text class="title" x="{LEFT}" y="28">Latency against load; the numbers are calls in flight</text>',
        *_legend(named),
        *_grid(scale),
        *(part for curve, colour in named for part in _curve(curve, colour, scale)),
        *(part for curve, colour in named for part in _marks(curve, colour, scale)),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _scale(points: Sequence[Point]) -> _Scale:
    fastest = max(point.turns_per_second for point in points)
    step = next((step for step in STEPS if fastest / step <= MOST_STEPS), STEPS[-1])
    low, high = min(point.p50 for point in points), max(point.p99 for point in points)
    first = max((place for place, tick in enumerate(TICKS) if tick <= low), default=0)
    last = min((place for place, tick in enumerate(TICKS) if tick >= high), default=len(TICKS) - 1)
    return _Scale(step, step * math.ceil(fastest * 1.04 / step), TICKS[first : last + 1])


def _legend(named: Sequence[tuple[Curve, str]]) -> Iterator[str]:
    x = LEFT
    for curve, colour in named:
        for percentile in ("p50", "p99"):
            yield f'<path class="line {colour} {percentile}" d="M{x} 50h26"/>'
            yield f'<text x="{x + 32}" y="54">{escape(curve.name)}, {percentile}</text>'
            x += 92 + 7 * len(curve.name)


def _grid(scale: _Scale) -> Iterator[str]:
    for tick in scale.ticks:
        y = scale.y(tick)
        yield f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>'
        yield f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{tick:g} ms</text>'
    for load in range(0, scale.most + 1, scale.step):
        yield f'<text x="{scale.x(load):.1f}" y="{HEIGHT - BOTTOM + 20}" text-anchor="middle">{load:,}</text>'
    yield f'<text x="{(WIDTH + LEFT - RIGHT) // 2}" y="{HEIGHT - 12}" text-anchor="middle">turns per second</text>'


def _curve(curve: Curve, colour: str, scale: _Scale) -> Iterator[str]:
    for percentile in ("p99", "p50"):
        places = [(scale.x(point.turns_per_second), scale.y(getattr(point, percentile))) for point in curve.points]
        line = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        yield f'<path class="line {colour} {percentile}" d="M{line}"/>'
        yield from (f'<circle class="dot {colour}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in places)


def _marks(curve: Curve, colour: str, scale: _Scale) -> Iterator[str]:
    # One contestant's numbers on each side of its line: where the lines meet, the numbers do not.
    aside, down, anchor = (7, 10, "start") if colour == "ours" else (-7, -3, "end")
    for point in curve.points:
        x, y = scale.x(point.turns_per_second) + aside, scale.y(point.p50) + down
        yield f'<text class="mark {colour}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{point.in_flight}</text>'
