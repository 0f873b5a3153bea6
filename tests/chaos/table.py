"""What a run came to, for people."""

from collections.abc import Sequence

from tests.chaos.run import Outcome


def table(outcomes: Sequence[Outcome]) -> str:
    """Return one column for each run."""
    rows: list[tuple[str, ...]] = [("", *(outcome.plan.kind for outcome in outcomes))]
    rows += [_row("calls", outcomes, "calls"), _row("turns answered", outcomes, "answered")]
    rows += [_row("answers given again", outcomes, "repeated"), _row("turns lost", outcomes, "lost")]
    rows += [_row("effects duplicated", outcomes, "duplicated"), _row("calls stuck", outcomes, "stuck")]
    rows += [_row("checkpoints left behind", outcomes, "endless")]
    rows += [("parked, then done", *(str(one.settled["done"]) for one in outcomes))]
    rows += [("parked, then not done", *(str(one.settled["not_done"]) for one in outcomes))]
    rows += _counted("fault", [one.faults for one in outcomes])
    rows += _counted("sent again", [one.refused for one in outcomes])
    rows += [("seconds", *(f"{one.seconds:.0f}" for one in outcomes))]
    rows += [("violations", *(str(len(one.violations)) for one in outcomes))]
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    return "\n".join(_line(row, widths) for row in rows)


def _row(title: str, outcomes: Sequence[Outcome], name: str) -> tuple[str, ...]:
    return (title, *(str(getattr(outcome, name)) for outcome in outcomes))


def _counted(title: str, counts: Sequence[dict[str, int]]) -> list[tuple[str, ...]]:
    names = sorted({name for count in counts for name in count})
    return [(f"{title}: {name}", *(str(count.get(name, 0)) for count in counts)) for name in names]


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    first, *rest = (
        cell.ljust(width) if place == 0 else cell.rjust(width)
        for place, (cell, width) in enumerate(zip(row, widths, strict=True))
    )
    return "  ".join([first, *rest]).rstrip()
