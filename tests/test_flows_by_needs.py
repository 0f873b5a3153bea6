"""Flows whose order comes from `needs`, told as stories with real agents over HTTP."""

import asyncio

from graph import TurnContext
from tests.crowd import Line, over

NEEDS = """\
stages:
  load: {agent: worker, input: {text: "'load'"}, needs: []}
  trend: {agent: worker, input: {text: "'trend'"}, needs: [load]}
  each: {map: {over: topics, agent: worker}, input: {text: item}, needs: [load]}
  later: {agent: worker, input: {text: "'later'"}, needs: [trend]}
  report: {agent: worker, input: {text: "'report on ' + each.data.results[0]"}, needs: [later, each]}
"""


def test_stages_that_are_ready_run_at_once_and_a_join_waits_for_all() -> None:
    async def story(line: Line) -> None:
        state = await line.say("go", topics=["a", "b"])

        assert await line.told() == ["load", "trend", "each/0", "each/1", "each", "later", "report"]
        assert [step["number"] for step in await line.trail()] == [1, 2, 3, 4, 5, 6, 7]
        assert (line.crowd.heard[-1], state["ended"], state["completed_flows"]) == (
            "report on A",
            "completed",
            [1, 2, 3, 4, 5],
        )

    over(NEEDS, story)


def test_an_agent_and_a_list_that_are_ready_together_are_asked_together() -> None:
    async def story(line: Line) -> None:
        line.crowd.full = lambda in_flight: in_flight == 3  # or nobody is answered
        state = await line.say("one", topics=["a", "b"])

        assert (state["ended"], line.crowd.most) == ("completed", 3)
        assert await line.told() == ["one", "each/0", "each/1", "each", "last"]

    flow = """\
stages:
  one: {agent: worker, needs: []}
  each: {map: {over: topics, agent: worker}, input: {text: item}, needs: []}
  last: {agent: worker, input: {text: "'last'"}, needs: [one, each]}
"""
    over(flow, story)


def test_a_stage_that_failed_is_asked_again_and_the_rest_is_not() -> None:
    async def story(line: Line) -> None:
        line.crowd.broken = {"later"}
        state = await line.say("go", topics=["a"])
        told = await line.told()

        assert (told[-1], state["ended"], state["stage"]) == ("later!", None, "later")
        assert "stage 'later': no later" in state["steps"][-1]["response_data"]["error"]["message"]
        heard = len(line.crowd.heard)
        line.crowd.broken = set()
        state = await line.say("go")

        assert (line.crowd.heard[heard:], state["ended"]) == (["later", "report on A"], "completed")

    over(NEEDS, story)


def test_a_flow_with_several_ends_tells_of_them_together_once() -> None:
    async def story(line: Line) -> None:
        state = await line.say("go")
        trail = await line.trail()

        assert await line.told() == ["one", "two", "three", "three"]
        assert [step["is_complete"] for step in trail] == [False, False, False, True]
        assert trail[-1]["response_data"]["text"] == "TWO\nTHREE"
        assert (state["ended"], state["session_summary"]["step_count"]) == ("completed", 4)

    flow = """\
stages:
  one: {agent: worker, needs: []}
  two: {agent: worker, input: {text: "'two'"}, needs: []}
  three: {agent: worker, input: {text: "'three'"}, needs: [one]}
"""
    over(flow, story)


def test_a_cancel_reaches_every_stage_that_is_at_work() -> None:
    async def story(line: Line) -> None:
        context = TurnContext(cancel=asyncio.Event())
        turn = asyncio.create_task(line.say("work", context, topics=["work", "b", "work"]))
        await line.crowd.until_followed(4)
        assert context.cancel
        context.cancel.set()
        state = await turn

        assert sorted(line.crowd.canceled) == sorted(line.crowd.followed)
        assert "later" not in line.crowd.heard
        assert (state["ended"], (await line.trail())[-1]["ended"]) == ("canceled", "canceled")
        assert [step["number"] for step in await line.trail()] == list(range(1, state["step_count"] + 1))

    flow = """\
stages:
  one: {agent: worker, needs: []}
  both: {parallel: {b: {agent: worker}}, needs: []}
  each: {map: {over: topics, agent: worker}, input: {text: item}, needs: []}
  later: {agent: worker, input: {text: "'later'"}, needs: [one]}
"""
    over(flow, story)


def test_a_stage_that_fails_the_run_lets_those_at_work_end_and_begins_nothing_else() -> None:
    async def story(line: Line) -> None:
        line.crowd.broken = {"go"}
        state = await line.say("go", topics=["a", "b"])

        assert (state["ended"], state["is_complete"]) == ("failed", False)
        assert sorted(line.crowd.heard) == ["a", "b", "go"]
        assert state["steps"][-1]["response_data"]["error"]["message"] == "stage 'one': no go"

    flow = """\
stages:
  one: {agent: worker, on_error: fail, needs: []}
  each: {map: {over: topics, agent: worker}, input: {text: item}, needs: []}
  later: {agent: worker, input: {text: "'later'"}, needs: [one, each]}
"""
    over(flow, story)


def test_steps_that_are_made_beside_each_other_are_numbered_through() -> None:
    async def story(line: Line) -> None:
        state = await line.say("go", TurnContext(interrupts=False), topics=["a", "b"])

        assert await line.told() == ["approve", "each/0", "each/1", "each", "approve"]
        assert [step["number"] for step in await line.trail()] == [1, 2, 3, 4, 5]
        assert state["step_count"] == 5

    flow = """\
stages:
  approve: {ask: {question: "Go on?"}, needs: []}
  each: {map: {over: topics, agent: worker}, input: {text: item}, needs: []}
"""
    over(flow, story)
