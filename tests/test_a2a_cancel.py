"""Canceling a task: whichever replica is asked, its turn ends, the agent is told, and the trail keeps all of it."""

import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from tests.a2a_client import Client, Json, RpcError, answer_of, opened, roles_and_words, state_of, words_of
from tests.background import Background
from tests.conftest import StartService
from tests.polite_agents import polite_agent
from tests.replicas import SHARED, Agent, Replicas, artifacts, in_short, replicas
from tests.rough_agents import answers_rpc, card, hangs, rough_agent, says

AtOnce = Callable[..., Future[Any]]


@dataclass(frozen=True)
class Doors:
    """Two replicas of the relay and two of the call flow, and the agents behind them."""

    relay: Replicas
    call: Replicas
    polite: Agent
    """Of A2A 1.0: the relay's, and the refunds'."""
    old: Agent
    """Of A2A 0.3: the greeting's."""


@pytest.fixture(scope="module", params=SHARED)
def doors(request: pytest.FixtureRequest, start_for_module: StartService, background: Background) -> Doors:
    polite, old = (Agent(background.open(polite_agent(dialect)), background) for dialect in ("1.0", "0.3"))
    urls = {"REFUND_AGENT_URL": polite.polite.url, "GREETING_AGENT_URL": old.polite.url}
    relay = replicas(request, start_for_module, request.param, {"RELAY_AGENT_URL": polite.polite.url}, flow="relay")
    return Doors(relay, replicas(request, start_for_module, request.param, urls), polite, old)


@pytest.mark.parametrize("version", ["1.0", "0.3"])
@pytest.mark.parametrize("where", [0, 1], ids=["here", "there"])
def test_a_message_that_is_waited_for_is_answered_with_the_canceled_task(
    doors: Doors, at_once: AtOnce, where: int, version: Any
) -> None:
    clients = doors.relay.clients(version)
    told = len(doors.polite.canceled)
    waiting = at_once(clients[0].send, "toil")
    task = at_work(doors)

    canceled = clients[where].cancel(task)

    assert state_of(canceled) == "canceled"
    assert waiting.result(timeout=10) == canceled == clients[1 - where].get(task)
    assert roles_and_words(canceled) == [("user", "toil")]
    assert answer_of(canceled) == "the call was canceled; agent 'relay' canceled its task"
    assert len(doors.polite.canceled) == told + 1


@pytest.mark.parametrize("version", ["1.0", "0.3"])
@pytest.mark.parametrize("where", [0, 1], ids=["here", "there"])
def test_a_stream_ends_with_the_canceled_status(doors: Doors, where: int, version: Any) -> None:
    clients = doors.call.clients(version)
    told = len(doors.old.canceled)
    events = clients[0].stream("stream", metadata={"intent": "greeting"})
    doors.old.go_on()
    heard = [next(events) for _ in range(4)]
    follower = clients[1].subscribe(opened(heard[0])[1]["id"])
    next(follower)

    canceled = clients[where].cancel(opened(heard[0])[1]["id"])

    (last,) = events
    assert (in_short(heard[3]), in_short(last)) == ("1-n one", "status-update canceled")
    assert opened(last)[1]["status"] == canceled["status"]
    assert [*follower] == [last]
    assert opened(last)[1].get("final") == (True if version == "0.3" else None)
    assert len(doors.old.canceled) == told + 1


@pytest.mark.parametrize("version", ["1.0", "0.3"])
@pytest.mark.parametrize("where", [0, 1], ids=["here", "there"])
def test_a_turn_that_nobody_waits_for_is_canceled_too(doors: Doors, where: int, version: Any) -> None:
    clients = doors.call.clients(version)
    told = len(doors.old.canceled)
    task = clients[0].send("stream", metadata={"intent": "greeting"}, returnImmediately=True)["id"]
    doors.old.go_on()
    until(lambda: artifacts(clients[0].get(task)))

    canceled = clients[where].cancel(task)

    assert state_of(canceled) == "canceled"
    assert [client.get(task) for client in clients] == [canceled, canceled]
    assert len(doors.old.canceled) == told + 1


@pytest.mark.parametrize("version", ["1.0", "0.3"])
def test_a_parked_task_is_canceled_with_the_agents_task_that_waits(doors: Doors, version: Any) -> None:
    here, there = doors.relay.clients(version)
    told = len(doors.polite.canceled)
    parked = here.send("ask")
    following = here.subscribe(parked["id"])
    next(following)

    canceled = there.cancel(parked["id"])

    assert (state_of(parked), state_of(canceled)) == ("input-required", "canceled")
    assert list(map(in_short, following)) == ["status-update canceled"]
    assert here.get(parked["id"]) == canceled
    assert len(doors.polite.canceled) == told + 1


def test_what_was_done_before_stays_in_the_audit_trail(doors: Doors) -> None:
    here, there = doors.call.clients()
    told = len(doors.old.canceled)
    before = here.send("deliver", context="kept", metadata={"intent": "greeting"})

    canceled = there.cancel(before["id"])

    assert artifacts(canceled) == artifacts(before)
    assert len(doors.old.canceled) == told  # the greeting's task is over; there is nobody to tell
    session = doors.call.here.http.get("/session/kept").json()
    first, last = session["steps"]
    assert (session["ended"], session["is_complete"], session["completed_flows"]) == ("canceled", False, [1])
    assert (first["stage"], first["response_status"], first.get("ended")) == ("greeting", "success", None)
    assert (last["number"], last["ended"], last["agent"], last["response_status"]) == (2, "canceled", "", "error")
    history = doors.call.there.http.get("/session/kept/history").json()
    assert [(moment["ended"], moment["step"]["number"]) for moment in history] == [(None, 1), ("canceled", 2)]


def test_a_canceled_call_takes_no_more_messages_at_any_door(doors: Doors) -> None:
    here, there = doors.call.clients()
    task = here.send("deliver", context="over", metadata={"intent": "greeting"})["id"]
    there.cancel(task)

    for named in ({"task": task}, {"context": "over"}):
        with pytest.raises(RpcError) as refused:
            here.send("My SSN is 123-45-6789", **named)
        assert refused.value.code == -32004
    with pytest.raises(RpcError) as gone:
        next(there.subscribe(task))
    assert gone.value.code == -32004
    answered = doors.call.here.turn("over", "My SSN is 123-45-6789")
    assert (answered.status_code, answered.json()["type"]) == (409, "call-ended")
    assert len(doors.call.there.http.get("/session/over/steps").json()) == 2


def test_another_task_may_follow_in_the_context_of_a_flow_that_restarts(doors: Doors) -> None:
    here, there = doors.relay.clients()
    first = here.send("ask", context="again")
    there.cancel(first["id"])

    second = here.send("deliver", context="again")

    assert (state_of(second), second["id"] != first["id"]) == ("completed", True)
    assert [state_of(task) for task in there.list(contextId="again")["tasks"]] == ["completed", "canceled"]
    assert [step["run"] for step in doors.relay.here.http.get("/session/again/steps").json()] == [1, 1, 2]
    with pytest.raises(RpcError) as refused:
        there.send("well", task=first["id"])
    assert refused.value.code == -32004


def test_a_cancel_of_a_task_that_is_over_spares_the_one_that_runs_now(doors: Doors) -> None:
    here, there = doors.relay.clients()
    over = here.send("deliver", context="spared")["id"]
    events = here.stream("stream", context="spared")
    told = [next(events) for _ in range(3)]

    for client in (here, there):
        assert refusal(client, over).code == -32002
    doors.polite.go_on(3)
    assert in_short([*told, *events][-1]) == "status-update completed"


@pytest.mark.parametrize("version", ["1.0", "0.3"])
def test_what_has_ended_or_never_was_cannot_be_canceled(doors: Doors, version: Any) -> None:
    here, there = doors.relay.clients(version)
    canceled, done, failed = (here.send(word)["id"] for word in ("ask", "deliver", "fail"))
    here.cancel(canceled)
    reasons = {canceled: "TASK_NOT_CANCELABLE", done: "TASK_NOT_CANCELABLE", failed: "TASK_NOT_CANCELABLE"}

    for task, reason in {**reasons, f"{done[:-1]}x": "TASK_NOT_FOUND"}.items():
        for client in (here, there):
            error = refusal(client, task)
            assert error.code == (-32001 if reason == "TASK_NOT_FOUND" else -32002)
            if version == "1.0":
                assert (error.facts["reason"], error.data[0]["domain"]) == (reason, "a2a-protocol.org")
    assert [state_of(here.get(task)) for task in reasons] == ["canceled", "completed", "failed"]


def test_two_who_cancel_at_once_cancel_once(doors: Doors, at_once: AtOnce) -> None:
    clients = doors.relay.clients()
    told = len(doors.polite.canceled)
    task = clients[0].send("toil", context="both", returnImmediately=True)["id"]
    assert at_work(doors) == task

    asked = [at_once(client.cancel, task) for client in clients * 2]

    errors = [error for one in asked if (error := one.exception(timeout=10))]
    assert len(errors) < len(asked)
    assert {error.code for error in errors if isinstance(error, RpcError)} <= {-32002}
    (step,) = doors.relay.there.http.get("/session/both/steps").json()
    assert (step["ended"], len(doors.polite.canceled)) == ("canceled", told + 1)


def test_a_write_that_its_agent_canceled_is_over(doors: Doors) -> None:
    here, there = doors.call.clients()
    told = len(doors.polite.canceled)
    task = at_the_refund(here, "paid")
    events = here.stream("stream", task=task, metadata={"intent": "process_refund"})
    for _ in range(3):
        next(events)

    canceled = there.cancel(task)

    assert in_short([*events][-1]) == "status-update canceled"
    error = canceled["status"]["message"]["metadata"]["error"]
    assert ("outcome" in error, error["retryable"]) == (False, False)
    assert len(doors.polite.canceled) == told + 1
    steps = doors.call.here.http.get("/session/paid/steps").json()
    assert [step["response_status"] for step in steps] == ["success"] * 3 + ["error"]


def test_a_write_that_nobody_confirms_as_canceled_is_not_told_as_undone(
    start: StartService, background: Background, at_once: AtOnce
) -> None:
    stack = AsyncExitStack()
    agent = background.run(stack.enter_async_context(rough_agent(deaf_to_cancels, card())))
    service = start({"REFUND_AGENT_URL": agent.url}, checkpointer="memory")
    client = Client(service.http)
    task = at_the_refund(client, "unknown", "hello")
    waiting = at_once(client.send, "pay", task=task, metadata={"intent": "process_refund"})
    until(lambda: len(agent.messages) == 2)

    canceled = client.cancel(task)

    assert len(canceled["metadata"].pop("parked")) == 1
    assert waiting.result(timeout=10) == canceled
    assert agent.messages[-1].rpc["method"] == "ListTasks"  # what it has open, as it never named its task
    assert state_of(canceled) == "canceled"
    assert canceled["status"]["message"]["metadata"]["error"]["outcome"] == "unknown"
    assert words_of(canceled["status"]["message"]).endswith("agent 'refund' did not confirm it")
    last = service.http.get("/session/unknown/steps").json()[-1]
    assert (last["ended"], last["stage"], last["agent"]) == ("canceled", "fulfillment", "refund")
    assert (last["response_data"]["error"]["outcome"], "task_state" in last["response_data"]) == ("unknown", False)
    background.run(stack.aclose())


def deaf_to_cancels(seen: Any) -> Any:
    """An agent that answers at once, but never to `pay`, and knows no other method than that for messages."""
    rpc = seen.rpc
    if rpc["method"] != "SendMessage":
        return answers_rpc(error={"code": -32601, "message": "no such method"})(seen)
    pays = rpc["params"]["message"]["parts"][0]["text"] == "pay"
    return (hangs if pays else says("Shall I pay?"))(seen)


def at_the_refund(client: Client, call: str, word: str = "deliver") -> str:
    """The task of a call whose next message may have the refund paid."""
    task: str = client.send(word, context=call, metadata={"intent": "greeting"})["id"]
    client.send("My SSN is 123-45-6789", task=task, metadata={"intent": "verify_identity"})
    client.send(word, task=task, metadata={"intent": "refund_request"})
    return task


def at_work(doors: Doors) -> str:
    """The relay's task, once its agent has its own at work."""
    with httpx.Client(base_url=doors.polite.polite.url) as http:
        agent = Client(http, path="/")
        until(lambda: agent.list(status="TASK_STATE_WORKING")["tasks"])
    working: list[Json] = doors.relay.clients()[1].list(status="TASK_STATE_WORKING")["tasks"]
    (task,) = working
    return str(task["id"])


def refusal(client: Client, task: str) -> RpcError:
    """Why a task is not canceled."""
    with pytest.raises(RpcError) as refused:
        client.cancel(task)
    return refused.value


def until(happened: Callable[[], Any]) -> None:
    """Wait for what happens soon."""
    deadline = time.monotonic() + 10
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.01)
