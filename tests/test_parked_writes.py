"""Writes of which nobody knows what came of them: they wait for a person, and the call goes on otherwise."""

from typing import Any

import httpx
import pytest

from tests.conftest import Service, StartService
from tests.puppet import Puppet

FLOW = """
flow: till
waits_for: caller
agents: {{desk: {{url: "{url}"}}}}
stages:
  ask: {{intents: {{ask: desk}}}}
  pay: {{intents: {{pay: desk, look: desk}}, effect: write}}
  close: {{intents: {{bye: desk}}}}
anywhere: {{bye: close}}
fallback: desk
"""


@pytest.fixture
def till(start: StartService, puppet: tuple[Puppet, str], tmp_path: Any, store: dict[str, Any]) -> Service:
    """A service whose flow first asks and then pays, with one agent that does what it is told."""
    file = tmp_path / "till.yaml"
    file.write_text(FLOW.format(url=puppet[1]))
    return start(flow=str(file), **store)


def parked(till: Service) -> list[dict[str, Any]]:
    return list(till.http.get("/parked").json()["parked"])


def resolve(till: Service, name: str, outcome: str, **more: Any) -> httpx.Response:
    said = {"outcome": outcome, "by": "jo", "why": "looked into the ledger", **more}
    return till.http.post(f"/parked/{name}/resolve", json=said)


def test_done_completes_the_stage(till: Service, puppet: tuple[Puppet, str]) -> None:
    till.turn("C", "hello", "ask")
    lost = till.turn("C", "refuse", "pay").json()

    [waits] = parked(till)
    told = resolve(till, waits["id"], "done", response="12.50 sent")
    session = till.http.get("/session/C").json()

    _, message = puppet[0].messages
    assert waits == {
        "id": lost["parked"],
        "call_identify_id": "C",
        "flow": "till",
        "stage": "pay",
        "agent": "desk",
        "intent": "pay",
        "input_message": "refuse",
        "message_id": message["messageId"],
        "context_id": message["contextId"],
        "task_id": None,
        "sent_at": waits["sent_at"],
    }
    assert told.status_code == 200, told.text
    step = told.json()["step"]
    assert (step["number"], step["response_status"], step["response_data"]) == (3, "success", {"text": "12.50 sent"})
    assert step["resolution"] | {"at": ""} == {
        "parked": waits["id"],
        "outcome": "done",
        "by": "jo",
        "why": "looked into the ledger",
        "at": "",
    }
    assert (session["stage"], session["completed_flows"]) == ("close", [1, 2])
    assert parked(till) == []
    assert len(puppet[0].messages) == 2


def test_not_done_leaves_the_call_where_it_is_and_the_message_can_be_sent_again(
    till: Service, puppet: tuple[Puppet, str]
) -> None:
    till.turn("C", "hello", "ask")
    till.turn("C", "refuse", "pay")

    told = resolve(till, parked(till)[0]["id"], "not_done").json()
    again = till.turn("C", "now pay", "pay").json()

    _, first, second = puppet[0].messages
    assert told["step"]["response_data"]["error"]["type"] == "not_done"
    assert (again["status"], again["step"], again["next_flow_id"]) == ("success", 4, 3)
    assert first["messageId"] != second["messageId"]


def test_all_but_writes_goes_on_while_one_is_parked(till: Service, puppet: tuple[Puppet, str]) -> None:
    till.turn("C", "hello", "ask")
    lost = till.turn("C", "refuse", "pay").json()

    asked = till.turn("C", "what now?", "unknown")
    other = till.turn("C", "show me", "look")
    deleted = till.http.delete("/session/C")
    ended = till.turn("C", "bye", "bye")
    told = resolve(till, lost["parked"], "done", response="12.50 sent").json()

    assert (asked.status_code, ended.status_code) == (200, 200), ended.text
    assert (other.status_code, deleted.status_code) == (409, 409)
    assert other.json()["parked"] == deleted.json()["parked"] == lost["parked"]
    steps = till.http.get("/session/C/steps").json()
    assert [step["number"] for step in steps] == [1, 2, 3, 4, 5]
    assert (steps[-1], told["step"]["is_complete"]) == (told["step"], True)
    assert till.http.get("/session/C").json()["is_complete"]
    assert till.http.delete("/session/C").status_code == 200


def test_the_same_is_said_twice_and_another_is_refused(till: Service, puppet: tuple[Puppet, str]) -> None:
    till.turn("C", "hello", "ask")
    name = till.turn("C", "refuse", "pay").json()["parked"]

    first, again = resolve(till, name, "done"), resolve(till, name, "done")
    other = resolve(till, name, "not_done")
    missing = resolve(till, "C.0123456789abcdef", "done")

    assert first.json()["step"] == again.json()["step"]
    assert (other.status_code, other.json()["type"]) == (409, "resolved-otherwise")
    assert (missing.status_code, missing.json()["type"]) == (404, "parked-not-found")


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"outcome": "done"},
        {"outcome": "perhaps", "by": "jo", "why": "x"},
        {"outcome": "done", "by": " ", "why": "x"},
        {"outcome": "done", "by": "jo", "why": "x", "response": {"files": []}},
        {"outcome": "done", "by": "jo", "why": "x", "more": 1},
    ],
)
def test_what_is_no_resolution_is_refused(start_for_module: StartService, said: dict[str, Any]) -> None:
    service = start_for_module(checkpointer="memory")
    answer = service.http.post("/parked/C.0123456789abcdef/resolve", json=said)
    assert (answer.status_code, answer.json()["type"]) == (422, "bad-input")
