"""A task is read from its call: any replica answers for it, at any moment, also for a replica that has died."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from nodes.remote.dialect import Dialect
from tests.a2a_client import Client, Json, RpcError, opened, roles_and_words, state_of, words_of
from tests.background import Background
from tests.conftest import StartService
from tests.polite_agents import polite_agent
from tests.replicas import SHARED, Agent, Replicas, artifacts, in_short, replicas

FLOWS = str(Path(sys.executable).with_name("flows"))


@pytest.fixture(scope="module")
def polite(background: Background) -> Agent:
    return Agent(background.open(polite_agent("1.0")), background)


@pytest.fixture(scope="module", params=SHARED)
def relays(request: pytest.FixtureRequest, start_for_module: StartService, polite: Agent) -> Replicas:
    """The same two replicas for every test here, on each store that replicas share."""
    return replicas(request, start_for_module, request.param, {"RELAY_AGENT_URL": polite.polite.url}, flow="relay")


@pytest.mark.parametrize("version", ["1.0", "0.3"])
def test_a_first_turn_is_seen_on_every_replica_while_it_runs_and_after(
    relays: Replicas, polite: Agent, version: Any
) -> None:
    here, there = relays.clients(version)
    begun = here.send("stream", returnImmediately=True)
    seen, listed = there.get(begun["id"]), listed_there(relays, begun["contextId"])
    polite.go_on(3)
    done = finished(there, begun["id"])

    assert (state_of(begun), roles_and_words(begun)) == ("working", [("user", "stream")])
    assert without_pieces(seen) == begun
    assert [in_outline(task) for task in listed] == [in_outline(begun)]
    assert (state_of(done), roles_and_words(done)) == ("completed", [("user", "stream")])
    assert words_of(done["status"]["message"]) == "counted"
    assert [part["text"] for part in artifacts(done)["1-n"]] == ["one", "two", "three"]
    assert here.get(begun["id"]) == done
    assert [in_outline(task) for task in listed_there(relays, begun["contextId"])] == [in_outline(done)]
    assert moment(begun) <= moment(done)


def test_a_parked_task_that_works_again_keeps_its_history(relays: Replicas, polite: Agent) -> None:
    here, there = relays.clients()
    parked = here.send("ask")
    assert (state_of(parked), roles_and_words(parked)) == ("input-required", [("user", "ask")])

    begun = there.send("well", task=parked["id"], returnImmediately=True)
    done = finished(here, parked["id"])

    assert (begun["id"], state_of(begun)) == (parked["id"], "working")
    assert roles_and_words(begun) == [("user", "ask"), ("agent", "I ask"), ("user", "well")]
    assert (state_of(done), roles_and_words(done)) == ("completed", roles_and_words(begun))
    assert moment(parked) <= moment(begun) <= moment(done)


def test_a_stream_begins_with_the_task_that_others_read_and_its_pieces_are_read_too(
    relays: Replicas, polite: Agent
) -> None:
    here, there = relays.clients()
    events = here.stream("stream")
    begun = opened(next(events))[1]
    assert without_pieces(there.get(begun["id"])) == begun

    polite.go_on(2)
    while in_short(next(events)) != "1-n two":
        pass
    seen = there.get(begun["id"])
    polite.go_on()
    list(events)

    assert [part["text"] for part in artifacts(seen)["1-n"]] == ["one", "two"]
    assert in_outline(seen) == in_outline(begun)


def test_history_is_as_long_as_asked_for(relays: Replicas) -> None:
    here, there = relays.clients()
    task = here.send("ask")["id"]
    here.send("well", task=task)
    whole = there.get(task)

    read = {length: there.get(task, historyLength=length) for length in (0, 1, 2, 3, 10)}

    assert roles_and_words(whole) == [("user", "ask"), ("agent", "I ask"), ("user", "well")]
    assert roles_and_words(read[1]) == [("user", "well")]
    assert roles_and_words(read[2]) == [("agent", "I ask"), ("user", "well")]
    assert read[3] == read[10] == whole
    assert read[0] == {key: value for key, value in whole.items() if key != "history"}


def test_history_in_0_3_is_whole_where_no_length_is_asked_for(relays: Replicas) -> None:
    here, there = relays.clients("0.3")
    task = here.send("ask")["id"]
    here.send("well", task=task)

    read = {length: roles_and_words(there.get(task, historyLength=length)) for length in (0, 1, 10)}

    whole = [("user", "ask"), ("agent", "I ask"), ("user", "well")]
    assert roles_and_words(there.get(task)) == whole
    assert read == {0: whole, 1: whole[-1:], 10: whole}  # 0 means no limit in 0.3


@pytest.mark.parametrize("version", ["1.0", "0.3"])
def test_no_history_is_shorter_than_nothing(relays: Replicas, version: Any) -> None:
    here, there = relays.clients(version)
    task = here.send("ask")["id"]

    with pytest.raises(RpcError) as refused:
        there.get(task, historyLength=-1)
    assert refused.value.code == -32602


@pytest.mark.parametrize("version", ["1.0", "0.3"])
def test_a_deleted_call_has_no_task_and_its_namesake_another(relays: Replicas, version: Any) -> None:
    here, there = relays.clients(version)
    call = f"deleted in {version}"
    old = there.send("ask", context=call)["id"]
    assert relays.here.http.delete(f"/session/{call}").status_code == 200
    not_found(there, old)
    assert listed_there(relays, call) == []

    new = there.send("ask", context=call)["id"]

    assert new != old
    assert here.get(new)["contextId"] == call
    for client in (here, there):
        not_found(client, old)
    assert [task["id"] for task in listed_there(relays, call)] == [new]


def test_a_first_turn_whose_replica_was_killed_waits_for_the_message_again(
    relays: Replicas, polite: Agent, open_polite: Callable[[Dialect], Agent]
) -> None:
    here, there = relays.clients()
    with another_replica(relays, open_polite("1.0")) as (client, process):
        begun = client.send("stream", context="killed", message_id="m", returnImmediately=True)
        assert without_pieces(there.get(begun["id"])) == begun
        process.kill()
        process.wait()
    assert state_of(there.get(begun["id"])) == "working"  # nobody knows yet
    relays.let_lease_run_out("killed")

    task = there.get(begun["id"])
    assert (state_of(task), roles_and_words(task)) == ("input-required", [("user", "stream")])
    assert words_of(task["status"]["message"]) == "The last message was not answered; send it again."
    assert moment(task) == moment(begun)
    assert [in_outline(task) for task in listed_there(relays, "killed")] == [in_outline(task)]
    assert relays.there.http.get("/session/killed").status_code == 404

    polite.go_on(3)
    again = there.send("stream", context="killed", message_id="m")
    assert (again["id"], state_of(again), roles_and_words(again)) == (
        *(task["id"], "completed"),
        [("user", "stream")],
    )
    assert here.get(task["id"]) == again


@contextmanager
def another_replica(relays: Replicas, agent: Agent) -> Iterator[tuple[Client, subprocess.Popen[str]]]:
    """A third replica, in a process of its own and with an agent of its own."""
    settings = relays.here.runtime.settings
    assert settings.redis_url
    env = {
        "REDIS_URL": settings.redis_url.get_secret_value(),
        "FLOWS_TENANT": settings.tenant,
        "FLOWS_FLOW": settings.flow,
        "RELAY_AGENT_URL": agent.polite.url,
    }
    command = [FLOWS, "serve", "--port", "0"]
    with subprocess.Popen(command, env={**os.environ, **env}, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            url = json.loads(next(line for line in process.stderr if '"serving"' in line))["url"]
            with httpx.Client(base_url=url, timeout=30) as http:
                yield Client(http, path="/a2a/relay"), process
        finally:
            process.kill()


def not_found(client: Client, task: str) -> None:
    with pytest.raises(RpcError) as refused:
        client.get(task)
    assert refused.value.code == -32001


def listed_there(relays: Replicas, call: str) -> list[Json]:
    """The tasks of a call; only 1.0 lists."""
    tasks: list[Json] = relays.clients()[1].list(contextId=call)["tasks"]
    return tasks


def in_outline(task: Json) -> tuple[Any, ...]:
    return task["id"], state_of(task), roles_and_words(task), task["status"]["timestamp"]


def without_pieces(task: Json) -> Json:
    """A task at work without what its agent has streamed so far."""
    return {key: value for key, value in task.items() if key != "artifacts"}


def moment(task: Json) -> datetime:
    return datetime.fromisoformat(task["status"]["timestamp"])


def finished(client: Client, task: str) -> Json:
    """The task, once nobody works on it."""
    deadline = time.monotonic() + 10
    while state_of(found := client.get(task)) == "working" and time.monotonic() < deadline:
        time.sleep(0.02)
    return found
