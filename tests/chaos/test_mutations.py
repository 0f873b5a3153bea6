"""The product broken on purpose: without its fence, without effect records, without asking before it sends again. The
suite sees each of them, and nothing where the product is whole.

A replica is stopped while three agents have acted and not answered, its clients turn to the other one, and it wakes.
"""

import asyncio
import os
import random
import signal
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.chaos.clients import STORY, Client, Heard
from tests.chaos.invariants import violations_of_effects, violations_of_trail
from tests.chaos.processes import KINDS, Kind, until
from tests.chaos.run import trail_of
from tests.chaos.settling import Settler
from tests.chaos.world import World, open_world

LEASE = 1.0
SEEN: Mapping[str | None, set[str]] = {
    None: set(),
    "no-fence": {"greet: the steps are numbered [1, 1]"},
    "no-effect-record": {"refund/refund was done 2 times", "credit/credit was done 2 times"},
    "resend-without-asking": {"refund/refund was done 2 times", "credit/credit was done 2 times"},
}
"""What is seen of each mutation."""
HELD = ("greet", "refund", "credit")


@pytest.mark.parametrize("kind", KINDS if "CHAOS" in os.environ else KINDS[:1])  # all of them in `make chaos`
def test_every_mutation_is_seen(kind: Kind, tmp_path: Path) -> None:
    assert asyncio.run(seen(kind, tmp_path)) == SEEN


async def seen(kind: Kind, folder: Path) -> dict[str | None, set[str]]:
    """What is seen of each mutation, as far as it is expected; everything where nothing is."""
    found: dict[str | None, set[str]] = {}
    async with open_world(kind, folder, lease=LEASE) as world:
        for broken, expected in SEEN.items():
            await asyncio.gather(*(replica.become(broken) for replica in world.replicas))
            violations = await stopped_too_long(world, f"{broken} ")
            found[broken] = {one for one in expected if any(one in violation for violation in violations)}
            found[broken] |= set() if expected else set(violations)
    return found


async def stopped_too_long(world: World, prefix: str) -> list[str]:
    """Return what is violated when a replica stops with three turns in flight, and wakes when all is done."""
    heard, (one, two) = Heard(), world.replicas
    settler = Settler(world, patience=0.5, replicas=[two])
    client = Client(world, heard, random.Random(1), replicas=[two])
    calls = {intent: f"{prefix}{intent}" for intent in HELD}
    for intent, call in calls.items():
        for before in STORY[: STORY.index(intent)]:
            await client.want(call, before)

    first = Client(world, Heard(), random.Random(1), replicas=[one])
    arrived = await world.arrived()
    turns = [asyncio.create_task(first.send(call, "1", intent, hold=True)) for intent, call in calls.items()]
    await until(lambda: world.has_arrived(arrived + len(turns)), "three messages")
    one.signal(signal.SIGSTOP)
    await world.let_go()
    await asyncio.sleep(LEASE)

    settling = asyncio.create_task(settler.settle_all())
    again = [client.turn(calls[intent], "1", intent, hold=True) for intent in HELD[1:]]
    await asyncio.gather(client.turn(calls["greet"], "another", "greet"), *again)
    one.signal(signal.SIGCONT)
    await asyncio.wait(turns)
    settling.cancel()
    await asyncio.gather(*turns, settling, return_exceptions=True)

    violations = violations_of_effects(world.books.by_intention(), ())
    for call in calls.values():
        answers = [answer for answer in heard.answers if answer.call == call]
        violations += violations_of_trail(call, await trail_of(world, call), answers, settler.said)
    return heard.wrong + violations
