"""When an agent gives no usable answer: nothing is sent a second time under another name, and no call gets stuck."""

import asyncio
from typing import Any

import pytest

from graph import build_graph, steps_of
from graph.loader import parse_flow
from tests.conftest import Service, StartService
from tests.puppet import Puppet

FLOW = """
flow: till
waits_for: caller
agents: {{desk: {{url: "{url}"}}}}
stages:
  ask: {{intents: {{ask: desk}}}}
  pay: {{intents: {{pay: desk, repay: desk}}, effect: write}}
fallback: desk
"""


@pytest.fixture
def till(start: StartService, puppet: tuple[Puppet, str], tmp_path: Any) -> Service:
    """A service whose flow first asks and then pays, with one agent that does what it is told."""
    file = tmp_path / "till.yaml"
    file.write_text(FLOW.format(url=puppet[1]))
    return start(flow=str(file), checkpointer="memory", agent_timeout_seconds=0.3)


def test_a_write_without_an_answer_waits_for_a_person(till: Service, puppet: tuple[Puppet, str]) -> None:
    till.turn("C", "hello", "ask")

    lost = till.turn("C", "slow 0.6", "pay")
    again = till.turn("C", "yes, pay", "pay")
    other = till.turn("C", "pay that instead", "repay")

    assert [message["parts"][0]["text"] for message in puppet[0].messages] == ["hello", "slow 0.6"]
    assert [answer.status_code for answer in (lost, again, other)] == [409] * 3
    assert {answer.json()["type"] for answer in (lost, again, other)} == {"outcome-unknown"}
    assert len({answer.json()["parked"] for answer in (lost, again, other)}) == 1
    *_, step = till.http.get("/session/C/steps").json()
    assert (step["number"], step["parked"]) == (2, lost.json()["parked"])
    assert step["response_data"]["error"] | {"message": ""} == {
        "type": "timeout",
        "message": "",
        "retryable": False,
        "outcome": "unknown",
    }


def test_an_agent_that_acts_once_on_a_message_gets_it_again(
    start: StartService, puppet: tuple[Puppet, str], tmp_path: Any
) -> None:
    file = tmp_path / "till.yaml"
    file.write_text(FLOW.format(url=puppet[1]).replace('"}}', '", idempotent: true}}'))
    till = start(flow=str(file), checkpointer="memory", agent_timeout_seconds=0.3)
    till.turn("C", "hello", "ask")

    lost = till.turn("C", "slow 0.6", "pay").json()
    again = till.turn("C", "yes, pay", "pay").json()

    _, *sent = puppet[0].messages
    assert [message["parts"][0]["text"] for message in sent] == ["slow 0.6", "slow 0.6", "yes, pay"]
    assert len({message["messageId"] for message in sent}) == 1
    error = lost["response"]["error"]
    assert (lost["status"], error["retryable"], error["outcome"]) == ("error", True, "unknown")
    assert (again["status"], again["is_complete"]) == ("success", True)


def test_a_read_without_an_answer_is_simply_asked_again(till: Service, puppet: tuple[Puppet, str]) -> None:
    lost = till.turn("C", "slow 0.6", "ask").json()
    till.turn("C", "hello", "ask")

    first, second = puppet[0].messages
    assert lost["response"]["error"] == {
        "type": "timeout",
        "message": "agent 'desk' did not answer within 0.3 s",
        "retryable": True,
    }
    assert first["messageId"] != second["messageId"]


def test_a_task_still_at_work_is_asked_after_and_not_sent_again(till: Service, puppet: tuple[Puppet, str]) -> None:
    till.turn("C", "hello", "ask")

    waiting = till.turn("C", "work", "pay").json()
    puppet[0].finish()
    done = till.turn("C", "is it done?", "pay").json()

    assert waiting["response"]["error"]["type"] == "timeout"
    assert (done["response"]["text"], done["is_complete"]) == ("it is done", True)
    assert [message["parts"][0]["text"] for message in puppet[0].messages] == ["hello", "work"]


def test_a_write_whose_task_is_forgotten_waits_for_a_person(till: Service, puppet: tuple[Puppet, str]) -> None:
    till.turn("C", "hello", "ask")

    till.turn("C", "work", "pay")
    puppet[0].forget()
    lost = till.turn("C", "is it done?", "pay")
    again = till.turn("C", "pay", "pay")

    assert [message["parts"][0]["text"] for message in puppet[0].messages] == ["hello", "work"]
    assert [answer.json()["type"] for answer in (lost, again)] == ["outcome-unknown"] * 2


def test_a_write_refused_at_once_was_not_done(till: Service, puppet: tuple[Puppet, str]) -> None:
    till.turn("C", "hello", "ask")

    refused = till.turn("C", "lose", "pay").json()
    till.turn("C", "pay", "pay")

    _, first, second = puppet[0].messages
    assert "outcome" not in refused["response"]["error"]
    assert first["messageId"] != second["messageId"]


def test_a_task_that_the_agent_has_lost_does_not_hold_the_call(till: Service, puppet: tuple[Puppet, str]) -> None:
    asked = till.turn("C", "ask", "ask").json()
    lost = till.turn("C", "lose", "ask").json()
    done = till.turn("C", "hello", "ask").json()

    assert asked["response"]["task_state"] == "input-required"
    assert lost["response"]["error"]["type"] == "http_error"
    assert done["next_flow_id"] == 2
    assert ["taskId" in message for message in puppet[0].messages] == [False, True, False]


def test_a_task_of_the_fallback_is_not_continued_by_a_stage(till: Service, puppet: tuple[Puppet, str]) -> None:
    till.turn("C", "ask", "unknown")
    told = till.turn("C", "hello", "ask").json()

    assert (told["agent"], told["next_flow_id"]) == ("desk", 2)
    assert ["taskId" in message for message in puppet[0].messages] == [False, False]


def test_data_too_deep_to_keep_is_an_answer_of_ours(till: Service) -> None:
    told = till.turn("C", "deep", "ask").json()

    assert (told["status"], told["response"]["error"]["type"]) == ("error", "bad_reply")
    assert len(till.http.get("/session/C/steps").json()) == 1


def test_every_stage_of_a_run_hears_what_the_caller_said(puppet: tuple[Puppet, str]) -> None:
    text = f"""
flow: tour
agents: {{one: {{url: "{puppet[1]}"}}}}
stages: {{first: {{agent: one}}, second: {{agent: one}}, third: {{agent: one}}}}
"""
    config: Any = {"configurable": {"thread_id": "T"}}

    async def story() -> Any:
        graph: Any = build_graph(parse_flow(text, "tour.yaml", {}))
        await graph.ainvoke({"input_message": "hello", "metadata": {"channel": "web"}}, config)
        values = (await graph.aget_state(config)).values
        return values, await steps_of(graph, config)

    values, steps = asyncio.run(story())

    assert [message["parts"][0]["text"] for message in puppet[0].messages] == ["hello"] * 3
    assert {message["metadata"]["channel"] for message in puppet[0].messages} == {"web"}
    assert [step["stage"] for step in steps] == ["first", "second", "third"]
    assert values["is_complete"]
