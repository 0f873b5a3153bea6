"""A client says how long it waits: it is answered before that, whatever takes long, and every answer says where its
time went."""

import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis

from tests.a2a_client import Client, RpcError, state_of
from tests.background import Background
from tests.conftest import Service, StartService
from tests.listeners import heard, read, said, socket_of
from tests.moody import HOLD, Moody, moody_agent
from tests.openai_server import hangs, model_server, says
from tests.puppet import Puppet

Store = dict[str, Any]
Json = dict[str, Any]
AtOnce = Callable[..., Future[Any]]
Agent = tuple[Puppet, str]

PARTS = {"queue_ms", "store_ms", "classify_ms", "agent_ms", "total_ms"}
CROWD = """
flow: crowd
inputs: [words]
agents: {one: {url: "${ONE_URL}"}}
stages:
  all:
    parallel:
      a: {agent: one, input: {text: words}}
      b: {agent: one, input: {text: words}}
      c: {agent: one, input: {text: words}}
  think: {llm: {prompt: "{{ words }}"}}
"""


BUSY = 1.0
"""Seconds that a busy machine may take to tell a client what was answered in time."""


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Fail if what is done takes longer."""
    began = time.monotonic()
    yield
    assert time.monotonic() - began < seconds + BUSY


@pytest.fixture
def moody(background: Background) -> Iterator[Moody]:
    with moody_agent(background, HOLD) as agent:
        yield agent


@pytest.fixture
def paused(start: StartService, valkey_url: str, moody: Moody) -> tuple[Service, Callable[[int], None]]:
    """A service whose agent holds its answers, and what makes its store pause for so many milliseconds."""
    service = start({"GREETING_AGENT_URL": moody.url}, redis_url=valkey_url, tenant=f"t{time.monotonic_ns()}")

    def pause(milliseconds: int) -> None:
        with Redis.from_url(valkey_url) as redis:
            redis.execute_command("CLIENT", "PAUSE", milliseconds, "ALL")

    return service, pause


def send(service: Service, call: str, words: str, deadline: int | None = None, **more: Any) -> httpx.Response:
    document = said(words, "greeting", call_identify_id=call, deadline_ms=deadline, **more)
    return service.http.post("/orchestrate", json=document, headers={"idempotency-key": "k"})


def went_wrong(answer: Json) -> tuple[str, str]:
    return answer["status"], answer["response"]["error"]["type"]


def test_an_agent_that_is_too_slow(start: StartService, store: Store, puppet: Agent) -> None:
    service = start({"GREETING_AGENT_URL": puppet[1]}, **store)

    with within(1.5):
        told = send(service, "C", "slow 5", 1500)

    assert (told.status_code, went_wrong(told.json())) == (200, ("error", "timeout"))
    assert 500 < told.json()["timing"]["agent_ms"] < 1500
    assert send(service, "C", "slow 5").content == told.content
    assert service.turn("C", "hello", "greeting").json()["status"] == "success"


def test_a_call_that_is_busy(start: StartService, store: Store, moody: Moody, at_once: AtOnce) -> None:
    service = start({"GREETING_AGENT_URL": moody.url}, **store)
    first = at_once(service.turn, "C", "hello", "greeting")
    moody.until_heard()

    with within(0.6):
        told = send(service, "C", "hello", 600)
    moody.let_go()

    assert (told.status_code, told.json()["type"]) == (409, "turn-in-flight")
    assert first.result().json()["status"] == "success"


def test_waiting_for_a_busy_call_takes_its_part_once(start: StartService, puppet: Agent, at_once: AtOnce) -> None:
    service = start({"FALLBACK_AGENT_URL": puppet[1]}, checkpointer="memory")
    first = at_once(service.turn, "C", "slow 1", "unknown")
    while not puppet[0].messages:
        time.sleep(0.01)

    told = service.turn("C", "slow 0.6", "unknown", deadline_ms=3000).json()

    timing = told["timing"]
    assert (first.result().json()["timing"]["queue_ms"], told["status"]) == (0.0, "success")
    assert 300 < timing["queue_ms"] < 2000
    assert 600 <= timing["agent_ms"] < 1800
    assert timing["queue_ms"] + timing["agent_ms"] <= timing["total_ms"]


def test_a_store_that_does_not_answer(paused: tuple[Service, Callable[[int], None]], moody: Moody) -> None:
    service, pause = paused
    moody.let_go()

    pause(1500)
    with within(0.7):
        told = send(service, "C", "hello", 700)
    answered = send(service, "C", "hello")

    assert (told.status_code, told.json()["type"], told.headers["retry-after"]) == (504, "out-of-time", "1")
    assert "same Idempotency-Key" in told.json()["detail"]
    assert (answered.status_code, answered.json()["step"], len(moody.heard)) == (200, 1, 1)


def test_a_store_that_does_not_say_that_it_saved(
    paused: tuple[Service, Callable[[int], None]], moody: Moody, at_once: AtOnce
) -> None:
    service, pause = paused
    asked = at_once(timed, send, service, "C", "hello", 1200)
    moody.until_heard()

    pause(2500)
    moody.let_go()
    told, seconds = asked.result()
    answered = send(service, "C", "hello")

    assert (told.status_code, told.json()["type"], seconds < 1.2 + BUSY) == (504, "out-of-time", True)
    assert (answered.status_code, answered.json()["step"], len(moody.heard)) == (200, 1, 1)
    assert send(service, "C", "hello").content == answered.content


def timed(work: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    began = time.monotonic()
    return work(*arguments), time.monotonic() - began


def test_every_door_answers_in_time(paused: tuple[Service, Callable[[int], None]], moody: Moody) -> None:
    service, pause = paused
    hello = said("hello", "greeting", deadline_ms=250)
    posts = {
        "/orchestrate/stream": {**hello, "call_identify_id": "S"},
        "/flows/call/runs": {"message": "hello", "intent": "greeting", "deadline_ms": 250},
        "/flows/call/runs/stream": {"message": "hello", "id": "R", "deadline_ms": 250},
    }
    client_of_a2a, metadata = Client(service.http), {"deadline_ms": 250, "intent": "greeting"}
    messages: list[Callable[[], Any]] = [
        lambda: client_of_a2a.send("hello", metadata=metadata),
        lambda: client_of_a2a.send("hello", metadata=metadata, returnImmediately=True),
        lambda: [*client_of_a2a.stream("hello", metadata=metadata, context="A")],
    ]
    moody.let_go()

    with socket_of(service, "W") as client:
        pause(4000)
        for path, document in posts.items():
            with within(0.25):
                told = service.http.post(path, json=document)
            assert (told.status_code, told.json()["type"]) == (504, "out-of-time"), path
        with within(0.25):
            client.send(httpx.Request("POST", "http://ws", json=hello).content.decode())
            assert heard(client)[-1]["type"] == "out-of-time"
        for message in messages:
            with within(0.25), pytest.raises(RpcError) as late:
                message()
            assert late.value.facts["type"] == "out-of-time"

    assert len(moody.heard) == 0


def test_what_is_streamed_ends_in_time(
    paused: tuple[Service, Callable[[int], None]], moody: Moody, at_once: AtOnce
) -> None:
    service, pause = paused
    document = said("hello", "greeting", call_identify_id="S", deadline_ms=1200)

    def events() -> list[Json]:
        with service.http.stream("POST", "/orchestrate/stream", json=document) as answer:
            return list(read(answer.iter_lines()))

    def task() -> list[Json]:
        metadata = {"deadline_ms": 1200, "intent": "greeting"}
        return [*Client(service.http).stream("hello", metadata=metadata, context="A")]

    streamed, updates = at_once(timed, events), at_once(timed, task)
    moody.until_heard(2)
    pause(2500)
    moody.let_go()

    told, seconds = streamed.result()
    with pytest.raises(RpcError) as late:
        updates.result()
    assert (told[-1]["event"], told[-1]["type"], seconds < 1.2 + BUSY) == ("error", "out-of-time", True)
    assert late.value.facts["type"] == "out-of-time"


def test_a_classifier_that_is_too_slow(start: StartService, background: Background, puppet: Agent) -> None:
    server = background.open(model_server())
    server.thought = hangs
    options = {"openai_api_key": "key", "openai_base_url": server.url}
    service = start({"FALLBACK_AGENT_URL": puppet[1]}, checkpointer="memory", **options)

    with within(1.0):
        told = service.turn("C", "hello", deadline_ms=1000)

    assert told.status_code == 200
    assert 600 < told.json()["timing"]["classify_ms"] < 1000


def test_the_parts_of_a_turn_that_asks_several_and_a_model(
    start: StartService, background: Background, puppet: Agent, tmp_path: Path
) -> None:
    (tmp_path / "crowd.yaml").write_text(CROWD)
    server = background.open(model_server())
    server.thought = says("well")
    options = {"openai_api_key": "key", "openai_base_url": server.url}
    flows = (str(tmp_path / "crowd.yaml"),)
    service = start({"ONE_URL": puppet[1]}, flows=flows, checkpointer="memory", **options)

    run = service.http.post("/flows/crowd/runs", json={"input": {"words": "slow 0.5"}}).json()

    timing = run["timing"]
    assert timing.keys() == PARTS | {"model_ms"}
    assert 500 <= timing["agent_ms"] < 1400
    assert timing["model_ms"] > 0
    assert timing["agent_ms"] + timing["model_ms"] <= timing["total_ms"]


def test_an_answer_says_where_its_time_went(start: StartService, store: Store) -> None:
    service = start(**store)

    told = send(service, "C", "hello")
    again = send(service, "C", "hello")

    timing = told.json()["timing"]
    assert timing.keys() == PARTS
    assert all(spent >= 0 for spent in timing.values())
    assert 0 < timing["agent_ms"] <= timing["total_ms"]
    assert 0 < timing["store_ms"] <= timing["total_ms"]
    assert service.http.get("/session/C/steps").json()[0]["timing"] == timing
    header = server_timing(told)
    assert header.keys() == {"queue", "store", "classify", "agent", "total"}
    assert header["total"] >= timing["total_ms"]
    assert header["store"] > timing["store_ms"] or service.runtime.store.kind == "memory"  # which takes no time
    assert (again.content, server_timing(again)["agent"]) == (told.content, 0.0)


def server_timing(answer: httpx.Response) -> dict[str, float]:
    """The header as the W3C writes it: `name;dur=milliseconds, …`."""
    told = answer.headers["server-timing"]
    assert re.fullmatch(r"\w+;dur=\d+(\.\d+)?(, \w+;dur=\d+(\.\d+)?)*", told)
    return {name: float(spent) for name, spent in re.findall(r"(\w+);dur=([\d.]+)", told)}


@pytest.mark.parametrize("deadline", [0, -1, 86_400_001, 1.5, "100", True, [1]])
def test_what_is_no_deadline(start_for_module: StartService, deadline: Any) -> None:
    service = start_for_module(checkpointer="memory")
    client = Client(service.http)

    turn = service.turn("C", "hello", "greeting", deadline_ms=deadline)
    run = service.http.post("/flows/call/runs", json={"message": "hello", "deadline_ms": deadline})
    with pytest.raises(RpcError) as refused:
        client.send("hello", metadata={"deadline_ms": deadline})

    for answer in (turn, run):
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "deadline_ms")
    assert (refused.value.code, "deadline_ms" in refused.value.message) == (-32602, True)


def test_over_a2a_it_is_not_part_of_the_message(start: StartService, puppet: Agent) -> None:
    client = Client(start({"GREETING_AGENT_URL": puppet[1]}, checkpointer="memory").http)

    first = client.send("slow 5", context="C", message_id="m", metadata={"deadline_ms": 600, "intent": "greeting"})
    again = client.send("slow 5", context="C", message_id="m", metadata={"intent": "greeting"})

    [message] = puppet[0].messages
    assert (again, state_of(first)) == (first, "input-required")
    assert 0 < message["metadata"]["deadline_ms"] <= 600
