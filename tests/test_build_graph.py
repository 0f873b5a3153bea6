"""The compiled graph without the server, as a notebook uses it."""

import asyncio
from collections.abc import Callable, Coroutine
from itertools import pairwise
from typing import Any

import pytest
from langchain_core.messages import HumanMessage

from graph import Refused, answer, build_graph, steps_of
from graph.loader import parse_flow

CONFIG: Any = {"configurable": {"thread_id": "CALL-1"}}
FIRST = {"call_identify_id": "CALL-1", "account_id": "A", "eci": "E"}

Story = Callable[[Any], Coroutine[Any, Any, Any]]


def tell(story: Story, agents: dict[str, str]) -> Any:
    """Run a story with a graph of the call flow over the demo agents."""
    env = {f"{name.upper()}_AGENT_URL": url for name, url in agents.items()}

    async def run() -> Any:
        return await story(build_graph("call", env=env))

    return asyncio.run(run())


def test_a_whole_call(agents: dict[str, str]) -> None:
    async def story(graph: Any) -> list[dict[str, Any]]:
        turns = [
            ("Hello", "greeting"),
            ("My SSN is 123-45-6789", "verify_identity"),
            ("I want a refund", None),
            ("yes please", None),
            ("bye", "closing"),
        ]
        told = []
        for words, intent in turns:
            state = await graph.ainvoke({**FIRST, "input_message": words, "intent": intent}, CONFIG)
            told.append(answer("CALL-1", state["steps"][-1], state.get("session_summary")))
        return told

    told = tell(story, agents)

    assert [turn["intent"] for turn in told] == [
        "greeting", "verify_identity", "refund_request", "process_refund", "closing"
    ]  # fmt: skip
    assert (told[-1]["is_complete"], told[-1]["session_summary"]["completed_flows"]) == (True, [1, 2, 3, 4, 5])


def test_what_belongs_to_a_turn_does_not_survive_it(agents: dict[str, str]) -> None:
    async def story(graph: Any) -> dict[str, Any]:
        await graph.ainvoke({**FIRST, "input_message": "Hello", "intent": "greeting", "metadata": {"a": 1}}, CONFIG)
        values: dict[str, Any] = (await graph.aget_state(CONFIG)).values
        return values

    assert tell(story, agents).keys().isdisjoint({"input_message", "intent", "intent_source", "metadata", "messages"})


def test_a_refused_turn_changes_nothing(agents: dict[str, str]) -> None:
    async def story(graph: Any) -> tuple[Any, Any]:
        await graph.ainvoke({**FIRST, "input_message": "Hello", "intent": "greeting"}, CONFIG)
        with pytest.raises(Refused, match="'closing' is not legal at stage 'authentication'"):
            await graph.ainvoke({"input_message": "Bye", "intent": "closing"}, CONFIG)
        state = await graph.ainvoke({"input_message": "123456", "intent": "verify_identity"}, CONFIG)
        return state["current_flow_id"], await steps_of(graph, CONFIG)

    stage, steps = tell(story, agents)

    assert stage == 3
    assert [step["intent"] for step in steps] == ["greeting", "verify_identity"]


def test_the_trail_is_the_state_history(agents: dict[str, str]) -> None:
    async def story(graph: Any) -> Any:
        for words in ("Hello", "mumble", "My SSN is 123-45-6789"):
            await graph.ainvoke({**FIRST, "input_message": words}, CONFIG)
        return await steps_of(graph, CONFIG)

    steps = tell(story, agents)

    assert [(step["number"], step["agent"]) for step in steps] == [(1, "greeting"), (2, "fallback"), (3, "auth")]


@pytest.mark.parametrize(
    "message",
    [HumanMessage("Hello"), {"role": "user", "content": "Hello"}, {"role": "user", "content": [{"text": "Hello"}]}],
)
def test_chat_messages_are_another_way_in(agents: dict[str, str], message: Any) -> None:
    async def story(graph: Any) -> Any:
        return await graph.ainvoke({"messages": [message]}, CONFIG)

    state = tell(story, agents)

    assert state["messages"][-1] == {
        "role": "assistant",
        "content": "Welcome to customer service. How can I help you today?",
    }


def test_the_picture_has_the_stages_in_a_row() -> None:
    drawn = build_graph("call", env={}).get_graph()

    ways = {(edge.source, edge.target) for edge in drawn.edges}
    stages = ["greeting", "authentication", "intent_capture", "fulfillment", "closing"]
    assert set(pairwise(stages)) <= ways
    assert {("__start__", "classifier"), ("__start__", "fallback"), ("closing", "__end__")} <= ways


def tour(text: str) -> Any:
    """Compile a flow written in the test."""
    return build_graph(parse_flow(text, "tour.yaml", {}))


def test_a_flow_that_waits_for_nothing_runs_to_its_end(agents: dict[str, str]) -> None:
    text = f"""
flow: tour
agents: {{one: {{url: "{agents["greeting"]}"}}, two: {{url: "{agents["closing"]}"}}}}
stages:
  first: {{agent: one}}
  second: {{agent: two}}
"""

    async def story() -> tuple[Any, Any]:
        graph = tour(text)
        state = await graph.ainvoke({**FIRST, "input_message": "Hello"}, CONFIG)
        return state, await steps_of(graph, CONFIG)

    state, steps = asyncio.run(story())

    assert (state["is_complete"], state["completed_flows"]) == (True, [1, 2])
    assert [step["stage"] for step in steps] == ["first", "second"]


def test_a_flow_that_waits_for_nothing_stops_where_an_agent_fails(agents: dict[str, str]) -> None:
    text = f"""
flow: tour
agents: {{one: {{url: "http://127.0.0.1:1"}}, two: {{url: "{agents["closing"]}"}}}}
stages:
  first: {{agent: one}}
  second: {{agent: two}}
"""

    async def story() -> Any:
        return await tour(text).ainvoke({**FIRST, "input_message": "Hello"}, CONFIG)

    state = asyncio.run(story())

    assert (state["is_complete"], state["current_flow_id"]) == (False, 1)
    assert state["steps"][-1]["response_status"] == "error"
