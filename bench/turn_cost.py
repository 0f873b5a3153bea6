"""What turn 1, 10, 100 and 1,000 of one call cost, so that a call that grows slower shows.

Every turn says `unknown`: the fallback agent answers and the call never advances.
"""

import asyncio
from dataclasses import dataclass
from statistics import median

from bench.load import Client, client_of, new_call_id
from bench.processes import Running

SAMPLES = 20
MANY_TURNS = 100


@dataclass(slots=True)
class _Call:
    """A call that is still at its first stage, ready to be timed."""

    client: Client
    call_id: str

    async def turn(self) -> float:
        return await self.client.turn(self.call_id, "unknown", 1)

    async def turns(self, number: int) -> None:
        for _ in range(number):
            await self.turn()


async def measure(service: Running, points: tuple[int, ...]) -> dict[int, float]:
    """Median milliseconds of 20 turns at (below 100) or around (from 100 on) each point.

    The samples of all points are taken in turn, so that a machine that gets busy shifts them all.
    """
    async with client_of(service) as client:
        lines = {point: await _calls_before(client, point) for point in points}
        times: dict[int, list[float]] = {point: [] for point in points}
        for sample in range(SAMPLES):
            for point, calls in lines.items():
                times[point].append(await calls[sample].turn())
    return {point: median(seen) for point, seen in times.items()}


async def _calls_before(client: Client, point: int) -> list[_Call]:
    """The call to time for each sample: from 100 turns on the same one, whose turns straddle the point."""
    if point < MANY_TURNS:
        calls = [_Call(client, new_call_id()) for _ in range(SAMPLES)]
        await asyncio.gather(*(call.turns(point - 1) for call in calls))
        return calls
    long_call = _Call(client, new_call_id())
    await long_call.turns(point - SAMPLES // 2 - 1)
    return [long_call] * SAMPLES
