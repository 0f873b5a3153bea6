"""A task that has ended takes no more messages, but the message that ended it is answered again."""

from typing import Any

import pytest

from tests.a2a_client import Client, Json, RpcError, opened, state_of, words_of
from tests.conftest import StartService
from tests.puppet import Puppet
from tests.replicas import Agent, Replicas

CALL = ("greeting", "verify_identity", "refund_request", "process_refund")


def every_way(client: Client, text: str, **how: Any) -> list[Json]:
    """The answer to a message that is sent once more, in each way there is to send it."""
    return [
        client.send(text, **how),
        client.send(text, returnImmediately=True, **how),
        *(opened(event)[1] for event in client.stream(text, **how)),
    ]


@pytest.mark.parametrize("version", ["1.0", "0.3"])
def test_the_message_that_completed_a_call(start: StartService, version: Any) -> None:
    client = Client(start(checkpointer="memory").http, version)
    for intent in CALL:
        task = client.send("4711", context="C", metadata={"intent": intent})["id"]
    closing: dict[str, Any] = {"context": "C", "task": task, "message_id": "m", "metadata": {"intent": "closing"}}

    done = client.send("bye", **closing)

    assert state_of(done) == "completed"
    assert every_way(client, "bye", **closing) == [done] * 3
    with pytest.raises(RpcError) as refused:
        client.send("hello again", task=task)
    assert (refused.value.code, refused.value.message) == (
        -32004,
        "the task has ended (TASK_STATE_COMPLETED); begin another",
    )


@pytest.mark.parametrize("word", ["well", "fail"])
def test_the_message_that_ended_a_task_of_the_relay(
    start: StartService, puppet: tuple[Puppet, str], word: str
) -> None:
    client = Client(
        start({"RELAY_AGENT_URL": puppet[1]}, checkpointer="memory", flow="relay").http, path="/a2a/relay"
    )
    task = client.send("ask", context="C")["id"]

    done = client.send(word, task=task, message_id="m")
    client.send("ask", context="C")

    assert state_of(done) == ("completed" if word == "well" else "failed")
    assert every_way(client, word, task=task, message_id="m") == [done] * 3
    with pytest.raises(RpcError) as refused:
        client.send("hello again", task=task)
    assert (refused.value.code, refused.value.message) == (-32004, "the task has ended; begin another")


def test_the_message_whose_turn_was_canceled(flows: Replicas, polite: Agent) -> None:
    here, there = flows.clients()
    how: dict[str, Any] = {"context": "C", "message_id": "m", "metadata": {"intent": "greeting"}}
    task = here.send("toil", returnImmediately=True, **how)["id"]

    canceled = there.cancel(task)

    assert every_way(here, "toil", **how) == [canceled] * 3
    with pytest.raises(RpcError) as refused:
        here.send("hello again", task=task)
    assert (refused.value.code, refused.value.facts["type"]) == (-32004, "call-ended")
    assert refused.value.message == "the task has ended (TASK_STATE_CANCELED); begin another"


def test_the_message_whose_task_of_the_relay_was_canceled(relays: Replicas, polite: Agent) -> None:
    here, there = relays.clients()
    task = here.send("ask", context="C")["id"]
    how: dict[str, Any] = {"task": here.send("ask", context="D")["id"], "message_id": "m"}
    here.cancel(task)

    done = there.send("well", **how)
    here.send("ask", context="D")

    assert every_way(here, "well", **how) == [done] * 3
    with pytest.raises(RpcError) as refused:
        here.send("hello again", task=task)
    assert (refused.value.code, refused.value.facts["type"]) == (-32004, "call-ended")


def test_an_old_message_of_the_relay_gets_its_own_task_while_another_is_at_work(
    relays: Replicas, polite: Agent
) -> None:
    here, there = relays.clients()
    asked = here.send("ask", context="C", message_id="m")
    polite.go_on(3)
    done = here.send("well", task=asked["id"])
    begun = here.send("stream", context="C", message_id="n", returnImmediately=True)

    assert there.send("ask", context="C", message_id="m") == done
    assert begun["id"] != done["id"]


def test_an_old_message_is_answered_with_a_working_task_while_another_is_at_work(
    flows: Replicas, polite: Agent
) -> None:
    here, there = flows.clients()
    how: dict[str, Any] = {"context": "C", "message_id": "m", "metadata": {"intent": "unknown"}}
    task = here.send("hello", **how)["id"]
    events = here.stream("stream", context="C", metadata={"intent": "greeting"})
    next(events)

    again = there.send("hello", **how)

    assert (again["id"], state_of(again)) == (task, "working")
    assert again == there.get(task)
    polite.go_on(3)
    assert state_of(opened(list(events)[-1])[1]) == "input-required"


def test_a_busy_call_says_what_to_do(start: StartService, puppet: tuple[Puppet, str]) -> None:
    service = start({"RELAY_AGENT_URL": puppet[1]}, checkpointer="memory", flow="relay", busy_wait_seconds=0.1)
    client = Client(service.http, path="/a2a/relay")
    client.send("slow 1", context="C", returnImmediately=True)

    with pytest.raises(RpcError) as refused:
        client.send("me first", context="C")

    assert refused.value.message.endswith("send it again in a moment")


def test_errors_name_the_call_as_a2a_does(start: StartService) -> None:
    client = Client(start(checkpointer="memory").http)
    client.send("hello", context="C", metadata={"intent": "greeting", "account_id": "one"})

    with pytest.raises(RpcError) as refused:
        client.send("hello", context="C", metadata={"account_id": "another"})

    assert "contextId" in refused.value.message
    assert "call_identify_id" not in refused.value.message
    assert words_of(client.list()["tasks"][0]["history"][0]) == "hello"
