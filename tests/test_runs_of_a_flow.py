"""A run of a flow, from its first stage to its end: completed or failed, and what comes after; and what those who
follow a turn see meanwhile."""

import asyncio
from typing import Any

import pytest

from graph import Refused, TurnContext, answer, build_graph, steps_of
from graph.draw import mermaid
from graph.loader import load_flow
from graph.trail import full_summary
from tests.polite_agents import polite_agent
from tests.telephone import CONFIG, DESKS, FIRST, Desk, Phone, told


def test_a_run_that_is_complete_is_followed_by_another() -> None:
    async def story(desk: Desk) -> None:
        relay = Phone("relay", desk)
        states = [await relay.say(words) for words in ("one", "two")]
        trail = await relay.trail()

        assert [(state["run"], state["ended"], state["is_complete"]) for state in states] == [
            (1, "completed", True),
            (2, "completed", True),
        ]
        assert [(step["number"], step["run"], step["ended"], step["next_flow_id"]) for step in trail] == [
            (1, 1, "completed", None),
            (2, 2, "completed", None),
        ]
        summary = full_summary(states[1]["session_summary"], trail)
        assert summary is not None
        assert (summary["run"], summary["step_count"], summary["completed_flows"]) == (2, 1, [1])
        assert summary["steps"] == trail[1:]
        assert states[0]["created_at"] == states[1]["created_at"] <= summary["started_at"] <= summary["ended_at"]
        first, second = desk.asked
        assert (first.context_id, first.task_id) == (second.context_id, second.task_id)
        assert first.message_id != second.message_id
        assert first.task_id is None

    told(story)


def test_a_task_that_waits_for_the_caller_keeps_its_run_open() -> None:
    async def story(desk: Desk) -> None:
        relay = Phone("relay", desk)
        states = [await relay.say(words) for words in ("ask", "the answer", "something new")]

        assert [(state["run"], state["ended"]) for state in states] == [(1, None), (1, "completed"), (2, "completed")]
        assert [request.task_id for request in desk.asked] == [None, "task-1", None]
        assert states[1]["session_summary"]["step_count"] == 2

    told(story)


def test_an_agent_that_fails_ends_the_run_and_the_next_turn_begins_another() -> None:
    async def story(desk: Desk) -> None:
        relay = Phone("relay", desk)
        states = [await relay.say(words) for words in ("fail", "break", "again")]

        assert [(state["run"], state["ended"], state["is_complete"]) for state in states] == [
            (1, "failed", False),
            (2, "failed", False),
            (3, "completed", True),
        ]
        failed = states[0]["steps"][-1]
        assert (failed["ended"], failed["response_status"], failed["next_flow_id"]) == ("failed", "error", 1)
        assert states[0]["session_summary"] is None
        assert answer("CALL-1", failed)["ended"] == "failed"
        assert "ended" not in answer("CALL-1", states[2]["steps"][-1])

    told(story)


def test_the_next_run_begins_at_the_first_stage_with_nothing_completed() -> None:
    async def story(desk: Desk) -> None:
        phone = Phone(DESKS, desk)
        await phone.say("hello")
        await phone.say("fail", "pay")
        again = await phone.say("hello")

        assert (again["run"], again["stage"], again["completed_flows"], again["ended"]) == (2, "pay", [1], None)
        assert again["steps"][-1]["intent_source"] == "triggers"

    told(story)


def test_a_fallback_that_fails_does_not_end_the_run() -> None:
    async def story(desk: Desk) -> None:
        phone = Phone(DESKS, desk)
        await phone.say("hello")
        state = await phone.say("fail", "unknown")

        assert (state["steps"][-1]["response_status"], state["ended"], state["stage"]) == ("error", None, "pay")

    told(story)


@pytest.mark.parametrize(("words", "how"), [("fail", "failed"), ("work", "canceled")])
def test_without_restarts_a_call_that_has_ended_takes_no_turn(words: str, how: str) -> None:
    async def story(desk: Desk) -> None:
        phone = Phone(DESKS.replace("restarts: true\n", ""), desk)
        await phone.say("hello")
        await (phone.say(words, "pay") if how == "failed" else phone.cut_short(desk, words, "pay"))
        with pytest.raises(Refused, match="start another with a new call_identify_id") as caught:
            await phone.say("hello", "greet")

        assert (caught.value.reason, caught.value.facts) == ("call-ended", {"ended": how})
        assert len(desk.asked) == 2

    told(story)


def test_what_the_caller_sent_reaches_the_agent_and_the_trail() -> None:
    parts = [{"text": "look"}, {"url": "https://files.example/bill", "mediaType": "application/pdf"}]

    async def story(desk: Desk) -> None:
        relay = Phone("relay", desk)
        with_parts = await relay.say("look", context=TurnContext(streams=True), parts=parts, caller_message_id="M-1")
        without = await relay.say("and?")

        assert [(request.parts, request.streams) for request in desk.asked] == [(tuple(parts), True), ((), False)]
        step = with_parts["steps"][-1]
        assert (step["parts"], step["caller_message_id"], step["layout"]) == (parts, "M-1", {"of": "task-1"})
        assert {"parts", "caller_message_id"}.isdisjoint(without["steps"][-1])

    told(story)


def test_every_stage_of_a_turn_hears_the_parts_and_the_trail_has_them_once() -> None:
    tour = 'flow: tour\nagents: {one: {url: "http://one:1"}}\nstages: {first: {agent: one}, second: {agent: one}}\n'

    async def story(desk: Desk) -> None:
        phone = Phone(tour, desk)
        state = await phone.say("look", parts=[{"text": "look"}], caller_message_id="M-1")
        first, second = await phone.trail()

        assert [request.parts for request in desk.asked] == [({"text": "look"},)] * 2
        assert (first["parts"], first["caller_message_id"]) == ([{"text": "look"}], "M-1")
        assert ("parts" in second, second["caller_message_id"]) == (False, "M-1")
        assert (first.get("ended"), second["ended"], state["ended"]) == (None, "completed", "completed")

    told(story)


def test_those_who_follow_a_turn_see_what_the_agent_does() -> None:
    async def story(desk: Desk) -> list[Any]:
        relay = Phone("relay", desk)
        await relay.say("one")
        cancel = asyncio.Event()
        seen = []
        said = {**FIRST, "input_message": "work"}
        context = TurnContext(streams=True, cancel=cancel)
        async for event in relay.graph.astream(said, CONFIG, context=context, stream_mode="custom"):
            seen.append(event)
            if event.get("last_chunk"):
                cancel.set()
        return seen

    about = {"step": 2, "run": 2, "stage": "relay", "intent_flow_id": 1, "agent": "relay", "intent": "unknown"}
    state, chunk = {"event": "state_change", **about}, {"event": "message_chunk", **about}
    assert told(story) == [
        {**state, "task_state": "working"},
        {**state, "task_state": "working", "message": {"parts": [{"text": "one moment"}]}},
        {
            **chunk,
            "artifact": {"artifactId": "2-a", "name": "bill", "parts": [{"text": "your"}]},
            "append": False,
            "last_chunk": False,
        },
        {
            **chunk,
            "artifact": {"artifactId": "2-a", "parts": [{"text": " bill"}]},
            "append": True,
            "last_chunk": True,
        },
    ]


def test_the_relay_over_a_real_agent() -> None:
    async def story() -> list[Any]:
        async with polite_agent("1.0") as agent:
            graph: Any = build_graph("relay", env={"RELAY_AGENT_URL": agent.url})
            cancel = asyncio.Event()
            for words in ("speak", "fail", "ask"):
                await graph.ainvoke({**FIRST, "input_message": words}, CONFIG)
            cancel.set()
            await graph.ainvoke({**FIRST, "intent": "unknown"}, CONFIG, context=TurnContext(cancel=cancel))
            return list(await steps_of(graph, CONFIG))

    steps = asyncio.run(story())

    assert [(step["run"], step.get("ended")) for step in steps] == [
        (1, "completed"),
        (2, "failed"),
        (3, None),
        (3, "canceled"),
    ]
    assert steps[3]["response_data"]["task_state"] == "canceled"


def test_a_flow_that_restarts_is_drawn_with_its_way_back() -> None:
    assert 'finish -.->|"next turn"| start' in mermaid(load_flow("relay", {}))
    assert "next turn" not in mermaid(load_flow("call", {}))
