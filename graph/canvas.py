"""A sheet that grows with what is drawn on it, and its PNG: lines smoothed, words crisp, by Pillow alone."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from itertools import pairwise
from math import atan2, ceil, cos, dist, radians, sin
from unicodedata import normalize

from PIL import Image, ImageDraw, ImageFont

from graph.layers import Box, Point

_SCALE = 2
"""Pixels of the picture for one unit of the drawing."""
_SMOOTH = 3
"""Pixels painted for one pixel of the picture; Pillow's lines are jagged otherwise."""
_DASH, _GAP = 6.0, 4.0
_MOST_PIXELS = 60_000_000
_PLAIN = {"–": "-", "—": "-", "→": ">", "ß": "ss", "æ": "ae", "ø": "o", "ł": "l", "Ł": "L"}
"""For what Pillow's own font lacks and Unicode does not take apart."""


@dataclass(frozen=True, slots=True)
class Style:
    """How a box looks."""

    fill: str
    edge: str
    line: float = 1.5
    round: float = 10
    dashed: bool = False


@dataclass(frozen=True, slots=True)
class _Sheet:
    """Where units of the drawing become pixels."""

    pen: ImageDraw.ImageDraw
    left: float
    top: float
    scale: float

    def at(self, point: Point) -> Point:
        return (point[0] - self.left) * self.scale, (point[1] - self.top) * self.scale


Stroke = Callable[[_Sheet], None]


class Canvas:
    """Collects strokes and words in units of the drawing; words lie above all strokes."""

    def __init__(self, margin: float) -> None:
        self._margin = margin
        self._strokes: list[Stroke] = []
        self._words: list[Stroke] = []
        self.extent = (0.0, 0.0, 0.0, 0.0)
        """Left, top, right and bottom of everything drawn so far."""

    def box(self, box: Box, style: Style) -> None:
        """Draw a rectangle with round corners."""
        self._reach((box.left, box.top), (box.right, box.bottom))
        self._strokes.append(lambda sheet: _fill(sheet, box, style))
        if style.dashed:
            self._strokes += [_stroke(dash, style.edge, style.line) for dash in _dashes(_outline(box, style.round))]

    def rule(self, start: Point, end: Point, colour: str) -> None:
        """Draw a thin straight line."""
        self._strokes.append(_stroke([start, end], colour, 1))

    def arrow(self, points: Sequence[Point], colour: str, *, dashed: bool = False, head: float = 9) -> None:
        """Draw a line through the points, with a head at its end."""
        self._reach(*points)
        before = next((point for point in reversed(points) if dist(point, points[-1]) >= head), points[0])
        way = atan2(points[-1][1] - before[1], points[-1][0] - before[0])
        neck = (points[-1][0] - head * cos(way), points[-1][1] - head * sin(way))
        line = [*points[:-1], neck]
        self._strokes += [_stroke(part, colour, 1.5) for part in (_dashes(line) if dashed else [line])]
        self._strokes.append(lambda sheet: _head(sheet, points[-1], neck, colour))

    def words(self, text: str, size: float, colour: str, at: Point, anchor: str) -> None:
        """Write a line of text; `anchor` is Pillow's: `lm` for left, `mm` for centred."""
        width = text_width(text, size)
        left = at[0] - (width / 2 if anchor.startswith("m") else 0)
        self._reach((left, at[1] - size / 2), (left + width, at[1] + size / 2))
        self._words.append(lambda sheet: _write(sheet, text, size, colour, at, anchor))

    def png(self) -> bytes:
        """Return everything as a PNG, the margin around it."""
        left, top, right, bottom = self.extent
        left, top = left - self._margin, top - self._margin
        width, height = right + self._margin - left, bottom + self._margin - top
        scale, smooth = _density(width * height)
        image = Image.new("RGB", (ceil(width * scale) * smooth, ceil(height * scale) * smooth), "white")
        self._play(self._strokes, image, (left, top), scale * smooth)
        image = image.reduce(smooth) if smooth > 1 else image
        self._play(self._words, image, (left, top), scale)
        file = BytesIO()
        image.save(file, "PNG", dpi=(72 * scale, 72 * scale), optimize=True)
        return file.getvalue()

    def _reach(self, *points: Point) -> None:
        left, top, right, bottom = self.extent
        across, down = [x for x, _ in points], [y for _, y in points]
        self.extent = (min(left, *across), min(top, *down), max(right, *across), max(bottom, *down))

    def _play(self, strokes: Sequence[Stroke], image: Image.Image, corner: Point, scale: float) -> None:
        sheet = _Sheet(ImageDraw.Draw(image), *corner, scale)
        for stroke in strokes:
            stroke(sheet)


def _density(area: float) -> tuple[int, int]:
    """Return the scale and the smoothing that a picture of this area can have without taking all memory."""
    choices = ((_SCALE, _SMOOTH), (_SCALE, 2), (_SCALE, 1), (1, 1))
    return next((choice for choice in choices if area * (choice[0] * choice[1]) ** 2 <= _MOST_PIXELS), choices[-1])


def _fill(sheet: _Sheet, box: Box, style: Style) -> None:
    corners = [*sheet.at((box.left, box.top)), *sheet.at((box.right, box.bottom))]
    edge = None if style.dashed else style.edge
    width = round(style.line * sheet.scale)
    sheet.pen.rounded_rectangle(corners, style.round * sheet.scale, style.fill, edge, width)


def _stroke(points: Sequence[Point], colour: str, width: float) -> Stroke:
    def stroke(sheet: _Sheet) -> None:
        sheet.pen.line([sheet.at(point) for point in points], colour, round(width * sheet.scale), joint="curve")

    return stroke


def _head(sheet: _Sheet, tip: Point, neck: Point, colour: str) -> None:
    across, down = (tip[1] - neck[1]) * 0.45, (neck[0] - tip[0]) * 0.45
    wings = [(neck[0] + across, neck[1] + down), (neck[0] - across, neck[1] - down)]
    sheet.pen.polygon([sheet.at(point) for point in (tip, *wings)], colour)


def _write(sheet: _Sheet, text: str, size: float, colour: str, at: Point, anchor: str) -> None:
    sheet.pen.text(sheet.at(at), _readable(text), colour, _font(size * sheet.scale), anchor)


def _outline(box: Box, radius: float) -> list[Point]:
    """The edge of a box with round corners, as points."""
    corners = (
        (box.right - radius, box.top + radius, -90),
        (box.right - radius, box.bottom - radius, 0),
        (box.left + radius, box.bottom - radius, 90),
        (box.left + radius, box.top + radius, 180),
    )
    points = [
        (x + radius * cos(radians(start + turn)), y + radius * sin(radians(start + turn)))
        for x, y, start in corners
        for turn in range(0, 91, 15)
    ]
    return [*points, points[0]]


def _dashes(points: Sequence[Point]) -> Iterator[list[Point]]:
    """Cut a line into dashes that follow its bends."""
    dash: list[Point] = [points[0]]
    left, pen_down = _DASH, True
    for start, end in pairwise(points):
        length, done = dist(start, end), 0.0
        while length - done > left:
            done += left
            at = (start[0] + (end[0] - start[0]) * done / length, start[1] + (end[1] - start[1]) * done / length)
            if pen_down:
                yield [*dash, at]
            dash, pen_down = [at], not pen_down
            left = _DASH if pen_down else _GAP
        left -= length - done
        dash.append(end)
    if pen_down and len(dash) > 1:
        yield dash


@cache
def _font(size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


@cache
def _is_drawn(sign: str) -> bool:
    return sign.isspace() or bytes(_font(20).getmask(sign)) != bytes(_font(20).getmask("\uffff"))


@cache
def _readable(text: str) -> str:
    """Take the accents off letters that Pillow's own font lacks; what it cannot draw at all stays an empty box."""
    return "".join(sign if _is_drawn(sign) else _bare(sign) for sign in normalize("NFC", text))


def _bare(sign: str) -> str:
    return _PLAIN.get(sign) or "".join(filter(_is_drawn, normalize("NFKD", sign))) or sign


def text_width(text: str, size: float) -> float:
    """Return how wide a line of text is at a font size, both in units of the drawing."""
    return float(_font(size * _SCALE).getlength(_readable(text))) / _SCALE


def wrapped(text: str, size: float, width: float) -> list[str]:
    """Break text into lines no wider than `width`, but for a single word that is."""
    lines: list[str] = []
    for word in text.split():
        if lines and text_width(f"{lines[-1]} {word}", size) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines
