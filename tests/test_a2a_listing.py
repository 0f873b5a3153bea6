"""Any replica lists the tasks of all calls: filtered, newest first, and page by page."""

import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from datetime import datetime, timedelta
from typing import Any

import pytest
from a2a.types import Task
from google.protobuf.json_format import ParseDict
from redis import Redis

from graph.store.names import keys_of, thread_name
from tests.a2a_client import Client, Json, RpcError, roles_and_words, state_of
from tests.background import Background
from tests.conftest import StartService
from tests.polite_agents import polite_agent
from tests.replicas import SHARED, Agent, Replicas, replicas

CALL = ("greeting", "verify_identity", "balance_inquiry", "check_balance", "closing")
NOTHING = {"tasks": [], "nextPageToken": "", "totalSize": 0, "pageSize": 50}


@pytest.fixture(scope="module")
def polite(background: Background) -> Agent:
    return Agent(background.open(polite_agent("1.0")), background)


@pytest.fixture(scope="module", params=SHARED)
def relays(request: pytest.FixtureRequest, start_for_module: StartService, polite: Agent) -> Replicas:
    """The same two replicas for every test here, on each store that replicas share."""
    return replicas(request, start_for_module, request.param, {"RELAY_AGENT_URL": polite.polite.url}, flow="relay")


@pytest.fixture(autouse=True)
def clean(relays: Replicas) -> Iterator[None]:
    """Each test lists its own calls alone."""
    yield
    here, _ = relays.clients()
    while tasks := here.list(pageSize=100)["tasks"]:
        for call in {task["contextId"] for task in tasks}:
            relays.here.http.delete(f"/session/{call}").raise_for_status()


def test_tasks_are_listed_newest_first_whoever_began_them(relays: Replicas) -> None:
    here, there = relays.clients()
    assert there.list() == NOTHING
    parked = here.send("ask", context="A")["id"]
    assert relays.here.turn("B", "speak").status_code == 200
    there.send("deliver", context="C")

    page = there.list()
    assert [task["contextId"] for task in page["tasks"]] == ["C", "B", "A"]
    assert (page["nextPageToken"], page["totalSize"], page["pageSize"]) == ("", 3, 50)

    here.send("well", task=parked)
    assert [task["contextId"] for task in there.list()["tasks"]] == ["A", "C", "B"]
    assert [task["contextId"] for task in there.list(contextId="B")["tasks"]] == ["B"]
    assert there.list(contextId="nobody") == NOTHING


def test_a_listed_task_is_the_task_and_its_artifacts_come_if_asked_for(relays: Replicas) -> None:
    here, there = relays.clients()
    task = here.send("deliver")

    (listed,) = there.list()["tasks"]
    (whole,) = there.list(includeArtifacts=True)["tasks"]

    assert len(task["artifacts"]) == 2
    assert "artifacts" not in listed
    assert read(whole) == read(task)
    assert read({**listed, "artifacts": task["artifacts"]}) == read(task)


def test_the_summary_of_a_call_is_listed_with_its_artifacts(start: StartService) -> None:
    client = Client(start(checkpointer="memory").http)
    for intent in CALL:
        client.send("1234", context="C", metadata={"intent": intent})

    (task,) = client.list(status="TASK_STATE_COMPLETED", includeArtifacts=True)["tasks"]

    assert task["artifacts"][-1]["artifactId"] == "summary"
    assert read(task) == read(client.get(task["id"]))


def test_history_is_as_long_as_asked_for(relays: Replicas) -> None:
    here, there = relays.clients()
    task = here.send("ask")["id"]
    here.send("well", task=task)
    whole = [("user", "ask"), ("agent", "I ask"), ("user", "well")]

    def history(**asked: Any) -> list[tuple[str, str]]:
        (listed,) = there.list(**asked)["tasks"]
        return roles_and_words(listed)

    assert {length: history(historyLength=length) for length in (0, 1, 10)} == {0: [], 1: whole[-1:], 10: whole}
    assert history() == whole


def test_tasks_are_filtered_by_status(relays: Replicas, polite: Agent) -> None:
    here, there = relays.clients()
    done = [here.send("deliver")["id"] for _ in range(2)]
    parked = here.send("ask")
    failed = here.send("fail")["id"]
    working = here.send("stream", returnImmediately=True)["id"]

    def listed(state: str, **more: Any) -> list[str]:
        return ids(there.list(status=f"TASK_STATE_{state}", **more))

    assert listed("COMPLETED") == done[::-1]
    assert listed("INPUT_REQUIRED") == [parked["id"]]
    assert listed("FAILED") == [failed]
    assert listed("WORKING") == [working]
    assert listed("CANCELED") == []
    assert listed("INPUT_REQUIRED", contextId=parked["contextId"]) == [parked["id"]]
    assert listed("COMPLETED", contextId=parked["contextId"]) == []
    polite.go_on(3)
    finished(there, working)
    assert listed("WORKING") == []
    assert listed("COMPLETED") == [working, *done[::-1]]


def test_tasks_are_filtered_by_the_time_of_their_status(relays: Replicas) -> None:
    here, there = relays.clients()
    tasks = []
    for _ in range(3):
        tasks.append(here.send("ask"))
        time.sleep(0.002)  # no two in one millisecond
    at = datetime.fromisoformat(tasks[1]["status"]["timestamp"])

    assert ids(there.list(statusTimestampAfter=at.isoformat())) == [tasks[2]["id"], tasks[1]["id"]]
    assert ids(there.list(statusTimestampAfter=(at + timedelta(milliseconds=1)).isoformat())) == [tasks[2]["id"]]
    assert there.list(statusTimestampAfter="2100-01-01T00:00:00Z") == NOTHING
    here.send("well", task=tasks[0]["id"])
    later = there.list(statusTimestampAfter=(at + timedelta(milliseconds=1)).isoformat())
    assert (ids(later), later["totalSize"]) == ([tasks[0]["id"], tasks[2]["id"]], 2)


def test_a_call_of_a_relay_has_a_task_for_each_run(relays: Replicas) -> None:
    here, there = relays.clients()
    tasks = [here.send("deliver", context="C")["id"] for _ in range(3)]
    here.send("ask", context="other")

    page = there.list(contextId="C", pageSize=2)

    assert len(set(tasks)) == 3
    assert (ids(page), page["totalSize"]) == ([tasks[2], tasks[1]], 3)
    assert ids(there.list(contextId="C", pageToken=page["nextPageToken"])) == [tasks[0]]
    assert [here.get(task)["id"] for task in tasks] == tasks


def test_every_task_is_on_one_page(relays: Replicas, at_once: Callable[..., Future[Any]]) -> None:
    here, there = relays.clients()
    calls = [f"C{number}" for number in range(105)]
    for sent in [at_once(here.send, "speak", context=call) for call in calls]:
        sent.result()

    pages = [*through(here, there)]
    told = [task for page in pages for task in page["tasks"]]
    times = [datetime.fromisoformat(task["status"]["timestamp"]) for task in told]

    assert [len(page["tasks"]) for page in pages] == [50, 50, 5]
    assert {(page["pageSize"], page["totalSize"]) for page in pages} == {(50, 105)}
    assert sorted(task["contextId"] for task in told) == sorted(calls)
    assert times == sorted(times, reverse=True)
    thirds = [*through(there, here, pageSize=35)]
    assert [len(page["tasks"]) for page in thirds] == [35, 35, 35]
    assert [task for page in thirds for task in page["tasks"]] == told


def test_pages_go_on_where_they_were_while_tasks_change(relays: Replicas) -> None:
    """After each page another task begins, and one that was told moves to the front."""
    here, there = relays.clients()
    tasks = [here.send("ask")["id"] for _ in range(7)]
    told: list[str] = []
    for number, page in enumerate(through(here, there, pageSize=2)):
        assert page["totalSize"] == 7 + number
        told += ids(page)
        moved = here.send("well", task=ids(page)[0])["id"]
        begun = there.send("deliver")["id"]
        assert ids(there.list(pageSize=2)) == [begun, moved]

    assert told == tasks[::-1]


def test_a_page_has_from_1_to_100_tasks(relays: Replicas) -> None:
    here, there = relays.clients()
    for _ in range(3):
        here.send("ask")

    assert [len(there.list(pageSize=size)["tasks"]) for size in (1, 2, 3, 100)] == [1, 2, 3, 3]
    for wrong in ({"pageSize": 0}, {"pageSize": 101}, {"pageSize": -1}, {"historyLength": -1}):
        refused(there, **wrong)
        refused(there, **wrong, contextId="nobody")


@pytest.mark.parametrize(
    "token",
    [
        *("nonsense", "é", "[", "A", "\0", "x" * 100_000),
        *('{"ts":"1","id":"C"}', '{"ts":1e9,"id":"C"}', '{"ts":1}', '{"ts":1,"id":""}', "[" * 100_000, "\xff"),
    ],
)
def test_a_page_token_that_we_did_not_give(relays: Replicas, token: str) -> None:
    _, there = relays.clients()

    refused(there, pageToken=token)
    refused(there, pageToken=urlsafe_b64encode(token.encode()).decode().rstrip("="))


def test_a_call_that_the_store_has_lost_is_not_listed(relays: Replicas) -> None:
    here, there = relays.clients()
    kept = here.send("ask", context="kept")["id"]
    here.send("ask", context="lost")
    settings = relays.here.runtime.settings
    assert settings.redis_url
    with Redis.from_url(settings.redis_url.get_secret_value()) as redis:
        redis.delete(*keys_of(thread_name(settings.tenant, "lost")))

    page = there.list()
    assert (ids(page), page["totalSize"]) == ([kept], 1)


def test_nothing_of_another_tenant_is_listed(relays: Replicas, start: StartService) -> None:
    here, _ = relays.clients()
    settings = relays.here.runtime.settings
    assert settings.redis_url
    theirs = start(flow="relay", redis_url=settings.redis_url.get_secret_value(), tenant=f"{settings.tenant} too")
    others = Client(theirs.http, path="/a2a/relay")
    tasks = [here.send("ask", context=call)["id"] for call in ("A", "B")]
    token = here.list(pageSize=1)["nextPageToken"]

    assert others.list() == others.list(contextId="A") == others.list(pageToken=token) == NOTHING
    assert ids(here.list(pageToken=token)) == tasks[:1]


def through(*clients: Client, **asked: Any) -> Iterator[Json]:
    """Every page, from one client after the other."""
    number, token = 0, ""
    while number == 0 or token:
        page = clients[number % len(clients)].list(**asked, pageToken=token)
        number, token = number + 1, page["nextPageToken"]
        yield page


def refused(client: Client, **asked: Any) -> None:
    with pytest.raises(RpcError) as error:
        client.list(**asked)
    assert error.value.code == -32602


def ids(page: Json) -> list[str]:
    return [task["id"] for task in page["tasks"]]


def read(task: Json) -> Task:
    """The task as a client reads it: a list writes fields that have no value, an answer does not."""
    parsed: Task = ParseDict(task, Task())
    return parsed


def finished(client: Client, task: str) -> None:
    """Wait until nobody works on the task."""
    deadline = time.monotonic() + 10
    while state_of(client.get(task)) == "working" and time.monotonic() < deadline:
        time.sleep(0.02)
