"""Stages that ask several at once, branches and lists, told as stories with real agents over HTTP."""

import asyncio
from typing import Any

import pytest

from graph import Refused, TurnContext
from tests.crowd import Line, over

BRANCHES = """\
stages:
  both:
    parallel:
      tax: {agent: worker, input: {text: "'tax'"}, output: {text: taxes}}
      risk: {agent: worker, input: {text: input_message}}
  write: {agent: worker, input: {text: "'taxes ' + taxes + ', risk ' + both.data.risk.text"}}
"""
LIST = """\
stages:
  each: {map: {over: topics, agent: worker, at_once: 3}, input: {text: item}}
  write: {agent: worker, input: {text: "'got ' + string(size(each.data.results))"}}
"""
TOPICS = [f"t{number}" for number in range(9)]


def test_branches_are_asked_at_once_and_joined_by_name() -> None:
    async def story(line: Line) -> None:
        line.crowd.full = lambda in_flight: in_flight == 2
        state = await line.say("risk")

        assert line.crowd.heard[2:] == ["taxes TAX, risk RISK"]
        assert await line.told() == ["both/tax", "both/risk", "both", "write"]
        joined = (await line.trail())[2]
        assert joined["response_data"]["data"] == [
            {
                "tax": {"status": "success", "text": "TAX", "data": {}, "error": None},
                "risk": {"status": "success", "text": "RISK", "data": {}, "error": None},
            }
        ]
        assert (state["ended"], state.get("branches", {})) == ("completed", {})

    over(BRANCHES, story)


def test_of_branches_that_failed_only_those_are_asked_again() -> None:
    async def story(line: Line) -> None:
        line.crowd.broken = {"risk"}
        state = await line.say("risk")
        error = state["steps"][-1]["response_data"]["error"]

        assert (state["stage"], error["type"], error["message"]) == (
            "both",
            "branches_failed",
            "branch 'risk': no risk",
        )
        line.crowd.broken = set()
        state = await line.say("risk")

        assert line.crowd.heard[2:] == ["risk", "taxes TAX, risk RISK"]
        assert await line.told() == ["both/tax", "both/risk!", "both!", "both/risk", "both", "write"]
        assert (state["ended"], state["context"]["taxes"]) == ("completed", "TAX")

    over(BRANCHES, story)


def test_a_stage_that_goes_on_without_a_branch_keeps_what_is_there() -> None:
    async def story(line: Line) -> None:
        line.crowd.broken = {"risk"}
        state = await line.say("risk")

        assert await line.told() == ["both/tax", "both/risk!", "both!", "write"]
        assert line.crowd.heard[-1] == "taxes TAX, risk no risk"
        assert (state["ended"], state["completed_flows"], state.get("branches", {})) == ("completed", [2], {})

    over(BRANCHES.replace("    parallel:", "    on_error: continue\n    parallel:"), story)


def test_a_branch_that_asks_the_caller_gets_the_next_message_and_the_others_do_not() -> None:
    async def story(line: Line) -> None:
        state = await line.say("ask")
        response = state["steps"][-1]["response_data"]

        assert (response["text"].splitlines(), response["task_state"]) == (["TAX", "which one?"], "input-required")
        assert (state["stage"], state["ended"]) == ("both", None)
        state = await line.say("the second")

        assert line.crowd.heard[2:] == ["the second", "taxes TAX, risk THE SECOND"]
        assert line.crowd.tasks[2:] == [f"task-{line.crowd.heard.index('ask') + 1}", None]
        assert (state["ended"], state["remote_tasks"].keys()) == ("completed", {"worker"})

    over(BRANCHES, story)


def test_a_cancel_while_a_branch_waits_for_the_caller_tells_its_agent() -> None:
    async def story(line: Line) -> None:
        await line.say("ask")
        context = TurnContext(cancel=asyncio.Event())
        assert context.cancel
        context.cancel.set()
        state = await line.say("", context)

        assert line.crowd.canceled == [f"task-{line.crowd.heard.index('ask') + 1}"]
        assert (state["ended"], len(line.crowd.heard)) == ("canceled", 2)
        assert not any("task_id" in task for task in state["remote_tasks"].values())

    over(BRANCHES, story)


def test_a_flow_that_waits_for_the_caller_takes_one_turn_for_all_branches() -> None:
    async def story(line: Line) -> None:
        state = await line.say("risk")
        assert (await line.told(), state["stage"]) == (["both/tax", "both/risk", "both"], "write")
        state = await line.say("go")

        assert (state["ended"], line.crowd.heard[2:]) == ("completed", ["taxes TAX, risk RISK"])

    over(f"waits_for: caller\n{BRANCHES}", story)


def test_a_list_keeps_its_order_and_says_which_items_failed() -> None:
    async def story(line: Line) -> None:
        line.crowd.broken = {"t2", "t7"}
        state = await line.say("go", topics=TOPICS)
        step = state["steps"][-1]

        assert step["response_data"]["data"] == [
            {"results": ["T0", "T1", None, "T3", "T4", "T5", "T6", None, "T8"], "failed": [2, 7]}
        ]
        assert step["response_data"]["error"]["message"] == "2 of 9 items failed: 2, 7; item 2: no t2"
        line.crowd.broken = {"t7"}
        await line.say("again")
        line.crowd.broken = set()
        state = await line.say("and again")

        assert sorted(line.crowd.heard[9:11]) == ["t2", "t7"]
        assert line.crowd.heard[11:] == ["t7", "got 9"]
        joined = (await line.trail())[-2]
        assert joined["response_data"]["data"] == [{"results": [topic.upper() for topic in TOPICS], "failed": []}]
        assert [step["number"] for step in await line.trail()] == list(range(1, 17))
        assert (state["ended"], state.get("branches", {}), state["context"]["topics"]) == ("completed", {}, TOPICS)

    over(LIST, story)


def test_a_list_that_goes_on_past_failures_keeps_the_results_there_are() -> None:
    async def story(line: Line) -> None:
        line.crowd.broken = {"t1"}
        state = await line.say("go", topics=TOPICS[:3])

        assert (state["context"]["found"], state["context"]["missing"]) == (["T0", None, "T2"], [1])
        assert (state["ended"], line.crowd.heard[-1]) == ("completed", "got 3")

    kept = "on_error: continue, output: {results: found, failed: missing}"
    over(LIST.replace("input: {text: item}", f"input: {{text: item}}, {kept}"), story)


def test_no_more_items_are_in_flight_than_the_list_says() -> None:
    async def story(line: Line) -> None:
        line.crowd.full = lambda in_flight: in_flight == 3
        await line.say("go", topics=[*TOPICS, *TOPICS])

        assert (line.crowd.most, len(line.crowd.heard)) == (3, 19)

    over(LIST, story)


@pytest.mark.parametrize(("topics", "message"), [("rain", "str, not a list"), (None, "NoneType, not a list")])
def test_what_is_no_list_asks_nobody(topics: Any, message: str) -> None:
    async def story(line: Line) -> None:
        state = await line.say("go", topics=topics)

        assert (line.crowd.heard, state["stage"]) == ([], "each")
        assert message in state["steps"][-1]["response_data"]["error"]["message"]

    over(LIST, story)


def test_a_cancel_in_the_midst_of_a_list_tells_every_agent_and_ends_the_call() -> None:
    async def story(line: Line) -> None:
        context = TurnContext(cancel=asyncio.Event())
        turn = asyncio.create_task(line.say("go", context, topics=["a", "work", "work", "work", "b"]))
        await line.crowd.until_followed(3)  # as many as may be at work
        assert context.cancel
        context.cancel.set()
        state = await turn

        assert state["ended"] == "canceled"
        assert sorted(line.crowd.canceled) == sorted(line.crowd.followed)
        assert "b" not in line.crowd.heard
        assert await line.told() == ["each/0", "each/1!", "each/2!", "each/3!", "each!"]  # nothing of "b"
        with pytest.raises(Refused) as refused:
            await line.say("go")
        assert refused.value.reason == "call-ended"

    over(LIST, story)


NOBODY = "http://127.0.0.1:9"
AGAIN = """\
flow: again
inputs: [topics]
agents:
  worker: {url: "URL", attempts: 3, fallback: spare, timeout: 100ms}
  spare: {url: "URL"}
stages:
  do: {agent: worker, effect: read}
"""


def test_an_agent_is_asked_again_and_then_its_fallback() -> None:
    async def story(line: Line) -> None:
        state = await line.say("late")
        step = state["steps"][-1]

        assert line.crowd.heard == ["late"] * 4
        assert (step["agent"], step["response_data"]["text"]) == ("spare", "LATE")
        assert [(one["agent"], one["attempt"], one["type"]) for one in step["tried"]] == [
            ("worker", 1, "timeout"),
            ("worker", 2, "timeout"),
            ("worker", 3, "timeout"),
        ]
        assert len(set(line.crowd.message_ids[:3])) == 1  # the same message, so that an agent that dedupes sees one

    over(AGAIN, story)


def test_a_write_that_may_have_been_done_is_sent_once_whatever_attempts_and_fallback_say() -> None:
    async def story(line: Line) -> None:
        state = await line.say("late")
        error = state["steps"][-1]["response_data"]["error"]

        assert line.crowd.heard == ["late"]
        assert (error["type"], error["outcome"], error["retryable"]) == ("timeout", "unknown", False)
        assert (state["steps"][-1]["agent"], "tried" in state["steps"][-1]) == ("worker", False)

    over(AGAIN.replace("effect: read", "effect: write"), story)


def test_a_write_that_was_certainly_not_done_goes_to_the_fallback() -> None:
    async def story(line: Line) -> None:
        state = await line.say("pay")
        step = state["steps"][-1]

        assert (line.crowd.heard, step["agent"], state["ended"]) == (["pay"], "spare", "completed")
        assert {one["type"] for one in step["tried"]} == {"unreachable"}

    flow = AGAIN.replace("effect: read", "effect: write").replace('worker: {url: "URL"', f'worker: {{url: "{NOBODY}"')
    over(flow, story)


def test_an_agent_that_fails_its_task_has_a_fallback_too() -> None:
    async def story(line: Line) -> None:
        line.crowd.broken = {"it"}
        state = await line.say("it")
        step = state["steps"][-1]

        assert (line.crowd.heard, state["ended"]) == (["it", "it"], None)
        assert (step["agent"], step["response_data"]["error"]["type"]) == ("spare", "task_failed")
        assert [(one["agent"], one["type"]) for one in step["tried"]] == [("worker", "task_failed")]

    over(AGAIN, story)
