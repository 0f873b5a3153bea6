"""The memory of one process that answers call after call, up to a hundred thousand.

Most calls get no further than their first turn, every tenth has all five; all expire soon, so that Redis stays small
and the service also does what it does for calls that are over.
"""

import asyncio
from collections.abc import Callable

from bench.contestants import SUBJECT, running_service
from bench.load import FIVE_TURNS, client_of, drive
from bench.processes import Running, running_redis

IN_FLIGHT = 32
TTL_SECONDS = 10
SETTLE_SECONDS = 2.0
EVERY = 10


async def measure(agent: Running, points: tuple[int, ...], tell: Callable[[str], None]) -> dict[int, int]:
    """Resident bytes of the service process after each of these numbers of calls; it takes minutes, so it tells."""
    seen: dict[int, int] = {}
    made = 0
    short_lived = {"FLOWS_SESSION_TTL_SECONDS": str(TTL_SECONDS)}
    async with (
        running_redis() as redis,
        running_service(SUBJECT, agent, redis.port, short_lived) as service,
        client_of(service) as client,
    ):
        for point in points:
            await drive(client, IN_FLIGHT, point - made, _turns)
            made = point
            await asyncio.sleep(SETTLE_SECONDS)
            seen[point] = service.resident_bytes()
            tell(f"{point:,} calls: {seen[point] / 1e6:.1f} MB")
    return seen


def _turns(number: int) -> int:
    return 1 if number % EVERY else len(FIVE_TURNS)
