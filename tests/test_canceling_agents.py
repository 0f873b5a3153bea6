"""Canceling reaches the agent: the task that is named, or else what the agent has open in the context."""

import asyncio
from typing import Any

import pytest

from nodes.ports import AgentRequest, Chunk, Progress
from nodes.remote import AgentError, Caller
from nodes.remote.dialect import Dialect
from nodes.remote.errors import BadReply, Disconnected, RpcFailed, TimedOut
from tests.polite_agents import polite_agent
from tests.rough_agents import Answer, RoughAgent, answers_rpc, card, hangs, in_turn, rough_agent, sends

Json = dict[str, Any]


@pytest.fixture(params=["0.3", "1.0"])
def dialect(request: pytest.FixtureRequest) -> Dialect:
    spoken: Dialect = request.param
    return spoken


def _request(url: str, text: str = "", **fields: Any) -> AgentRequest:
    facts = {"message_id": "m-1", "context_id": "c-1", "task_id": None, "timeout": 10.0, **fields}
    return AgentRequest(agent="desk", url=url, text=text, **facts)


def _roughly(
    *answers: Answer, version: str = "1.0", **fields: Any
) -> tuple[str | AgentError | None, list[tuple[str, Json]]]:
    """Return what came of canceling at an agent that gives these answers in turn, and what it was asked."""

    async def story() -> tuple[str | AgentError | None, RoughAgent]:
        async with rough_agent(in_turn(*answers), card(version=version)) as agent, Caller() as caller:
            try:
                return await caller.cancel(_request(agent.url, **fields)), agent
            except AgentError as error:
                return error, agent

    came, agent = asyncio.run(story())
    return came, [(sent.rpc["method"], sent.rpc["params"]) for sent in agent.messages]


@pytest.mark.parametrize("streaming", [True, False], ids=["streams", "does not"])
def test_a_task_at_work_is_canceled(dialect: Dialect, streaming: bool) -> None:
    async def story() -> None:
        async with polite_agent(dialect, streaming=streaming) as agent, Caller() as caller:
            known: asyncio.Queue[Chunk | Progress] = asyncio.Queue()
            request = _request(agent.url, "toil", streams=True)
            call = asyncio.create_task(caller.call(request, known.put_nowait))
            working = await known.get()
            assert isinstance(working, Progress)

            state = await caller.cancel(_request(agent.url, task_id=working.task_id))

            assert (state, agent.canceled) == ("canceled", [working.task_id])
            reply = await call
            assert (reply.task_state, reply.text) == ("canceled", "canceled")

    asyncio.run(story())


def test_a_task_at_its_end_is_not_canceled(dialect: Dialect) -> None:
    async def story() -> None:
        async with polite_agent(dialect) as agent, Caller() as caller:
            done = await caller.call(_request(agent.url, "deliver"))
            for task_id in (done.task_id, "no-such-task"):
                assert await caller.cancel(_request(agent.url, task_id=task_id)) is None
            assert agent.canceled == []

    asyncio.run(story())


def test_what_is_open_in_the_context_is_canceled_without_a_task() -> None:
    async def story() -> None:
        async with polite_agent("1.0") as agent, Caller() as caller:
            await caller.call(_request(agent.url, "deliver"))
            other = await caller.call(_request(agent.url, "ask", context_id="c-2"))
            asked = await caller.call(_request(agent.url, "ask"))

            assert await caller.cancel(_request(agent.url)) == "canceled"

            assert agent.canceled == [asked.task_id]
            assert await caller.cancel(_request(agent.url)) is None
            assert await caller.cancel(_request(agent.url, task_id=other.task_id)) == "canceled"

    asyncio.run(story())


def test_an_agent_of_0_3_cannot_be_asked_what_it_has_open() -> None:
    assert _roughly(hangs, version="0.3.0") == (None, [])


def _task(task_id: str, context_id: str = "c-1", state: str = "TASK_STATE_WORKING") -> Json:
    return {"id": task_id, "contextId": context_id, "status": {"state": state}}


def test_tasks_of_other_contexts_are_left_alone_even_if_listed() -> None:
    listed = [_task("t-1"), _task("t-2", "c-2"), _task("t-3", state="TASK_STATE_COMPLETED"), _task("t-4")]
    refused = answers_rpc(error={"code": -32002, "message": "not cancelable"})
    came, asked = _roughly(
        answers_rpc(result={"tasks": listed}), refused, answers_rpc(result=_task("t-4", state="TASK_STATE_CANCELED"))
    )
    assert came == "canceled"
    assert [method for method, _ in asked] == ["ListTasks", "CancelTask", "CancelTask"]
    assert [params["id"] for _, params in asked[1:]] == ["t-1", "t-4"]
    assert asked[0][1]["contextId"] == "c-1"


@pytest.mark.parametrize("code", [-32001, -32002, -32004, -32601])
@pytest.mark.parametrize("task_id", ["t-1", None])
def test_an_agent_that_will_not_is_no_error(code: int, task_id: str | None) -> None:
    came, asked = _roughly(answers_rpc(error={"code": code, "message": "no"}), task_id=task_id)
    assert (came, len(asked)) == (None, 1)


@pytest.mark.parametrize(
    ("answer", "fields", "expected"),
    [
        (hangs, {"task_id": "t-1", "timeout": 0.1}, TimedOut),
        (hangs, {"timeout": 0.1}, TimedOut),
        (sends(), {"task_id": "t-1"}, Disconnected),
        (answers_rpc(error={"code": -32603, "message": "oops"}), {"task_id": "t-1"}, RpcFailed),
        (answers_rpc(result="canceled"), {"task_id": "t-1"}, BadReply),
        (answers_rpc(result={"tasks": [1]}), {}, BadReply),
    ],
)
def test_whatever_else_goes_wrong_is_one_error(answer: Answer, fields: Json, expected: type[AgentError]) -> None:
    came, asked = _roughly(answer, **fields)
    assert type(came) is expected
    assert len(asked) == 1
