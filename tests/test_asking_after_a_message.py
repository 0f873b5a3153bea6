"""An agent is asked what became of a message, which is known by its id in a task's history and not sent again."""

import asyncio
from typing import Any

import pytest

from nodes.ports import AgentRequest, Chunk, Progress
from nodes.remote import AgentError, Caller
from nodes.remote.dialect import Dialect
from nodes.remote.errors import TimedOut, Unreachable
from server.demo_agents import serve
from tests.polite_agents import PoliteAgent, polite_agent
from tests.rough_agents import card, in_turn, rough_agent, says

Json = dict[str, Any]


@pytest.fixture(params=["0.3", "1.0"])
def dialect(request: pytest.FixtureRequest) -> Dialect:
    spoken: Dialect = request.param
    return spoken


def _request(url: str, text: str = "", **fields: Any) -> AgentRequest:
    facts = {"message_id": "m-1", "context_id": "c-1", "task_id": None, "timeout": 10.0, **fields}
    return AgentRequest(agent="desk", url=url, text=text, **facts)


async def _at_work(agent: PoliteAgent, caller: Caller, text: str) -> str:
    """Send a message, hang up as soon as the agent works on it, and return its task."""
    known: asyncio.Queue[Chunk | Progress] = asyncio.Queue()
    call = asyncio.create_task(caller.call(_request(agent.url, text, streams=True), known.put_nowait))
    working = await known.get()
    assert isinstance(working, Progress)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    return working.task_id


@pytest.mark.parametrize("words", ["deliver", "show", "fail", "reject", "cancel", "ask", "sign in"])
def test_what_the_agent_answered_is_found(words: str) -> None:
    async def story() -> None:
        async with polite_agent("1.0", remembers=True) as agent, Caller() as caller:
            request = _request(agent.url, words)
            answered = await caller.call(request)

            assert await caller.find(request) == answered

            assert len(agent.heard) == 1

    asyncio.run(story())


def test_only_the_message_that_is_asked_for_is_found() -> None:
    async def story() -> None:
        async with polite_agent("1.0", remembers=True) as agent, Caller() as caller:
            await caller.call(_request(agent.url, "ask", message_id="m-2"))
            await caller.call(_request(agent.url, "deliver", context_id="c-2"))

            assert await caller.find(_request(agent.url, "deliver")) is None

    asyncio.run(story())


def test_a_message_that_continued_a_task_is_found_in_it(dialect: Dialect) -> None:
    async def story() -> None:
        async with polite_agent(dialect) as agent, Caller() as caller:
            task_id = (await caller.call(_request(agent.url, "ask"))).task_id
            second = _request(agent.url, "42", message_id="m-2", task_id=task_id)
            assert await caller.find(second) is None
            answered = await caller.call(second)

            assert answered.task_state == "completed"
            assert await caller.find(second) == answered
            assert await caller.find(_request(agent.url, "42", message_id="m-3", task_id=task_id)) is None
            assert await caller.find(_request(agent.url, "42", message_id="m-2", task_id="no-such-task")) is None

            assert len(agent.heard) == 2

    asyncio.run(story())


def test_a_task_that_still_waits_may_not_have_been_answered(dialect: Dialect) -> None:
    """Whether its question is the old one or a new one cannot be told from what a2a-sdk shows."""

    async def story() -> None:
        async with polite_agent(dialect) as agent, Caller() as caller:
            task_id = (await caller.call(_request(agent.url, "ask"))).task_id
            second = _request(agent.url, "ask", message_id="m-2", task_id=task_id, timeout=0.5)
            assert (await caller.call(second)).task_state == "input-required"

            with pytest.raises(TimedOut) as timed_out:
                await caller.find(second)

            assert timed_out.value.task_id == task_id

    asyncio.run(story())


def test_a_task_still_at_work_is_waited_for() -> None:
    async def story() -> None:
        async with polite_agent("1.0", remembers=True) as agent, Caller() as caller:
            task_id = await _at_work(agent, caller, "stream")
            finding = asyncio.create_task(caller.find(_request(agent.url, "stream")))
            for _ in range(3):
                agent.go.release()

            reply = await finding

            assert reply is not None
            assert (reply.task_state, reply.task_id) == ("completed", task_id)
            assert reply.text == "onetwothree\ncounted"
            assert len(agent.heard) == 1

    asyncio.run(story())


def test_a_task_still_at_work_when_the_time_is_up_is_named() -> None:
    async def story() -> None:
        async with polite_agent("1.0", remembers=True) as agent, Caller() as caller:
            task_id = await _at_work(agent, caller, "toil")

            with pytest.raises(TimedOut) as timed_out:
                await caller.find(_request(agent.url, "toil", timeout=0.5))

            assert (timed_out.value.task_id, timed_out.value.acted) == (task_id, None)

    asyncio.run(story())


def test_one_of_250_tasks_of_a_context_is_found() -> None:
    async def story() -> None:
        async with polite_agent("1.0", remembers=True) as agent, Caller() as caller:
            requests = [_request(agent.url, "deliver", message_id=f"m-{number}") for number in range(250)]
            answered = [await caller.call(request) for request in requests]

            for number in (0, 100, 249):
                assert await caller.find(requests[number]) == answered[number]
            assert await caller.find(_request(agent.url, "deliver", message_id="m-250")) is None

    asyncio.run(story())


@pytest.mark.parametrize("words", ["speak", "deliver"], ids=["a bare message", "a task without history"])
def test_an_agent_that_keeps_no_history_knows_nothing_of_it(dialect: Dialect, words: str) -> None:
    async def story() -> None:
        async with polite_agent(dialect, remembers=False) as agent, Caller() as caller:
            request = _request(agent.url, words)
            await caller.call(request)

            assert await caller.find(request) is None

            assert len(agent.heard) == 1

    asyncio.run(story())


def test_an_agent_of_0_3_cannot_be_asked_without_a_task() -> None:
    async def story() -> None:
        async with polite_agent("0.3", remembers=True) as agent, Caller() as caller:
            request = _request(agent.url, "deliver")
            answered = await caller.call(request)

            assert await caller.find(request) is None
            # With the task it can, if somebody happens to know it.
            assert await caller.find(_request(agent.url, "deliver", task_id=answered.task_id)) == answered

    asyncio.run(story())


def test_the_card_is_read_again_before_asking() -> None:
    """An agent whose card could not be had is taken to speak 0.3 for a while: that must not stop us from asking."""

    async def story() -> None:
        cards = in_turn(card(version="0.3.0"), card())
        async with rough_agent(says("hello"), cards) as agent, Caller() as caller:
            await caller.call(_request(agent.url))
            assert await caller.find(_request(agent.url)) is None
            assert [sent.rpc["method"] for sent in agent.messages] == ["message/send", "ListTasks"]

    asyncio.run(story())


def test_an_agent_that_is_down_tells_nothing_of_the_message() -> None:
    async def story() -> None:
        async with polite_agent("1.0", remembers=True) as agent, Caller() as caller:
            request = _request(agent.url, "deliver")
            await caller.call(request)
        async with Caller() as caller:
            asked, sent = await asyncio.gather(caller.find(request), caller.call(request), return_exceptions=True)
        assert [type(error) for error in (asked, sent)] == [Unreachable, Unreachable]
        assert isinstance(asked, AgentError)
        assert isinstance(sent, AgentError)
        assert (asked.acted, sent.acted) == (None, False)

    asyncio.run(story())


def test_a2a_sdk_acts_twice_on_a_message_that_comes_twice(dialect: Dialect) -> None:
    """Why an agent is asked first: unless it says that it dedupes, sending again is acting again."""

    async def story() -> None:
        async with polite_agent(dialect, remembers=True) as agent, Caller() as caller:
            request = _request(agent.url, "deliver")
            first, second = await caller.call(request), await caller.call(request)

            assert len(agent.heard) == 2
            assert first.task_id != second.task_id

    asyncio.run(story())


@pytest.mark.parametrize(
    ("name", "words", "intent", "remembers"),
    [
        ("refund", "pay 20 back", "process_refund", True),
        ("account", "my name is Ann", "update_account", True),
        ("greeting", "hello", "greeting", False),  # a bare message
        ("billing", "pay 20", "process_payment", False),  # 0.3
    ],
)
def test_demo_agents_are_asked_after_a_message(name: str, words: str, intent: str, remembers: bool) -> None:
    async def story() -> None:
        async with serve(ports={name: 0}) as urls, Caller() as caller:
            request = _request(urls[name], words, metadata={"intent": intent, "account_id": "ACC-1"})
            answered = await caller.call(request)
            assert await caller.find(request) == (answered if remembers else None)

    asyncio.run(story())
