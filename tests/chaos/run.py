"""One run: calls and faults at once, then peace, then what must hold."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import orjson

from tests.chaos.clients import Client, Heard
from tests.chaos.faults import Faults
from tests.chaos.invariants import (
    Trail,
    violations_of_effects,
    violations_of_receipts,
    violations_of_run,
    violations_of_trail,
)
from tests.chaos.ledger import Effect
from tests.chaos.processes import Kind
from tests.chaos.settling import Settler
from tests.chaos.world import World, open_world

STUCK_SECONDS = 60.0
"""How long a call may take once nothing is broken any more."""
RUNS = 4
"""Every which call is a run of a flow that goes by itself."""
_OF_A_CALL = "default__"
"""What is in the names of all keys of calls: their tenant."""
REPEATED = 100
"""How many turns are sent once more when all is over."""


@dataclass(frozen=True)
class Plan:
    """What a run is like."""

    kind: Kind
    seed: int
    calls: int
    clients: int = 16
    """How many calls are made at once."""
    seconds: float = 3600.0
    """After how long no further call is begun."""
    fault_every: float = 2.0
    """Seconds between two faults, on average."""
    cut: float = 0.03
    """How likely a request to an agent is cut."""
    fsync: str = "always"
    broken: str | None = None


@dataclass
class Outcome:
    """What came of a run."""

    plan: Plan
    calls: int
    answered: int
    repeated: int
    seconds: float
    faults: Counter[str]
    refused: Counter[str]
    settled: Counter[str]
    lost: int
    duplicated: int
    stuck: int
    endless: int
    """Checkpoints of a stock saver that never expire: those that a kill left behind which no commit ever named."""
    violations: list[str]


async def run(plan: Plan, folder: Path) -> Outcome:
    """Make a run in a folder, which keeps the logs."""
    started = time.monotonic()
    async with open_world(plan.kind, folder, fsync=plan.fsync, broken=plan.broken) as world:
        storm = await _stormed(plan, world)
        return await _looked_at(plan, world, storm, started)


@dataclass
class _Storm:
    """What there is to look at when all is over."""

    heard: Heard
    settler: Settler
    faults: Faults
    begun: list[str]
    stuck: list[str]


async def _stormed(plan: Plan, world: World) -> _Storm:
    """Make the calls while everything goes wrong, and then let them end in peace."""
    dice = random.Random(plan.seed)
    heard, settler = Heard(), Settler(world)
    faults = Faults(world, random.Random(dice.random()), plan.fault_every, plan.cut)
    settling, injecting = asyncio.create_task(settler.settle_all()), asyncio.create_task(faults.inject())
    callers = _Callers(plan, world, heard, dice)
    await callers.until_enough(watched=(settling, injecting))
    injecting.cancel()
    await faults.heal()
    stuck = await callers.until_ended()
    settling.cancel()
    await asyncio.gather(settling, injecting, return_exceptions=True)
    client = Client(world, heard, dice)
    for answer in dice.sample(heard.answers, min(REPEATED, len(heard.answers))):
        await client.repeat(answer)
    return _Storm(heard, settler, faults, callers.begun, stuck)


async def _looked_at(plan: Plan, world: World, storm: _Storm, started: float) -> Outcome:
    """Return what came of a run, and whatever it violated."""
    heard, settler, counts = storm.heard, storm.settler, storm.faults.counts
    trails = {call: await trail_of(world, call) for call in storm.begun}
    effects = world.books.by_intention()
    lost, wrong = _violations_of_trails(trails, storm), _violations_of_effects(trails, storm, effects)
    endless = [key for key in world.store.endless() if _OF_A_CALL in key]
    ours = [f"never expires: {key}" for key in endless if key.startswith("flows:")]
    left = [f"still parked: {dict(parked)}" for parked in await settler.listed()]
    stuck = [f"{call} is stuck" for call in storm.stuck]
    counts.update(f"agent cut: {cut.cut}" for cut in world.cuts)
    counts["turn sent twice at once"] = heard.doubled
    return Outcome(
        plan,
        calls=len(storm.begun),
        answered=len(heard.answers),
        repeated=heard.repeated,
        seconds=time.monotonic() - started,
        faults=counts,
        refused=heard.refused,
        settled=settler.settled,
        lost=len(lost),
        duplicated=sum(len(one) - 1 for one in effects.values()),
        stuck=len(stuck),
        endless=len(endless) - len(ours),
        violations=[*heard.wrong, *lost, *wrong, *settler.knowable, *storm.faults.wrong, *stuck, *ours, *left],
    )


def _violations_of_trails(trails: Mapping[str, Trail], storm: _Storm) -> list[str]:
    found: list[str] = []
    for call, trail in trails.items():
        if call.startswith("RUN"):
            found += violations_of_run(call, trail, storm.settler.said)
        else:
            answers = [answer for answer in storm.heard.answers if answer.call == call]
            found += violations_of_trail(call, trail, answers, storm.settler.said)
    return found


def _violations_of_effects(
    trails: Mapping[str, Trail], storm: _Storm, effects: Mapping[str, Sequence[Effect]]
) -> list[str]:
    done = [
        f"{call}/{step['stage']}"
        for call, trail in trails.items()
        for step in trail
        if step["response_status"] == "success" and step["agent"] != "reader"
    ]
    return violations_of_effects(effects, done) + violations_of_receipts(storm.heard.answers, effects)


class _Callers:
    """The clients of a run, so many at once."""

    def __init__(self, plan: Plan, world: World, heard: Heard, dice: random.Random) -> None:
        self._plan = plan
        self._world = world
        self._heard = heard
        self._dice = dice
        self._free = asyncio.Semaphore(plan.clients)
        self._open: dict[asyncio.Task[None], str] = {}
        self.begun: list[str] = []

    async def until_enough(self, watched: tuple[asyncio.Task[None], ...]) -> None:
        """Begin calls until there are enough, or the time is up; and wait for most of them."""
        ends = time.monotonic() + self._plan.seconds
        while len(self.begun) < self._plan.calls and time.monotonic() < ends:
            await self._free.acquire()
            for task in watched:
                if task.done():
                    task.result()
            number = len(self.begun) + 1
            self._begin(f"CALL-{number}" if number % RUNS else f"RUN-{number}")

    async def until_ended(self) -> list[str]:
        """Wait for the calls that are left; return those that do not end."""
        if not self._open:
            return []
        _, stuck = await asyncio.wait(self._open, timeout=STUCK_SECONDS)
        names = [self._open[task] for task in stuck]
        for task in stuck:
            task.cancel()
        await asyncio.gather(*stuck, return_exceptions=True)
        return names

    def _begin(self, call: str) -> None:
        self.begun.append(call)
        client = Client(self._world, self._heard, random.Random(self._dice.random()), doubles=0.1, asides=0.3)
        making = client.make_run(call) if call.startswith("RUN") else client.make_call(call)
        task = asyncio.create_task(making)
        self._open[task] = call
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._free.release()
        if not task.cancelled():
            call = self._open.pop(task)
            if (error := task.exception()) is not None:
                self._heard.wrong.append(f"{call}: {error!r}")


async def trail_of(world: World, call: str) -> list[Mapping[str, Any]]:
    """Return the audit trail of a call, from whichever replica; nothing if there is no such call."""
    replica = world.replicas[hash(call) % 2]
    for _ in range(20):
        try:
            answer = await world.http.get(f"{replica.url}/session/{call}/steps")
        except httpx.HTTPError:
            answer = None
        if answer is not None and answer.status_code == 200:
            return list(orjson.loads(answer.content))
        if answer is not None and answer.status_code == 404:
            return []
        await asyncio.sleep(0.2)
    raise TimeoutError(f"nobody shows the trail of {call}")
