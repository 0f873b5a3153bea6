"""The data that the data analyzer works on: read from a list or from CSV text, told clean from dirty, in columns."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from typing import Any, TypeAlias, TypeGuard

from server.demo_agents.answer import Asked
from server.demo_agents.worker import Refused

Number: TypeAlias = int | float
Columns: TypeAlias = dict[str, list[Number]]

# The squares of larger numbers would not fit, and JSON has no word for infinity.
_LARGEST = 1e100
_NUMBER = re.compile(r"[-+]?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]{1,2})?")
_WANTED = "a list of numbers, a list of objects or CSV text"
_CLEAN_FIRST = "have it cleaned first (data_validation)"


def is_number(value: Any) -> TypeGuard[Number]:
    """Whether a value is a number to reckon with."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LARGEST


def number_in(text: str) -> Number:
    """The number that a text of digits says, with or without commas between thousands."""
    number = float(text.replace(",", ""))
    return int(number) if number.is_integer() and abs(number) < _LARGEST else number


def items_of(asked: Asked) -> list[Any]:
    """The items of `data`, or of the message's text read as CSV; there is at least one. Raises `Refused`."""
    given = asked.data.get("data", asked.text)
    items = _from_csv(given) if isinstance(given, str) and given.strip() else given
    if not isinstance(items, list):
        what = "missing" if isinstance(items, str) or items is None else "something else"
        raise Refused(f"`data` must be {_WANTED}; it is {what}.")
    if not items:
        raise Refused(f"`data` is empty; send {_WANTED}.")
    return items


def cleaned(items: Sequence[Any]) -> list[Any]:
    """The items that can be reckoned with. Texts that say a number become it.

    Among objects, one that lacks a value that another has is dropped, and one with a text where most have a number.
    """
    if not any(isinstance(item, dict) for item in items):
        return [number for number in map(_value, items) if is_number(number)]
    rows = [{name: _value(cell) for name, cell in item.items()} for item in items if isinstance(item, dict)]
    names = list(dict.fromkeys(name for row in rows for name in row))
    whole = [row for row in rows if row and all(row.get(name) not in (None, "") for name in names)]
    numeric = [name for name in names if sum(is_number(row[name]) for row in whole) * 2 > len(whole)]
    return [row for row in whole if all(is_number(row[name]) for name in numeric)]


def numbers_of(items: Sequence[Any]) -> list[Number] | None:
    """The items, if they are numbers; None if they are objects. Raises `Refused` for anything else."""
    objects = isinstance(items[0], dict)
    for at, item in enumerate(items):
        if not (isinstance(item, dict) if objects else is_number(item)):
            other = "an object" if objects else "a number"
            raise Refused(f"item {at} of `data` is not {other}; {_CLEAN_FIRST}.")
    return None if objects else list(items)


def columns_of(rows: Sequence[dict[str, Any]]) -> Columns:
    """The numbers of each column that has some, by name; a missing value is left out. Raises `Refused`.

    The names are sorted: a data part of A2A does not keep the order of its keys.
    """
    cells: dict[str, list[Any]] = {}
    for row in rows:
        for name, cell in row.items():
            if cell is not None:
                cells.setdefault(name, []).append(cell)
    columns = {name: column for name, column in sorted(cells.items()) if any(map(is_number, column))}
    for name, column in columns.items():
        if not all(map(is_number, column)):
            raise Refused(f"column {name!r} has numbers and other things; {_CLEAN_FIRST}.")
    if not columns:
        raise Refused("no column of `data` has numbers.")
    return columns


def _value(cell: Any) -> Any:
    """A cell as it is meant: a text that says a number is that number."""
    if not isinstance(cell, str):
        return cell
    text = cell.strip()
    return number_in(text) if _NUMBER.fullmatch(text) else text


def _from_csv(text: str) -> list[Any]:
    """Numbers, if the text is one row or one column of values without a header; objects otherwise."""
    try:
        lines = [[_value(cell) for cell in line] for line in csv.reader(text.strip().splitlines()) if line]
    except csv.Error as error:
        raise Refused(f"`data` is not CSV: {error}.") from error
    header = [cell for cell in lines[0] if not is_number(cell)]
    if not header and (len(lines) == 1 or all(len(line) == 1 for line in lines)):
        return [cell for line in lines for cell in line]
    names = [str(cell) for cell in lines[0]] if header else [f"column_{at + 1}" for at in range(len(lines[0]))]
    return [_row(names, line) for line in (lines[1:] if header else lines)]


def _row(names: Sequence[str], line: Sequence[Any]) -> dict[str, Any]:
    if len(line) > len(names):
        raise Refused(f"a line of `data` has {len(line)} values, but there are {len(names)} columns.")
    return dict(zip(names, [*line, *[None] * (len(names) - len(line))], strict=True))
