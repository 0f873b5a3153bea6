"""Ending a call on request: whoever is at work for it is told, and what was done stays visible."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from graph import TurnContext, build_graph, steps_of
from nodes.ports import AgentRequest, FilePart, Reply, TaskState, Tell
from nodes.remote.dialect import Dialect
from nodes.remote.errors import Unreachable
from tests.polite_agents import polite_agent
from tests.telephone import CONFIG, DESKS, FIRST, Desk, Phone, told


def test_a_cancel_leaves_the_agent_at_work_and_tells_it() -> None:
    async def story(desk: Desk) -> None:
        relay = Phone("relay", desk)
        state = await relay.cut_short(desk, "work")

        assert desk.left.is_set()
        (asked,), (cancel,) = desk.asked, desk.told_to_cancel
        assert cancel == replace(asked, task_id="task-1", timeout=5.0)
        assert (state["ended"], state["is_complete"], state["session_summary"]) == ("canceled", False, None)
        step = state["steps"][-1]
        assert (step["ended"], step["response_status"], step["agent"]) == ("canceled", "error", "relay")
        assert (step["next_flow_id"], step["is_complete"], step["input_message"]) == (1, False, "work")
        message = "the call was canceled; agent 'relay' canceled its task"
        assert step["response_data"] == {
            "text": "your bill",  # what it had handed over
            "error": {"type": "canceled", "message": message, "retryable": False},
            "task_state": "canceled",
        }

        again = await relay.say("one")
        assert (again["run"], again["ended"], desk.asked[1].task_id) == (2, "completed", None)

    told(story)


def test_an_agent_that_cannot_be_told_does_not_keep_the_call_open() -> None:
    def unreachable(request: AgentRequest) -> TaskState | None:
        raise Unreachable(request.agent, "nobody there")

    async def story(desk: Desk) -> None:
        desk.cancels = unreachable
        state = await Phone("relay", desk).cut_short(desk, "work")

        message = "the call was canceled; agent 'relay' did not confirm it"
        assert state["ended"] == "canceled"
        assert state["steps"][-1]["response_data"]["error"] == {
            "type": "canceled",
            "message": message,
            "retryable": False,
        }

    told(story)


def test_a_write_that_is_not_confirmed_as_canceled_stays_unknown_and_is_asked_after() -> None:
    async def story(desk: Desk) -> None:
        desk.cancels = lambda request: "completed"
        phone = Phone(DESKS, desk)
        await phone.say("hello")
        state = await phone.cut_short(desk, "work it out", "pay")
        error = state["steps"][-1]["response_data"]["error"]
        await phone.say("hello")
        await phone.say("pay again", "pay")

        assert (error["outcome"], error["retryable"]) == ("unknown", False)
        assert error["message"].endswith("the task of agent 'vault' is completed")
        first, again = (request for request in desk.asked if request.agent == "vault")
        assert (again.task_id, again.task_works, again.message_id) == ("task-2", True, first.message_id)

    told(story)


def test_a_write_that_is_confirmed_as_canceled_is_over() -> None:
    async def story(desk: Desk) -> None:
        phone = Phone(DESKS, desk)
        await phone.say("hello")
        state = await phone.cut_short(desk, "work it out", "pay")

        assert "outcome" not in state["steps"][-1]["response_data"]["error"]
        assert state["remote_tasks"]["vault"].keys() == {"context_id"}

    told(story)


def test_a_cancel_between_turns_tells_every_agent_that_waits_and_asks_nobody() -> None:
    async def story(desk: Desk) -> None:
        phone = Phone(DESKS, desk)
        await phone.say("ask", "greet")
        await phone.say("ask", "check")
        state = await phone.cancel()

        assert [(request.agent, request.task_id) for request in desk.told_to_cancel] == [
            ("front", "task-1"),
            ("help", "task-2"),
        ]
        assert len(desk.asked) == 2
        step = state["steps"][-1]
        assert (step["stage"], step["agent"], step["a2a_agent_url"]) == ("hello", "front", "http://front:1")
        assert (step["number"], step["ended"], state["ended"]) == (3, "canceled", "canceled")
        assert step["response_data"]["task_state"] == "canceled"
        assert not any("task_id" in task for task in state["remote_tasks"].values())

    told(story)


def test_a_call_that_never_got_under_way_can_be_canceled() -> None:
    async def story(desk: Desk) -> None:
        state = await Phone(DESKS, desk).cancel()

        step = state["steps"][-1]
        assert (desk.asked, desk.told_to_cancel) == ([], [])
        assert (state["ended"], state["stage"], state["run"]) == ("canceled", "hello", 1)
        assert (step["number"], step["agent"], step["a2a_agent_url"]) == (1, "", "")
        assert step["response_data"]["error"]["message"] == "the call was canceled"

    told(story)


def test_an_answer_that_is_there_wins_over_a_cancel() -> None:
    cancel = asyncio.Event()

    class Late(Desk):
        async def call(self, request: AgentRequest, tell: Tell | None = None) -> Reply:
            cancel.set()
            return Reply("just in time", files=(FilePart("a", "text/plain", url="https://files.example/a"),))

    async def story() -> None:
        state = await Phone("relay", Late()).say("one", context=TurnContext(cancel=cancel))
        assert (state["ended"], state["steps"][-1]["response_data"]["text"]) == ("completed", "just in time")

    asyncio.run(story())


def test_a_run_that_is_itself_cancelled_leaves_nothing_running() -> None:
    async def story(desk: Desk) -> None:
        phone = Phone("relay", desk)
        turn = asyncio.create_task(phone.say("work", context=TurnContext(cancel=asyncio.Event())))
        await desk.at_work.wait()
        turn.cancel()
        with pytest.raises(asyncio.CancelledError):
            await turn

        assert desk.left.is_set()
        assert desk.told_to_cancel == []

    told(story)


@pytest.mark.parametrize("dialect", ["1.0", "0.3"])
def test_a_cancel_reaches_a_real_agent_in_the_middle_of_its_stream(dialect: Dialect) -> None:
    async def story() -> None:
        async with polite_agent(dialect) as agent:
            graph: Any = build_graph("relay", env={"RELAY_AGENT_URL": agent.url})
            context, said = TurnContext(streams=True, cancel=asyncio.Event()), {**FIRST, "input_message": "stream"}
            agent.go.release()
            events = []
            async for event in graph.astream(said, CONFIG, context=context, stream_mode="custom"):
                events.append(event)
                if event["event"] == "message_chunk" and context.cancel:
                    context.cancel.set()
            step = (await steps_of(graph, CONFIG))[-1]

        assert [event["event"] for event in events] == ["state_change", "state_change", "message_chunk"]
        assert events[2]["artifact"] == {"artifactId": "1-n", "name": "numbers", "parts": [{"text": "one"}]}
        assert len(agent.canceled) == 1
        assert (step["ended"], step["response_data"]["task_state"]) == ("canceled", "canceled")

    asyncio.run(story())
