"""A message with an `Idempotency-Key` is answered once, and answered alike however often and wherever it is sent;
another message under its key is refused."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.background import Background
from tests.conftest import Service, StartService
from tests.listeners import CALL, heard, read, said, socket_of
from tests.moody import HOLD, Moody, moody_agent
from tests.puppet import Puppet
from tests.replicas import SHARED, replicas
from tests.test_runs_over_http import TICKET
from tests.workflow_stories import CONTENT

Store = dict[str, Any]
Json = dict[str, Any]
AtOnce = Callable[..., Future[httpx.Response]]

REVIEW = """
flow: review
inputs: [words]
agents: {one: {url: "${ONE_URL}"}}
stages:
  look: {agent: one, next: [{when: words == 'again', goto: approve}, {goto: end}]}
  approve: {ask: {question: "Well?", schema: {type: boolean}}}
  work: {agent: one}
  again: {ask: {question: "And now?", schema: {type: boolean}}}
"""


@pytest.fixture
def moody(background: Background) -> Iterator[Moody]:
    with moody_agent(background) as agent:
        yield agent


@pytest.fixture
def review(start: StartService, moody: Moody, store: Store, tmp_path: Path) -> Service:
    """A service with a flow that goes by itself, and asks a person if it is told `again`."""
    (tmp_path / "review.yaml").write_text(REVIEW)
    return start({"ONE_URL": moody.url}, flows=(str(tmp_path / "review.yaml"),), **store)


def body(call: str, message: str, intent: str | None = None, **more: Any) -> Json:
    return said(message, intent, call_identify_id=call, **more)


def send(service: Service, key: str | bytes, document: Json, path: str = "/orchestrate") -> httpx.Response:
    headers = [(b"idempotency-key", key if isinstance(key, bytes) else key.encode())]
    return service.http.post(path, json=document, headers=headers)


def same(one: httpx.Response, other: httpx.Response) -> bool:
    return one.is_success and (one.status_code, one.content) == (other.status_code, other.content)


def is_reused(answer: httpx.Response) -> bool:
    return (answer.status_code, answer.json()["type"]) == (422, "key-reused")


def test_it_is_answered_alike_as_long_as_the_call_is_kept(start: StartService, store: Store) -> None:
    service, answers = start(**store), []

    for number, said_now in enumerate(CALL):
        answers.append(send(service, f"k-{number}", body("C", *said_now)))
        for before, answer in enumerate(answers):
            assert same(send(service, f"k-{before}", body("C", *CALL[before])), answer)
            assert is_reused(send(service, f"k-{before}", body("C", "something else", "unknown")))

    assert answers[-1].json()["session_summary"]["steps"][-1]["number"] == 5
    assert [step["number"] for step in service.http.get("/session/C/steps").json()] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("shared_store", SHARED)
def test_it_waits_for_its_first_copy_on_whichever_replica(
    request: pytest.FixtureRequest, start: StartService, moody: Moody, at_once: AtOnce, shared_store: str
) -> None:
    both = replicas(request, start, shared_store, {"GREETING_AGENT_URL": moody.url}, busy_wait_seconds=0.1)
    moody.moods = [HOLD]

    copies = [at_once(send, both.here, "k", body("C", "hello", "greeting"))]
    moody.until_heard()
    copies += [at_once(send, service, "k", body("C", "hello", "greeting")) for service in (both.here, both.there)]
    for service in (both.here, both.there):
        assert is_reused(send(service, "k", body("C", "hello you", "greeting")))
        assert send(service, "other", body("C", "hello", "greeting")).json()["type"] == "turn-in-flight"
    moody.let_go()
    first, *others = (copy.result() for copy in copies)

    assert [same(other, first) for other in others] == [True, True]
    assert len(moody.heard) == 1


@pytest.mark.parametrize("store", ["embedded", "valkey", "langgraph-redis"], indirect=True)
def test_it_is_answered_alike_after_a_restart(start: StartService, store: Store) -> None:
    service = start(**store)
    first = send(service, "k", body("C", "hello", "greeting"))
    service.stop()

    service = start(**store)

    assert same(send(service, "k", body("C", "hello", "greeting")), first)
    assert is_reused(send(service, "k", body("C", "hello you", "greeting")))


def test_a_message_that_was_refused_leaves_its_key_free(start: StartService, store: Store) -> None:
    service = start(**store)

    service.turn("OLD", "hello", "greeting")

    for call, intent in (("NEW", "greeting"), ("OLD", "authenticate")):
        illegal = send(service, "k", body(call, "pay", "process_refund"))
        empty = send(service, "k", body(call, "", "greeting"))
        assert (illegal.json()["type"], empty.json()["type"]) == ("intent-not-legal", "bad-input")
        assert send(service, "k", body(call, "hello", intent)).status_code == 200


def test_a_key_names_a_message_of_one_call(start: StartService) -> None:
    service = start(checkpointer="memory")

    one, other = (send(service, "k", body(call, "hello", "greeting")).json() for call in ("ONE", "OTHER"))

    assert (one["call_identify_id"], one["step"]) == ("ONE", 1)
    assert (other["call_identify_id"], other["step"]) == ("OTHER", 1)


def test_how_the_client_wants_to_be_answered_is_not_part_of_the_message(start: StartService) -> None:
    service = start(checkpointer="memory")
    document = body("C", "hello", "greeting", metadata={"b": 1, "a": [{"d": 1, "c": None}]})

    first = send(service, "k", {**document, "deadline_ms": 20_000})
    again = send(service, "k", dict(reversed(list(document.items()))))
    explicit = send(service, "k", {**document, "further_intents": [], "flow": None, "deadline_ms": 10_000})

    assert same(again, first)
    assert same(explicit, first)
    assert is_reused(send(service, "k", {**document, "metadata": {"b": 1, "a": [{"d": 1}]}}))


@pytest.mark.parametrize("key", ["x", "k" * 200, "ключ № 1", 'a key, with: "signs"'])
def test_any_text_is_a_key(start_for_module: StartService, key: str) -> None:
    service = start_for_module(checkpointer="memory")

    first, again = (send(service, key, body("C", "hello", "greeting")) for _ in range(2))

    assert same(again, first)
    assert is_reused(send(service, key, body("C", "hello you", "greeting")))


@pytest.mark.parametrize("key", [b"", b"k" * 201, "\x85".encode(), b"a\tb"])
def test_what_is_no_key(start_for_module: StartService, key: bytes) -> None:
    service = start_for_module(checkpointer="memory")

    refused = send(service, key, body("C", "hello", "greeting"))

    assert (refused.status_code, refused.json()["type"]) == (422, "bad-input")
    assert [error["field"] for error in refused.json()["errors"]] == ["Idempotency-Key"]
    assert service.http.get("/session/C").status_code == 404


def test_two_keys_are_none(start_for_module: StartService) -> None:
    service = start_for_module(checkpointer="memory")

    keys = [("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
    refused = service.http.post("/orchestrate", json=body("C", "hello", "greeting"), headers=keys)

    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "Idempotency-Key")


def test_every_door_of_a_call_knows_its_messages(start: StartService, puppet: tuple[Puppet, str]) -> None:
    service = start({"GREETING_AGENT_URL": puppet[1]}, checkpointer="memory")
    answer = send(service, "k", body("C", "hello", "greeting")).json()

    streamed = send(service, "k", body("C", "hello", "greeting"), "/orchestrate/stream")
    reused = send(service, "k", body("C", "hello you", "greeting"), "/orchestrate/stream")
    with socket_of(service, "C") as client:
        for words in ("hello", "hello you"):
            client.send(json.dumps(said(words, "greeting", idempotency_key="k", request_id=words)))
        on_socket = [heard(client), heard(client)]

    assert list(read(streamed.iter_lines())) == [{"event": "turn", **answer}]
    assert is_reused(reused)
    assert on_socket[0] == [{"event": "turn", "request_id": "hello", **answer}]
    assert [event["type"] for event in on_socket[1]] == ["key-reused"]
    assert len(puppet[0].messages) == 1


def test_a_key_on_a_socket(start: StartService, puppet: tuple[Puppet, str]) -> None:
    service = start({"GREETING_AGENT_URL": puppet[1]}, checkpointer="memory")

    with socket_of(service, "C") as client:
        for key in ("", "k", "k"):
            client.send(json.dumps(said("hello", "greeting", idempotency_key=key)))
        bad, first, again = heard(client), heard(client), heard(client)

    assert bad[0]["errors"][0]["field"] == "idempotency_key"
    assert {key: value for key, value in first[-1].items() if key != "id"} == again[0]
    assert len(puppet[0].messages) == 1


def test_an_earlier_run_is_answered_with_its_own_summary(
    start: StartService, store: Store, puppet: tuple[Puppet, str]
) -> None:
    service = start({"RELAY_AGENT_URL": puppet[1]}, flow="relay", **store)

    first = send(service, "k", body("C", "one"))
    send(service, "l", body("C", "two"))
    again = send(service, "k", body("C", "one"))

    assert [step["number"] for step in first.json()["session_summary"]["steps"]] == [1]
    assert same(again, first)
    assert len(puppet[0].messages) == 2


def test_a_run_under_a_key_is_one_run(review: Service, moody: Moody, at_once: AtOnce) -> None:
    def run(key: str, **sent: Any) -> httpx.Response:
        return send(review, key, {"input": {"words": "hello"}, **sent}, "/flows/review/runs")

    moody.moods = [HOLD]
    copies = [at_once(run, "k")]
    moody.until_heard()
    copies += [at_once(run, "k") for _ in range(3)]
    begun = run("k", wait=False)
    reused = [run("k", input={"words": "well"}), run("k", input={"words": "well"}, wait=False)]
    moody.let_go()
    first, *others = (copy.result() for copy in copies)

    assert (begun.status_code, begun.json()["status"]) == (202, "running")
    assert [same(other, first) for other in (*others, run("k"))] == [True] * 4
    assert run("k", wait=False).json() == first.json()
    assert [is_reused(answer) for answer in (*reused, run("k", input={"words": "well"}))] == [True] * 3
    assert first.json()["execution_id"] == begun.json()["execution_id"] != run("l").json()["execution_id"]
    assert len(moody.heard) == 2


def test_a_key_names_a_run_of_one_flow(start: StartService) -> None:
    service = start(checkpointer="memory", flows=("contact_centre",))
    hello = {"message": "hello", "intent": "greeting"}

    first = send(service, "k", hello, "/flows/call/runs")
    other = send(service, "k", hello, "/flows/contact_centre/runs")

    assert (first.status_code, is_reused(other)) == (200, True)


def test_a_run_of_a_flow_with_a_caller(start: StartService, store: Store) -> None:
    service = start(**store)

    first = send(service, "k", {"message": "hello", "intent": "greeting"}, "/flows/call/runs")
    again = send(service, "k", {"message": "hello", "intent": "greeting"}, "/flows/call/runs")
    name = first.json()["execution_id"]
    more = {"id": name, "message": "123456", "intent": "verify_identity"}
    later = [send(service, "l", more, "/flows/call/runs") for _ in range(2)]

    assert same(again, first)
    assert same(later[1], later[0])
    assert len(service.http.get(f"/session/{name}/steps").json()) == 2


def test_a_streamed_run_under_a_key(review: Service, moody: Moody) -> None:
    sent = {"input": {"words": "hello"}}

    first, again = (send(review, "k", sent, "/flows/review/runs/stream") for _ in range(2))

    *_, last = read(first.iter_lines())
    assert list(read(again.iter_lines())) == [{key: value for key, value in last.items() if key != "id"}]
    assert first.headers["execution-id"] == again.headers["execution-id"]
    assert len(moody.heard) == 1


def test_an_answer_under_a_key_is_given_once(review: Service, moody: Moody, at_once: AtOnce) -> None:
    def answer(key: str, value: Any, **more: Any) -> httpx.Response:
        return send(review, key, {"answer": value, **more}, "/executions/R/answer")

    review.http.post("/flows/review/runs", json={"id": "R", "input": {"words": "again"}})
    moody.until_heard()
    moody.moods = [HOLD]

    copies = [at_once(answer, "k", True)]
    moody.until_heard()
    copies += [at_once(answer, "k", True)]
    begun, reused = answer("k", True, wait=False), answer("k", False)
    other = answer("l", True)
    moody.let_go()
    first, second = (copy.result() for copy in copies)

    assert (begun.status_code, begun.json()["status"]) == (202, "running")
    assert (is_reused(reused), other.json()["type"]) == (True, "not-waiting")
    assert same(second, first)
    assert same(answer("k", True), first)
    assert first.json()["question"]["question"] == "And now?"
    assert is_reused(answer("k", False))

    assert answer("l", True).json()["status"] == "completed"
    assert answer("l", True).json()["status"] == answer("k", True).json()["status"] == "completed"
    assert is_reused(answer("l", False))
    assert answer("m", True).json()["type"] == "not-waiting"
    assert len(moody.heard) == 2


def test_a_workflow_is_executed_once_under_a_key(start: StartService, store: Store) -> None:
    service = start(**store)
    name = service.http.post("/workflows/", json=CONTENT).json()["workflow_id"]
    path = f"/workflows/{name}/execute?wait=true"

    first, again = (send(service, "k", {"input_data": {"input_text": "I love it."}}, path) for _ in range(2))
    reused = send(service, "k", {"input_data": {"input_text": "I hate it."}}, path)
    named = [send(service, key, {"input_data": {"input_text": "Well."}, "execution_id": "E"}, path) for key in "kkl"]

    assert same(again, first)
    assert is_reused(reused)
    assert same(named[1], named[0])
    assert (named[2].status_code, "'E' already" in named[2].json()["detail"]) == (422, True)


def test_a_ticket_is_worked_on_once_under_a_key(start: StartService, store: Store) -> None:
    service = start(flows=("ticket",), **store)

    first, again = (send(service, "k", TICKET, "/api/tickets") for _ in range(2))
    reused = send(service, "k", {**TICKET, "subject": "Another"}, "/api/tickets")
    mine = [send(service, key, {**TICKET, "ticket_id": "T"}, "/api/tickets") for key in "kk"]
    other = send(service, "k", {**TICKET, "ticket_id": "T", "subject": "Another"}, "/api/tickets")
    taken = send(service, "l", {**TICKET, "ticket_id": "T", "subject": "Another"}, "/api/tickets")

    assert same(again, first)
    assert (is_reused(reused), is_reused(other)) == (True, True)
    assert same(mine[1], mine[0])
    assert (taken.status_code, taken.json()["type"]) == (409, "ticket-reused")
    assert len(service.http.get("/api/tickets").json()["tickets"]) == 2
