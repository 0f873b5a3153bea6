"""A run whose process died, or whose store failed, is left to be gone on with, whatever message comes first."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from graph.flow import Flow
from graph.loader import load_flow
from graph.routing import Refused
from graph.store.errors import StoreError
from nodes.ports import AgentRequest
from server.problems import KeyReused
from server.turn import Started, TurnRequest
from tests.desk import Desk, Place, assert_expiring, eventually, keys, lives, thread
from tests.test_calls_in_the_store_run_by_themselves import REPORT

SENT = TurnRequest("R", "ACC-1", None, "write it", key="K", begins=True, flow="report", ttl=7200.0)


@pytest.fixture
def report(tmp_path: Path) -> Flow:
    file = tmp_path / "report.yaml"
    file.write_text(REPORT)
    return load_flow(file, {})


async def die_halfway(desk: Desk, steps: Sequence[int] = (1,)) -> None:
    """Send SENT to a process that dies when the first stage is committed."""

    async def killed(request: AgentRequest) -> None:
        await eventually(lambda: desk.steps("R"), list(steps))
        taking.cancel()
        await asyncio.Event().wait()

    desk.agents.told["draft"] = killed
    taking = asyncio.create_task(desk.turns.take(SENT))
    with pytest.raises(asyncio.CancelledError):
        await taking
    del desk.agents.told["draft"]
    assert list(await desk.store.calls.dead("t")) == [thread("R")]


@pytest.mark.parametrize(
    "other",
    [
        replace(SENT, input_message="another", key="L"),
        replace(SENT, begins=False, key=None, account_id="ACC-2"),
        replace(SENT, begins=False, key=None, flow=None, run=7),
    ],
)
def test_a_message_that_is_refused(shared: Place, report: Flow, other: TurnRequest) -> None:
    async def story() -> None:
        async with shared.desk(flow=report) as desk:
            await die_halfway(desk)
            [before] = (await desk.store.calls.dead("t")).values()

            with pytest.raises((Refused, KeyReused)):
                await desk.turns.take(other)

            [dead] = (await desk.store.calls.dead("t")).values()
            assert dead.opened
            assert before.opened
            assert (dead.opened.said, dead.opened.committed) == (before.opened.said, True)
            started = await desk.turns.resume("R", dead)
            assert isinstance(started, Started)
            taken = await started.taking
            assert (taken.state["is_complete"], taken.step["input_message"]) == (True, "write it")
            assert desk.agents.heard == ["facts", "draft", "draft", "check"]

    asyncio.run(story())


def test_a_message_that_is_refused_before_anything_was_saved(shared: Place, report: Flow) -> None:
    async def story() -> None:
        async with shared.desk(flow=report) as desk:
            key = f"report {report.digest}"
            said = {**SENT.said(), "flow": "report"}
            await desk.store.calls.begin(thread("R"), said=said, version=key, ttl=7200, resumes=True)
            shared.let_lease_run_out("R")

            with pytest.raises(Refused):
                await desk.turns.take(replace(SENT, key=None, run=7, ttl=None))

            [dead] = (await desk.store.calls.dead("t")).values()
            assert (dead.version, dead.opened and dead.opened.said["key"]) == (key, "K")
            started = await desk.turns.resume("R", dead)
            assert isinstance(started, Started)
            assert (await started.taking).step["input_message"] == "write it"

    asyncio.run(story())


def test_the_very_message_sent_again(shared: Place, report: Flow) -> None:
    async def story() -> None:
        async with shared.desk(flow=report) as desk:
            await die_halfway(desk)

            again = await desk.turns.take(SENT)

            assert again.state["is_complete"]
            assert desk.agents.heard == ["facts", "draft", "draft", "check"]

    asyncio.run(story())


def test_a_store_that_takes_nothing_for_a_while(core: Place, report: Flow) -> None:
    async def story() -> None:
        async with core.desk(flow=report) as desk:

            async def full(request: AgentRequest) -> None:
                await eventually(lambda: desk.steps("R"), [1])
                with core.admin() as redis:
                    redis.config_set("maxmemory", 1)

            desk.agents.told["draft"] = full
            try:
                with pytest.raises(StoreError):
                    await desk.turns.take(SENT)
            finally:
                with core.admin() as redis:
                    redis.config_set("maxmemory", 0)
            core.let_lease_run_out("R")

            [dead] = (await desk.store.calls.dead("t")).values()
            desk.agents.told.clear()
            started = await desk.turns.resume("R", dead)
            assert isinstance(started, Started)
            assert (await started.taking).state["is_complete"]

    asyncio.run(story())


def test_a_run_of_which_nothing_is_left(shared: Place, report: Flow) -> None:
    async def story() -> None:
        async with shared.desk(flow=report) as desk:
            await die_halfway(desk)
            [dead] = (await desk.store.calls.dead("t")).values()
            with shared.admin() as redis:
                gone = [keys("R")[1], *redis.scan_iter("checkpoint*")]
                redis.delete(*gone)

            assert await desk.turns.resume("R", dead) is None
            assert await desk.store.calls.read(thread("R")) is None

    asyncio.run(story())


def test_nothing_is_canceled_where_there_is_nothing(place: Place, report: Flow) -> None:
    async def story() -> None:
        async with place.desk(flow=report) as desk:
            await desk.turns.cancel("R", 1)
            assert await desk.store.calls.read(thread("R")) is None

    asyncio.run(story())


def test_one_that_had_ended_when_its_process_died_expires(shared: Place, report: Flow) -> None:
    async def story() -> None:
        async with shared.desk(flow=report) as desk:
            turn = await desk.begin("R")
            turn.one_save = False
            await desk.graph.ainvoke(
                {"input_message": "write it", "incarnation": turn.incarnation}, turn.config(), durability="async"
            )
            shared.let_lease_run_out("R")
            [dead] = (await desk.store.calls.dead("t")).values()

            assert await desk.turns.resume("R", dead) is None

            assert await desk.store.calls.dead("t") == {}
            assert await desk.steps("R") == [1, 2, 3]
        assert_expiring(shared)

    asyncio.run(story())


def test_a_message_that_is_refused_does_not_change_how_long_a_call_is_kept(shared: Place, report: Flow) -> None:
    async def story() -> None:
        async with shared.desk() as desk:
            await desk.turn("R", "greeting")
            with pytest.raises(KeyReused):
                await desk.turns.take(replace(SENT, flow=None, ttl=30 * 86_400.0))
            await desk.turn("R", "authenticate")
        assert max(lives(shared, keys("R")).values()) <= 3600

    asyncio.run(story())


ASKING = """
flow: report
agents: {facts: {url: "http://facts"}, draft: {url: "http://draft"}}
stages:
  who: {ask: {question: "Who is it for?", schema: {type: string}}, needs: []}
  gather: {agent: facts, needs: []}
  write: {agent: draft, needs: [gather]}
"""


@pytest.mark.parametrize("sent_again", [False, True])
def test_what_began_a_run_answers_no_question_when_it_is_gone_on_with(
    shared: Place, tmp_path: Path, sent_again: bool
) -> None:
    (tmp_path / "report.yaml").write_text(ASKING)

    async def story() -> None:
        async with shared.desk(flow=load_flow(tmp_path / "report.yaml", {})) as desk:
            await die_halfway(desk, [1, 2])
            [dead] = (await desk.store.calls.dead("t")).values()

            started = await (desk.turns.start(SENT) if sent_again else desk.turns.resume("R", dead))

            assert isinstance(started, Started)
            taken = await started.taking
            assert (taken.state["done"], list(taken.state["asked"])) == (
                {"gather": "answered", "write": "answered"},
                ["who"],
            )

    asyncio.run(story())
