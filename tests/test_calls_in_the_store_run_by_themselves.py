"""Calls of a flow that runs by itself: each stage is committed, and a run goes on from its last commit."""

import asyncio
from pathlib import Path

import pytest

from graph.flow import Flow
from graph.loader import load_flow
from graph.store.calls import OpenTurn
from graph.store.errors import Busy, TurnLost
from nodes.ports import AgentRequest
from nodes.remote.errors import Unreachable
from tests.desk import Agents, Place, assert_expiring, eventually, thread

REPORT = """
flow: report
agents: {facts: {url: "http://facts"}, draft: {url: "http://draft"}, check: {url: "http://check"}}
stages:
  gather: {agent: facts}
  write: {agent: draft}
  review: {agent: check}
"""


@pytest.fixture
def report(tmp_path: Path) -> Flow:
    """A flow that runs by itself, three stages in one run."""
    file = tmp_path / "report.yaml"
    file.write_text(REPORT)
    return load_flow(file, {})


def test_a_run_over_several_stages_commits_each(place: Place, report: Flow) -> None:
    async def story() -> None:
        seen: list[list[int]] = []
        busy: list[bool] = []

        async def look(request: AgentRequest) -> None:
            seen.append(await eventually(lambda: desk.steps("R"), [1]))
            with pytest.raises(Busy):
                await desk.begin("R")
            busy.append(True)

        async with place.desk(Agents({"draft": look}), flow=report) as desk:
            told = await desk.turn("R")
            assert (told["step"], told["is_complete"]) == (3, True)
            assert [step["number"] for step in told["session_summary"]["steps"]] == [1, 2, 3]
            assert (seen, busy) == ([[1]], [True])
            assert await desk.steps("R") == [1, 2, 3]
            moments = await desk.store.calls.history(thread("R"))
            assert [moment.state["step_count"] for moment in moments] == [1, 2, 3]
            await desk.store.calls.abandon(await desk.begin("R"))

    asyncio.run(story())
    assert_expiring(place)


def test_a_run_that_fails_halfway_goes_on_from_there(place: Place, report: Flow) -> None:
    async def broken(request: AgentRequest) -> None:
        raise ZeroDivisionError

    async def story() -> None:
        agents = Agents({"check": broken})
        async with place.desk(agents, flow=report) as desk:
            with pytest.raises(ZeroDivisionError):
                await desk.turn("R")
            assert await desk.steps("R") == [1, 2]
            assert_expiring(place)
            agents.told.clear()
            told = await desk.turn("R")
            assert (told["step"], told["is_complete"]) == (3, True)
            assert agents.heard == ["facts", "draft", "check", "check"]
            assert [step["number"] for step in told["session_summary"]["steps"]] == [1, 2, 3]

    asyncio.run(story())


def test_a_run_that_lost_its_lease_stops_at_its_next_commit(shared: Place, report: Flow) -> None:
    async def story() -> None:
        async def lose_lease(request: AgentRequest) -> None:
            await eventually(lambda: desk.steps("R"), [1])
            shared.let_lease_run_out("R")
            other.append(await desk.begin("R"))

        other: list[OpenTurn] = []
        async with shared.desk(Agents({"draft": lose_lease}), flow=report) as desk:
            with pytest.raises(TurnLost):
                await desk.turn("R")
            assert await desk.steps("R") == [1]
            await desk.store.calls.abandon(other[0])
            desk.agents.told.clear()
            assert (await desk.turn("R"))["is_complete"]
            assert await desk.steps("R") == [1, 2, 3]

    asyncio.run(story())


def test_a_message_is_answered_by_the_end_of_its_run(place: Place, report: Flow) -> None:
    async def broken(request: AgentRequest) -> None:
        raise ZeroDivisionError

    async def story() -> None:
        agents = Agents({"check": broken})
        async with place.desk(agents, flow=report) as desk:
            for failing in (True, False):
                turn = await desk.begin("R", key="1")
                assert turn.answered is None
                turn.one_save = False
                if failing:
                    with pytest.raises(ZeroDivisionError):
                        await desk.run(turn)
                    await desk.store.calls.abandon(turn)
                    agents.told.clear()
                else:
                    await desk.run(turn)
            assert (await desk.begin("R", key="1")).answered == 3
            assert_expiring(place)

    asyncio.run(story())


def test_a_message_whose_run_stopped_at_an_agents_failure_is_answered_by_it(place: Place, report: Flow) -> None:
    async def failing(request: AgentRequest) -> None:
        raise Unreachable(request.agent, "nobody there")

    async def story() -> None:
        async with place.desk(Agents({"draft": failing}), flow=report) as desk:
            turn = await desk.begin("R", key="1")
            turn.one_save = False
            await desk.run(turn)
            assert (await desk.begin("R", key="1")).answered == 2

    asyncio.run(story())
