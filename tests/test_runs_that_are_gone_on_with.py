"""Runs of flows that go by themselves: one whose process died is gone on with, by whoever is there, once."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis

from graph.store.embedded import embedded_store
from graph.store.names import keys_of, thread_name
from server.turns import MOST_RESUMED
from tests.background import Background
from tests.conftest import Service, StartService
from tests.puppet import Puppet
from tests.test_reloading_flows import said, serving

REPORT = """\
flow: report
turn_timeout: 5m
inputs: [topic]
agents: {clerk: {url: "${CLERK_URL}", timeout: 2m}}
stages:
  gather: {agent: clerk, input: {text: "'about ' + topic"}}
  write: {agent: clerk, input: {text: "'work'"}}
  review: {agent: clerk, input: {text: "'check'"}}
"""
AtOnce = Callable[..., Future[Any]]


@pytest.fixture
def report(tmp_path: Path) -> Path:
    """A flow in whose second stage the agent is at work until it is told to finish."""
    file = tmp_path / "report.yaml"
    file.write_text(REPORT)
    return file


@contextmanager
def process(report: Path, data: Path, env: dict[str, str]) -> Iterator[tuple[int, httpx.Client]]:
    """A service as a process of its own, for the context or until it is killed."""
    with (
        serving(report, data, env) as (running, log),
        httpx.Client(base_url=said(log, "serving")["url"], timeout=60) as http,
    ):
        yield running.pid, http


def begin(http: httpx.Client, call: str) -> None:
    """Start a run, and wait until its first stage is committed."""
    sent = {"message": "", "id": call, "input": {"topic": "cats"}, "wait": False}
    http.post("/flows/report/runs", json=sent).raise_for_status()
    until(lambda: stages(http, call) == ["gather"])


def stages(http: httpx.Client, call: str) -> list[str]:
    """The stages that the call has passed."""
    told = http.get(f"/session/{call}/steps")
    return [step["stage"] for step in told.json()] if told.is_success else []


def until(found: Callable[[], bool], patience: float = 20) -> None:
    """Wait for something to come true."""
    give_up = time.monotonic() + patience
    while not found():
        assert time.monotonic() < give_up
        time.sleep(0.05)


def let_lease_run_out(redis: Redis, tenant: str, call: str) -> None:
    with redis:
        redis.hset(keys_of(thread_name(tenant, call))[0], "lease", 1)


def heard(puppet: Puppet) -> list[str]:
    return [message["parts"][0]["text"] for message in puppet.messages]


@pytest.mark.parametrize("server", ["valkey_url", "redis_stack_url"])
def test_another_replica_goes_on_with_a_run_whose_process_was_killed(
    request: pytest.FixtureRequest,
    start: StartService,
    report: Path,
    puppet: tuple[Puppet, str],
    server: str,
    tmp_path: Path,
) -> None:
    agent, url = puppet
    store, tenant = request.getfixturevalue(server), f"killed-{server}"
    shared = {"CLERK_URL": url, "REDIS_URL": store, "FLOWS_TENANT": tenant}
    with process(report, tmp_path / "data", shared) as (pid, http):
        begin(http, "R")
        os.kill(pid, signal.SIGKILL)
    others = [start({"CLERK_URL": url}, flow=str(report), redis_url=store, tenant=tenant).http for _ in range(2)]

    let_lease_run_out(Redis.from_url(store), tenant, "R")
    until(lambda: heard(agent).count("work") == 2)
    agent.finish()
    until(lambda: bool(others[0].get("/session/R").json()["is_complete"]))

    assert heard(agent) == ["about cats", "work", "work", "check"]
    assert agent.messages[1]["messageId"] == agent.messages[2]["messageId"]
    assert stages(others[1], "R") == ["gather", "write", "review"]


def test_a_service_that_is_started_again_goes_on_with_its_runs(
    start: StartService, background: Background, report: Path, puppet: tuple[Puppet, str], tmp_path: Path
) -> None:
    agent, url = puppet
    data = tmp_path / "data"
    with process(report, data, {"CLERK_URL": url}) as (pid, http):
        begin(http, "R")
        os.kill(pid, signal.SIGKILL)
    report.write_text(REPORT.replace("  review:", "  rewrite: {agent: clerk}\n  review:"))

    again = start({"CLERK_URL": url}, flow=str(report), data_dir=data)
    store = background.open(embedded_store(data))
    let_lease_run_out(Redis.from_url(store.url), "default", "R")
    agent.finish()
    until(lambda: bool(again.http.get("/session/R").json()["is_complete"]))

    assert stages(again.http, "R") == ["gather", "write", "review"]


def test_a_run_that_is_cut_off_when_its_service_stops_is_gone_on_with_at_once(
    start: StartService, report: Path, puppet: tuple[Puppet, str], valkey_url: str
) -> None:
    agent, url = puppet

    def replica() -> Service:
        shared = {"redis_url": valkey_url, "tenant": "cut-off", "turn_timeout_seconds": 0.5}
        return start({"CLERK_URL": url}, flow=str(report), **shared)

    here, there = replica(), replica()
    begin(here.http, "R")
    here.stop()
    agent.finish()

    until(lambda: bool(there.http.get("/session/R").json()["is_complete"]), patience=10)
    assert stages(there.http, "R") == ["gather", "write", "review"]


def test_a_run_that_died_before_its_first_step_begins_again_with_what_it_was_told(
    start: StartService, report: Path, puppet: tuple[Puppet, str], valkey_url: str, tmp_path: Path
) -> None:
    agent, url = puppet
    report.write_text(REPORT.replace("""  gather: {agent: clerk, input: {text: "'about ' + topic"}}\n""", ""))
    report.write_text(report.read_text().replace("""text: "'check'\"""", """text: "'check ' + topic\""""))
    shared = {"CLERK_URL": url, "REDIS_URL": valkey_url, "FLOWS_TENANT": "early"}
    with process(report, tmp_path / "data", shared) as (pid, http):
        sent = {"message": "", "id": "R", "input": {"topic": "cats"}, "wait": False, "account_id": "ACC-7"}
        http.post("/flows/report/runs", json=sent).raise_for_status()
        until(lambda: heard(agent) == ["work"])
        os.kill(pid, signal.SIGKILL)
    let_lease_run_out(Redis.from_url(valkey_url), "early", "R")
    agent.finish()

    service = start({"CLERK_URL": url}, flow="call", flows=(str(report),), redis_url=valkey_url, tenant="early")
    until(lambda: service.http.get("/session/R").status_code == 200)
    until(lambda: bool(service.http.get("/session/R").json()["is_complete"]))

    assert heard(agent) == ["work", "work", "check cats"]
    session = service.http.get("/session/R").json()
    assert (session["flow"], session["account_id"]) == ("report", "ACC-7")


def test_a_call_that_waits_for_its_caller_is_left_to_its_caller(
    start: StartService, background: Background, valkey_url: str
) -> None:
    service = start(redis_url=valkey_url, tenant="waiting")
    service.turn("C", "hello", "greeting")
    thread, runtime = thread_name("waiting", "C"), service.runtime
    background.run(runtime.store.calls.begin(thread, said={"input_message": "well?"}))
    let_lease_run_out(Redis.from_url(valkey_url), "waiting", "C")

    dead = background.run(runtime.store.calls.dead("waiting"))

    assert list(dead) == [thread]
    assert background.run(runtime.turns.resume("C", dead[thread])) is None
    assert stages(service.http, "C") == ["greeting"]


def test_a_run_that_kills_its_process_is_not_gone_on_with_for_ever(
    start: StartService, background: Background, report: Path, puppet: tuple[Puppet, str], valkey_url: str
) -> None:
    agent, url = puppet
    service = start({"CLERK_URL": url}, flow=str(report), redis_url=valkey_url, tenant="deadly")
    calls, turns = service.runtime.store.calls, service.runtime.turns
    thread, version = thread_name("deadly", "R"), service.runtime.flows.current().key
    opening = calls.begin(thread, said={"input_message": "", "resumed": MOST_RESUMED}, version=version, resumes=True)
    background.run(opening)
    let_lease_run_out(Redis.from_url(valkey_url), "deadly", "R")

    dead = background.run(calls.dead("deadly"))

    assert background.run(turns.resume("R", dead[thread])) is None
    assert (agent.messages, list(background.run(calls.dead("deadly")))) == ([], [thread])
