"""Executions with a write of which nobody knows what came of it: they wait for a person, and then go on."""

import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Service, StartService
from tests.puppet import Puppet
from tests.test_parked_writes import parked, resolve
from tests.test_workflow_service import once

IN_LINE = """
flow: order
inputs: [order]
agents: {{desk: {{url: "{url}"}}}}
stages:
  look: {{agent: desk, input: {{text: "'look'"}}}}
  pay: {{agent: desk, effect: write, input: {{text: order}}, output: {{text: receipt}}}}
  tell: {{agent: desk, input: {{text: "'tell ' + receipt"}}}}
"""
AT_ONCE = """
flow: order
inputs: [order]
agents: {{desk: {{url: "{url}"}}}}
stages:
  look: {{agent: desk, input: {{text: "'look'"}}, needs: []}}
  pay: {{agent: desk, effect: write, input: {{text: order}}, output: {{text: receipt}}, needs: []}}
  tell: {{agent: desk, input: {{text: "'tell ' + receipt"}}, needs: [look, pay]}}
"""


@pytest.fixture(params=[IN_LINE, AT_ONCE], ids=["in line", "at once"])
def orders(
    request: pytest.FixtureRequest, start: StartService, puppet: tuple[Puppet, str], tmp_path: Path
) -> Service:
    """A service that runs orders, with an agent that is slow if it is told so."""
    file = tmp_path / "order.yaml"
    file.write_text(request.param.format(url=puppet[1]))
    return start(checkpointer="memory", flow=str(file), agent_timeout_seconds=0.3)


def run(orders: Service, order: str, **more: Any) -> Any:
    return orders.http.post("/flows/order/runs", json={"id": "O", "input": {"order": order}, **more})


def at_steps(told: dict[str, Any]) -> dict[str, str]:
    return {step["name"]: step["status"] for step in told["steps"]}


def test_it_waits_for_a_person(orders: Service) -> None:
    refused = run(orders, "slow 0.6")
    [waits] = parked(orders)
    told = orders.http.get("/executions/O").json()
    answered = orders.http.post("/executions/O/answer", json={"answer": "yes"})
    deleted = orders.http.delete("/executions/O")

    assert (refused.status_code, refused.json()["type"]) == (409, "outcome-unknown")
    assert (told["status"], told["parked"], told["question"]) == ("waiting", [waits["id"]], None)
    assert told["current_steps"] == ["pay"]
    assert at_steps(told) == {"look": "completed", "pay": "waiting", "tell": "pending"}
    assert (told["error"]["step"], told["error"]["outcome"], told["error"]["retryable"]) == ("pay", "unknown", False)
    assert orders.http.get("/executions", params={"status": "waiting"}).json()["executions"] == [told]
    assert (answered.status_code, deleted.status_code) == (409, 409)
    assert answered.json()["detail"] == "execution 'O' waits for a parked write to be settled and asks nobody"
    *_, last = orders.http.get("/executions/O/logs").json()["logs"]
    assert (last["level"], last["step"], last["parked"]) == ("warning", "pay", waits["id"])
    assert last["message"].startswith("waits for somebody to say what came of a write")


def test_it_goes_on_with_what_was_done(orders: Service, puppet: tuple[Puppet, str]) -> None:
    name = run(orders, "slow 0.6").json()["parked"]

    resolve(orders, name, "done", response="receipt 7")
    told = once(orders, "O", "completed")

    assert (told["parked"], told["error"]) == ([], None)
    assert at_steps(told) == dict.fromkeys(("look", "pay", "tell"), "completed")
    assert told["output_data"] == {"receipt": "receipt 7"}
    assert [message["parts"][0]["text"] for message in puppet[0].messages] == ["look", "slow 0.6", "tell receipt 7"]
    lines = [line["message"] for line in orders.http.get("/executions/O/logs").json()["logs"]]
    assert "jo says of a write to desk that it was done: looked into the ledger" in lines


def test_it_does_again_what_was_not_done(orders: Service, puppet: tuple[Puppet, str]) -> None:
    """The agent is slow again: a write of the same stage is parked anew, and settled by another name."""
    first = run(orders, "slow 0.6").json()["parked"]

    resolve(orders, first, "not_done")
    second = another_parked(orders, first)
    resolve(orders, second, "done")
    told = once(orders, "O", "completed")

    texts = [message["parts"][0]["text"] for message in puppet[0].messages]
    assert texts == ["look", "slow 0.6", "slow 0.6", "tell "]
    assert at_steps(told) == dict.fromkeys(("look", "pay", "tell"), "completed")
    lines = [line["message"] for line in orders.http.get("/executions/O/logs").json()["logs"]]
    assert "jo says of a write to desk that it was not done: looked into the ledger" in lines


def test_it_can_be_canceled_meanwhile(orders: Service) -> None:
    name = run(orders, "slow 0.6").json()["parked"]

    canceled = orders.http.post("/executions/O/cancel").json()
    told = resolve(orders, name, "done", response="receipt 7")

    assert (canceled["status"], canceled["parked"]) == ("canceled", [name])
    assert at_steps(canceled)["pay"] == "canceled"
    assert told.status_code == 200, told.text
    after = orders.http.get("/executions/O").json()
    assert (after["status"], after["parked"]) == ("canceled", [])
    assert orders.http.delete("/executions/O").status_code == 200


def another_parked(orders: Service, but: str) -> str:
    """The name of a write that is parked and is not this one, once there is one."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if names := [one["id"] for one in parked(orders) if one["id"] != but]:
            return str(names[0])
    raise AssertionError("nothing else was parked")
