"""The versions of flows: a call keeps the one it began with, although the file changes and the service restarts."""

from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from graph.loader import FlowError
from tests.a2a_client import Client, state_of
from tests.background import Background
from tests.conftest import STORES, Service, StartService
from tests.puppet import Puppet

DESK = """\
flow: desk
version: 1
about: A desk.
waits_for: caller
agents:
  front: {url: "${GREETING_AGENT_URL}"}
  back: {url: "${CLOSING_AGENT_URL}"}
stages:
  hello: {agent: front}
  bye: {agent: back}
"""
LONGER = DESK.replace("version: 1", "version: 2").replace("  bye:", "  wait: {agent: front}\n  bye:")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The file of a flow that a test may edit."""
    path = tmp_path / "desk.yaml"
    path.write_text(DESK)
    return path


def stage_after(service: Service, call: str, **more: Any) -> str:
    """Take a turn; return where the next one goes."""
    answer = service.turn(call, "well?", **more)
    assert answer.status_code == 200, answer.text
    assert answer.json()["status"] == "success"
    stage: str = service.http.get(f"/session/{call}").json()["stage"]
    return stage


def listed(service: Service, flow: str = "desk") -> dict[str, Any]:
    """What `GET /flows` says of a flow."""
    told = service.http.get("/flows").json()["flows"]
    return next(one for one in told if one["flow"] == flow)


def on_versions(service: Service) -> dict[int, int]:
    """How many calls of the desk are on each version."""
    told = listed(service)
    return {told["version"]: told["calls"], **{old["version"]: old["calls"] for old in told["older"]}}


def test_one_service_has_several_flows(start: StartService, file: Path) -> None:
    service = start(checkpointer="memory", flows=(str(file), "relay"))

    assert stage_after(service, "A") == "authentication"
    assert stage_after(service, "B", flow="desk") == "bye"
    assert stage_after(service, "B") == "bye"
    assert listed(service)["calls"] == 0
    assert [one["flow"] for one in service.http.get("/flows").json()["flows"]] == ["call", "desk", "relay"]
    assert [service.http.get(f"/session/{call}").json()["flow"] for call in "AB"] == ["call", "desk"]


def test_each_flow_has_its_own_time_for_a_turn(start: StartService, file: Path, puppet: tuple[Puppet, str]) -> None:
    file.write_text(DESK.replace("waits_for", "turn_timeout: 300ms\nwaits_for"))
    service = start({"GREETING_AGENT_URL": puppet[1]}, checkpointer="memory", flows=(str(file),))

    asked = {"call": "greeting", "desk": None}
    answers = {flow: service.turn(flow, "slow 0.6", intent, flow=flow).json() for flow, intent in asked.items()}

    assert {flow: answer["status"] for flow, answer in answers.items()} == {"call": "success", "desk": "error"}


def test_a_call_stays_with_its_flow(start: StartService, file: Path) -> None:
    service = start(checkpointer="memory", flow=str(file), flows=("call",))
    service.turn("A", "hello")

    refused = service.turn("A", "hello", flow="call")
    unknown = service.turn("B", "hello", flow="nobody")

    assert (refused.status_code, refused.json()["type"], refused.json()["flow"]) == (409, "another-flow", "desk")
    assert (unknown.status_code, unknown.json()["type"]) == (404, "flow-not-found")
    assert service.http.get("/session/B").status_code == 404


def test_a_call_goes_on_with_the_version_that_it_began_with(
    start: StartService, file: Path, store: dict[str, Any]
) -> None:
    service = start(flow=str(file), **store)
    assert stage_after(service, "old") == "bye"
    before = listed(service)["digest"]
    file.write_text(LONGER)

    reloaded = service.http.post("/flows/reload")

    assert (reloaded.status_code, list(reloaded.json()["changed"])) == (200, ["desk"])
    assert reloaded.json()["changed"]["desk"] == {"from": before, "to": listed(service)["digest"]}
    assert stage_after(service, "new") == "wait"
    assert on_versions(service) == {1: 1, 2: 1}
    assert service.turn("old", "bye").json()["is_complete"]
    assert stage_after(service, "new") == "bye"
    assert on_versions(service) == {2: 1}
    assert service.turn("new", "bye").json()["is_complete"]
    assert on_versions(service) == {2: 0}


@pytest.mark.parametrize("store", [name for name in STORES if name != "memory"], indirect=True)
def test_a_version_outlives_the_service(start: StartService, file: Path, store: dict[str, Any]) -> None:
    service = start(flow=str(file), **store)
    stage_after(service, "old")
    service.stop()
    file.write_text(LONGER)

    again = start(flow=str(file), **store)

    assert stage_after(again, "new") == "wait"
    assert on_versions(again) == {1: 1, 2: 1}
    told = again.turn("old", "bye").json()
    assert (told["stage"], told["is_complete"]) == ("bye", True)


def test_each_run_of_a_call_begins_on_the_version_of_its_day(start: StartService, file: Path) -> None:
    relay = DESK.replace("waits_for: caller", "waits_for: caller\nrestarts: true")
    file.write_text(relay)
    service = start(checkpointer="memory", flow=str(file))
    assert [stage_after(service, "C") for _ in range(2)] == ["bye", "bye"]
    file.write_text(relay.replace("  bye:", "  wait: {agent: front}\n  bye:"))
    service.http.post("/flows/reload").raise_for_status()

    assert [stage_after(service, "C") for _ in range(3)] == ["wait", "bye", "bye"]
    steps = service.http.get("/session/C/steps").json()
    assert [(step["run"], step["stage"]) for step in steps] == [
        *((1, "hello"), (1, "bye")),
        *((2, "hello"), (2, "wait"), (2, "bye")),
    ]


def test_a_version_that_nobody_has_any_more_is_a_clear_refusal(
    start: StartService, file: Path, valkey_url: str
) -> None:
    store = {"redis_url": valkey_url, "tenant": "forgetful"}
    service = start(flow=str(file), **store)
    stage_after(service, "C")
    service.stop()
    file.write_text(LONGER)
    with Redis.from_url(valkey_url) as redis:
        redis.delete("flows:versions:forgetful", "flows:{flows:versions:forgetful}:texts")

    refused = start(flow=str(file), **store).turn("C", "bye")

    assert (refused.status_code, refused.json()["type"]) == (409, "flow-changed")


# Flows that are made at run time


MADE = """\
flow: made
agents: {front: {url: "FRONT"}}
stages: {say: {agent: front}}
"""


@pytest.mark.parametrize("server", ["valkey_url", "redis_stack_url"])
def test_a_flow_made_at_run_time_has_every_door_of_every_replica(
    start: StartService, request: pytest.FixtureRequest, background: Background, agents: dict[str, str], server: str
) -> None:
    store = {"redis_url": request.getfixturevalue(server), "tenant": f"made-{server}"}
    here, there = start(**store), start(**store)
    made = background.run(here.runtime.flows.add(MADE.replace("FRONT", agents["greeting"]), "a workflow"))

    told = there.turn("C", "hello", flow="made").json()

    assert (told["is_complete"], told["agent"]) == (True, "front")
    assert listed(there, "made")["digest"] == made.flow.digest
    assert there.http.get("/a2a/made/.well-known/agent-card.json").json()["name"] == "made"
    assert state_of(Client(there.http, path="/a2a/made").send("hello")) == "completed"
    assert there.http.get("/flows/made").json()["stages"][0]["name"] == "say"
    assert there.http.post("/flows/reload").json() == {"changed": {}}
    here.stop()
    there.stop()
    assert start(**store).turn("D", "hello", flow="made").json()["is_complete"]


def test_a_flow_made_at_run_time_learns_nothing_of_the_environment(
    start: StartService, background: Background
) -> None:
    service = start({"SECRET": "s3cret"}, checkpointer="memory")

    with pytest.raises(FlowError, match="SECRET is not set"):
        background.run(service.runtime.flows.add(MADE.replace("FRONT", "http://${SECRET}"), "a workflow"))
    taken = MADE.replace("flow: made", "flow: call").replace("FRONT", "http://front")
    with pytest.raises(FlowError, match=r"a flow named 'call' is served from call\.yaml; choose another name"):
        background.run(service.runtime.flows.add(taken, "a workflow"))
    assert [one["flow"] for one in service.http.get("/flows").json()["flows"]].count("call") == 1


def test_a_flow_that_is_removed_begins_no_calls_but_ends_those_it_has(
    start: StartService, background: Background, agents: dict[str, str]
) -> None:
    service = start(checkpointer="memory")
    flows = service.runtime.flows
    text = DESK.replace("flow: desk", "flow: made").replace("${GREETING_AGENT_URL}", agents["greeting"])
    background.run(flows.add(text.replace("${CLOSING_AGENT_URL}", agents["closing"]), "a workflow"))
    assert stage_after(service, "C", flow="made") == "bye"

    assert [background.run(flows.remove("made")) for _ in range(2)] == [True, False]

    assert service.turn("D", "hello", flow="made").status_code == 404
    assert service.turn("C", "bye").json()["is_complete"]


# What is kept


def test_only_versions_that_somebody_may_need_are_kept(
    start: StartService, file: Path, background: Background, store: dict[str, Any], agents: dict[str, str]
) -> None:
    service = start(flow=str(file), flows=("relay",), **store)
    flows, kept = service.runtime.flows, service.runtime.store.versions
    tenant = service.runtime.settings.tenant
    background.run(flows.add(MADE.replace("FRONT", agents["greeting"]), "a workflow"))
    stage_after(service, "C")
    for about in ("nobody is on this", "nor on this", "but this is the last"):
        file.write_text(DESK.replace("A desk.", about))
        service.http.post("/flows/reload").raise_for_status()

    def digests() -> int:
        return len(background.run(kept.all(tenant)))

    assert digests() == 1 + 1 + 3 + 1  # the call's, the reloaded ones, the relay, the made one
    background.run(flows.keep(0))
    assert digests() == 1 + 1 + 1 + 1
    assert service.turn("C", "bye").json()["is_complete"]
    background.run(flows.keep(0))
    assert digests() == 1 + 1 + 1


def test_the_environment_is_not_kept(start: StartService, file: Path, valkey_url: str) -> None:
    store = {"redis_url": valkey_url, "tenant": "secretive"}
    service = start({"GREETING_AGENT_URL": "http://me:s3cret@127.0.0.1:1"}, flow=str(file), **store)
    service.turn("C", "hello")

    with Redis.from_url(valkey_url) as redis:
        texts = redis.hgetall("flows:{flows:versions:secretive}:texts")
    assert any(b"${GREETING_AGENT_URL}" in text for text in texts.values())
    assert not any(b"s3cret" in text for text in texts.values())
