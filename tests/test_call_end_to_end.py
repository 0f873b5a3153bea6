"""A whole call through the public door, on every store."""

from pathlib import Path
from typing import Any

import pytest

from tests.a2a_client import Client
from tests.conftest import Service, StartService
from tests.puppet import Puppet

Store = dict[str, Any]
CALL = [
    ("Hello, I need help", "greeting"),
    ("My SSN is 123-45-6789", "verify_identity"),
    ("I need a refund", "refund_request"),
    ("Yes, go ahead", "process_refund"),
    ("Bye", "closing"),
]


def take(service: Service, call: str, turns: list[tuple[str, str]]) -> list[dict[str, Any]]:
    """Take the turns and return the answers."""
    answers = [service.turn(call, message, intent) for message, intent in turns]
    assert [answer.status_code for answer in answers] == [200] * len(turns), answers[-1].text
    return [answer.json() for answer in answers]


def test_the_five_turns_of_the_seed(start: StartService, store: Store) -> None:
    service = start(**store)

    told = take(service, "CALL-001", CALL)

    contract = ("call_identify_id", "intent_flow_id", "intent", "status", "next_flow_id", "is_complete")
    assert [[answer[key] for key in contract] for answer in told] == [
        ["CALL-001", 1, "greeting", "success", 2, False],
        ["CALL-001", 2, "verify_identity", "success", 3, False],
        ["CALL-001", 3, "refund_request", "success", 4, False],
        ["CALL-001", 4, "process_refund", "success", 5, False],
        ["CALL-001", 5, "closing", "success", None, True],
    ]
    assert told[0]["response"] == {"text": "Welcome to customer service. How can I help you today?"}
    assert [answer["session_summary"] for answer in told[:4]] == [None] * 4
    summary = told[4]["session_summary"]
    assert summary["completed_flows"] == [1, 2, 3, 4, 5]
    assert [step["intent"] for step in summary["steps"]] == [intent for _, intent in CALL]


def test_the_session_document_and_its_audit_trail(start: StartService, store: Store) -> None:
    service = start(**store)
    take(service, "CALL-002", CALL[:2])

    session = service.http.get("/session/CALL-002").json()
    steps = service.http.get("/session/CALL-002/steps").json()

    assert (session["current_flow_id"], session["completed_flows"], session["is_complete"]) == (3, [1, 2], False)
    assert (session["account_id"], session["eci"]) == ("ACC-1", "ECI-7")
    assert session["created_at"] <= session["updated_at"]
    assert session["steps"] == steps
    assert [(step["intent_flow_id"], step["intent"], step["input_message"]) for step in steps] == [
        (1, "greeting", "Hello, I need help"),
        (2, "verify_identity", "My SSN is 123-45-6789"),
    ]
    assert {step["response_status"] for step in steps} == {"success"}
    assert all(step["a2a_agent_url"].startswith("http://127.0.0.1:") for step in steps)
    assert all(step["timestamp"].endswith("Z") for step in steps)


def test_the_history_has_the_state_after_each_turn(start: StartService, store: Store) -> None:
    service = start(**store)
    take(service, "CALL-003", CALL[:3])

    history = service.http.get("/session/CALL-003/history").json()

    assert [moment["current_flow_id"] for moment in history] == [2, 3, 4]
    assert [moment["stage"] for moment in history] == ["authentication", "intent_capture", "fulfillment"]
    assert [moment["completed_flows"] for moment in history] == [[1], [1, 2], [1, 2, 3]]
    assert {moment["account_id"] for moment in history} == {"ACC-1"}
    assert [moment["step"]["number"] for moment in history] == [1, 2, 3]


@pytest.mark.parametrize("kind", ["embedded", "langgraph-redis"])
def test_the_call_goes_on_after_a_restart(
    start: StartService, tmp_path: Path, kind: str, request: pytest.FixtureRequest
) -> None:
    store: Store = {"data_dir": tmp_path}
    if kind == "langgraph-redis":
        store = {"redis_url": request.getfixturevalue("redis_stack_url"), "tenant": "restart"}
    before = start(**store)
    take(before, "CALL-004", CALL[:2])
    before.stop()

    after = start(**store)
    told = take(after, "CALL-004", CALL[2:])

    assert [answer["next_flow_id"] for answer in told] == [4, 5, None]
    assert len(told[-1]["session_summary"]["steps"]) == 5


def test_a_remote_task_that_asks_for_more_is_continued(start: StartService, store: Store) -> None:
    service = start(**store)
    take(service, "CALL-005", CALL[:1])

    asked, answered = take(service, "CALL-005", [("Log me in", "authenticate"), ("123456", "authenticate")])

    assert (asked["status"], asked["response"]["task_state"], asked["next_flow_id"]) == (
        "success",
        "input-required",
        2,
    )
    assert (answered["status"], answered["response"]["task_state"], answered["next_flow_id"]) == (
        "success",
        "completed",
        3,
    )


def test_an_intent_that_is_left_out_is_filled_in(start: StartService, store: Store) -> None:
    service = start(**store)

    told = [service.turn("CALL-006", message).json() for message in ("Hello there", "My SSN is 123-45-6789")]

    assert [(answer["intent"], answer["intent_source"]) for answer in told] == [
        ("greeting", "triggers"),
        ("verify_identity", "triggers"),
    ]


@pytest.mark.parametrize("intent", ["unknown", "juggling"])
def test_an_unknown_intent_is_answered_by_the_fallback_and_stays(
    start: StartService, store: Store, intent: str
) -> None:
    service = start(**store)
    take(service, "CALL-007", CALL[:1])

    told = service.turn("CALL-007", "Can you juggle?", intent).json()

    assert (told["intent"], told["agent"], told["status"]) == (intent, "fallback", "success")
    assert (told["intent_flow_id"], told["next_flow_id"]) == (2, 2)
    assert len(service.http.get("/session/CALL-007/steps").json()) == 2


def test_a_legal_intent_at_the_wrong_stage_is_refused_and_leaves_no_trace(start: StartService, store: Store) -> None:
    service = start(**store)
    take(service, "CALL-008", CALL[:1])
    before = service.http.get("/session/CALL-008").json()

    refused = service.turn("CALL-008", "Bye", "closing")

    assert refused.status_code == 409
    assert refused.headers["content-type"] == "application/problem+json"
    problem = refused.json()
    assert problem["type"] == "intent-not-legal"
    assert problem["legal_intents"] == ["verify_identity", "authenticate", "otp_verify", "unknown"]
    assert service.http.get("/session/CALL-008").json() == before


def test_a_refused_first_turn_creates_no_session(start: StartService, store: Store) -> None:
    service = start(**store)

    assert service.turn("CALL-009", "Bye", "closing").status_code == 409
    assert service.http.get("/session/CALL-009").status_code == 404


def test_a_finished_call_takes_no_more_turns(start: StartService, store: Store) -> None:
    service = start(**store)
    take(service, "CALL-010", CALL)

    refused = service.turn("CALL-010", "One more thing", "feedback")

    assert (refused.status_code, refused.json()["type"]) == (409, "call-complete")
    session = service.http.get("/session/CALL-010").json()
    assert (len(session["steps"]), session["is_complete"], session["ended"]) == (5, True, "completed")


def test_another_account_is_refused(start: StartService, store: Store) -> None:
    service = start(**store)
    take(service, "CALL-011", CALL[:1])

    refused = service.turn("CALL-011", "My SSN is 123-45-6789", "verify_identity", account_id="ACC-2")

    assert (refused.status_code, refused.json()["type"]) == (409, "another-account")
    assert "ACC-1" not in refused.text
    assert len(service.http.get("/session/CALL-011/steps").json()) == 1


def test_a_deleted_call_is_gone_and_its_name_is_free(start: StartService, store: Store) -> None:
    service = start(**store)
    take(service, "CALL-012", CALL[:2])

    assert service.http.delete("/session/CALL-012").json() == {"call_identify_id": "CALL-012", "deleted": True}

    assert service.http.get("/session/CALL-012").status_code == 404
    assert service.http.delete("/session/CALL-012").status_code == 404
    assert service.turn("CALL-012", "Hello", "greeting").json()["next_flow_id"] == 2


@pytest.mark.parametrize(
    ("words", "kind"),
    [("fail", "task_failed"), ("reject", "task_rejected"), ("cancel", "task_canceled"), ("refuse", "rpc_error")],
)
def test_an_agent_that_fails_is_an_answer_and_the_call_stays(
    start: StartService, store: Store, puppet: tuple[Puppet, str], words: str, kind: str
) -> None:
    service = start({"GREETING_AGENT_URL": puppet[1]}, **store)

    failed = service.turn("CALL-013", words, "greeting")
    retried = service.turn("CALL-013", "hello", "greeting").json()

    assert failed.status_code == 200
    told = failed.json()
    assert (told["status"], told["response"]["error"]["type"], told["next_flow_id"]) == ("error", kind, 1)
    assert (retried["status"], retried["next_flow_id"]) == ("success", 2)
    trail = service.http.get("/session/CALL-013/steps").json()
    assert [step["response_status"] for step in trail] == ["error", "success"]


def test_an_agent_that_cannot_be_reached_or_is_too_slow(
    start: StartService, store: Store, puppet: tuple[Puppet, str]
) -> None:
    env = {"GREETING_AGENT_URL": puppet[1], "AUTH_AGENT_URL": "http://127.0.0.1:9"}
    service = start(env, agent_timeout_seconds=1, **store)

    slow = service.turn("CALL-014", "slow 2", "greeting").json()
    take(service, "CALL-014", [("hello", "greeting")])
    gone = service.turn("CALL-014", "123456", "verify_identity").json()

    assert slow["response"]["error"]["type"] == "timeout"
    assert gone["response"]["error"]["type"] == "unreachable"


def test_what_the_agents_are_told(start: StartService, puppet: tuple[Puppet, str]) -> None:
    service = start({"GREETING_AGENT_URL": puppet[1]}, checkpointer="memory")

    service.turn(
        "CALL-015", "hello", "greeting", language="de", metadata={"channel": "phone", "account_id": "forged"}
    )
    (message,) = puppet[0].messages

    told = message["metadata"]
    assert {key: told[key] for key in ("account_id", "eci", "flow_id", "flow_label", "tenant", "language")} == {
        "account_id": "ACC-1",
        "eci": "ECI-7",
        "flow_id": 1,
        "flow_label": "GREETING",
        "tenant": "default",
        "language": "de",
    }
    assert told["channel"] == "phone"
    assert 0 < told["deadline_ms"] <= 15_000


def test_a_reused_call_id_is_another_conversation_to_the_agents(
    start: StartService, store: Store, puppet: tuple[Puppet, str]
) -> None:
    service = start({"GREETING_AGENT_URL": puppet[1]}, **store)

    service.turn("CALL-016", "hello", "greeting")
    service.http.delete("/session/CALL-016")
    service.turn("CALL-016", "hello", "greeting")

    first, second = puppet[0].messages
    assert first["contextId"] != second["contextId"]
    assert first["messageId"] != second["messageId"]


def test_a_call_that_was_canceled_wants_nothing_more(start: StartService, store: Store) -> None:
    service = start(**store)
    client = Client(service.http)
    task = client.send("Hello", context="CALL-013", metadata={"intent": "greeting"})
    before = service.http.get("/session/CALL-013").json()

    client.cancel(task["id"])

    after = service.http.get("/session/CALL-013").json()
    assert before["legal_intents"]
    assert (after["ended"], after["is_complete"], after["legal_intents"]) == ("canceled", False, [])
