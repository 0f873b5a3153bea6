"""The data analyzer: a generic worker that cleans data and reckons with it. Real statistics, nothing invented."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Literal

from server.demo_agents.answer import Answer, Asked, Behaviour
from server.demo_agents.tables import Columns, Number, cleaned, columns_of, items_of, numbers_of
from server.demo_agents.worker import Refused, Work, worker

_FLAT = 0.05
_VOLATILE = 0.5
_SHARP_FALL = 0.2


def _validation(asked: Asked) -> Answer:
    items = items_of(asked)
    clean = cleaned(items)
    dropped = len(items) - len(clean)
    if not clean:
        raise Refused(f"nothing of `data` can be used: all {dropped} items were dropped.")
    return Answer(
        f"{len(clean)} items are good, {dropped} were dropped.", data={"clean_data": clean, "dropped": dropped}
    )


def _statistics(asked: Asked) -> Answer:
    items = items_of(asked)
    return Answer(f"The statistics of {len(items)} items.", data={"stats": _each(items, _stats)})


def _total(asked: Asked) -> Answer:
    total = _each(items_of(asked), lambda numbers: _round(sum(numbers)))
    each = total.items() if isinstance(total, dict) else [("", total)]
    return Answer(
        f"The total is {', '.join(f'{name} {sum_}'.strip() for name, sum_ in each)}.", data={"total": total}
    )


def _trend(asked: Asked) -> Answer:
    """The trend of the numbers, or of one column of objects: `column` names it where several have numbers."""
    columns = _columns(items_of(asked))
    column = next(iter(columns)) if len(columns) == 1 else asked.data.get("column")
    if not isinstance(column, str) or column not in columns:
        raise Refused(f"name a column of numbers as `column`; there are: {', '.join(columns)}.")
    trend, slope = _line(columns[column])
    data = {"trend": trend, "slope": slope, **({"column": column} if column else {})}
    return Answer(f"The numbers are {trend}.", data=data)


def _risk(asked: Asked) -> Answer:
    columns = _columns(items_of(asked))
    risks = [
        {"risk": risk, "detail": detail, **({"column": name} if name else {})}
        for name, numbers in columns.items()
        for risk, detail in _risks(numbers)
    ]
    return Answer(f"Risks found: {len(risks)}.", data={"risks": risks})


def _columns(items: Sequence[Any]) -> Columns:
    """The columns of objects by name; plain numbers are one column without a name."""
    numbers = numbers_of(items)
    return columns_of(items) if numbers is None else {"": numbers}


def _each(items: Sequence[Any], reckon: Callable[[Sequence[Number]], Any]) -> Any:
    """What `reckon` makes of the numbers, or of each column of objects."""
    numbers = numbers_of(items)
    if numbers is not None:
        return reckon(numbers)
    return {name: reckon(column) for name, column in columns_of(items).items()}


def _stats(numbers: Sequence[Number]) -> dict[str, Number | None]:
    """`stdev` is that of a sample, so one number alone has none."""
    return {
        "count": len(numbers),
        "mean": _round(statistics.fmean(numbers)),
        "median": _round(statistics.median(numbers)),
        "min": min(numbers),
        "max": max(numbers),
        "stdev": _round(statistics.stdev(numbers)) if len(numbers) > 1 else None,
    }


def _line(numbers: Sequence[Number]) -> tuple[Literal["rising", "falling", "flat"], Number]:
    """The straight line through the numbers; flat if it moves by less than a twentieth of their usual size."""
    if len(numbers) < 2:
        raise Refused("a trend needs at least two numbers.")
    slope = statistics.linear_regression(range(len(numbers)), numbers).slope
    moves = abs(slope) * (len(numbers) - 1)
    if moves <= _FLAT * statistics.fmean(map(abs, numbers)):
        return "flat", _round(slope)
    return ("rising" if slope > 0 else "falling"), _round(slope)


def _risks(numbers: Sequence[Number]) -> list[tuple[str, str]]:
    found = []
    if min(numbers) < 0:
        found.append(("negative", f"the lowest value is {_round(min(numbers))}"))
    falls = [(before - after) / before for before, after in pairwise(numbers) if before > 0]
    if falls and max(falls) > _SHARP_FALL:
        found.append(("sharp fall", f"it fell by {max(falls):.0%} from one value to the next"))
    spread, size = statistics.pstdev(numbers), abs(statistics.fmean(numbers))
    if spread > _VOLATILE * size:
        found.append(("volatile", f"it varies by {spread / size:.0%} of its mean" if size else "it varies around 0"))
    if len(numbers) > 1 and _line(numbers)[0] == "falling":
        found.append(("falling", f"it goes down by {_round(-_line(numbers)[1])} each time"))
    return found


def _round(number: Number) -> Number:
    """Twelve digits: enough for people, and 0.1 + 0.2 is 0.3."""
    rounded = float(f"{number:.12g}")
    return int(rounded) if rounded.is_integer() and abs(rounded) < 1e15 else rounded


data_analyzer: Behaviour = worker(
    Work("data_validation", ("validat", "clean"), _validation),
    Work("trend", ("trend",), _trend),
    Work("risk", ("risk",), _risk),
    Work("statistics", ("statist", "analy", "summar"), _statistics),
    Work("total", ("sum", "total", "reduce"), _total),
)
