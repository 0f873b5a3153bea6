"""A task says enough to go on with: what the agent said, where the call stands, what was done before it broke off."""

from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from tests.a2a_client import Client, RpcError, opened, roles_and_words, state_of, words_of
from tests.background import Background
from tests.conftest import StartService
from tests.redis_stack import valkey
from tests.replicas import SHARED, Agent, Replicas, artifacts, in_short, replicas
from tests.rough_agents import answers, rough_agent
from tests.webhooks import Configs, Webhook

AtOnce = Callable[..., Future[Any]]

REFUND = ("greeting", "verify_identity", "refund_request")


@pytest.mark.parametrize("version", ["1.0", "0.3"])
def test_an_answer_that_is_only_an_artifact_is_said_too(start: StartService, version: Any) -> None:
    client = Client(start(checkpointer="memory").http, version)

    for intent in REFUND:
        task = client.send("4711 was charged twice", context="C", metadata={"intent": intent})
        answer = words_of(task["artifacts"][-1])
        assert (state_of(task), words_of(task["status"]["message"])) == ("input-required", answer)
    assert "Shall I go ahead?" in words_of(task["status"]["message"])

    done = client.send("yes", context="C", metadata={"intent": "process_refund"})
    said = [words for role, words in roles_and_words(done) if role == "agent"]
    assert said == [words_of(artifact) for artifact in done["artifacts"][:3]]


def test_the_last_status_of_a_stream_says_where_the_call_stands(start: StartService) -> None:
    client = Client(start(checkpointer="memory").http)
    for intent in (*REFUND, "process_refund", "closing"):
        told = [opened(event)[1] for event in client.stream("4711", context="C", metadata={"intent": intent})]
        stands = client.get(told[0]["id"])["metadata"]
        assert told[-1]["metadata"].items() >= stands.items()
        assert told[-1]["metadata"]["intent"] == intent


@pytest.mark.parametrize("cancel_on", [0, 1], ids=["here", "there"])
def test_what_was_streamed_before_a_cancel_stays_with_the_task(
    relays: Replicas, polite: Agent, cancel_on: int
) -> None:
    clients = relays.clients()
    events = clients[0].stream("stream")
    told = [next(events) for _ in range(3)]
    polite.go_on(2)
    told += [next(events) for _ in range(2)]

    canceled = clients[cancel_on].cancel(opened(told[0])[1]["id"])
    told += events

    assert list(map(in_short, told[3:])) == ["1-n one", "1-n two", "status-update canceled"]
    assert clients[0].get(canceled["id"]) == canceled
    assert "".join(part["text"] for part in artifacts(canceled)["1-n"]) == "onetwo"
    assert "canceled" in words_of(canceled["status"]["message"])
    assert canceled["status"]["message"]["metadata"]["error"]["type"] == "canceled"


@pytest.mark.parametrize("store", [*SHARED, "memory"])
def test_a_client_of_0_3_that_asks_during_a_turn_is_notified_of_the_whole_task(
    request: pytest.FixtureRequest,
    start: StartService,
    polite: Agent,
    background: Background,
    at_once: AtOnce,
    store: str,
) -> None:
    urls, allowed = {"REFUND_AGENT_URL": polite.polite.url}, {"push_allow": ("127.0.0.1",)}
    if store == "memory":
        service = start(urls, checkpointer="memory", **allowed)
        two = Replicas(service, service)
    else:
        two = replicas(request, start, store, urls, **allowed)
    client = two.clients("0.3")[0]
    heard = background.open(rough_agent(answers("", 204)))
    webhook = Webhook(heard, f"{heard.url}/hook")
    for intent in REFUND[:2]:
        task = client.send("4711", context="C", metadata={"intent": intent})["id"]

    turn = at_once(two.there.turn, "C", "stream", intent="refund_request")
    while state_of(client.get(task)) != "working":
        pass
    Configs(client).create(task, webhook.url)
    polite.go_on(3)

    assert turn.result().status_code == 200
    assert webhook.until("task input-required") == ["task input-required"]
    assert webhook.told == [client.get(task)]
    assert len(webhook.told[0]["artifacts"]) == 3


def test_every_question_is_answered_alike_while_the_store_is_away(
    start: StartService, polite: Agent, tmp_path: Path
) -> None:
    with valkey(tmp_path) as url:
        service = start({"RELAY_AGENT_URL": polite.polite.url}, flow="relay", redis_url=url)
        client = Client(service.http, path="/a2a/relay")
        task = client.send("ask")["id"]
    configs = Configs(client)

    for ask in (
        lambda: client.send("well", task=task),
        lambda: client.get(task),
        lambda: client.list(),
        lambda: client.cancel(task),
        lambda: next(client.subscribe(task)),
        lambda: configs.create(task, "https://example.org/hook"),
        lambda: configs.get(task, "mine"),
        lambda: configs.list(task),
        lambda: configs.delete(task, "mine"),
    ):
        with pytest.raises(RpcError) as failed:
            ask()
        assert (failed.value.code, failed.value.facts["type"]) == (-32603, "store-unavailable")
        assert "again in a moment" in failed.value.message
