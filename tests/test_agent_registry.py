"""Agents that register themselves, switches and weights: one view of all agents, the same on every replica."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from graph.workflows import DEFAULT_AGENTS
from nodes.spec import Agent
from tests.conftest import Service, StartService
from tests.desk import PATIENCE
from tests.puppet import Puppet
from tests.redis_stack import valkey

FLOW = """
flow: desk
waits_for: caller
agents:
  writer: {{type: text_processor, fallback: clerk}}
  clerk: {{url: "{url}"}}
  payer:
    versions:
      v1: {{url: "${{REFUND_AGENT_URL}}", weight: 90}}
      v2: {{url: "${{BILLING_AGENT_URL}}", weight: 10}}
stages:
  ask: {{intents: {{ask: writer, pay: payer}}}}
  bye: {{agent: clerk}}
fallback: clerk
"""
CAPABILITY = {"name": "sentiment_analysis", "input_types": ["text"], "output_types": ["json"]}
SEED = {"name": "text-processor-1", "agent_type": "text_processor", "capabilities": [CAPABILITY]}
BY_JO = {"by": "jo", "why": "a try"}


@pytest.fixture
def flow(tmp_path: Path, puppet: tuple[Puppet, str]) -> str:
    """A flow with an agent that has to register, one that is there, and one of two versions."""
    file = tmp_path / "desk.yaml"
    file.write_text(FLOW.format(url=puppet[1]))
    return str(file)


@pytest.fixture
def desk(start: StartService, flow: str) -> Service:
    return start(checkpointer="memory", flow=flow)


def registered(service: Service, url: str, **more: Any) -> dict[str, Any]:
    answer = service.http.post("/agents/register", json={**SEED, "url": url, **more})
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


def agent(service: Service, name: str) -> dict[str, Any]:
    answer = service.http.get(f"/agents/{name}")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def names(service: Service) -> list[str]:
    """Every agent but those of workflows, which every service knows."""
    known = [one["name"] for one in service.http.get("/agents").json()["agents"]]
    return [name for name in known if name not in DEFAULT_AGENTS]


def soon(look: Callable[[], Any], wanted: Any, seconds: float = PATIENCE) -> None:
    """Look until it is what was wanted."""
    deadline = time.monotonic() + seconds
    while (found := look()) != wanted and time.monotonic() < deadline:
        time.sleep(0.01)
    assert found == wanted


def last_step(service: Service, call: str) -> tuple[str, str | None]:
    step = service.http.get(f"/session/{call}").json()["steps"][-1]
    return step["agent"], step["a2a_agent_url"]


def test_an_instance_comes_is_asked_beats_and_goes(
    start: StartService, flow: str, store: dict[str, Any], agents: dict[str, str], puppet: tuple[Puppet, str]
) -> None:
    service, url = start(flow=flow, **store), agents["closing"]
    assert agent(service, "writer")["endpoints"] == []

    came = registered(service, url, version="v7")
    service.turn("C", "hello", "ask")
    seen = agent(service, "writer")
    beat = service.http.post("/agents/text-processor-1/heartbeat").json()
    gone = service.http.delete("/agents/text-processor-1")
    service.turn("D", "hello", "ask")

    kept = {"version": "v7", "dialect": None, "by_card": False, "card_url": None, "heartbeat_seconds": 20}
    times = {"registered_at": came["registered_at"], "expires_at": came["expires_at"]}
    assert came == {**SEED, "url": url, **kept, **times}
    assert beat["name"] == "text-processor-1"
    assert beat["expires_at"] >= came["expires_at"]
    assert last_step(service, "C") == ("writer", url)
    assert last_step(service, "D") == ("clerk", puppet[1])
    assert gone.status_code == 204
    assert seen["capabilities"] == [CAPABILITY]
    (endpoint,) = seen["endpoints"]
    known = ("url", "version", "source", "instance", "circuit", "in_flight", "elsewhere", "errors")
    assert [endpoint[key] for key in known] == [*(url, "v7", "registered", "text-processor-1", "closed", 0, 0, 0)]
    history = [(one["agent"], one["what"]) for one in agent(service, "writer")["history"]]
    assert history == [("text-processor-1", "removed"), ("text-processor-1", "registered")]


def test_agents_of_flows_and_registered_ones_meet_in_one_view(desk: Service, puppet: tuple[Puppet, str]) -> None:
    registered(desk, "http://127.0.0.1:9")
    registered(desk, "http://127.0.0.1:10", name="lonely-1", agent_type="lonely")
    registered(desk, "http://127.0.0.1:11", name="clerk-2", agent_type="clerk")

    assert names(desk) == ["clerk", "lonely", "payer", "writer"]
    lonely, clerk = agent(desk, "lonely"), agent(desk, "clerk")
    assert (lonely["flows"], lonely["state"], len(lonely["endpoints"])) == ([], "on", 1)
    assert [(one["url"], one["source"]) for one in clerk["endpoints"]] == [
        (puppet[1], "flow"),
        ("http://127.0.0.1:11", "registered"),
    ]
    writer = agent(desk, "writer")
    assert (writer["type"], writer["flows"], writer["fallback"]) == ("text_processor", ["desk"], "clerk")
    assert writer["heard_at"]


def test_an_agent_is_registered_by_its_card_alone(
    desk: Service, agents: dict[str, str], puppet: tuple[Puppet, str]
) -> None:
    card_url = f"{agents['refund']}/.well-known/agent-card.json"

    plain = desk.http.post("/agents/register", json={"card_url": card_url}).json()
    named = {"card_url": card_url, "name": "writer-2", "agent_type": "text_processor", "ttl_seconds": 30}
    typed = desk.http.post("/agents/register", json=named).json()
    desk.turn("C", "hello", "ask")

    assert (plain["name"], plain["agent_type"], plain["version"]) == ("refund-agent", "refund-agent", "1.0.0")
    assert (plain["url"], plain["by_card"], plain["dialect"]) == (agents["refund"], True, "1.0")
    assert (plain["expires_at"], plain["heartbeat_seconds"]) == (None, None)
    assert "process_refund" in [one["name"] for one in plain["capabilities"]]
    assert plain["capabilities"][0]["input_types"] == ["text/plain"]
    assert (typed["agent_type"], typed["heartbeat_seconds"]) == ("text_processor", 10)
    assert last_step(desk, "C") == ("writer", agents["refund"])


def test_the_kill_switch_reaches_every_replica_within_a_second_and_survives_them(
    start: StartService, flow: str, valkey_url: str, agents: dict[str, str], puppet: tuple[Puppet, str]
) -> None:
    settings = {"flow": flow, "redis_url": valkey_url, "tenant": "kill-switch"}
    one, other = start(**settings), start(**settings)
    registered(one, agents["closing"])
    soon(lambda: len(other.runtime.pool.news.registered), 1)

    off = one.http.post("/agents/writer/off", json={"by": "jo", "reason": "it writes nonsense"})
    soon(lambda: other.runtime.pool.off("writer", Agent()) is not None, wanted=True, seconds=1)
    other.turn("C", "hello", "ask")
    later = start(**settings)  # a new replica knows from its first turn on
    later.turn("D", "hello", "ask")

    assert off.json()["state"] == "off"
    assert (off.json()["off"]["by"], off.json()["off"]["reason"]) == ("jo", "it writes nonsense")
    assert last_step(other, "C") == last_step(other, "D") == ("clerk", puppet[1])
    later.http.post("/agents/writer/on", json=BY_JO)
    soon(lambda: one.runtime.pool.off("writer", Agent()), None, seconds=1)
    one.turn("E", "hello", "ask")
    assert last_step(one, "E") == ("writer", agents["closing"])
    history = [(event["what"], event["by"], event["why"]) for event in agent(one, "writer")["history"]]
    assert history[:2] == [("on", "jo", "a try"), ("off", "jo", "it writes nonsense")]


def test_versions_are_weighed_at_run_time_and_go_back_to_the_flow(desk: Service) -> None:
    before = agent(desk, "payer")
    weights = {"weights": {"v1": 0, "v2": 3}, **BY_JO}
    weighed = desk.http.put("/agents/payer/weights", json=weights).json()
    desk.turn("C", "hello", "pay")
    after = agent(desk, "payer")
    back = desk.http.put("/agents/payer/weights", json={"weights": None, **BY_JO}).json()

    def said(view: dict[str, Any]) -> list[tuple[Any, ...]]:
        return [(one["version"], one["weight"], one["share"], one["calls"]) for one in view["versions"]]

    assert (said(before), before["weights"]) == ([("v1", 90, 0.9, 0), ("v2", 10, 0.1, 0)], {"from": "flow"})
    assert said(weighed) == [("v1", 0, 0, 0), ("v2", 3, 1, 0)]
    assert said(after) == [("v1", 0, 0, 0), ("v2", 3, 1, 1)]
    assert [one["p50_ms"] is not None for one in after["versions"]] == [False, True]
    assert (after["weights"]["from"], after["weights"]["by"]) == ("run time", "jo")
    assert said(back)[0][:3] == ("v1", 90, 0.9)
    assert back["weights"] == {"from": "flow"}
    assert [one["what"] for one in agent(desk, "payer")["history"]] == ["weights_of_the_flow", "weights"]


def test_an_agent_that_is_off_stays_in_the_view_though_no_instance_is_left(desk: Service) -> None:
    registered(desk, "http://127.0.0.1:9", name="lonely-1", agent_type="lonely")
    desk.http.post("/agents/lonely/off", json={"by": "jo", "reason": "a try"})
    desk.http.delete("/agents/lonely-1")

    gone = agent(desk, "lonely")
    on = desk.http.post("/agents/lonely/on", json=BY_JO)

    assert (gone["state"], gone["endpoints"]) == ("off", [])
    assert (on.status_code, on.json()["state"]) == (200, "on")
    assert "lonely" not in names(desk)


def test_replicas_see_each_others_load(
    start: StartService, flow: str, valkey_url: str, puppet: tuple[Puppet, str]
) -> None:
    settings = {"flow": flow, "redis_url": valkey_url, "tenant": "load"}
    one, other = start(**settings), start(**settings)
    endpoint = one.runtime.pool.members("clerk", one.runtime.flows.current().flow.agents["clerk"])[0].endpoint

    endpoint.in_flight += 3
    soon(lambda: agent(other, "clerk")["endpoints"][0]["elsewhere"], 3)
    one.stop()
    soon(lambda: agent(other, "clerk")["endpoints"][0]["elsewhere"], 0, seconds=2)


def test_what_was_heard_last_stays_when_the_store_is_gone(
    start: StartService, flow: str, tmp_path: Path, puppet: tuple[Puppet, str]
) -> None:
    with valkey(tmp_path / "valkey") as url:
        service = start(flow=flow, redis_url=url, tenant="t")
        registered(service, f"{puppet[1]}/one")
        service.http.post("/agents/clerk/off", json={"by": "jo", "reason": "a try"})

    seen = service.http.get("/agents")
    refused = service.http.post("/agents/clerk/on", json=BY_JO)

    assert seen.status_code == 200
    state = {one["name"]: (one["state"], len(one["endpoints"])) for one in seen.json()["agents"]}
    state = {name: told for name, told in state.items() if name not in DEFAULT_AGENTS}
    assert state == {"clerk": ("off", 1), "payer": ("on", 2), "writer": ("on", 1)}
    assert (refused.status_code, refused.json()["type"]) == (503, "store-unavailable")


def test_administering_agents_needs_the_token(start: StartService, flow: str) -> None:
    service = start(checkpointer="memory", flow=flow, admin_token="a-token-of-24-characters")
    doors = [
        *(("GET", ""), ("GET", "/clerk"), ("POST", "/register"), ("POST", "/x/heartbeat"), ("DELETE", "/x")),
        *(("POST", "/clerk/off"), ("POST", "/clerk/on"), ("PUT", "/payer/weights")),
    ]

    refused: list[httpx.Response] = [service.http.request(method, f"/agents{path}") for method, path in doors]
    allowed = service.http.get("/agents", headers={"authorization": "Bearer a-token-of-24-characters"})

    assert {(answer.status_code, answer.json()["type"]) for answer in refused} == {(401, "not-admin")}
    assert allowed.status_code == 200
