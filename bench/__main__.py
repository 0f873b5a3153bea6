"""`python -m bench`: run every measurement once, on this machine, and write one page of results and its picture."""

import argparse
import asyncio
import shlex
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from time import perf_counter

from bench import a2a, full_store, lasting, load, report, starting, store_cost, turn_cost, workers
from bench.contestants import NAMES, running_agent, running_contestant
from bench.load import Speed
from bench.plan import FULL, QUICK
from bench.processes import Running, StartError
from bench.results import Memory, Results

RESULTS = Path(__file__).with_name("RESULTS.md")
CHART = "latency.svg"


async def run(results: Results, parts: Sequence[str]) -> None:
    """Fill the results in, part by part."""
    _clean_up_when_terminated()
    async with running_agent() as agent:
        for part in parts:
            _say(f"{part}: {PARTS[part].__doc__}")
            await PARTS[part](results, agent)


async def _speed(results: Results, agent: Running) -> None:
    """all contestants at once, in rounds that alternate between them, and then long calls"""
    async with AsyncExitStack() as stack:
        services: dict[str, Running] = {}
        for name in results.names:
            services[name] = await stack.enter_async_context(running_contestant(name, agent))
            results.memory[name] = Memory(services[name].resident_bytes())
        for number in range(results.plan.rounds):
            _say(f"round {number + 1} of {results.plan.rounds}")
            await _round(results, services, number)
        for name in results.names:
            results.memory[name].end_bytes = services[name].resident_bytes()
            _say(f"{name}: long calls")
            results.growth[name] = await turn_cost.measure(services[name], results.plan.points)


async def _round(results: Results, services: dict[str, Running], number: int) -> None:
    calls = results.plan.calls | results.plan.further

    async def measured(name: str, in_flight: int) -> Speed:
        return await load.measure(services[name], in_flight, calls[in_flight])

    await results.rounds.take(number, results.names, results.plan.calls, measured)
    await results.rounds.take(number, results.curve_names, results.plan.further, measured)
    for name in results.names:
        in_flight = calls if name in results.curve_names else results.plan.calls
        results.memory[name].calls += sum(number + calls[number] for number in in_flight)


async def _store(results: Results, agent: Running) -> None:
    """commands, round trips and bytes, with a proxy between service and Redis"""
    for name in results.names:
        results.store[name] = await store_cost.measure(name, agent, results.plan.store_calls)


async def _full_store(results: Results, agent: Running) -> None:
    """turns while the store holds many finished calls"""
    plan = results.plan
    results.filled = await full_store.measure(agent, plan.filled, plan.rounds, plan.filled_calls)


async def _workers(results: Results, agent: Running) -> None:
    """two processes against one"""
    results.workers = await workers.measure(agent, results.plan.rounds, results.plan.worker_calls)


async def _a2a(results: Results, agent: Running) -> None:
    """SendMessage beside a bare a2a-sdk server"""
    names = (a2a.OURS, a2a.ECHO)
    results.a2a, _ = await a2a.take_rounds(agent, results.plan.rounds, results.plan.a2a_calls, names)


async def _start(results: Results, agent: Running) -> None:
    """from start to first answer"""
    results.starts = await starting.measure(agent, results.plan.starts)


async def _memory(results: Results, agent: Running) -> None:
    """the memory of one process after many calls"""
    results.lasting = await lasting.measure(agent, results.plan.lasting, _say)


PARTS: dict[str, Callable[[Results, Running], Awaitable[None]]] = {
    "speed": _speed,
    "store": _store,
    "full-store": _full_store,
    "workers": _workers,
    "a2a": _a2a,
    "start": _start,
    "memory": _memory,
}


def main(arguments: Sequence[str]) -> int:
    """Measure and write; 1 and no page when a process did not start or a turn failed."""
    options = _options(arguments)
    start = perf_counter()
    results = Results(tuple(options.only or NAMES), QUICK if options.quick else FULL)
    try:
        asyncio.run(run(results, options.part or tuple(PARTS)))
    except (StartError, load.TurnError) as failure:
        _say(f"no figures: {failure}")
        return 1
    except asyncio.CancelledError:
        _say("no figures: terminated")
        return 128 + signal.SIGTERM
    command = shlex.join(["python", "-m", "bench", *arguments])
    page = report.page(results, command, perf_counter() - start, CHART)
    sys.stdout.write(page)
    if out := options.out or _page_of(options):
        out.write_text(page)
        if picture := report.picture(results):
            out.with_name(CHART).write_text(picture)
    return 0


def _page_of(options: argparse.Namespace) -> Path | None:
    """The page to write unless told: a run that leaves something out replaces no page."""
    return None if options.quick or options.part or options.only else RESULTS


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds, calls of 100 turns")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help=f"the page to write, with {CHART} beside it (default: {RESULTS} if the run leaves nothing out)",
    )
    parser.add_argument(
        "--part", action="append", choices=PARTS, metavar="PART", help=f"repeatable: {', '.join(PARTS)}"
    )
    parser.add_argument(
        "--only",
        action="append",
        choices=NAMES,
        metavar="NAME",
        help=f"a contestant, repeatable: {', '.join(NAMES)}",
    )
    return parser.parse_args(arguments)


def _clean_up_when_terminated() -> None:
    # SIGTERM by default ends us at once and would leave the processes we started behind.
    if task := asyncio.current_task():
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
