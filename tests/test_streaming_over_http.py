"""Turns and calls as server-sent events: in order, as they happen, without loss or repetition, whoever leaves."""

import asyncio
import json
import socket
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from typing import Any

import httpx
import pytest
from redis import Redis
from sse_starlette.sse import EventSourceResponse
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from graph.store.memory_events import MemoryEvents
from server.a2a.streams import tidy
from server.doors.documents import OrchestrateRequest
from server.doors.events import Told, of_turn
from server.doors.orchestrate import turn_request
from server.doors.stream import sse
from server.listening import listen, serving, url_of
from tests.background import Background
from tests.conftest import Service, StartService
from tests.desk import Place
from tests.listeners import CALL, Json, is_whole_turn, names, read, said, stream
from tests.polite_agents import PoliteAgent, polite_agent
from tests.puppet import Puppet

Store = dict[str, Any]


@pytest.fixture
def agent(background: Background) -> Iterator[PoliteAgent]:
    """An agent that streams `one`, `two` and `three`, each when it is let go."""
    stack = AsyncExitStack()
    yield background.run(stack.enter_async_context(polite_agent("1.0")))
    background.run(stack.aclose())


@pytest.fixture
def go(background: Background, agent: PoliteAgent) -> Callable[[], Any]:
    return lambda: background.loop.call_soon_threadsafe(agent.go.release)


def test_a_call_in_streamed_turns(start: StartService, store: Store) -> None:
    service = start(**store)

    for message, intent in CALL:
        events = stream(service, "STREAM-1", message, intent)
        assert is_whole_turn(events, service, "STREAM-1"), events

    assert [step["intent"] for step in events[-1]["session_summary"]["steps"]] == [intent for _, intent in CALL]
    assert service.http.get("/session/STREAM-1").json()["is_complete"]


def test_what_an_agent_streams_is_passed_on_at_once(
    start: StartService, store: Store, agent: PoliteAgent, go: Callable[[], Any]
) -> None:
    service = start({"GREETING_AGENT_URL": agent.url}, **store)
    sent = said("stream", "greeting", call_identify_id="STREAM-2")

    with service.http.stream("POST", "/orchestrate/stream", json=sent) as told:
        events = read(told.iter_lines())
        assert names([next(events), next(events)]) == ["state_change"] * 2
        for words in ("one", "two", "three"):
            go()  # the agent says nothing more until it is let go again
            chunk = next(events)
            assert (chunk["event"], chunk["artifact"]["parts"]) == ("message_chunk", [{"text": words}])
        assert names(events) == ["step", "turn"]


def test_a_client_that_leaves_does_not_stop_the_turn(
    start: StartService, store: Store, agent: PoliteAgent, go: Callable[[], Any], background: Background
) -> None:
    service = start({"GREETING_AGENT_URL": agent.url}, **store)
    sent = said("stream", "greeting", call_identify_id="STREAM-3")

    with service.http.stream("POST", "/orchestrate/stream", json=sent) as told:
        seen = next(read(told.iter_lines()))
    for _ in range(3):
        go()
    rest = stream(service, "STREAM-3", "stream", "greeting", after=seen["id"])

    assert is_whole_turn([seen, *rest], service, "STREAM-3")
    assert len(service.http.get("/session/STREAM-3/steps").json()) == 1


def test_a_stream_cut_after_any_event_goes_on_at_another_replica(
    start: StartService, valkey_url: str, agent: PoliteAgent, go: Callable[[], Any]
) -> None:
    where = {"redis_url": valkey_url, "tenant": "cut"}
    one, other = start({"GREETING_AGENT_URL": agent.url}, **where), start(**where)
    length = 7

    for cut in range(1, length):
        sent = said("stream", "greeting", call_identify_id=f"CUT-{cut}")
        with one.http.stream("POST", "/orchestrate/stream", json=sent) as told:
            events = read(told.iter_lines())
            seen = [next(events), next(events)]
            while len(seen) < cut:
                go()
                seen.append(next(events))
        del seen[cut:]
        with ThreadPoolExecutor(1) as pool:
            going_on = pool.submit(stream, other, f"CUT-{cut}", "stream", "greeting", seen[-1]["id"])
            for _ in range(5 - max(2, min(cut, 5))):
                go()
            rest = going_on.result()

        assert len(seen + rest) == length
        assert is_whole_turn(seen + rest, one, f"CUT-{cut}"), seen + rest


def test_after_each_event_of_a_turn_that_is_over(start: StartService, store: Store) -> None:
    service = start(**store)
    events = stream(service, "STREAM-4", *CALL[0])
    stream(service, "STREAM-4", *CALL[1])

    for position in range(1, len(events)):
        assert stream(service, "STREAM-4", *CALL[0], after=events[position - 1]["id"]) == events[position:]

    assert resumed(service, "STREAM-4", events[-1]["id"]).status_code == 204
    assert len(service.http.get("/session/STREAM-4/steps").json()) == 2


def test_what_is_kept_no_more_is_said_to_be_gone(start: StartService, store: Store) -> None:
    service = start(**store)
    events = stream(service, "STREAM-5", *CALL[0])

    gone = resumed(service, "STREAM-5", "1-1")
    never = resumed(service, "ANOTHER", events[0]["id"])
    nonsense = resumed(service, "STREAM-5", "yesterday")

    assert (gone.status_code, gone.json()["type"]) == (404, "events-gone")
    assert gone.headers["content-type"] == "application/problem+json"
    assert (never.status_code, never.json()["type"]) == (404, "events-gone")
    assert (nonsense.status_code, nonsense.json()["errors"][0]["field"]) == (422, "Last-Event-ID")


def test_another_message_is_not_taken_for_one_that_was_cut_off(start: StartService, store: Store) -> None:
    service = start(**store)
    events = stream(service, "STREAM-10", *CALL[0])

    for event in events:
        for message in (CALL[1], (CALL[0][0], "welcome"), ("Something else", None)):
            other = resumed(service, "STREAM-10", event["id"], message)
            assert (other.status_code, other.json()["type"]) == (409, "another-turn"), event
            assert "leave the header out" in other.json()["detail"]
        assert resumed(service, "STREAM-10", event["id"], (CALL[0][0], None)).status_code in (200, 204)

    assert len(service.http.get("/session/STREAM-10/steps").json()) == 1


def test_another_message_is_not_taken_for_one_that_is_at_work(
    start: StartService, agent: PoliteAgent, go: Callable[[], Any]
) -> None:
    service = start({"GREETING_AGENT_URL": agent.url}, checkpointer="memory")
    sent = said("stream", "greeting", call_identify_id="STREAM-11")

    with service.http.stream("POST", "/orchestrate/stream", json=sent) as told:
        events = read(told.iter_lines())
        go()
        for seen in (next(events), next(events), next(events)):
            other = resumed(service, "STREAM-11", seen["id"], ("well", "greeting"))
            assert (other.status_code, other.json()["type"]) == (409, "another-turn"), seen
        for _ in range(2):
            go()
    rest = stream(service, "STREAM-11", "stream", "greeting", after=seen["id"])
    assert (seen["event"], names(rest)[-1]) == ("message_chunk", "turn")


def test_what_is_wrong_before_the_turn_is_a_plain_problem(start: StartService, store: Store) -> None:
    service = start(**store)
    page = {"origin": "http://elsewhere.example", "content-type": "text/plain"}

    refused = service.http.post("/orchestrate/stream", json=said("Bye", "closing", call_identify_id="STREAM-6"))
    bad = service.http.post("/orchestrate/stream", json={})
    foreign = service.http.post("/orchestrate/stream", content="{}", headers=page)

    told = [(answer.status_code, answer.json()["type"]) for answer in (refused, bad, foreign)]
    assert told == [(409, "intent-not-legal"), (422, "bad-input"), (415, "unsupported-media-type")]
    assert refused.headers["content-type"] == "application/problem+json"
    assert service.http.get("/session/STREAM-6").status_code == 404


def test_an_agent_that_fails_is_an_answer(start: StartService, puppet: tuple[Puppet, str]) -> None:
    service = start({"GREETING_AGENT_URL": puppet[1]}, checkpointer="memory")

    events = stream(service, "STREAM-7", "fail", "greeting")

    assert is_whole_turn(events, service, "STREAM-7")
    assert (events[-1]["status"], events[-1]["next_flow_id"]) == ("error", 1)


def test_a_turn_that_is_lost_ends_with_the_problem(
    start: StartService, shared: Place, puppet: tuple[Puppet, str]
) -> None:
    service = start({"GREETING_AGENT_URL": puppet[1]}, redis_url=shared.url, checkpointer=shared.choice)
    sent = said("slow 0.5", "greeting", call_identify_id="STREAM-8")

    with service.http.stream("POST", "/orchestrate/stream", json=sent) as told:
        events = read(told.iter_lines())
        first = next(events)
        with Redis.from_url(shared.url or "") as redis:
            redis.flushall()
        (last,) = events

    assert first["event"] == "state_change"
    assert {name: value for name, value in last.items() if name != "id"} == {
        "event": "error",
        "type": "turn-lost",
        "title": "Another turn of this call has taken over",
        "status": 409,
        "detail": last["detail"],
    }


def test_the_answer_comes_even_if_its_events_are_lost(
    start: StartService, background: Background, puppet: tuple[Puppet, str]
) -> None:
    service = start({"GREETING_AGENT_URL": puppet[1]}, checkpointer="memory")
    sent = OrchestrateRequest(**said("slow 0.1", "greeting", call_identify_id="STREAM-9"))

    async def story() -> list[Told]:
        started = await service.runtime.turns.start(turn_request(sent, None))
        return [told async for told in of_turn(MemoryEvents(), started)]

    (last,) = background.run(story())

    assert last.id is None
    assert (last.event["event"], last.event["response"]["text"]) == ("turn", "you said slow 0.1")


def test_a_call_is_followed_through_all_its_turns_until_it_ends(start: StartService, store: Store) -> None:
    service = start(**store)
    events = stream(service, "FOLLOW-1", *CALL[0])
    path = "/session/FOLLOW-1/events"

    with service.http.stream("GET", path) as told:
        for message, intent in CALL[1:]:
            events += stream(service, "FOLLOW-1", message, intent)
        followed = list(read(told.iter_lines()))

    second = names(events).index("turn") + 1
    assert followed == events[second:]
    assert list(read(service.http.get(path, params={"last_event_id": events[0]["id"]}).iter_lines())) == events[1:]
    at_the_end = service.http.get(path, headers={"last-event-id": events[-1]["id"]})
    assert at_the_end.status_code == 204  # a browser does not come back
    assert service.http.get(path).status_code == 204


def test_a_call_that_is_deleted_is_followed_no_longer(start: StartService) -> None:
    service = start(checkpointer="memory")
    stream(service, "FOLLOW-2", *CALL[0])

    with service.http.stream("GET", "/session/FOLLOW-2/events") as told:
        service.http.delete("/session/FOLLOW-2")
        assert list(read(told.iter_lines())) == []

    missing = service.http.get("/session/FOLLOW-2/events")
    assert (missing.status_code, missing.json()["type"]) == (404, "session-not-found")


def test_a_service_that_stops_answers_the_turn_and_leaves_who_follows(
    start: StartService, puppet: tuple[Puppet, str]
) -> None:
    service = start({"AUTH_AGENT_URL": puppet[1]}, checkpointer="memory")
    stream(service, "STOP-1", *CALL[0])

    with httpx.Client(base_url=service.url, timeout=20) as http, ThreadPoolExecutor(2) as pool:
        caller = replace(service, http=http)
        following = pool.submit(follow, caller, "STOP-1")
        turn = pool.submit(stream, caller, "STOP-1", "slow 1", "verify_identity")
        while not puppet[0].messages and not turn.done():
            time.sleep(0.01)
        service.stop()

    assert names(turn.result())[-1] == "turn"
    assert "turn" not in names(following.result())


# The answer itself


@pytest.fixture
def served(background: Background) -> Iterator[Callable[[Callable[[], Response]], str]]:
    """Serve answers until the end of the test."""
    stack = AsyncExitStack()

    async def enter(answer: Callable[[], Response]) -> str:
        async def endpoint(request: Request) -> Response:
            return answer()

        listener = stack.enter_context(listen("a stream", "127.0.0.1", 0))
        app = Starlette(routes=[Route("/", endpoint)])
        await stack.enter_async_context(serving(app, listener, grace=1))
        return url_of(listener)

    yield lambda answer: background.run(enter(answer))
    background.run(stack.aclose())


def test_a_silent_stream_gives_a_sign_of_life(served: Callable[[Callable[[], Response]], str]) -> None:
    async def silent() -> AsyncGenerator[Told, None]:
        await asyncio.sleep(0.5)
        yield Told({"event": "step"})

    told = httpx.get(served(lambda: sse(silent(), heartbeat=0.1))).text

    assert 3 <= told.count(": ping - ") <= 5
    assert list(read(told.splitlines())) == [{"event": "step"}]


ANSWERS: dict[str, Callable[[AsyncGenerator[Told, None], float], Response]] = {
    "of turns": lambda told, patience: sse(told, patience=patience),
    "of A2A": lambda told, patience: tidy(EventSourceResponse(in_json(told)), patience=patience),
}


async def in_json(told: AsyncGenerator[Told, None]) -> AsyncGenerator[Json, None]:
    """Write events as the sdk does."""
    async with aclosing(told):
        async for one in told:
            yield {"data": json.dumps(one.event)}


@pytest.mark.parametrize("answer", ANSWERS)
def test_a_client_that_does_not_read_is_left_and_costs_no_memory(
    served: Callable[[Callable[[], Response]], str], background: Background, answer: str
) -> None:
    taken, left = [0], asyncio.Event()

    async def endless() -> AsyncGenerator[Told, None]:
        try:
            while True:
                taken[0] += 1
                yield Told({"event": "step", "step": "x" * 100_000})
        finally:
            left.set()

    url = httpx.URL(served(lambda: ANSWERS[answer](endless(), 0.3)))
    with socket.create_connection((url.host, url.port or 80)) as client:
        client.sendall(b"GET / HTTP/1.1\r\nhost: stream\r\n\r\n")
        background.run(asyncio.wait_for(left.wait(), 10))

    assert taken[0] < 200  # the kernel's buffers for the connection, and one event


def follow(service: Service, call: str) -> list[Json]:
    with service.http.stream("GET", f"/session/{call}/events") as told:
        return list(read(told.iter_lines()))


def resumed(service: Service, call: str, after: str, message: tuple[str, str | None] | None = None) -> httpx.Response:
    sent, headers = said(*(message or CALL[0]), call_identify_id=call), {"last-event-id": after}
    return service.http.post("/orchestrate/stream", json=sent, headers=headers)
