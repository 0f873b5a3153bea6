"""Workflows and executions belong to no process: any replica makes, executes, tells and cancels them, and what a
stopped service leaves behind is gone on with."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from graph.store.names import keys_of, thread_name
from tests.background import Background
from tests.conftest import StartService
from tests.moody import HOLD, moody_agent
from tests.test_workflow_service import GOOD, execute, make, once
from tests.workflow_stories import CONTENT

SHARED = ("valkey", "langgraph-redis")


def settings_of(kind: str, request: pytest.FixtureRequest) -> dict[str, Any]:
    tenant = f"t{abs(hash(request.node.nodeid)) % 10**12}"
    name = "valkey_url" if kind == "valkey" else "redis_stack_url"
    return {"redis_url": request.getfixturevalue(name), "tenant": tenant}


@pytest.mark.parametrize("kind", SHARED)
def test_what_one_replica_makes_another_executes(
    start: StartService, kind: str, request: pytest.FixtureRequest
) -> None:
    store = settings_of(kind, request)
    one, other = start(**store), start(**store)

    name = make(one, CONTENT)
    told = execute(other, name, input_text=GOOD)

    assert one.http.get(f"/executions/{told['execution_id']}/status").json() == told
    assert one.http.get("/executions", params={"workflow_id": name}).json()["executions"] == [told]
    assert other.http.get("/workflows/").json() == one.http.get("/workflows/").json()
    other.http.delete(f"/workflows/{name}")
    assert one.http.get(f"/workflows/{name}").status_code == 404
    assert one.http.get(f"/executions/{told['execution_id']}").json() == told


@pytest.mark.parametrize("kind", SHARED)
def test_one_replica_cancels_what_another_runs(
    start: StartService, background: Background, kind: str, request: pytest.FixtureRequest
) -> None:
    store = settings_of(kind, request)
    with moody_agent(background, HOLD) as agent:
        env = {"TEXT_PROCESSOR_AGENT_URL": agent.url}
        one, other = start(env, **store), start(env, **store)
        begun = execute(one, make(one, CONTENT), wait=False, input_text=GOOD)
        agent.until_heard()

        canceled = other.http.post(f"/executions/{begun['execution_id']}/cancel")

    assert (canceled.status_code, canceled.json()["status"]) == (200, "canceled")
    assert one.http.get(f"/executions/{begun['execution_id']}").json()["status"] == "canceled"


def test_an_execution_is_kept_for_thirty_days(start: StartService, request: pytest.FixtureRequest) -> None:
    store = settings_of("valkey", request)
    service = start(**store)
    told = execute(service, make(service, CONTENT), input_text=GOOD)

    with Redis.from_url(store["redis_url"]) as redis:
        *kept, _ = keys_of(thread_name(store["tenant"], told["execution_id"]))  # the last one is of the events
        left = [seconds for key in kept if (seconds := redis.ttl(key)) != -2]

    assert all(29 * 86_400 < seconds <= 30 * 86_400 + 60 for seconds in left)
    assert len(left) >= 3


def test_so_is_a_run_that_began_at_another_door(start: StartService, request: pytest.FixtureRequest) -> None:
    store = settings_of("valkey", request)
    service = start(flows=("parallel",), **store)
    service.turn("E", "Is it open on Sundays?", flow="parallel")

    with Redis.from_url(store["redis_url"]) as redis:
        assert redis.ttl(keys_of(thread_name(store["tenant"], "E"))[0]) > 29 * 86_400
    assert service.http.get("/executions/E").json()["status"] == "completed"


def test_one_is_told_as_before_though_its_workflow_was_removed(
    start: StartService, background: Background, tmp_path: Path
) -> None:
    before = start(data_dir=tmp_path)
    name = make(before, CONTENT)
    told = execute(before, name, input_text=GOOD)
    before.http.delete(f"/workflows/{name}")
    versions = before.runtime.store.versions
    kept = background.run(versions.get("default", told["flow_digest"]))
    assert kept is not None
    days_old = replace(kept, seen=time.time() - 2 * 86_400)
    background.run(versions.put("default", [days_old]))
    before.stop()

    assert start(data_dir=tmp_path).http.get(f"/executions/{told['execution_id']}").json() == told


def test_what_a_stopped_service_leaves_behind_is_gone_on_with(
    start: StartService, background: Background, tmp_path: Path
) -> None:
    with moody_agent(background, {"sentiment": "positive"}, HOLD) as agent:
        env, store = {"TEXT_PROCESSOR_AGENT_URL": agent.url}, {"data_dir": tmp_path, "turn_timeout_seconds": 0.2}
        before = start(env, **store)
        begun = execute(before, make(before, CONTENT), wait=False, input_text=GOOD)
        agent.until_heard(2)
        before.stop()
        agent.moods = [{"summary": "short"}]

        told = once(start(env, **store), begun["execution_id"], "completed")

    assert told["output_data"] == {"content_sentiment": "positive", "content_summary": "short"}
    assert [message["parts"][0]["text"] for message in agent.heard] == [GOOD] * 3


def test_one_whose_process_died_at_once_keeps_what_it_was_given(
    start: StartService, background: Background, valkey_url: str, request: pytest.FixtureRequest
) -> None:
    service = start(flows=("ticket",), **settings_of("valkey", request))
    tenant, version = service.runtime.settings.tenant, service.runtime.flows.current("ticket")
    given = {"customer_id": "C-1", "subject": "Late", "body": "Where is it?"}
    with Redis.from_url(valkey_url) as redis:
        for call in ("canceled", "sent again"):
            said = {"input_message": "", "flow": "ticket", "context": given, "account_id": "ACC-9"}
            thread = thread_name(tenant, call)
            background.run(service.runtime.store.calls.begin(thread, said=said, version=version.key))
            redis.hset(keys_of(thread)[0], "lease", 1)

    canceled = service.http.post("/executions/canceled/cancel").json()
    again = service.http.post("/flows/ticket/runs", json={"id": "sent again"}).json()

    assert (canceled["status"], canceled["input_data"]) == ("canceled", given)
    assert (again["status"], again["input_data"]) == ("completed", given)
    assert service.http.get("/session/canceled").json()["account_id"] == "ACC-9"
