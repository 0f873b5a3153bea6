"""Bad input gets a problem document that says what to do, odd input a right answer, and nothing is lost."""

import json
from collections import Counter
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.core.result import Ok

from tests.conftest import Service, StartService

GOOD = {"call_identify_id": "GOOD", "account_id": "A", "eci": "E", "input_message": "Hello", "intent": "greeting"}


@pytest.fixture(scope="module")
def service(start_for_module: StartService, tmp_path_factory: pytest.TempPathFactory) -> Service:
    return start_for_module(data_dir=tmp_path_factory.mktemp("bad-input"))


def refused(answer: httpx.Response, status: int, kind: str) -> dict[str, Any]:
    """Check that the answer is that problem, and return it."""
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), answer.text
    problem: dict[str, Any] = answer.json()
    assert (problem["status"], problem["type"]) == (status, kind)
    assert problem["title"]
    assert problem["detail"]
    assert "Traceback" not in answer.text
    return problem


@pytest.mark.parametrize("field", ["call_identify_id", "account_id", "eci"])
@pytest.mark.parametrize(
    "value", ["", "   ", "x" * 10_000, "a\x00b", "a\nb", "a/b", ".", "..", "a\x7fb", 7, None, ["a"], {"a": 1}, True]
)
def test_ids_that_cannot_be(service: Service, field: str, value: Any) -> None:
    problem = refused(service.http.post("/orchestrate", json={**GOOD, field: value}), 422, "bad-input")

    assert [error["field"] for error in problem["errors"]] == [field]


def test_a_lone_surrogate(service: Service) -> None:
    body = json.dumps({**GOOD, "call_identify_id": "a\ud800"})

    answer = service.http.post("/orchestrate", content=body, headers={"content-type": "application/json"})

    refused(answer, 422, "bad-input")


@pytest.mark.parametrize(
    "call",
    [
        "a:b",
        "a,b",
        "{a}",
        "a}b{",
        "*",
        "a*",
        '"q"',
        "'q'",
        "звонок",
        "📞",
        "a b",
        "a%2Fb",
        "?x=1",
        "#",
        "x" * 200,
        "~a",
    ],
)
def test_odd_ids_are_right_answers(service: Service, call: str) -> None:
    told = service.turn(call, "Hello", "greeting")
    path = f"/session/{quote(call, safe='')}"

    assert told.status_code == 200
    assert told.json()["call_identify_id"] == call
    assert service.http.get(path).json()["call_identify_id"] == call
    assert service.http.get(f"{path}/steps").json()[0]["intent"] == "greeting"
    assert service.http.delete(path).status_code == 200
    assert service.http.get(path).status_code == 404


@pytest.mark.parametrize("store", ["embedded", "langgraph-redis"], indirect=True)
def test_ids_that_differ_only_in_case_are_two_calls(start: StartService, store: dict[str, Any]) -> None:
    service = start(**store)

    service.turn("Call-a", "Hello", "greeting")

    assert service.http.get("/session/call-a").status_code == 404
    assert service.turn("CALL-A", "Hello", "greeting").json()["step"] == 1


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"input_message": ""}, "input_message"),
        ({"input_message": 5}, "input_message"),
        ({"input_message": "x" * 40_000}, "input_message"),
        ({"intent": 5}, "intent"),
        ({"intent": ["greeting"]}, "intent"),
        ({"metadata": "x"}, "metadata"),
        ({"language": 1}, "language"),
    ],
)
def test_wrong_types_and_lengths(service: Service, change: dict[str, Any], field: str) -> None:
    problem = refused(service.http.post("/orchestrate", json={**GOOD, **change}), 422, "bad-input")

    assert problem["errors"][0]["field"] == field


@pytest.mark.parametrize("missing", ["call_identify_id", "account_id", "eci", "input_message"])
def test_missing_fields(service: Service, missing: str) -> None:
    sent = {key: value for key, value in GOOD.items() if key != missing}

    problem = refused(service.http.post("/orchestrate", json=sent), 422, "bad-input")

    assert problem["errors"] == [{"field": missing, "message": "it is missing; add it"}]


@pytest.mark.parametrize("body", [b"", b"{", b"null", b"[]", b'"text"', b"\xff\xfe", b"[" * 100_000, b'{"a": NaN}'])
def test_bodies_that_are_no_request(service: Service, body: bytes) -> None:
    refused(service.http.post("/orchestrate", content=body), 422, "bad-input")


def test_a_10_mb_message(service: Service) -> None:
    refused(
        service.http.post("/orchestrate", json={**GOOD, "input_message": "x" * 10_000_000}), 413, "body-too-large"
    )
    assert service.http.get("/session/GOOD").status_code == 404


@pytest.mark.parametrize("intent", [None, "", "   "])
def test_a_blank_intent_is_an_absent_one(service: Service, intent: str | None) -> None:
    call = f"BLANK-{intent!r}"
    told = service.http.post("/orchestrate", json={**GOOD, "call_identify_id": call, "intent": intent}).json()

    assert (told["intent"], told["intent_source"]) == ("greeting", "triggers")


def test_a_message_of_blanks_is_answered(service: Service) -> None:
    told = service.turn("BLANKS", "   ").json()

    assert told["status"] == "success"


def test_paths_and_methods_that_lead_nowhere(service: Service) -> None:
    refused(service.http.get("/nowhere"), 404, "not-found")
    refused(service.http.get("/orchestrate"), 405, "method-not-allowed")
    refused(service.http.get("/session/nobody"), 404, "session-not-found")
    refused(service.http.get("/session/a%00b"), 422, "bad-input")
    refused(service.http.get("/session/" + "x" * 201), 422, "bad-input")


def test_what_happened_before_bad_input_is_still_there(service: Service) -> None:
    service.turn("KEPT", "Hello", "greeting")
    before = service.http.get("/session/KEPT").json()

    service.http.post("/orchestrate", json={**GOOD, "call_identify_id": "KEPT", "input_message": 1})
    service.turn("KEPT", "Bye", "closing")

    assert service.http.get("/session/KEPT").json() == before


@pytest.mark.filterwarnings("ignore:Overriding standard format")  # schemathesis adjusts hypothesis-jsonschema
@pytest.mark.filterwarnings("ignore:Do not use the `random` module")  # LangGraph does, in runs that go on meanwhile
def test_no_request_that_the_openapi_document_allows_is_a_server_error(service: Service) -> None:
    schema = schemathesis.openapi.from_url(f"{service.url}/openapi.json")
    operations = [found.ok() for found in schema.get_all_operations() if isinstance(found, Ok)]
    seen: Counter[str] = Counter()

    for operation in operations:

        @settings(max_examples=10, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy())
        def send(case: schemathesis.Case) -> None:
            answer = case.call()
            seen[case.operation.label] += 1
            assert answer.status_code < 500, answer.text

        send()

    assert {operation.label for operation in operations} == set(seen)
    assert "POST /orchestrate" in seen


@pytest.mark.parametrize("trace", [b"\xff", b"garbage", b"00-" + b"0" * 5000])
def test_a_traceparent_that_is_none_is_left_aside(service: Service, trace: bytes) -> None:
    sent = {**GOOD, "call_identify_id": f"TRACE-{len(trace)}"}

    answer = service.http.post("/orchestrate", json=sent, headers={b"traceparent": trace})

    assert (answer.status_code, answer.json()["status"]) == (200, "success")


def test_metadata_that_cannot_be_handed_on(service: Service) -> None:
    problem = refused(service.http.post("/orchestrate", json={**GOOD, "metadata": {"n": 10**30}}), 422, "bad-input")

    assert problem["errors"][0]["field"] == "metadata"


@pytest.mark.parametrize("kind", ["text/plain", "text/plain; charset=json"])
def test_a_form_of_another_web_page_is_refused(service: Service, kind: str) -> None:
    page = {"origin": "http://elsewhere.example", "content-type": kind}

    refused(service.http.post("/orchestrate", content=json.dumps(GOOD), headers=page), 415, "unsupported-media-type")
    assert (
        service.http.post("/orchestrate", json=GOOD, headers={"origin": "http://elsewhere.example"}).status_code < 415
    )
