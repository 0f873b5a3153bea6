"""The agents of a service as a table: whole where it is piped on, at a terminal as far as it fits the window."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

_COLUMNS = (
    *("agent", "state", "endpoint", "version", "health", "circuit", "in flight", "calls", "errors", "p50 / p95 ms"),
    "source",
)
_NUMBERS = ("in flight", "calls", "errors", "p50 / p95 ms")
_LEFT_OUT: tuple[tuple[str, ...], ...] = ((), ("source",), ("source", "health"))
"""What a narrow window does not show, the more the narrower it is; who is unhealthy is told below the table."""
_NARROW = {"in flight": "flight", "p50 / p95 ms": "p50/p95 ms"}
_SHORTENED = {"endpoint": 14, "version": 9, "agent": 8}
"""What is cut where that is not enough, in this order, and to how many characters at least."""
_COLOURS = {"healthy": "green", "unhealthy": "red", "unknown": "dim", "open": "red", "half_open": "yellow"}
_WIDEST = 10_000
_TURNS_DOWN = "orchestrator"
"""Who has weighed the versions of an agent where one of them was turned down."""

_Agent = Mapping[str, Any]


def print_whole(console: Console, agents: Sequence[_Agent]) -> None:
    """Print all agents, and below what there is to say besides."""
    rows = _all_rows(agents)
    table = _table(rows)
    if console.is_terminal:
        table = _narrowed(console, rows)
    else:  # what is piped on has no width, and its cells are not cut
        console.width = _width(console, table)
    console.print(table)
    for note in _notes(agents):
        console.print(note, soft_wrap=True)


def as_fits(console: Console, agents: Sequence[_Agent]) -> Iterator[RenderableType]:
    """Yield the table and the notes below it as far as they fit the window, and how much did not."""
    rows, notes = _all_rows(agents), [*_notes(agents)]
    room = max(console.height - 3, 2)  # but for the head, the foot, and the line where the cursor stands
    total = len(rows) + len(notes)
    if total > room:
        room -= 1
        notes = notes[: max(room // 3, room - len(rows))]
        rows = rows[: room - len(notes)]
    yield _narrowed(console, rows)
    yield from (line(note.plain, str(note.style)) for note in notes)
    if left := total - len(rows) - len(notes):
        yield line(f"… and {left} more; make the window larger or use --once", "yellow")


def _narrowed(console: Console, rows: Sequence[Sequence[Text]]) -> Table:
    """Return the table with as many columns as fit the window, and in a very narrow one with shorter addresses."""
    for left_out in _LEFT_OUT:
        table = _table(rows, left_out)
        if _width(console, table) <= console.width:
            return table
    rows = _each(rows, "endpoint", _without_scheme)
    for column, least in _SHORTENED.items():
        over = _width(console, _table(rows, _LEFT_OUT[-1], narrow=True)) - console.width
        if over > 0:
            longest = max(len(row[_COLUMNS.index(column)]) for row in rows) - over
            rows = _each(rows, column, partial(_shorter, longest=max(longest, least), middle=column == "endpoint"))
    return _table(rows, _LEFT_OUT[-1], narrow=True)


def _each(rows: Iterable[Sequence[Text]], column: str, change: Callable[[Text], Text]) -> list[list[Text]]:
    """Return the rows with each cell of a column changed."""
    at = _COLUMNS.index(column)
    return [[*row[:at], change(row[at]), *row[at + 1 :]] for row in rows]


def _width(console: Console, table: Table) -> int:
    return console.measure(table, options=console.options.update(max_width=_WIDEST)).maximum


def _without_scheme(address: Text) -> Text:
    return Text(address.plain.removeprefix("http://"), address.style)


def _shorter(text: Text, *, longest: int, middle: bool) -> Text:
    """Return a text without its end, or without its middle, if it is too long: addresses differ at both ends."""
    said, kept = text.plain, longest - 1
    if len(said) <= longest:
        return text
    end = kept * 2 // 3 if middle else 0
    return Text(f"{said[: kept - end]}…{said[len(said) - end :]}", text.style)


def _table(rows: Iterable[Sequence[Text]], left_out: Sequence[str] = (), *, narrow: bool = False) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1 if narrow else 2, 0, 0))
    for column in _COLUMNS:
        if column not in left_out:
            justify: Literal["left", "right"] = "right" if column in _NUMBERS else "left"
            head = _NARROW.get(column, column) if narrow else column
            table.add_column(head.upper(), justify=justify, no_wrap=True, overflow="ellipsis")
    for row in rows:
        table.add_row(*(cell for column, cell in zip(_COLUMNS, row, strict=True) if column not in left_out))
    return table


def _all_rows(agents: Iterable[_Agent]) -> list[list[Text]]:
    return [row for agent in agents for row in _rows(agent)]


def _rows(agent: _Agent) -> Iterator[list[Text]]:
    """Yield a row for each endpoint of an agent, or one if it has none."""
    first = [cell(agent["name"], "bold"), cell(agent["state"], "red" if agent["off"] else "green")]
    for endpoint in agent["endpoints"]:
        yield [*first, *_of_endpoint(endpoint, _version(agent, endpoint["version"]))]
        first = [cell(""), cell("")]
    if not agent["endpoints"]:
        yield [*first, cell("none", "yellow"), *[cell("")] * (len(_COLUMNS) - 3)]


def _version(agent: _Agent, version: str | None) -> Text:
    """Return a version with its weight."""
    weights = {one["version"]: one["weight"] for one in agent["versions"]}
    if version is None or agent["weights"] is None:
        return cell(version or "")
    if (weight := weights.get(version)) is None:
        return cell(f"{version} (left out)", "yellow")
    if weight:
        return cell(f"{version} ({weight:g})")
    turned_down = agent["weights"].get("by") == _TURNS_DOWN
    return cell(f"{version} (0, turned down)", "red") if turned_down else cell(f"{version} (0)", "yellow")


def _of_endpoint(endpoint: Mapping[str, Any], version: Text) -> list[Text]:
    here, elsewhere = endpoint["in_flight"], endpoint["elsewhere"]
    circuit = f"{endpoint['circuit']}, rests" if endpoint["rests_seconds"] else endpoint["circuit"]
    return [
        cell(endpoint["url"]),
        version,
        cell(endpoint["state"], _COLOURS[endpoint["state"]]),
        cell(circuit, _COLOURS.get(endpoint["circuit"], "")),
        cell(f"{here} + {elsewhere}" if elsewhere else str(here)),
        cell(str(endpoint["calls"])),
        cell(str(endpoint["errors"]), "red" if endpoint["errors"] else ""),
        cell(_pace(endpoint["p50_ms"], endpoint["p95_ms"])),
        cell(endpoint["instance"] or endpoint["source"]),
    ]


def _pace(*milliseconds: float | None) -> str:
    return " / ".join(f"{one:.1f}" if one < 10 else f"{one:.0f}" for one in milliseconds if one is not None)


def _notes(agents: Sequence[_Agent]) -> Iterator[Text]:
    """Yield what there is to say besides: who is off and why, what was turned down, what is wrong with endpoints."""
    for agent in agents:
        if (weights := agent["weights"]) and weights.get("by") == _TURNS_DOWN:
            undo = f"`flows agents weights {agent['name']} --reset` undoes it"
            yield cell(
                f"{agent['name']}: a version was turned down at {weights['at']}: {weights['why']}; {undo}", "red"
            )
        if off := agent["off"]:
            yield cell(f"{agent['name']} is off since {off['at']}, by {off['by']}: {off['reason']}", "red")
        for endpoint in agent["endpoints"]:
            if endpoint["state"] == "unhealthy" and (probe := endpoint["probe"]):
                yield cell(f"{endpoint['url']} is unhealthy: {probe['why']} ({probe['at']})", "red")


def cell(text: str, style: str = "") -> Text:
    """Return text on one line, without what would move the cursor: whoever registers may say anything."""
    return Text("".join(letter if letter.isprintable() else " " for letter in text), style)


def line(text: str, style: str = "") -> Text:
    """Return text on one line of the window, which ends with … where it does not fit."""
    return Text(text, style, no_wrap=True, overflow="ellipsis")
