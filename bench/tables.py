"""Markdown tables, and the one that every comparison of speeds is told by."""

from collections.abc import Iterable, Sequence

from bench.rounds import Rounds

NO_FIGURE = "—"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table: the first column to the left, figures to the right."""
    rule = [":---", *("---:" for _ in head[1:])]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows))


def speed_table(rounds: Rounds, names: Sequence[str], in_flight: Iterable[int], peer: str, what: str = "turn") -> str:
    """The medians of each contestant at each number in flight, and their ratios to the peer's."""
    head = ("", "in flight", f"{what}s/s", "×", "range", "p50 ms", "×", "p99 ms", "×", f"CPU ms/{what}", "×", "busy")
    pairs = [(name, number) for number in in_flight for name in names if rounds.has(name, number)]
    return table(head, [_speed_row(rounds, name, number, peer) for name, number in pairs])


def ratio(ours: float, theirs: float | None) -> str:
    """The one over the other, if there is one."""
    return f"{ours / theirs:.2f}" if theirs else NO_FIGURE


def _speed_row(rounds: Rounds, name: str, in_flight: int, peer: str) -> list[str]:
    ours = rounds.speed(name, in_flight)
    theirs = rounds.speed(peer, in_flight) if rounds.has(peer, in_flight) else None
    seen = [speed.turns_per_second for speed in rounds.seen[name, in_flight]]
    cells = [name, str(in_flight), f"{ours.turns_per_second:.0f}"]
    cells += [ratio(ours.turns_per_second, theirs.turns_per_second if theirs else None)]
    cells += [f"{min(seen):.0f}–{max(seen):.0f}"]
    cells += [f"{ours.p50_ms:.1f}", ratio(ours.p50_ms, theirs.p50_ms if theirs else None)]
    cells += [f"{ours.p99_ms:.1f}", ratio(ours.p99_ms, theirs.p99_ms if theirs else None)]
    cells += [f"{ours.cpu_ms:.2f}", ratio(ours.cpu_ms, theirs.cpu_ms if theirs else None)]
    return [*cells, f"{ours.cpu_ms * ours.turns_per_second / 10:.0f} %"]
