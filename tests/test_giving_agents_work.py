"""`POST /agents/execute`: one piece of work for an agent of a type, as the fourth seed asks for it."""

from typing import Any

import httpx
import pytest

from nodes.reaching.records import News, Registered
from tests.conftest import Service, StartService

SEED = {
    "agent_type": "text_processor",
    "input_data": {"task_type": "sentiment_analysis", "text": "I love it."},
}


@pytest.fixture(scope="module")
def service(start_for_module: StartService, tmp_path_factory: pytest.TempPathFactory) -> Service:
    return start_for_module(data_dir=tmp_path_factory.mktemp("flows"))


def execute(service: Service, key: str | None = None, **work: Any) -> httpx.Response:
    headers = {"idempotency-key": key} if key else {}
    return service.http.post("/agents/execute", json={**SEED, **work}, headers=headers)


def test_an_agent_of_the_type_does_it(service: Service, agents: dict[str, str]) -> None:
    answer = execute(service).json()

    assert answer["status"] == "completed"
    assert answer["response"]["data"][0]["sentiment"] == "positive"
    assert (answer["agent_type"], answer["agent"]) == ("text_processor", "text_processor")
    assert answer["endpoint"] == agents["text_processor"]
    assert answer["flow"] not in [flow["flow"] for flow in service.http.get("/flows").json()["flows"]]
    known = service.http.get(f"/executions/{answer['execution_id']}").json()
    assert (known["status"], known["response"]) == ("completed", answer["response"])


def test_the_same_work_under_a_key_is_done_once(service: Service) -> None:
    first, again = execute(service, "work-1"), execute(service, "work-1")

    assert (first.status_code, first.content) == (200, again.content)
    assert execute(service, "work-1", input_data={"text": "else"}).status_code == 422


def test_a_type_that_nobody_has_is_refused(service: Service) -> None:
    refused = execute(service, agent_type="text_procesor")

    assert refused.status_code == 422
    [error] = refused.json()["errors"]
    assert error["field"] == "agent_type"
    assert "did you mean 'text_processor'?" in error["message"]


@pytest.mark.parametrize("agent_type", ["", "x" * 65, 7, None, "${HOME}", "a: b", "\n"])
def test_a_type_that_is_none_is_refused(service: Service, agent_type: Any) -> None:
    assert execute(service, agent_type=agent_type).status_code == 422


def test_what_writes_cannot_be_said_to_read(service: Service) -> None:
    refused = execute(service, agent_type="refund", effect="read")

    assert refused.status_code == 422
    assert refused.json()["errors"] == [
        {"field": "effect", "message": "a flow says that 'refund' writes; leave it out, or send 'write'"}
    ]


def test_an_instance_of_a_new_type_is_found(service: Service, agents: dict[str, str]) -> None:
    instance = Registered("reader-1", "reader", agents["text_processor"], None, (), None, "", None, False, None)
    before = service.runtime.pool.news
    service.runtime.pool.told(News(registered=(instance,)))
    try:
        answer = execute(service, agent_type="reader").json()
        effects = [effect_of(service, execute(service, agent_type="reader", effect=said)) for said in (None, "read")]
    finally:
        service.runtime.pool.told(before)

    assert (answer["status"], answer["agent"]) == ("completed", "reader")
    assert answer["endpoint"] == agents["text_processor"]
    assert effects == ["write", "read"]  # no flow says whether it writes, but whoever asks may


@pytest.mark.parametrize(
    ("agent_type", "effect", "meant"),
    [("refund", None, "write"), ("greeting", None, "read"), ("greeting", "write", "write")],
)
def test_what_moves_money_in_a_flow_does_so_here(
    service: Service, agent_type: str, effect: str | None, meant: str
) -> None:
    assert effect_of(service, execute(service, agent_type=agent_type, effect=effect)) == meant


def effect_of(service: Service, answer: httpx.Response) -> str:
    """What the flow says that was made for the work."""
    told = answer.json()
    version = service.runtime.flows.known(f"{told['flow']} {told['flow_digest']}")
    assert version is not None
    return version.flow.stages["execute"].effect
