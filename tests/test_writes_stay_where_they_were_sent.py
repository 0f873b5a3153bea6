"""A write that may be done, or is at work, is given to nobody else, whatever happens to its agent meanwhile; and one
that certainly was not done does not become one of which nobody knows."""

import time
from collections.abc import Callable
from typing import Any

import pytest

from nodes.reaching.circuit import FAILURES
from tests.conftest import Service
from tests.puppet import Puppet
from tests.rough_agents import Seen, answers, answers_rpc, hangs, says
from tests.test_agents_that_come_and_go import BY_JO, Json, OpenAgent, last, opened, puppet_served, rough, sent, serve

__all__ = ["opened", "rough", "serve"]  # fixtures

TILL = """
flow: till
waits_for: caller
agents:
  till: {{{till}}}
  spare: {{url: "{spare}"}}
stages:
  pay: {{intents: {{pay: till}}, effect: {effect}}}
  bye: {{intents: {{bye: spare}}}}
fallback: spare
"""
PAID = "the spare one paid"

Serve = Callable[..., Service]


def till(url: str, more: str, spare: str, effect: str = "write") -> str:
    return TILL.format(till=f'url: "{url}", {more}', spare=spare, effect=effect)


def switch(service: Service, agent: str, way: str) -> None:
    assert (
        service.http.post(f"/agents/{agent}/{way}", json=BY_JO if way == "off" else {"by": "jo"}).status_code == 200
    )


def error_of(answer: Json) -> Any:
    return answer["response"].get("error", {}).get("outcome")


def test_a_write_at_work_is_not_done_by_the_fallback_when_its_agent_is_switched_off(
    opened: Callable[[Any], Any], rough: OpenAgent, serve: Serve
) -> None:
    puppet, spare = Puppet(), rough(says(PAID))
    service = serve(till(opened(puppet_served(puppet)), "timeout: 400ms, fallback: spare", spare.url))
    working = service.turn("C", "work", "pay").json()
    switch(service, "till", "off")

    still = service.turn("C", "work", "pay").json()
    puppet.finish()
    done = service.turn("C", "work", "pay").json()

    assert [error_of(working), error_of(still)] == ["unknown", "unknown"]
    assert (done["response"]["text"], done["next_flow_id"]) == ("it is done", 2)
    assert (len(puppet.messages), spare.messages) == (1, [])


def test_a_write_without_an_answer_is_not_done_by_the_fallback_in_a_later_turn(
    rough: OpenAgent, serve: Serve
) -> None:
    """Its agent acts once on it, so that nothing is parked; then nobody can be asked, or its agent is off."""
    first, spare = rough(hangs), rough(says(PAID))
    service = serve(till(first.url, "timeout: 100ms, idempotent: true, fallback: spare", spare.url))
    turns = [service.turn("C", "pay", "pay").json() for _ in range(FAILURES + 1)]
    switch(service, "till", "off")
    turns.append(service.turn("C", "pay", "pay").json())

    assert {error_of(turn) for turn in turns} == {"unknown"}
    assert turns[-1]["response"]["error"]["type"] == "agent_off"
    assert (len(set(sent(first))), spare.messages) == (1, [])


@pytest.mark.parametrize(("state", "paid_by"), [("failed", "till"), ("rejected", "spare")])
def test_a_write_that_failed_may_have_done_half_and_one_that_was_rejected_nothing(
    rough: OpenAgent, serve: Serve, state: str, paid_by: str
) -> None:
    task = {"kind": "task", "id": "T", "contextId": "c", "status": {"state": state}}
    first, spare = rough(answers_rpc(result=task)), rough(says(PAID))
    service = serve(till(first.url, "fallback: spare", spare.url))

    told = service.turn("C", "pay", "pay").json()

    assert (told["agent"], len(spare.messages)) == (paid_by, paid_by == "spare")


def test_a_write_at_work_is_asked_about_at_its_version_though_that_gets_no_more_calls(
    opened: Callable[[Any], Any], serve: Serve
) -> None:
    old, new = Puppet(), Puppet()
    urls = [opened(puppet_served(puppet)) for puppet in (old, new)]
    versions = f'{{old: {{url: "{urls[0]}"}}, new: {{url: "{urls[1]}", weight: 0}}}}'
    service = serve(TILL.format(till=f"timeout: 400ms, versions: {versions}", spare=urls[1], effect="write"))
    service.turn("C", "work", "pay")
    weights = {"weights": {"old": 0, "new": 1}, "by": "jo", "why": "it is new"}
    assert service.http.put("/agents/till/weights", json=weights).status_code == 200
    old.finish()

    done = service.turn("C", "is it done?", "pay").json()

    step = last(service, "C")
    assert (done["response"]["text"], step["a2a_agent_url"], step["agent_version"]) == ("it is done", urls[0], "old")
    assert [len(puppet.messages) for puppet in (old, new)] == [1, 0]


def test_a_write_is_not_sent_again_so_late_that_nobody_would_know_what_came_of_it(
    rough: OpenAgent, serve: Serve
) -> None:
    async def busy_then_slow(seen: Seen) -> Any:
        answer = answers("", 429, retry_after="1") if len(first.messages) == 1 else hangs
        async for piece in answer(seen):
            yield piece

    first, spare = rough(busy_then_slow), rough(says(PAID))
    service = serve(till(first.url, "attempts: 3", spare.url), turn_timeout_seconds=1.3)

    told = service.turn("C", "pay", "pay").json()

    assert (told["response"]["error"]["type"], error_of(told), len(first.messages)) == ("http_error", None, 1)


def test_an_agent_that_asks_to_be_left_alone_for_long_leaves_its_fallback_the_time(
    rough: OpenAgent, serve: Serve
) -> None:
    first, spare = rough(answers("", 503, retry_after="3")), rough(says("hello"))
    service = serve(till(first.url, "attempts: 3, fallback: spare", spare.url, "read"))

    since = time.monotonic()
    told = service.turn("C", "hello", "pay").json()

    assert (told["response"]["text"], len(first.messages)) == ("hello", 1)
    assert time.monotonic() - since < 3


def test_a_call_can_be_ended_while_an_agent_is_left_alone(rough: OpenAgent, serve: Serve) -> None:
    first = rough(answers("", 503, retry_after="15"))
    agent = f'{{a: {{url: "{first.url}", attempts: 2}}}}'
    service = serve(f"flow: patient\nturn_timeout: 60s\nagents: {agent}\nstages: {{one: {{agent: a}}}}\n")
    run = service.http.post("/flows/patient/runs", json={"wait": False}).json()["execution_id"]
    while not first.messages:
        time.sleep(0.005)

    since = time.monotonic()
    ended = service.http.post(f"/executions/{run}/cancel").json()

    assert ended["status"] == "canceled"
    assert time.monotonic() - since < 5


def test_a_fallback_that_may_have_done_it_is_the_only_one_asked_again(rough: OpenAgent, serve: Serve) -> None:
    """Though it certainly did not do it this time, and the agent it stands in for is back."""
    refusal = answers("", 429)
    first, spare = rough(refusal, says("the first one paid")), rough(hangs, hangs, refusal)
    flow = f"""
flow: till
waits_for: caller
agents:
  first: {{url: "{first.url}", fallback: spare}}
  spare: {{url: "{spare.url}", timeout: 200ms, idempotent: true}}
  desk:  {{url: "{first.url}"}}
stages:
  pay: {{intents: {{pay: first}}, effect: write}}
  bye: {{intents: {{bye: desk}}}}
fallback: desk
"""
    service = serve(flow)

    turns = [service.turn("C", "pay", "pay").json() for _ in range(3)]

    assert [(turn["agent"], error_of(turn)) for turn in turns] == [("spare", "unknown")] * 3
    assert (len(first.messages), len(set(sent(spare)))) == (1, 1)
