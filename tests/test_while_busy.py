"""A message comes while another one of its call is being answered: it waits, is refused, or takes the other's place,
as the flow says (`while_busy`); on two replicas."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import httpx
import pytest

from graph.loader import FlowError, parse_flow
from tests.a2a_client import Client, RpcError
from tests.background import Background
from tests.conftest import Service, StartService
from tests.listeners import read, said
from tests.moody import HOLD, Moody, moody_agent
from tests.puppet import Puppet
from tests.replicas import SHARED, Replicas, replicas
from tests.test_fifty_clients import line_of

Json = dict[str, Any]
AtOnce = Callable[..., Future[Any]]
Serve = Callable[..., Replicas]

CHAT = """
flow: chat
waits_for: caller
while_busy: {mode}
agents: {{desk: {{url: "${{DESK_URL}}"}}}}
stages:
  talk: {{intents: {{talk: desk}}}}
  pay: {{intents: {{pay: desk}}, effect: write}}
  more: {{intents: {{talk: desk}}}}
fallback: desk
"""
REPLACED, IN_FLIGHT = (409, "turn-replaced"), (409, "turn-in-flight")


@pytest.fixture
def moody(background: Background) -> Iterator[Moody]:
    with moody_agent(background) as agent:
        yield agent


@pytest.fixture(params=SHARED)
def serve(request: pytest.FixtureRequest, start: StartService, tmp_path: Path) -> Serve:
    """Start two replicas of the chat, on each store that replicas share."""

    def serve_both(mode: str, desk: str, **options: Any) -> Replicas:
        file = tmp_path / "chat.yaml"
        file.write_text(CHAT.format(mode=mode))
        options = {"busy_wait_seconds": 15, "flows": (str(file),), **options}
        return replicas(request, start, request.param, {"DESK_URL": desk}, **options)

    return serve_both


def send(service: Service, words: str, intent: str = "unknown", key: str = "", call: str = "C") -> httpx.Response:
    headers = {"idempotency-key": key} if key else {}
    document = said(words, intent, call_identify_id=call, flow="chat")
    return service.http.post("/orchestrate", json=document, headers=headers)


def problem(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["type"]


def trail(service: Service) -> list[tuple[int, str]]:
    steps = service.http.get("/session/C/steps").json()
    return [(step["number"], step["input_message"]) for step in steps]


def asks_of(service: Service) -> threading.Semaphore:
    """Counts how often the replica asks another one to give a turn up."""
    return counted(service.runtime.store.events, "ask_to_cancel")


def looks_of(service: Service) -> threading.Semaphore:
    """Counts how often the replica looks what a busy call is busy with."""
    return counted(service.runtime.store.calls, "look")


def counted(owner: Any, name: str) -> threading.Semaphore:
    work, done = getattr(owner, name), threading.Semaphore(0)

    async def count(*arguments: Any) -> Any:
        result = await work(*arguments)
        done.release()
        return result

    setattr(owner, name, count)
    return done


def until(asked: threading.Semaphore, times: int = 1) -> None:
    for _ in range(times):
        assert asked.acquire(timeout=10)


def test_wait(serve: Serve, moody: Moody, at_once: AtOnce) -> None:
    both = serve("wait", moody.url)
    moody.moods = [HOLD]

    first = at_once(send, both.here, "one")
    moody.until_heard()
    second = at_once(send, both.there, "two")
    moody.let_go()

    assert [answer.result().json()["step"] for answer in (first, second)] == [1, 2]


def test_reject(serve: Serve, moody: Moody, at_once: AtOnce) -> None:
    both = serve("reject", moody.url)
    moody.moods = [HOLD]

    first = at_once(send, both.here, "one", key="k")
    moody.until_heard()
    began = time.monotonic()
    refused = [send(service, "two", key=key) for service in (both.here, both.there) for key in ("", "l")]
    seconds = time.monotonic() - began
    copies = [at_once(send, service, "one", key="k") for service in (both.here, both.there)]
    moody.let_go()

    assert [problem(answer) for answer in refused] == [IN_FLIGHT] * 4
    assert seconds < 5
    assert [copy.result().content for copy in copies] == [first.result().content] * 2
    assert trail(both.there) == [(1, "one")]


@pytest.mark.parametrize("goes_on", [False, True], ids=["the first message", "a later one"])
def test_replace(serve: Serve, moody: Moody, at_once: AtOnce, goes_on: bool) -> None:
    both = serve("replace", moody.url)
    if goes_on:
        send(both.there, "hello")
        moody.until_heard()
    moody.moods = [HOLD, {}]

    looked = looks_of(both.there)

    older = at_once(send, both.here, "one", key="k")
    moody.until_heard()
    copy = at_once(send, both.there, "one", key="k")
    until(looked)
    newer = send(both.there, "two", "talk" if not goes_on else "unknown")

    assert problem(older.result(timeout=10)) == REPLACED  # though its agent still holds the answer
    assert (newer.status_code, newer.json()["response"]["text"]) == (200, "done")
    assert problem(copy.result(timeout=10)) == REPLACED
    assert trail(both.here) == ([(1, "hello"), (2, "two")] if goes_on else [(1, "two")])


def test_a_message_whose_place_was_taken_can_be_sent_again(serve: Serve, moody: Moody, at_once: AtOnce) -> None:
    both = serve("replace", moody.url)
    moody.moods = [HOLD, {}]
    older = at_once(send, both.here, "one", key="k")
    moody.until_heard()
    send(both.here, "two")

    again = send(both.there, "one", key="k")

    assert problem(older.result()) == REPLACED
    assert (again.status_code, trail(both.here)) == (200, [(1, "two"), (2, "one")])


def test_followers_are_told_that_its_place_was_taken(serve: Serve, moody: Moody, at_once: AtOnce) -> None:
    both = serve("replace", moody.url)
    moody.moods = [HOLD, {}, HOLD, {}]

    def streamed() -> list[Json]:
        document = said("one", "unknown", call_identify_id="C", flow="chat")
        with both.here.http.stream("POST", "/orchestrate/stream", json=document) as answer:
            return list(read(answer.iter_lines()))

    client = Client(both.here.http, path="/a2a/chat")
    for follow in (streamed, lambda: client.send("one", context="C", metadata={"intent": "unknown"})):
        older = at_once(follow)
        moody.until_heard()
        assert send(both.there, "two").status_code == 200
        moody.until_heard()
        if follow is streamed:
            assert [event["event"] for event in older.result()[-1:]] == ["error"]
            assert older.result()[-1]["type"] == "turn-replaced"
    with pytest.raises(RpcError) as replaced:
        older.result()

    assert (replaced.value.code, replaced.value.facts["type"]) == (-32004, "turn-replaced")
    assert trail(both.here) == [(1, "two"), (2, "two")]


def test_a_write_that_was_sent_is_never_given_up(serve: Serve, moody: Moody, at_once: AtOnce) -> None:
    both = serve("replace", moody.url)
    send(both.here, "hello", "talk")
    moody.until_heard()
    moody.moods = [HOLD]
    asked = asks_of(both.there)

    write = at_once(send, both.here, "pay", "pay")
    moody.until_heard()
    newer = at_once(send, both.there, "more", "talk")
    until(asked, 3)
    moody.let_go()

    assert [answer.result().status_code for answer in (write, newer)] == [200, 200]
    assert trail(both.there) == [(1, "hello"), (2, "pay"), (3, "more")]
    assert len(moody.heard) == 3


def test_of_those_that_wait_for_a_write_the_last_is_answered(
    serve: Serve, puppet: tuple[Puppet, str], at_once: AtOnce
) -> None:
    both = serve("replace", puppet[1])
    send(both.here, "hello", "talk")
    asked = asks_of(both.there)

    write = at_once(send, both.here, "slow 1.5", "pay")
    while len(puppet[0].messages) < 2:
        time.sleep(0.01)
    older = at_once(send, both.there, "slow 9")
    until(asked)
    newer = at_once(send, both.here, "slow 0.7")

    assert problem(older.result()) == REPLACED
    assert [answer.result().status_code for answer in (write, newer)] == [200, 200]
    assert trail(both.there) == [(1, "hello"), (2, "slow 1.5"), (3, "slow 0.7")]


def test_a_turn_that_is_being_saved_is_not_given_up(serve: Serve, moody: Moody, at_once: AtOnce) -> None:
    both = serve("replace", moody.url)
    calls: Any = both.here.runtime.store.calls
    asked, commit, saving = asks_of(both.there), calls.commit, threading.Event()

    async def held_up(*arguments: Any, **options: Any) -> None:
        saving.set()
        await asyncio.to_thread(until, asked, 3)
        await commit(*arguments, **options)

    calls.commit = held_up
    older = at_once(send, both.here, "one")
    assert saving.wait(10)
    newer = at_once(send, both.there, "two")

    assert [answer.result().status_code for answer in (older, newer)] == [200, 200]
    assert trail(both.there) == [(1, "one"), (2, "two")]


def test_many_want_the_place_at_once(
    serve: Serve, puppet: tuple[Puppet, str], at_once: AtOnce, background: Background
) -> None:
    both = serve("replace", puppet[1])
    services = (both.here, both.there)

    sent = [at_once(send, services[number % 2], f"slow 0.0{number % 10}1{number:03}") for number in range(30)]
    told = [answer.result() for answer in sent]
    last = send(both.there, "the last")

    answered = sorted(
        (answer.json()["step"], answer.json()["response"]["text"]) for answer in told if answer.status_code == 200
    )
    assert {problem(answer) for answer in told if answer.status_code != 200} <= {REPLACED, IN_FLIGHT}
    assert (last.status_code, last.json()["step"]) == (200, len(answered) + 1)
    steps = both.here.http.get("/session/C/steps").json()
    assert [(step["number"], step["response_data"]["text"]) for step in steps[:-1]] == answered
    assert background.run(line_of(both.here, "C")) == list(range(len(steps), 0, -1))


def test_only_a_caller_can_take_a_place() -> None:
    text = 'flow: one\nwhile_busy: replace\nagents: {a: {url: "http://a:1"}}\nstages: {s: {agent: a}}\n'

    with pytest.raises(FlowError) as refused:
        parse_flow(text, "one.yaml", {})

    assert str(refused.value).startswith("one.yaml:2: only a caller's message can take another's place; add")
