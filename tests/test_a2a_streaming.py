"""Following a task: as its agent streams, from its beginning or from anywhere, on any replica."""

import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from graph.store.names import thread_name
from nodes.remote.dialect import Dialect
from tests.a2a_client import Client, Json, RpcError, opened, state_of
from tests.background import Background
from tests.conftest import StartService
from tests.redis_stack import valkey
from tests.replicas import Agent, Replicas, artifacts, assembled, in_short, replicas
from tests.rough_agents import Answer, Seen, card, rough_agent, streamed

AtOnce = Callable[..., Future[Any]]

STREAMED = ["task working", "status-update working", "status-update working", "1-n one", "1-n two", "1-n three"]
"""A stage that begins, an agent that says what it is about, and its pieces."""


@pytest.mark.parametrize("version", ["1.0", "0.3"])
@pytest.mark.parametrize("dialect", ["1.0", "0.3"])
def test_each_piece_is_told_when_the_agent_sends_it(
    start: StartService, open_polite: Callable[[Dialect], Agent], version: Any, dialect: Dialect
) -> None:
    agent = open_polite(dialect)
    service = start({"RELAY_AGENT_URL": agent.polite.url}, flow="relay", checkpointer="memory")
    client = Client(service.http, version, "/a2a/relay")

    events = client.stream("stream")
    told = [next(events) for _ in range(3)]
    for _ in range(3):
        agent.go_on()
        told.append(next(events))
    told += events

    assert list(map(in_short, told)) == [*STREAMED, "status-update completed"]
    task = client.get(opened(told[0])[1]["id"])
    assert assembled(told) == artifacts(task)
    if version == "0.3":
        assert [opened(event)[1].get("final") for event in told[1:]] == [False, False, None, None, None, True]


def test_a_status_tells_which_stage_begins_and_which_agent_answers(flows: Replicas, polite: Agent) -> None:
    here, _ = flows.clients()
    polite.go_on(3)

    told = [opened(event)[1] for event in here.stream("stream", metadata={"intent": "greeting"})]

    where = {"step": 1, "stage": "greeting", "intentFlowId": 1, "agent": "greeting", "intent": "greeting"}
    assert told[1]["metadata"] == where
    assert state_of(told[-1]) == "input-required"
    stands = here.get(told[-1]["taskId"])["metadata"]
    assert told[-1]["metadata"] == {**where, **stands}
    assert (stands["stage"], "verify_identity" in stands["legalIntents"]) == ("authentication", True)


def test_a_client_that_leaves_does_not_stop_the_turn(relays: Replicas, polite: Agent) -> None:
    here, there = relays.clients()
    events: Any = here.stream("stream")
    task = opened(next(events))[1]["id"]
    next(events)
    events.close()
    polite.go_on(3)

    (pieces,) = artifacts(finished(there, task)).values()
    assert [part["text"] for part in pieces] == ["one", "two", "three"]


@pytest.mark.parametrize("pieces", [0, 1, 2])
@pytest.mark.parametrize("where", [0, 1], ids=["here", "there"])
@pytest.mark.parametrize("version", ["1.0", "0.3"])
def test_who_comes_later_gets_what_was_streamed_and_then_the_rest(
    relays: Replicas, polite: Agent, pieces: int, where: int, version: Any
) -> None:
    events = relays.clients(version)[0].stream("stream")
    told = [next(events) for _ in range(3)]
    polite.go_on(pieces)
    told += [next(events) for _ in range(pieces)]

    later = relays.clients(version)[where].subscribe(opened(told[0])[1]["id"])
    told_later = [next(later)]
    assert assembled(told_later) == assembled(told)
    polite.go_on(3 - pieces)
    told_later += later
    told += events

    assert list(map(in_short, told_later)) == ["task working", *map(in_short, told[3 + pieces :])]
    assert told_later[1:] == told[3 + pieces :]
    assert assembled(told_later) == assembled(told)


@pytest.mark.parametrize("store", ["valkey", "langgraph-redis"])
def test_nothing_is_lost_or_told_twice_however_fast_the_agent_streams(
    request: pytest.FixtureRequest, start: StartService, background: Background, at_once: AtOnce, store: str
) -> None:
    stack = AsyncExitStack()
    agent = background.run(stack.enter_async_context(rough_agent(counts(300), card(streaming=True))))
    here, there = replicas(request, start, store, {"RELAY_AGENT_URL": agent.url}, flow="relay").clients()
    events = here.stream("count")
    told = [next(events)]
    task = opened(told[0])[1]["id"]
    followers = []
    for number, event in enumerate(events):
        told.append(event)
        if number % 25 == 10:
            followers.append(at_once(lambda: list(there.subscribe(task))))

    whole = artifacts(there.get(task))
    assert [part["text"] for part in whole["1-a"]] == [str(number) for number in range(300)]
    assert assembled(told) == whole
    for follower in followers:
        if not (late := follower.exception()):
            followed = follower.result()
            assert assembled(followed) == whole
            assert [opened(event)[1].get("append") for event in followed[2:-1]] == [True] * len(followed[2:-1])
            assert in_short(followed[-1]) == "status-update completed"
        else:
            assert isinstance(late, RpcError)
            assert late.code == -32004
    background.run(stack.aclose())


def test_two_who_follow_are_told_the_same(relays: Replicas, polite: Agent, at_once: AtOnce) -> None:
    here, there = relays.clients()
    events = here.stream("stream")
    task = opened(next(events))[1]["id"]
    next(events), next(events)
    followers = [client.subscribe(task) for client in (here, there)]
    first = [next(follower) for follower in followers]
    polite.go_on(3)
    rest = [at_once(list, follower) for follower in followers]

    assert first[0] == first[1]
    assert rest[0].result() == rest[1].result()
    assert list(map(in_short, rest[0].result())) == [*STREAMED[3:], "status-update completed"]


@pytest.mark.parametrize("streamed", [True, False])
def test_who_follows_a_parked_task_is_told_of_its_next_turn(
    relays: Replicas, polite: Agent, at_once: AtOnce, streamed: bool
) -> None:
    here, there = relays.clients()
    task = here.send("ask")["id"]
    following = there.subscribe(task)
    assert in_short(next(following)) == "task input-required"
    rest = at_once(list, following)

    list(here.stream("well", task=task)) if streamed else here.send("well", task=task)

    told = rest.result()
    assert list(map(in_short, told)) == ["status-update working", "2-answer thank you", "status-update completed"]
    assert opened(told[-1])[1]["status"] == there.get(task)["status"]


def test_who_comes_to_a_turn_that_nobody_followed_is_told_how_it_ends(
    relays: Replicas, polite: Agent, at_once: AtOnce
) -> None:
    _, there = relays.clients()
    turn = at_once(relays.here.turn, "C", "stream")
    while not (tasks := there.list(contextId="C")["tasks"]):
        pass
    following = there.subscribe(tasks[0]["id"])
    assert in_short(next(following)) == "task working"
    rest = at_once(list, following)
    polite.go_on(3)

    assert turn.result().status_code == 200
    told = rest.result()
    assert list(map(in_short, told)) == ["1-n one\ntwo\nthree", "status-update completed"]
    assert assembled([{"task": {}}, *told]) == artifacts(there.get(tasks[0]["id"]))


@pytest.mark.parametrize("version", ["1.0", "0.3"])
def test_nobody_can_follow_what_is_over_or_never_was(relays: Replicas, version: Any) -> None:
    here, there = relays.clients(version)
    task = here.send("deliver")["id"]

    for named, code in ((task, -32004), (f"{task[:-1]}x", -32001), ("no-such-task", -32001)):
        with pytest.raises(RpcError) as refused:
            next(there.subscribe(named))
        assert refused.value.code == code


@pytest.mark.parametrize("version", ["1.0", "0.3"])
def test_a_stream_whose_message_is_refused_is_an_error(flows: Replicas, version: Any) -> None:
    here, _ = flows.clients(version)

    with pytest.raises(RpcError) as refused:
        next(here.stream("pay me", metadata={"intent": "process_refund"}))

    assert (refused.value.code, "not legal" in refused.value.message) == (-32602, True)


def test_a_stream_whose_turn_is_taken_over_ends_with_an_error(relays: Replicas, polite: Agent) -> None:
    here, there = relays.clients()
    events = here.stream("stream", context="C")
    next(events)
    relays.let_lease_run_out("C")
    there.send("deliver", context="C")
    polite.go_on(3)

    with pytest.raises(RpcError) as lost:
        list(events)
    assert lost.value.code == -32004
    assert lost.value.facts["type"] == "turn-lost"


def test_a_stream_whose_store_goes_away_ends_with_an_error(
    start: StartService, polite: Agent, tmp_path: Path
) -> None:
    with valkey(tmp_path) as url:
        service = start({"RELAY_AGENT_URL": polite.polite.url}, flow="relay", redis_url=url)
        client = Client(service.http, path="/a2a/relay")
        events = client.stream("stream")
        told = [next(events) for _ in range(3)]
    polite.go_on(3)

    with pytest.raises(RpcError) as failed:
        told += events
    assert failed.value.code == -32603
    assert "Redis" not in str(failed.value)
    assert len(told) <= 6


def test_who_follows_a_turn_that_died_is_told(relays: Replicas, background: Background) -> None:
    here, there = relays.clients()
    task = here.send("ask", context="C")["id"]
    store, tenant = relays.here.runtime.store, relays.here.runtime.settings.tenant
    background.run(store.calls.begin(thread_name(tenant, "C"), said={"input_message": "well?"}))
    following = there.subscribe(task)
    assert in_short(next(following)) == "task working"
    relays.let_lease_run_out("C")

    assert list(map(in_short, following)) == ["status-update input-required"]


def test_who_follows_a_call_that_was_deleted_hears_nothing_of_its_namesake(relays: Replicas) -> None:
    here, there = relays.clients()
    task = here.send("ask", context="C")["id"]
    following = there.subscribe(task)
    next(following)
    assert relays.here.http.delete("/session/C").status_code == 200
    assert in_short(list(here.stream("ask", context="C"))[-1]) == "status-update input-required"

    assert list(following) == []


def test_a_stopping_service_ends_idle_streams_at_once_and_lets_turns_finish(
    relays: Replicas, polite: Agent, at_once: AtOnce
) -> None:
    with httpx.Client(base_url=relays.here.url, timeout=30) as http:
        here, there = Client(http, path="/a2a/relay"), relays.clients()[1]
        idle = here.subscribe(here.send("ask")["id"])
        next(idle)
        busy = here.stream("stream")
        told = [next(busy) for _ in range(3)]
        stopping = at_once(relays.here.stop)
        assert list(idle) == []
        assert not stopping.done()
        polite.go_on(3)
        told += busy
        stopping.result()

    assert list(map(in_short, told)) == [*STREAMED, "status-update completed"]
    assert state_of(there.get(opened(told[0])[1]["id"])) == "completed"


def finished(client: Client, task: str) -> Json:
    """The task, once nobody works on it."""
    deadline = time.monotonic() + 10
    while state_of(found := client.get(task)) == "working" and time.monotonic() < deadline:
        time.sleep(0.02)
    return found


def counts(pieces: int) -> Answer:
    """An agent that streams the numbers, as fast as it can."""

    async def answer(seen: Seen) -> AsyncIterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
        named = {"taskId": "t", "contextId": "c"}
        task = {"id": "t", "contextId": "c", "status": {"state": "TASK_STATE_WORKING"}}
        yield streamed(seen, result={"task": task})
        for number in range(pieces):
            piece = {"artifactId": "a", "parts": [{"text": str(number)}]}
            yield streamed(seen, result={"artifactUpdate": {**named, "artifact": piece, "append": number > 0}})
        yield streamed(seen, result={"statusUpdate": {**named, "status": {"state": "TASK_STATE_COMPLETED"}}})

    return answer
