"""A call taken by A2A messages of both versions: what they may say beside their words, and what the task tells."""

import time
import uuid
from collections.abc import Mapping
from typing import Any, Literal

import pytest

from tests.a2a_client import Client, RpcError, answer_of, opened, roles_and_words, state_of, words_of
from tests.conftest import Service, StartService
from tests.puppet import Puppet

Version = Literal["1.0", "0.3"]
CALL = [
    ("greeting", "Hello", "input-required"),
    ("verify_identity", "My number is 1234", "input-required"),
    ("balance_inquiry", "How much have I got?", "input-required"),
    ("check_balance", "Yes, tell me", "input-required"),
    ("closing", "Bye", "completed"),
]


@pytest.fixture(params=["1.0", "0.3"])
def version(request: pytest.FixtureRequest) -> Version:
    chosen: Version = request.param
    return chosen


@pytest.fixture(scope="module")
def service(start_for_module: StartService) -> Service:
    return start_for_module(checkpointer="memory")


@pytest.fixture
def client(service: Service, version: Version) -> Client:
    return Client(service.http, version)


@pytest.fixture
def told(puppet: tuple[Puppet, str], start: StartService) -> Service:
    """A call flow whose stages are all answered by the puppet."""
    names = ("greeting", "auth", "refund", "billing", "balance", "closing", "fallback")
    return start(env={f"{name.upper()}_AGENT_URL": puppet[1] for name in names}, checkpointer="memory")


@pytest.fixture
def relay(puppet: tuple[Puppet, str], start: StartService) -> Service:
    return start(env={"RELAY_AGENT_URL": puppet[1]}, flow="relay", checkpointer="memory")


def session(service: Service, context: str) -> dict[str, Any]:
    found: dict[str, Any] = service.http.get(f"/session/{context}").raise_for_status().json()
    return found


def fresh() -> str:
    return uuid.uuid4().hex


def test_a_whole_call(client: Client, service: Service) -> None:
    task: dict[str, Any] = {}
    for intent, words, state in CALL:
        task = client.send(words, context=task.get("contextId"), task=task.get("id"), metadata={"intent": intent})
        assert state_of(task) == state

    assert [step["intent"] for step in session(service, task["contextId"])["steps"]] == [said[0] for said in CALL]
    assert client.get(task["id"]) == task
    *answers, summary = task["artifacts"]
    assert [artifact["artifactId"].partition("-")[0] for artifact in answers] == ["1", "2", "3", "4", "5"]
    assert (summary["artifactId"], summary["name"]) == ("summary", "session_summary")
    assert summary["parts"][0]["data"]["completed_flows"] == [1, 2, 3, 4, 5]
    assert "steps" not in summary["parts"][0]["data"]
    assert [words for role, words in roles_and_words(task) if role == "user"] == [said[1] for said in CALL]
    assert {said["taskId"] for said in task["history"]} == {task["id"]}
    assert {said["contextId"] for said in task["history"]} == {task["contextId"]}


def test_what_a_task_says_of_itself(client: Client) -> None:
    task = client.send("Hello", metadata={"intent": "greeting"})

    legal = ["verify_identity", "authenticate", "otp_verify", "unknown"]
    where = {"flow": "call", "stage": "authentication", "intentFlowId": 2, "legalIntents": legal}
    assert task["metadata"] == where
    assert state_of(task) == "input-required"
    assert words_of(task["artifacts"][0]) == "Welcome to customer service. How can I help you today?"
    assert task["status"]["timestamp"].endswith("Z")


def test_a_data_part_names_everything(client: Client, service: Service) -> None:
    name = fresh()
    says = {"call_identify_id": name, "account_id": "ACC-1", "eci": "ECI-7", "intent": "greeting"}

    task = client.send("Hello", parts=[{"data": says}])

    assert task["contextId"] == name
    assert {**session(service, name), **says} == session(service, name) | {"intent": "greeting"}
    assert session(service, name)["steps"][0]["intent_source"] == "declared"


def test_a_data_part_that_only_names_does_not_go_on(
    relay: Service, puppet: tuple[Puppet, str], version: Version
) -> None:
    client = Client(relay.http, version, "/a2a/relay")
    more = {"account_id": "ACC-1", "amount": "1.10"}

    client.send("Hello", parts=[{"data": {"account_id": "ACC-1", "eci": "E"}}])
    client.send("Hello", parts=[{"data": more}])

    alone, both = puppet[0].messages
    assert alone["parts"] == [{"kind": "text", "text": "Hello"}]
    assert both["parts"] == [{"kind": "text", "text": "Hello"}, {"kind": "data", "data": more}]


def test_a_message_that_only_names_is_said_too(told: Service, puppet: tuple[Puppet, str], version: Version) -> None:
    client = Client(told.http, version)
    part = {"data": {"intent": "greeting", "account_id": "ACC-1"}}

    task = client.send(parts=[part], message_id="just-data")

    assert (task["metadata"]["stage"], puppet[0].messages[0]["parts"]) == (
        "authentication",
        [{"kind": "data", "data": part["data"]}],
    )
    (said,) = task["history"]
    assert (said["messageId"], said["parts"][0]["data"]) == ("just-data", part["data"])


@pytest.mark.parametrize(
    ("request_says", "message_says", "part_says", "intent"),
    [
        ({"intent": "welcome"}, None, None, "welcome"),
        ({"intent": "welcome"}, {"intent": "greeting"}, None, "greeting"),
        (None, {"intent": "greeting"}, {"intent": "welcome"}, "greeting"),
        ({"intent": "greeting"}, None, {"intent": "welcome"}, "welcome"),
    ],
)
def test_the_messages_metadata_says_it_before_its_data_and_that_before_the_request(
    client: Client,
    service: Service,
    request_says: Mapping[str, Any] | None,
    message_says: Mapping[str, Any] | None,
    part_says: Mapping[str, Any] | None,
    intent: str,
) -> None:
    parts = [{"data": part_says}] if part_says else None

    task = client.send("Hello", metadata=message_says, request_metadata=request_says, parts=parts)

    assert session(service, task["contextId"])["steps"][0]["intent"] == intent


def test_without_an_intent_the_classifier_decides(client: Client, service: Service) -> None:
    task = client.send("good morning")
    client.send("my card number is 1234", task=task["id"])

    steps = session(service, task["contextId"])["steps"]
    assert [(step["intent"], step["intent_source"]) for step in steps] == [
        ("greeting", "triggers"),
        ("verify_identity", "triggers"),
    ]


def test_a_message_without_a_context_begins_a_call(client: Client) -> None:
    one, other = client.send("Hello", message_id="m"), client.send("Hello", message_id="m")

    assert one["contextId"] != other["contextId"]
    assert one["id"] != other["id"]


def test_a_context_that_is_new_is_the_name_of_the_call(client: Client, service: Service) -> None:
    name = fresh()

    task = client.send("Hello", context=name)

    assert (task["contextId"], session(service, name)["call_identify_id"]) == (name, name)


def test_a_context_is_enough_to_go_on(client: Client) -> None:
    first = client.send("Hello", context=fresh())

    assert client.send("1234", context=first["contextId"])["id"] == first["id"]


def test_who_calls_is_unknown_until_it_is_said(client: Client, service: Service) -> None:
    task = client.send("Hello")
    before = session(service, task["contextId"])
    client.send("1234", task=task["id"], metadata={"account_id": "ACC-1", "eci": "ECI-7"})
    after = session(service, task["contextId"])

    assert (before["account_id"], before["eci"]) == ("unknown", "unknown")
    assert (after["account_id"], after["eci"]) == ("ACC-1", "ECI-7")
    with pytest.raises(RpcError) as refused:
        client.send("Refund", task=task["id"], metadata={"account_id": "ACC-2"})
    assert (refused.value.code, refused.value.facts["type"]) == (-32602, "another-account")
    assert "ACC-1" not in str(refused.value)
    assert len(session(service, task["contextId"])["steps"]) == 2


def test_metadata_goes_on_to_the_agent(relay: Service, puppet: tuple[Puppet, str], version: Version) -> None:
    told = {"ticket": "T-1", "deep": {"list": [1, 2.5, None, True, "x"]}, "https://example.org/x": ""}

    Client(relay.http, version, "/a2a/relay").send("Hello", message_id="my-own-id", metadata=told)

    heard = puppet[0].messages[0]["metadata"]
    assert {key: heard[key] for key in told} == told
    assert heard["messageId"] == "my-own-id"


def test_an_empty_text_is_a_message_too(client: Client) -> None:
    task = client.send("", metadata={"intent": "greeting"})

    assert roles_and_words(task) == [("user", "")]


def test_one_call_by_messages_and_by_http(client: Client, service: Service) -> None:
    name = fresh()

    service.turn(name, "Hello", "greeting")
    by_message = client.send("1234", context=name, metadata={"intent": "verify_identity"})
    service.turn(name, "How much?", "balance_inquiry")
    service.turn(name, "Yes", "check_balance")
    ended = client.send("Bye", task=by_message["id"], metadata={"intent": "closing"})

    assert ended["id"] == by_message["id"]
    assert state_of(ended) == "completed"
    assert [words for role, words in roles_and_words(ended) if role == "user"] == [
        "Hello",
        "1234",
        "How much?",
        "Yes",
        "Bye",
    ]


@pytest.mark.parametrize("word", ["fail", "reject"])
def test_a_call_goes_on_after_an_agent_has_failed(told: Service, version: Version, word: str) -> None:
    client = Client(told.http, version)

    failed = client.send(f"{word} now", metadata={"intent": "greeting"})
    again = client.send("well", task=failed["id"], metadata={"intent": "greeting"})

    assert (state_of(failed), failed["metadata"]["stage"]) == ("input-required", "greeting")
    assert answer_of(failed) == f"you said {word} now"
    assert failed["status"]["message"]["metadata"]["error"]["type"]
    assert not failed.get("artifacts")
    assert (again["id"], again["metadata"]["stage"]) == (failed["id"], "authentication")
    assert [said for _, said in roles_and_words(again)] == [f"{word} now", f"you said {word} now", "well"]


@pytest.mark.parametrize(("word", "state"), [("fail", "failed"), ("reject", "rejected"), ("cancel", "canceled")])
def test_what_fails_behind_the_relay_fails(relay: Service, version: Version, word: str, state: str) -> None:
    client = Client(relay.http, version, "/a2a/relay")

    task = client.send(f"{word} now")
    after = client.send("ask again", context=task["contextId"])

    assert (state_of(task), answer_of(task)) == (state, f"you said {word} now")
    assert after["id"] != task["id"]
    with pytest.raises(RpcError) as refused:
        client.send("well", task=task["id"])
    assert refused.value.code == -32004


def test_a_question_of_the_agent_surfaces(told: Service, version: Version) -> None:
    client = Client(told.http, version)

    asked = client.send("ask me", metadata={"intent": "greeting"})
    answered = client.send("well", task=asked["id"])

    assert (state_of(asked), answer_of(asked), asked["metadata"]["stage"]) == (
        "input-required",
        "you said ask me",
        "greeting",
    )
    assert not asked.get("artifacts")
    assert answered["metadata"]["stage"] == "authentication"
    assert [said for _, said in roles_and_words(answered)] == ["ask me", "you said ask me", "well"]


def test_a_bare_message_behind_the_relay_is_a_message(relay: Service, version: Version) -> None:
    client = Client(relay.http, version, "/a2a/relay")

    kind, said = opened(client.call("SendMessage", client.params("hi", context="a call")))

    assert (kind, words_of(said), said["contextId"]) == ("message", "you said hi", "a call")
    assert "taskId" not in said


def test_a_task_at_once_and_its_answer_later(told: Service, version: Version, puppet: tuple[Puppet, str]) -> None:
    client = Client(told.http, version)

    began = client.send("slow 0.5", metadata={"intent": "greeting"}, returnImmediately=True)
    meanwhile = client.get(began["id"])
    ended = once(client, began["id"], "input-required")

    assert (state_of(began), state_of(meanwhile)) == ("working", "working")
    assert roles_and_words(began) == [("user", "slow 0.5")]
    assert (words_of(ended["artifacts"][0]), len(puppet[0].messages)) == ("you said slow 0.5", 1)
    assert roles_and_words(ended) == [("user", "slow 0.5")]


def once(client: Client, task: str, state: str) -> dict[str, Any]:
    """Return the task as soon as it is in the state."""
    give_up = time.monotonic() + 10
    while state_of(found := client.get(task)) != state:
        assert time.monotonic() < give_up, found
        time.sleep(0.02)
    return found
