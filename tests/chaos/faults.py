"""What goes wrong, at random instants: replicas are killed, stopped for longer than a lease and woken, told to end;
the store is killed and starts again; connections to agents are cut."""

import asyncio
import random
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial

from tests.chaos.processes import Replica
from tests.chaos.proxy import at_random
from tests.chaos.world import LEASE_SECONDS, World

LONGEST_STOP = 2 * LEASE_SECONDS


@dataclass
class Faults:
    """Injects faults until it is stopped.

    Args:
        world: who suffers them.
        dice: decides when, what and who.
        every: seconds between two faults, on average.
        cut: how likely a connection to an agent is cut.
    """

    world: World
    dice: random.Random
    every: float
    cut: float
    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    """What went wrong that should not have."""
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _busy: set[str] = field(default_factory=set)
    """Who suffers one just now."""

    async def inject(self) -> None:
        """Inject faults, for ever."""
        choose = at_random(self.dice, self.cut)
        self.world.choose.of = lambda agent, method: choose(method)
        kinds = [self._kill] * 4 + [self._stop] * 3 + [self._end]
        faults = [partial(self._suffers, kind) for kind in kinds] + [self._store_suffers] * 2
        self.dice.shuffle(faults)
        turn = 0
        while True:
            await asyncio.sleep(self.dice.uniform(0.5, 1.5) * self.every)
            turn += faults[turn % len(faults)]()

    async def heal(self) -> None:
        """Let everything work again; what is under way ends first."""
        self.world.choose.of = lambda agent, method: None
        await asyncio.gather(*self._tasks)

    def _suffers(self, fault: Callable[[Replica], Awaitable[None]]) -> bool:
        """Let a replica suffer that suffers nothing yet; tell whether there was one."""
        free = [replica for replica in self.world.replicas if replica.name not in self._busy]
        if free:
            replica = self.dice.choice(free)
            self._begin(replica.name, fault(replica))
        return bool(free)

    def _store_suffers(self) -> bool:
        if "store" in self._busy:
            return False
        self._begin("store", self._kill_store())
        return True

    def _begin(self, whose: str, fault: Awaitable[None]) -> None:
        async def suffer() -> None:
            await fault
            self._busy.discard(whose)

        self._busy.add(whose)
        task = asyncio.create_task(suffer())
        self._tasks.add(task)

    async def _kill(self, replica: Replica) -> None:
        self.counts["replica killed"] += 1
        await replica.kill()
        await asyncio.sleep(self.dice.uniform(0, 1))
        await replica.start()

    async def _end(self, replica: Replica) -> None:
        self.counts["replica told to end"] += 1
        self.world.told_to_end[replica.url] = time.monotonic()
        try:
            await replica.kill(signal.SIGTERM)
        except TimeoutError as error:
            self.wrong.append(str(error))
            await replica.kill()
        await replica.start()

    async def _stop(self, replica: Replica) -> None:
        self.counts["replica stopped and woken"] += 1
        replica.signal(signal.SIGSTOP)
        await asyncio.sleep(self.dice.uniform(1.2 * LEASE_SECONDS, LONGEST_STOP))
        replica.signal(signal.SIGCONT)

    async def _kill_store(self) -> None:
        self.counts["store killed"] += 1
        self.world.store.kill()
        await asyncio.sleep(self.dice.uniform(0, 1))
        await self.world.store.start()
