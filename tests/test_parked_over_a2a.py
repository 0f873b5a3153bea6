"""What an A2A client is told when nobody knows what came of a write: an error, a task that says who decides, and a
task that goes on once that is decided."""

import json
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.a2a_client import Client, Json, RpcError, answer_of, opened, roles_and_words, state_of, words_of
from tests.background import Background
from tests.conftest import Service, StartService
from tests.puppet import Puppet
from tests.rough_agents import answers, rough_agent
from tests.test_parked_executions import AT_ONCE
from tests.test_parked_writes import FLOW, parked, resolve
from tests.webhooks import Webhook, wanting

LOST: Json = {"text": "slow 0.6", "metadata": {"intent": "pay"}, "message_id": "m-2"}


@pytest.fixture
def till(start: StartService, puppet: tuple[Puppet, str], tmp_path: Path) -> Service:
    file = tmp_path / "till.yaml"
    file.write_text(FLOW.format(url=puppet[1]))
    loopback = ("127.0.0.0/8",)
    return start(checkpointer="memory", flow=str(file), agent_timeout_seconds=0.3, push_allow=loopback)


@pytest.fixture(params=["1.0", "0.3"])
def client(request: pytest.FixtureRequest, till: Service) -> Client:
    return Client(till.http, request.param, "/a2a/till")


@pytest.fixture
def listen(background: Background) -> Iterator[Callable[[], Webhook]]:
    stack = AsyncExitStack()

    def listen_one() -> Webhook:
        heard = background.run(stack.enter_async_context(rough_agent(answers("", 204))))
        return Webhook(heard, f"{heard.url}/hook")

    yield listen_one
    background.run(stack.aclose())


def begun(client: Client) -> Json:
    """A task that has passed its first stage."""
    return client.send("hello", context="C", metadata={"intent": "ask"})


def refused(client: Client, **sent: Any) -> Json:
    """What the error of a turn tells whose write is parked."""
    with pytest.raises(RpcError) as error:
        client.send(**sent)
    assert error.value.code == -32004
    assert "it is not known what came of a write" in error.value.message
    facts: Json = error.value.facts
    return facts


def decides(name: str, agent: str = "agent 'desk'") -> str:
    return (
        f"It is not known whether {agent} did what it was asked to do. It is not asked again; a person has to find "
        f"out and say so ({name}). "
        "Until then nothing else is changed here; whatever changes nothing can be asked for."
    )


def test_the_error_names_what_is_parked_and_the_task_says_who_decides(client: Client, till: Service) -> None:
    task = begun(client)

    facts = refused(client, context="C", **LOST)
    [waits] = parked(till)
    after = client.get(task["id"])

    assert facts | {"reason": ""} == {
        "type": "outcome-unknown",
        "parked": waits["id"],
        "parked_ids": json.dumps([waits["id"]], separators=(",", ":")),
        "contextId": "C",
        "reason": "",
    }
    assert (state_of(after), words_of(after["status"]["message"])) == ("input-required", decides(waits["id"]))
    assert after["metadata"]["parked"] == [waits["id"]]
    assert after["status"]["message"]["metadata"]["error"]["outcome"] == "unknown"
    assert refused(client, context="C", **LOST) == facts  # sent again, it is not sent on again
    assert len(parked(till)) == 1


def test_the_task_goes_on_once_it_is_decided(client: Client, till: Service, puppet: tuple[Puppet, str]) -> None:
    task = begun(client)
    name = refused(client, context="C", **LOST)["parked"]
    asked = client.send("what now?", task=task["id"], metadata={"intent": "unknown"})
    meanwhile = client.get(task["id"])

    resolve(till, name, "done", response="12.50 sent")
    after = client.get(task["id"])
    again = client.send(context="C", **LOST)
    ended = client.send("bye", task=task["id"], metadata={"intent": "bye"})

    assert (state_of(meanwhile), meanwhile["metadata"]["parked"]) == ("input-required", [name])
    assert (answer_of(asked), answer_of(after)) == ("you said what now?", "12.50 sent")
    assert "parked" not in after["metadata"]
    assert after["metadata"]["stage"] == "close"
    assert again == after
    assert state_of(ended) == "completed"
    assert [message["parts"][0]["text"] for message in puppet[0].messages] == [
        "hello",
        "slow 0.6",
        "what now?",
        "bye",
    ]
    said = [words for role, words in roles_and_words(ended) if role == "agent"]
    assert said[1] == "agent 'desk' did not answer within 0.3 s"


def test_what_was_not_done_is_done_when_the_message_comes_again(
    client: Client, till: Service, puppet: tuple[Puppet, str]
) -> None:
    task = begun(client)
    name = refused(client, context="C", **LOST)["parked"]

    resolve(till, name, "not_done")
    waiting = client.get(task["id"])
    other = refused(client, context="C", **LOST)["parked"]

    assert state_of(waiting) == "input-required"
    assert "parked" not in waiting["metadata"]
    assert answer_of(waiting) == "agent 'desk' did not act on the message"
    assert other != name
    assert len(puppet[0].messages) == 3


def test_a_client_that_streams_is_told_the_same(client: Client, till: Service) -> None:
    task = begun(client)
    heard: list[Json] = []

    with pytest.raises(RpcError) as error:
        heard += client.stream(context="C", **LOST)

    assert error.value.facts["parked"] == parked(till)[0]["id"]
    assert answer_of(client.get(task["id"])) == decides(parked(till)[0]["id"])


def test_a_client_that_does_not_wait_finds_it_when_it_asks(client: Client, till: Service) -> None:
    begun(client)
    task = client.send(context="C", returnImmediately=True, **LOST)

    while state_of(found := client.get(task["id"])) == "working":
        pass

    assert answer_of(found) == decides(parked(till)[0]["id"])


def test_who_is_notified_is_told_at_once_and_when_it_goes_on(
    client: Client, till: Service, listen: Callable[[], Webhook]
) -> None:
    hook = listen()
    begun(client)

    refused(client, context="C", **LOST, **wanting(client, hook.url))
    is_new = client.version == "1.0"
    told = hook.until("status-update input-required" if is_new else "task input-required")
    name = parked(till)[0]["id"]
    _, body = opened(hook.told[-1])
    assert words_of(body["status"]["message"]) == decides(name)
    assert body["metadata"]["parked"] == [name]

    resolve(till, name, "done", response="12.50 sent")
    till.turn("C", "bye", "bye")
    hook.until("status-update completed" if is_new else "task completed")
    assert told[:1] == (["status-update working"] if is_new else ["task input-required"])


def test_a_message_that_named_no_context_finds_its_task(client: Client, till: Service) -> None:
    sent = {**LOST, "metadata": {"intent": "ask"}}
    before = client.send(**{**sent, "text": "hello", "message_id": "m-1"})

    facts = refused(client, **LOST, context=before["contextId"])

    assert facts["contextId"] == before["contextId"]
    assert facts["parked"].startswith(f"{before['contextId']}.")


def test_a_flow_that_goes_by_itself_says_so_too(
    start: StartService, puppet: tuple[Puppet, str], tmp_path: Path
) -> None:
    (tmp_path / "order.yaml").write_text(AT_ONCE.format(url=puppet[1]))
    service = start(checkpointer="memory", flow=str(tmp_path / "order.yaml"), agent_timeout_seconds=0.3)
    client = Client(service.http, "1.0", "/a2a/order")

    facts = refused(client, text="slow 0.6")
    [task] = client.list(contextId=facts["contextId"])["tasks"]
    resolve(service, facts["parked"], "done", response="receipt 7")
    after = client.get(task["id"])

    assert (state_of(task), words_of(task["status"]["message"])) == (
        "input-required",
        decides(facts["parked"], "one of those asked"),
    )
    assert state_of(after) == "completed"
