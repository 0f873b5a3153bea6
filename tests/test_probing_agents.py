"""Endpoints that matter are asked for their cards: who does not answer is left out, who is back is found again."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from structlog.testing import capture_logs

from nodes.ports import AgentRequest
from nodes.reaching.endpoint import Endpoint
from nodes.reaching.pool import Pool
from nodes.reaching.records import News, Registered
from nodes.remote import Caller, open_client
from nodes.spec import Agent
from server.probing import MATTERS_SECONDS, MOST_AT_ONCE, probing
from tests.background import Background
from tests.conftest import StartService
from tests.desk import eventually
from tests.rough_agents import MEGABYTE, Answer, Seen, answers, card, hangs, in_turn, pours, rough_agent, says, sends

OFTEN, SELDOM = 0.01, 60.0
BUSY = answers("busy", 503, "text/plain")
HANGS_UP = sends()


def registered(url: str, name: str = "desk-1") -> Registered:
    return Registered(name, "desk", url, None, (), None, "2026-01-01T00:00:00Z", None, False, None)


def at(pool: Pool, *urls: str) -> list[Endpoint]:
    """Register instances, and return their endpoints."""
    pool.told(News(tuple(registered(url, f"desk-{index}") for index, url in enumerate(urls))))
    return [pool.endpoint(url) for url in urls]


@asynccontextmanager
async def probed(pool: Pool, seconds: float = OFTEN) -> AsyncIterator[Caller]:
    async with Caller(open_client()) as caller, probing(pool, caller.probe, seconds):
        yield caller


async def health(endpoint: Endpoint, wanted: bool | None) -> None:
    async def look() -> bool | None:
        return endpoint.healthy

    await eventually(look, wanted)


def nowhere() -> str:
    """An address where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return f"http://127.0.0.1:{taken.getsockname()[1]}"


def test_two_misses_make_unhealthy_and_one_answer_heals_and_the_log_tells_changes_alone() -> None:
    async def story() -> tuple[list[bool | None], str, list[Any]]:
        pool, seen = Pool(), list[bool | None]()
        async with rough_agent(says("hi"), in_turn(card(), BUSY, card(), BUSY, BUSY, BUSY, card())) as agent:
            url = agent.url.replace("//", "//jo:secret@")
            endpoint = pool.choose("desk", Agent(url=url), "C-1").endpoint

            async def ask(asked: str) -> str | None:
                seen.append(endpoint.healthy)
                return await caller.probe(asked)

            async def times() -> bool:
                return len(seen) >= 8

            async with Caller(open_client()) as caller, probing(pool, ask, OFTEN):
                with capture_logs() as lines:
                    await eventually(times, True)
            return seen[:8], agent.url, [line for line in lines if line["log_level"] != "debug"]

    seen, url, lines = asyncio.run(story())
    assert seen == [None, True, True, True, True, False, False, True]
    busy = "it answered HTTP 503"
    assert lines == [
        {"event": "agent endpoint unhealthy", "log_level": "warning", "url": url, "reason": busy},
        {"event": "agent endpoint healthy again", "log_level": "info", "url": url},
    ]


def test_whoever_answers_is_well_unless_with_an_error_of_the_server() -> None:
    told = {
        "a card": (card(), None),
        "no card": (answers("no such page", 404), None),
        "not for everybody": (answers("who are you?", 401), None),
        "no JSON": (answers("<html>", 200, "text/html"), None),
        "far too much": (pours(50 * MEGABYTE, chunked=True), None),
        "busy": (BUSY, "it answered HTTP 503"),
        "hangs up": (HANGS_UP, "the connection broke before its answer was complete"),
        "hangs": (hangs, "it did not answer within 2 s"),
    }

    async def probe(caller: Caller, answer: Answer) -> str | None:
        async with rough_agent(says("hi"), answer) as agent:
            return await caller.probe(agent.url)

    async def story() -> dict[str, str | None]:
        async with Caller(open_client()) as caller:
            whys = await asyncio.gather(*(probe(caller, answer) for answer, _ in told.values()))
            return {**dict(zip(told, whys, strict=True)), "nowhere": await caller.probe(nowhere())}

    wanted = {name: why for name, (_, why) in told.items()}
    assert asyncio.run(story()) == {**wanted, "nowhere": "it cannot be reached"}


def test_an_endpoint_that_does_not_answer_is_left_out_before_a_call_finds_out() -> None:
    async def story() -> list[tuple[bool, str | None]]:
        pool, dead = Pool(), nowhere()
        async with rough_agent(says("hi"), card()) as agent, probed(pool):
            spec = Agent(endpoints=[dead, agent.url])
            pool.choose("desk", spec, "C-1")
            await health(pool.endpoint(dead), False)
            await health(pool.endpoint(agent.url), True)
            choice = pool.choose("desk", spec, "C-1")
            assert choice.endpoint.url == agent.url
            return [(one.url == dead, one.excluded) for one in choice.candidates]

    assert asyncio.run(story()) == [(True, "unhealthy"), (False, None)]


def failing(endpoint: Endpoint) -> None:
    """Let it fail so often that nobody is sent there for half a minute."""
    for _ in range(5):
        endpoint.circuit.failed()
    for _ in range(5):
        endpoint.circuit.failed(on_trial=True)


def test_an_endpoint_with_an_open_circuit_is_probed_soon_and_tried_as_soon_as_it_is_back() -> None:
    async def story() -> float:
        pool = Pool()
        async with rough_agent(says("hi"), in_turn(BUSY, card())) as agent:
            (endpoint,) = at(pool, agent.url)
            failing(endpoint)
            began = time.monotonic()

            async def state() -> str:
                return endpoint.circuit.state

            async with probed(pool, SELDOM):
                await eventually(state, "half_open")
                return time.monotonic() - began

    assert asyncio.run(story()) < 10


def test_a_card_says_nothing_of_an_endpoint_that_has_had_one_all_along() -> None:
    endpoint = Endpoint("http://desk")
    endpoint.probed(healthy=True)
    failing(endpoint)
    endpoint.probed(healthy=True)
    assert (endpoint.healthy, endpoint.circuit.state) == (True, "open")


def test_an_endpoint_that_nobody_asks_for_is_not_probed_and_not_any_more_after_a_while() -> None:
    async def story() -> tuple[int, object]:
        pool = Pool()
        async with (
            rough_agent(says("hi"), card()) as idle,
            rough_agent(says("hi"), card()) as busy,
            probed(pool),
        ):
            pool.members("idle", Agent(url=idle.url))
            endpoint = pool.choose("busy", Agent(url=busy.url), "C-1").endpoint
            await health(endpoint, True)
            assert endpoint.wanted is not None
            endpoint.wanted -= MATTERS_SECONDS
            await health(endpoint, None)
            return len(idle.seen), endpoint.probe

    assert asyncio.run(story()) == (0, None)


def test_hundreds_that_hang_are_asked_few_at_a_time_and_hold_up_no_stop() -> None:
    async def story() -> tuple[int, float]:
        asked = 0

        async def holds(seen: Seen) -> AsyncIterator[bytes]:
            nonlocal asked
            asked += 1
            await asyncio.Event().wait()
            yield b""

        async def so_many() -> bool:
            return asked >= MOST_AT_ONCE

        pool = Pool()
        async with rough_agent(says("hi"), holds) as agent:
            at(pool, *(f"{agent.url}/{number}" for number in range(300)))
            async with probed(pool, SELDOM):
                await eventually(so_many, True)
                began = time.monotonic()
            return asked, time.monotonic() - began

    asked, seconds = asyncio.run(story())
    assert asked == MOST_AT_ONCE
    assert seconds < 1


def test_what_a_new_card_says_is_known_before_the_next_call() -> None:
    async def story() -> tuple[list[str], int]:
        async with (
            rough_agent(says("hi"), in_turn(card(version="0.3.0"), card(), answers("{", 200), BUSY)) as agent,
            Caller(open_client()) as caller,
        ):
            request = AgentRequest("desk", agent.url, "hello", "m-1", "c-1", None, timeout=10)
            await caller.call(request)
            for _ in range(3):
                await caller.probe(agent.url)
            await caller.call(request)
            return [sent.rpc["method"] for sent in agent.messages], len(agent.cards)

    assert asyncio.run(story()) == (["message/send", "SendMessage"], 4)


@pytest.mark.parametrize("seconds", [0, 0.05])
def test_a_service_probes_who_registered_unless_it_is_not_to(
    start: StartService, background: Background, seconds: float
) -> None:
    service = start(checkpointer="memory", probe_seconds=seconds)
    url = nowhere()
    body = {"name": "desk-1", "agent_type": "desk", "capabilities": [], "url": url}
    assert service.http.post("/agents/register", json=body).status_code == 201
    if seconds:
        background.run(health(service.runtime.pool.endpoint(url), False))
    (endpoint,) = service.http.get("/agents/desk").json()["endpoints"]
    assert endpoint["state"] == ("unhealthy" if seconds else "unknown")
