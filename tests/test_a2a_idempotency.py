"""A message that is sent again is answered again, and nothing is run twice."""

import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import pytest

from tests.a2a_client import Client, RpcError, opened, state_of, words_of
from tests.conftest import Service, StartService
from tests.puppet import Puppet

Version = Literal["1.0", "0.3"]
Store = dict[str, Any]
KEY = "Idempotency-Key"


@pytest.fixture(params=["1.0", "0.3"])
def version(request: pytest.FixtureRequest) -> Version:
    chosen: Version = request.param
    return chosen


@pytest.fixture
def agent(puppet: tuple[Puppet, str]) -> Puppet:
    return puppet[0]


@pytest.fixture
def serve(start: StartService, puppet: tuple[Puppet, str]) -> Callable[..., Service]:
    """Start a service whose calls are answered by the puppet."""
    urls = {f"{name}_AGENT_URL": puppet[1] for name in ("GREETING", "AUTH", "FALLBACK", "RELAY")}
    return lambda **options: start(env=urls, **options)


@pytest.fixture
def client(serve: Callable[..., Service], version: Version) -> Client:
    return Client(serve(checkpointer="memory").http, version)


def fresh() -> str:
    return uuid.uuid4().hex


def once_heard(agent: Puppet, messages: int = 1) -> None:
    """Wait until the agent has been asked."""
    give_up = time.monotonic() + 10
    while len(agent.messages) < messages:
        assert time.monotonic() < give_up
        time.sleep(0.01)


def test_the_same_message_is_answered_once(serve: Callable[..., Service], store: Store, agent: Puppet) -> None:
    client = Client(serve(**store).http)
    context = fresh()

    first = client.send("hello", context=context, message_id="m-1")
    again = client.send("hello", context=context, message_id="m-1")

    assert again == first
    assert len(agent.messages) == 1


def test_it_may_name_its_task_or_its_context(client: Client, agent: Puppet) -> None:
    task = client.send("hello", context=fresh())

    one = client.send("well", task=task["id"], message_id="m-2", metadata={"intent": "authenticate"})
    other = client.send("well", context=task["contextId"], message_id="m-2", metadata={"intent": "authenticate"})

    assert other == one
    assert len(agent.messages) == 2


def test_another_body_is_another_message(client: Client, agent: Puppet) -> None:
    task = client.send("hello", context=fresh(), message_id="m")
    client.send("well", context=task["contextId"], message_id="m")
    told = client.send("well", context=task["contextId"], message_id="m", metadata={"intent": "unknown"})

    assert len(agent.messages) == 3
    history = [(said["messageId"], words_of(said)) for said in told["history"]]
    assert [said for said in history if said[0] == "m"] == [("m", "hello"), ("m", "well"), ("m", "well")]


def test_an_old_message_gets_the_task_as_it_is_now(client: Client, agent: Puppet) -> None:
    context = fresh()
    client.send("hello", context=context, message_id="m-1")
    later = client.send("well", context=context, message_id="m-2", metadata={"intent": "authenticate"})

    assert client.send("hello", context=context, message_id="m-1") == later
    assert len(agent.messages) == 2


def test_without_a_context_each_message_begins_a_call(client: Client, agent: Puppet) -> None:
    tasks = [client.send("hello", message_id="m") for _ in range(3)]

    assert len({task["contextId"] for task in tasks}) == 3
    assert len(agent.messages) == 3


@pytest.mark.parametrize("key", [None, "key-1"])
def test_five_copies_at_once(serve: Callable[..., Service], store: Store, agent: Puppet, key: str | None) -> None:
    client = Client(serve(**store).http)
    how: dict[str, Any] = {"headers": {KEY: key}} if key else {"context": fresh()}

    with ThreadPoolExecutor(5) as pool:
        sent = [pool.submit(client.send, "slow 0.3", message_id="m", **how) for _ in range(5)]
        tasks = [job.result() for job in sent]

    assert tasks == [tasks[0]] * 5
    assert len(agent.messages) == 1


def test_the_first_is_still_at_work_for_longer_than_others_wait(
    serve: Callable[..., Service], version: Version, agent: Puppet
) -> None:
    client = Client(serve(checkpointer="memory", busy_wait_seconds=0.1).http, version)
    context = fresh()

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(client.send, "slow 1", context=context, message_id="m")
        once_heard(agent)
        again = pool.submit(client.send, "slow 1", context=context, message_id="m")
        with pytest.raises(RpcError) as refused:
            client.send("me first", context=context)
        assert again.result() == first.result()

    assert (refused.value.code, refused.value.facts["type"]) == (-32004, "turn-in-flight")
    assert len(agent.messages) == 1


@pytest.mark.parametrize("store", ["valkey", "langgraph-redis"], indirect=True)
def test_on_another_replica(serve: Callable[..., Service], store: Store, agent: Puppet) -> None:
    here, there = Client(serve(**store).http), Client(serve(**store).http)
    context = fresh()

    with ThreadPoolExecutor(2) as pool:
        sent = [pool.submit(client.send, "slow 0.4", context=context, message_id="m") for client in (here, there)]
        first, again = (job.result() for job in sent)

    assert again == first == there.send("slow 0.4", context=context, message_id="m")
    assert len(agent.messages) == 1


def test_at_once_or_streamed_it_is_the_same_message(client: Client, agent: Puppet) -> None:
    context = fresh()

    began = client.send("slow 0.3", context=context, message_id="m", returnImmediately=True)
    ended = client.send("slow 0.3", context=context, message_id="m")
    streamed = [opened(event) for event in client.stream("slow 0.3", context=context, message_id="m")]

    assert (state_of(began), began["id"]) == ("working", ended["id"])
    assert streamed == [("task", ended)]
    assert len(agent.messages) == 1


def test_a_message_at_work_is_followed_by_its_copy(client: Client, agent: Puppet) -> None:
    context = fresh()
    began = client.send("slow 0.5", context=context, message_id="m", returnImmediately=True)

    copy = client.send("slow 0.5", context=context, message_id="m", returnImmediately=True)
    streamed = [opened(event) for event in client.stream("slow 0.5", context=context, message_id="m")]

    assert (copy["id"], state_of(copy)) == (began["id"], "working")
    assert ("artifact-update" in [kind for kind, _ in streamed[1:-1]], streamed[0][1]["id"]) == (True, began["id"])
    assert (state_of(streamed[0][1]), state_of(streamed[-1][1])) == ("working", "input-required")
    assert len(agent.messages) == 1


def test_a_message_of_the_relay(serve: Callable[..., Service], version: Version, agent: Puppet) -> None:
    client = Client(serve(checkpointer="memory", flow="relay").http, version, "/a2a/relay")
    context = fresh()

    first = client.send("hello", context=context, message_id="m")
    client.send("and now", context=context)

    assert client.send("hello", context=context, message_id="m") == first
    assert len(agent.messages) == 2


def test_a_key_names_a_first_message(client: Client, agent: Puppet) -> None:
    key = {KEY: fresh()}

    first = client.send("hello", headers=key)
    again = client.send("hello", headers=key)

    assert again == first
    assert len(agent.messages) == 1
    with pytest.raises(RpcError) as refused:
        client.send("something else", headers=key)
    assert (refused.value.code, refused.value.facts["type"]) == (-32602, "key-reused")
    assert "choose a new one" in refused.value.message
    assert client.send("something else", headers={KEY: fresh()})["contextId"] != first["contextId"]


def test_a_key_does_not_matter_in_a_context(client: Client, agent: Puppet) -> None:
    key = {KEY: fresh()}

    tasks = [client.send("hello", context=fresh(), headers=key) for _ in range(2)]

    assert tasks[0]["id"] != tasks[1]["id"]
    assert len(agent.messages) == 2


def test_a_key_does_not_name_a_call_that_the_message_names(client: Client, agent: Puppet) -> None:
    name = {"call_identify_id": fresh()}

    first = client.send("hello", headers={KEY: fresh()}, metadata={**name, "intent": "greeting"})
    second = {"headers": {KEY: fresh()}, "metadata": {**name, "intent": "authenticate"}}
    task, again = client.send("well", **second), client.send("well", **second)

    assert first["id"] == task["id"]
    assert again == task
    assert len(agent.messages) == 2


def test_what_the_request_says_is_part_of_the_message(client: Client, agent: Puppet) -> None:
    how: dict[str, Any] = {"context": fresh(), "message_id": "m"}

    client.send("hello", request_metadata={"intent": "greeting"}, **how)
    task = client.send("hello", request_metadata={"intent": "authenticate"}, **how)
    again = client.send("hello", request_metadata={"intent": "authenticate"}, **how)

    assert (task["metadata"]["stage"], again) == ("intent_capture", task)
    assert len(agent.messages) == 2


def test_a_refused_message_leaves_no_key(client: Client, agent: Puppet) -> None:
    key, context = {KEY: fresh()}, fresh()

    for where in ({"headers": key}, {"context": context, "message_id": "m"}):
        with pytest.raises(RpcError) as refused:
            client.send("pay", metadata={"intent": "process_refund"}, **where)
        assert refused.value.facts["type"] == "intent-not-legal"
        assert state_of(client.send("pay", metadata={"intent": "greeting"}, **where)) == "input-required"

    assert len(agent.messages) == 2
