"""Where a run stands, stage by stage, as told by what its graph streams; and how that looks on a terminal."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from rich.markup import escape
from rich.table import Table

from graph.flow import Flow
from nodes.outcome import WAITS
from nodes.spec import FINISH
from nodes.state import Step
from nodes.steps import response_text

State = Literal["waiting", "running", "done", "waits", "skipped", "failed"]

_FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_SIGNS: Mapping[State, str] = {"waiting": "·", "done": "✓", "waits": "?", "skipped": "–", "failed": "✗"}
_COLOURS: Mapping[State, str] = {
    "waiting": "dim",
    "running": "cyan",
    "done": "green",
    "waits": "yellow",
    "skipped": "dim",
    "failed": "red",
}
_MOST_BRANCHES = 12
"""Branches that are shown one by one; more are counted."""


@dataclass(slots=True)
class Row:
    """Where a stage stands, or a branch of one."""

    name: str
    state: State = "waiting"
    agent: str = ""
    began: float = 0.0
    """On the clock of the progress, seconds."""
    seconds: float | None = None
    """How long it took."""
    attempt: int = 1
    passes: int = 0
    """How often it was begun."""
    reason: str = ""
    branches: dict[str, "Row"] = field(default_factory=dict)


class Progress:
    """Takes what a graph streams, and knows where each stage stands.

    Args:
        flow: whose stages these are.
        clock: seconds, from wherever.
    """

    def __init__(self, flow: Flow, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.rows = {name: Row(name) for name in flow.stages}
        for name, stage in flow.stages.items():
            self.rows[name].branches = {branch: Row(f"{name}/{branch}") for branch in stage.parallel}

    def take(self, mode: str, told: Mapping[str, Any]) -> list[Row]:
        """Take an event (`custom`) or what nodes wrote (`updates`); return the rows that stand elsewhere now."""
        if mode == "custom":
            return self._begins(told) if told["event"] == "state_change" else []
        changed: list[Row] = []
        for node, update in told.items():
            if isinstance(update, Mapping) and node != FINISH:
                changed += [row for step in update.get("steps") or () for row in self._settles(step)]
                changed += [
                    row for name, how in (update.get("done") or {}).items() for row in self._passed(name, how)
                ]
        return changed

    def _row(self, stage: str, branch: str | None) -> Row:
        row = self.rows.setdefault(stage, Row(stage))
        return row if branch is None else row.branches.setdefault(branch, Row(f"{stage}/{branch}"))

    def _begins(self, event: Mapping[str, Any]) -> list[Row]:
        branch = event.get("branch")
        rows = [self._row(event["stage"], None)] + ([self._row(event["stage"], branch)] if branch else [])
        changed = [row for row in rows if row.state != "running"]
        for row in changed:
            row.state, row.began, row.reason, row.passes = "running", self._clock(), "", row.passes + 1
        rows[-1].agent, rows[-1].attempt = event["agent"], event.get("attempt", 1)
        return changed

    def _settles(self, step: Step) -> list[Row]:
        row = self._row(step["stage"], step.get("branch"))
        response = step["response_data"]
        row.state = "waits" if response.get("task_state") in WAITS else "done"
        row.reason = ""
        if step["response_status"] == "error":
            row.state, row.reason = "failed", response_text(response)
        row.agent, row.seconds = step["agent"], step["duration_ms"] / 1000
        row.attempt, row.passes = step.get("attempt", 1), max(row.passes, 1)
        return [row, *(each for name in step.get("skipped", ()) for each in self._passed(name, "skipped"))]

    def _passed(self, stage: str, how: str) -> list[Row]:
        row = self._row(stage, None)
        if how != "skipped" or row.state == "skipped":
            return []
        row.state = "skipped"
        return [row]

    def seconds_of(self, row: Row) -> float | None:
        """Return how long a row has been at work, or took."""
        return self._clock() - row.began if row.state == "running" else row.seconds

    def table(self) -> Table:
        """Return the stages as a table."""
        table = Table.grid(padding=(0, 2))
        for row in self.rows.values():
            self._show(table, row)
        return table

    def _show(self, table: Table, row: Row) -> None:
        self._add(table, row, row.name)
        branches = list(row.branches.values())
        if len(branches) > _MOST_BRANCHES:
            table.add_row("", f"  [dim]{escape(counted(branches))}[/dim]")
            branches = [branch for branch in branches if branch.state == "failed"][:_MOST_BRANCHES]
        for branch in branches:
            self._add(table, branch, f"  {branch.name.removeprefix(f'{row.name}/')}")

    def _add(self, table: Table, row: Row, name: str) -> None:
        colour = _COLOURS[row.state]
        sign = _SIGNS.get(row.state) or _FRAMES[int(self._clock() * 10) % len(_FRAMES)]
        seconds = self.seconds_of(row)
        table.add_row(
            f"[{colour}]{sign}[/{colour}]",
            f"[{colour}]{escape(name)}[/{colour}]",
            escape(row.agent),
            "" if seconds is None else lasting(seconds),
            f"[{colour}]{escape(remarks(row))}[/{colour}]",
        )


def line_of(row: Row) -> str:
    """Return what a line of plain text says of a row that stands elsewhere now."""
    took = "" if row.seconds is None or row.state == "running" else f" in {lasting(row.seconds)}"
    who = f" ({row.agent})" if row.agent else ""
    told = remarks(row)
    return f"{row.name}: {row.state}{who}{took}{f', {told}' if told else ''}"


def remarks(row: Row) -> str:
    """Return what else there is to say of a row: attempts, passes, what went wrong."""
    attempt = f"attempt {row.attempt}" if row.attempt > 1 else ""
    passes = f"pass {row.passes}" if row.passes > 1 else ""
    return ", ".join(filter(None, (passes, attempt, " ".join(row.reason.split())[:300])))


def counted(rows: list[Row]) -> str:
    """Return how many rows stand where: `40: 12 done, 3 running`."""
    states: dict[str, int] = {}
    for row in rows:
        states[row.state] = states.get(row.state, 0) + 1
    return f"{len(rows)}: " + ", ".join(f"{count} {state}" for state, count in states.items())


def lasting(seconds: float) -> str:
    """Return a time as a person reads it: `120 ms`, `3.4 s`, `2 min 5 s`."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 60 else f"{int(seconds // 60)} min {int(seconds % 60)} s"
