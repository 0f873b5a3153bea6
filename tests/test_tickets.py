"""Support tickets over HTTP, as the seed sends them: sorted, looked up, read for their mood, and ended."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.background import Background
from tests.conftest import Service, StartService
from tests.moody import HOLD, moody_agent
from tests.test_bad_input import refused

TWICE = {
    "customer_id": "CUST_123",
    "subject": "I was charged twice",
    "body": "I noticed two charges on my account...",
}
ANGRY = {
    "customer_id": "CUST_7",
    "subject": "Terrible, awful, unacceptable",
    "body": "I hate this. It is a disgrace and I am furious!!!",
}
STATES = ["NEW", "ROUTING", "KNOWLEDGE_SEARCH", "SENTIMENT_ANALYSIS", "DECISION"]


@pytest.fixture
def service(start: StartService) -> Service:
    return start(checkpointer="memory", flows=("ticket",))


MINE = """
flow: ticket
inputs: [subject]
agents: {one: {url: "${ONE_URL}"}}
stages:
  first: {agent: one, needs: []}
  then: {agent: one, needs: [first]}
"""


def test_a_ticket_flow_of_ones_own(start: StartService, background: Background, tmp_path: Path) -> None:
    (tmp_path / "ticket.yaml").write_text(MINE)
    with moody_agent(background, {}, HOLD) as agent:
        service = start({"ONE_URL": agent.url}, flows=(str(tmp_path / "ticket.yaml"),), checkpointer="memory")
        sent = service.http.post("/api/tickets", params={"wait": False}, json={**TWICE, "ticket_id": "T"})
        agent.until_heard(2)

        told = service.http.get("/api/tickets/T").json()

    assert (sent.status_code, sent.json()["subject"]) == (202, TWICE["subject"])
    assert (told["category"], told["history"][0]["status"]) == (None, "NEW")


def send(service: Service, ticket: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Send a ticket and return what became of it."""
    answer = service.http.post("/api/tickets", json={**ticket, **more})
    assert answer.status_code == 201, answer.text
    told: dict[str, Any] = answer.json()
    return told


def states(ticket: dict[str, Any]) -> list[str]:
    return [state["status"] for state in ticket["history"]]


def test_the_seeds_ticket_is_resolved(start: StartService, store: dict[str, Any]) -> None:
    service = start(flows=("ticket",), **store)

    told = send(service, TWICE)

    assert {key: told[key] for key in TWICE} == TWICE
    assert (told["status"], told["decision"], told["category"]) == ("RESOLVED", "resolve", "billing")
    assert states(told) == [*STATES, "RESOLVED"]
    assert [state["agent"] for state in told["history"]] == [
        *(None, "router", "knowledge", "sentiment", "decision", None)
    ]
    assert [state["at"] for state in told["history"]] == sorted(state["at"] for state in told["history"])
    assert told["articles"][0]["id"] == "KB-01"
    assert told["articles"][0]["answer"] in told["reply"]
    assert told["sentiment"] in ("neutral", "negative")
    assert service.http.get(f"/api/tickets/{told['ticket_id']}").json() == told


def test_an_angry_customers_ticket_is_escalated(service: Service) -> None:
    told = send(service, ANGRY)

    assert (told["status"], told["decision"], told["sentiment"]) == ("ESCALATED", "escalate", "negative")
    assert states(told) == [*STATES, "ESCALATED"]
    assert told["reason"]
    assert told["reply"]


@pytest.mark.parametrize("down", ["KNOWLEDGE", "SENTIMENT"])
def test_a_ticket_goes_on_without_an_agent_that_is_down(
    start: StartService, background: Background, down: str
) -> None:
    with moody_agent(background, 503) as agent:
        service = start({f"{down}_AGENT_URL": agent.url}, checkpointer="memory", flows=("ticket",))
        told = send(service, TWICE)

    assert len(agent.heard) == 3
    assert states(told)[:-1] == STATES
    assert told["status"] == ("ESCALATED" if down == "KNOWLEDGE" else "RESOLVED")
    failed = [state for state in told["history"] if "error" in state]
    assert [(state["agent"], state["attempts"]) for state in failed] == [(down.lower(), 3)]


def test_a_ticket_that_nobody_can_sort_is_a_general_one(start: StartService, background: Background) -> None:
    with moody_agent(background, 503) as agent:
        told = send(start({"ROUTER_AGENT_URL": agent.url}, checkpointer="memory", flows=("ticket",)), TWICE)

    assert (told["category"], told["priority"], told["status"]) == ("general", None, "RESOLVED")


def test_a_ticket_that_nobody_can_decide_is_escalated(start: StartService, background: Background) -> None:
    with moody_agent(background, 503) as agent:
        told = send(start({"DECISION_AGENT_URL": agent.url}, checkpointer="memory", flows=("ticket",)), TWICE)

    assert (told["status"], told["decision"], told["category"]) == ("ESCALATED", None, "billing")
    assert states(told) == [*STATES, "ESCALATED"]


def test_a_decision_that_makes_no_sense_escalates(start: StartService, background: Background) -> None:
    with moody_agent(background, {"decision": "maybe"}) as agent:
        told = send(start({"DECISION_AGENT_URL": agent.url}, checkpointer="memory", flows=("ticket",)), TWICE)

    assert told["status"] == "ESCALATED"
    assert "reason" in told["history"][-2]["error"]


def test_an_agent_that_comes_back_is_asked_again(start: StartService, background: Background) -> None:
    with moody_agent(background, 503, 503, {"category": "billing", "priority": "low"}) as agent:
        told = send(start({"ROUTER_AGENT_URL": agent.url}, checkpointer="memory", flows=("ticket",)), TWICE)

    assert (told["status"], told["category"], told["priority"]) == ("RESOLVED", "billing", "low")
    assert [state.get("attempts") for state in told["history"]] == [None, 3, 1, 1, 1, None]


def test_a_ticket_can_be_watched_while_it_is_worked_on(start: StartService, background: Background) -> None:
    with moody_agent(background, HOLD) as agent:
        service = start({"KNOWLEDGE_AGENT_URL": agent.url}, checkpointer="memory", flows=("ticket",))
        sent = service.http.post("/api/tickets", params={"wait": False}, json={**TWICE, "ticket_id": "T-1"})
        agent.until_heard()
        seen = service.http.get("/api/tickets/T-1").json()
        agent.moods = [{"articles": []}]

    assert (sent.status_code, sent.json()["ticket_id"]) == (202, "T-1")
    assert sent.json()["status"] in ("ROUTING", "KNOWLEDGE_SEARCH")
    assert (seen["status"], seen["category"], seen["reply"]) == ("KNOWLEDGE_SEARCH", "billing", None)
    assert [(state["status"], state["agent"]) for state in seen["history"]] == [
        ("NEW", None),
        ("ROUTING", "router"),
        ("KNOWLEDGE_SEARCH", "knowledge"),
    ]


def test_the_same_ticket_is_worked_on_once(start: StartService, store: dict[str, Any]) -> None:
    service = start(flows=("ticket",), **store)
    first = send(service, TWICE, ticket_id="T-1", metadata={"channel": "mail"})

    again = send(service, TWICE, ticket_id="T-1", metadata={"channel": "mail"})
    other = service.http.post("/api/tickets", json={**ANGRY, "ticket_id": "T-1"})

    assert again == first
    assert "T-1" in refused(other, 409, "ticket-reused")["detail"]
    assert service.http.get("/api/tickets/T-1").json() == first


def test_a_ticket_that_is_sent_again_while_it_is_worked_on(start: StartService, background: Background) -> None:
    sent = {**TWICE, "ticket_id": "T-1"}
    with moody_agent(background, HOLD) as agent, ThreadPoolExecutor() as pool:
        service = start({"ROUTER_AGENT_URL": agent.url}, checkpointer="memory", flows=("ticket",))
        waiting = [pool.submit(service.http.post, "/api/tickets", json=sent) for _ in range(3)]
        agent.until_heard()
        at_once = service.http.post("/api/tickets", params={"wait": False}, json=sent)
        agent.moods = [{"category": "billing", "priority": "low"}]
        agent.let_go()
        told = [answer.result() for answer in waiting]

    assert (at_once.status_code, at_once.json()["status"]) == (202, "ROUTING")
    assert [answer.status_code for answer in told] == [201] * 3
    assert len({answer.text for answer in told}) == 1
    assert len(agent.heard) == 1


def test_a_ticket_does_not_take_a_calls_name(service: Service) -> None:
    service.turn("CALL-1", "Hello", "greeting")

    refused(service.http.post("/api/tickets", json={**TWICE, "ticket_id": "CALL-1"}), 409, "ticket-reused")
    refused(service.http.get("/api/tickets/CALL-1"), 404, "ticket-not-found")


def test_tickets_are_listed(start: StartService, tmp_path: Path) -> None:
    before = start(data_dir=tmp_path, flows=("ticket",))
    ids = [send(before, ticket)["ticket_id"] for ticket in (TWICE, ANGRY, TWICE)]
    before.stop()
    service = start(data_dir=tmp_path, flows=("ticket",))

    def listed(**params: Any) -> tuple[list[str], int | None]:
        told = service.http.get("/api/tickets", params=params).json()
        return [ticket["ticket_id"] for ticket in told["tickets"]], told["next_offset"]

    assert listed() == (ids[::-1], None)
    assert listed(status="resolved") == ([ids[2], ids[0]], None)
    assert listed(status="ESCALATED") == ([ids[1]], None)
    assert listed(customer_id="CUST_123", limit=1) == ([ids[2]], 1)
    assert listed(customer_id="CUST_123", limit=1, offset=1) == ([ids[0]], None)
    assert listed(customer_id="nobody") == ([], None)


@pytest.mark.parametrize(
    ("sent", "field"),
    [
        ({}, "customer_id"),
        ({**TWICE, "customer_id": ""}, "customer_id"),
        ({**TWICE, "body": ""}, "body"),
        ({**TWICE, "subject": 7}, "subject"),
        ({**TWICE, "subject": "x" * 1001}, "subject"),
        ({**TWICE, "ticket_id": "a/b"}, "ticket_id"),
        ({**TWICE, "metadata": [1]}, "metadata"),
    ],
)
def test_tickets_that_cannot_be(service: Service, sent: dict[str, Any], field: str) -> None:
    problem = refused(service.http.post("/api/tickets", json=sent), 422, "bad-input")

    assert problem["errors"][0]["field"] == field


def test_a_ticket_that_was_never_sent(service: Service) -> None:
    refused(service.http.get("/api/tickets/none"), 404, "ticket-not-found")


def test_a_service_without_the_flow_says_so(start: StartService) -> None:
    service = start(checkpointer="memory", flow="relay", flows=["relay"])

    problem = refused(service.http.post("/api/tickets", json=TWICE), 404, "flow-not-found")

    assert problem["detail"] == "there is no flow 'ticket'; those served are relay"
