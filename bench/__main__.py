"""`python -m bench`: run every measurement once, on this machine, and write one page of results."""

import argparse
import asyncio
import shlex
import signal
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from bench import load, report, store_cost, turn_cost
from bench.contestants import NAMES, Name, running_agent, running_contestant
from bench.processes import Running, StartError
from bench.results import Memory, Results

RESULTS = Path(__file__).with_name("RESULTS.md")


@dataclass(frozen=True, slots=True)
class Plan:
    """How much to measure: `calls` per round for each number in flight, `points` of a long call."""

    rounds: int
    calls: dict[int, int]
    points: tuple[int, ...]
    store_calls: int


FULL = Plan(rounds=5, calls={1: 200, 8: 400, 32: 640}, points=(1, 10, 100, 1000), store_calls=200)
QUICK = Plan(rounds=2, calls={1: 40, 8: 80, 32: 160}, points=(1, 10, 100), store_calls=60)


async def run(names: tuple[Name, ...], plan: Plan) -> Results:
    """Every measurement of the plan, for each contestant named."""
    _clean_up_when_terminated()
    results = Results(names, tuple(plan.calls), plan.points)
    async with AsyncExitStack() as stack:
        agent = await stack.enter_async_context(running_agent())
        await _timed(results, plan, agent)
        for name in names:
            _say(f"{name}: the store")
            results.store[name] = await store_cost.measure(name, agent, plan.store_calls)
    return results


async def _timed(results: Results, plan: Plan, agent: Running) -> None:
    """What needs all contestants up at once: rounds that alternate between them, and long calls."""
    async with AsyncExitStack() as stack:
        services: dict[Name, Running] = {}
        for name in results.names:
            _say(f"{name}: starting")
            services[name] = await stack.enter_async_context(running_contestant(name, agent))
            results.memory[name] = Memory(services[name].resident_bytes())
        for number in range(plan.rounds):
            _say(f"round {number + 1} of {plan.rounds}")
            await _round(results, plan, services, number)
        for name, service in services.items():
            results.memory[name].end_bytes = service.resident_bytes()
            _say(f"{name}: long calls")
            results.growth[name] = await turn_cost.measure(service, plan.points)


async def _round(results: Results, plan: Plan, services: dict[Name, Running], number: int) -> None:
    # Each round starts with another contestant: nobody always runs on the machine its predecessor warmed up.
    first = number % len(results.names)
    for in_flight, calls in plan.calls.items():
        for name in results.names[first:] + results.names[:first]:
            speed = await load.measure(services[name], in_flight, calls)
            results.rounds.setdefault((name, in_flight), []).append(speed)
            results.memory[name].calls += in_flight + calls


def main(arguments: Sequence[str]) -> int:
    """Measure and write; 1 and no page when a process did not start or a turn failed."""
    options = _options(arguments)
    start = perf_counter()
    try:
        results = asyncio.run(run(tuple(options.only or NAMES), QUICK if options.quick else FULL))
    except (StartError, load.TurnError) as failure:
        _say(f"no figures: {failure}")
        return 1
    except asyncio.CancelledError:
        _say("no figures: terminated")
        return 128 + signal.SIGTERM
    command = shlex.join(["python", "-m", "bench", *arguments])
    page = report.page(results, command, perf_counter() - start)
    options.out.write_text(page)
    sys.stdout.write(page)
    return 0


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds, calls of 100 turns")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the page to write (default: %(default)s)")
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
