"""A few seconds of everything that can go wrong, at random instants: nothing is lost, and nothing done twice."""

import asyncio
from pathlib import Path

import pytest

from tests.chaos.processes import KINDS, Kind
from tests.chaos.run import Plan, run
from tests.chaos.table import table

FAULTS = {
    "replica killed",
    "replica stopped and woken",
    "store killed",
    "agent cut: before",
    "agent cut: after",
    "agent cut: during",
    "agent cut: late",
    "turn sent twice at once",
}


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_goes_wrong(kind: Kind, tmp_path: Path) -> None:
    plan = Plan(kind, seed=5, calls=10_000, clients=6, seconds=9, fault_every=1, cut=0.08)

    outcome = asyncio.run(run(plan, tmp_path))

    print(table([outcome]))
    assert outcome.violations == []
    assert outcome.faults.keys() >= FAULTS
