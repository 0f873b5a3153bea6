"""Any flow runs as the language means it: the engine against a reference interpreter, over flows of every shape.

The checker decides which flows may run: what it refuses is not run, and what it accepts ends.
"""

import asyncio
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st
from hypothesis.errors import UnsatisfiedAssumption

from graph.flow import Flow
from graph.loader import FlowError
from nodes.remote import Caller
from tests.any_flow import Reached, by_engine, by_reference, flow_of, flows_by_needs, flows_by_ways, served
from tests.meaning import Agents

SEEDS = st.integers(0, 1000)
SIZES = st.integers(0, 8)
TURNS = 4


def often(examples: int) -> settings:
    """Try so many flows; a run takes what it takes on a busy machine."""
    return settings(max_examples=examples, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@often(20)
@given(flows_by_ways(), SEEDS, SIZES)
def test_a_flow_by_ways_means_what_the_reference_says(stages: Any, seed: int, items: int) -> None:
    flow = accepted(stages)
    run = asyncio.run(by_engine(flow, Reached(Agents(seed)), items, TURNS))

    event(f"ended {run['ended']}")
    assert run == by_reference(flow, stages, Agents(seed), items, TURNS)


@often(20)
@given(flows_by_needs(), SEEDS, SIZES)
def test_a_flow_by_needs_means_what_the_reference_says(stages: Any, seed: int, items: int) -> None:
    flow = accepted(stages)
    run = asyncio.run(by_engine(flow, Reached(Agents(seed)), items, TURNS))

    event(f"ended {run['ended']}")
    assert run == by_reference(flow, stages, Agents(seed), items, TURNS)


@often(15)
@given(flows_by_ways() | flows_by_needs(), SEEDS, SIZES, st.integers(1, 40))
def test_a_run_that_was_stopped_goes_on_as_if_nothing_had_happened(
    stages: Any, seed: int, items: int, steps: int
) -> None:
    flow = accepted(stages)
    run = asyncio.run(by_engine(flow, Reached(Agents(seed)), items, TURNS, stops_after=steps))

    assert run == by_reference(flow, stages, Agents(seed), items, TURNS)


@often(15)
@given(flows_by_ways(errors=False) | flows_by_needs(errors=False), SEEDS, SIZES, st.integers(1, 40))
def test_a_turn_after_a_failure_goes_on_to_the_same_end(stages: Any, seed: int, items: int, fails_at: int) -> None:
    flow = accepted(stages)
    expected = by_reference(flow, stages, Agents(seed, moody=False), items, 1)
    assume(expected["ended"] and "'over': 'r0'" not in str(stages))  # a list that the failure itself would change
    failing = Reached(Agents(seed, moody=False), fails_at)
    run = asyncio.run(by_engine(flow, failing, items, 2))

    assert without_failures(run) == without_failures(expected)


@often(5)
@given(flows_by_ways() | flows_by_needs(), SEEDS, SIZES)
def test_agents_over_http_make_no_difference(stages: Any, seed: int, items: int) -> None:
    async def run() -> tuple[Flow, dict[str, Any]]:
        async with served(Agents(seed)) as url, Caller() as caller:
            flow = flow_of(stages, url)
            return flow, await by_engine(flow, caller, items, TURNS)

    accepted(stages)
    flow, outcome = asyncio.run(run())

    assert outcome == by_reference(flow, stages, Agents(seed), items, TURNS)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({}, {"next": [{"when": "x0 == 2", "goto": "one"}, {"goto": "one", "at_most": 2}]}),
        ({"next": [{"goto": "two", "at_most": 1}]}, {"next": [{"when": "x0 == 2", "goto": "one"}]}),
    ],
    ids=["one of two ways back has no bound", "past the bound it goes on to the next stage anyway"],
)
def test_a_loop_that_one_way_bounds_and_another_does_not_is_refused(first: Any, second: Any) -> None:
    with pytest.raises(FlowError, match="nothing ends the loop one → two → one"):
        flow_of({"one": {"agent": "a", **first}, "two": {"agent": "a", **second}})


def accepted(stages: Any) -> Flow:
    """Return the flow; one that does not check ends here, with an error that says where."""
    try:
        flow = flow_of(stages)
    except FlowError as error:
        refused = str(error)
    else:
        return flow
    assert refused.startswith("any.yaml:")
    event("refused")
    raise UnsatisfiedAssumption


def without_failures(run: dict[str, Any]) -> dict[str, Any]:
    """Leave out failed steps and the order: what failed is asked again, later than those it was asked beside."""
    return run | {"trail": sorted((step for step in run["trail"] if step[2] == "success"), key=str)}
