"""What agents tell of a message counts by the message's id alone, however they list and keep their tasks."""

import asyncio
from typing import Any

import pytest

from nodes.ports import AgentRequest, Reply
from nodes.remote import AgentError, Caller
from nodes.remote.errors import BadReply, Disconnected, RpcFailed, TimedOut
from tests.rough_agents import Answer, RoughAgent, answers, answers_rpc, card, hangs, in_turn, rough_agent, sends

Json = dict[str, Any]
Asked = list[tuple[str, Json]]

OURS = {"messageId": "m-1", "role": "ROLE_USER", "parts": [{"text": "pay"}]}
THEIRS = {"messageId": "m-0", "role": "ROLE_USER", "parts": [{"text": "hello"}]}
OLD = {"messageId": "q-1", "role": "ROLE_AGENT", "parts": [{"text": "how much?"}]}
NEW = {"messageId": "q-2", "role": "ROLE_AGENT", "parts": [{"text": "to whom?"}]}


def _find(*told: Answer, version: str = "1.0", **fields: Any) -> tuple[Reply | AgentError | None, Asked]:
    """Return what is found at an agent that gives these answers in turn, and what it was asked."""
    facts = {"message_id": "m-1", "context_id": "c-1", "task_id": None, "timeout": 10.0, **fields}

    async def story() -> tuple[Reply | AgentError | None, RoughAgent]:
        async with rough_agent(in_turn(*told), card(version=version)) as agent, Caller() as caller:
            try:
                return await caller.find(AgentRequest(agent="desk", url=agent.url, text="pay", **facts)), agent
            except AgentError as error:
                return error, agent

    came, agent = asyncio.run(story())
    return came, [(sent.rpc["method"], sent.rpc["params"]) for sent in agent.messages]


def _task(task_id: str, *history: Json, state: str = "COMPLETED", context: str = "c-1", **status: Any) -> Json:
    document = {"id": task_id, "contextId": context, "status": {"state": f"TASK_STATE_{state}", **status}}
    return document | ({"history": list(history)} if history else {})


def _tells(task: Json) -> Answer:
    return answers_rpc(result=task)


def _lists(*tasks: Json, further: str = "") -> Answer:
    return answers_rpc(result={"tasks": list(tasks), "nextPageToken": further, "pageSize": 100, "totalSize": 250})


def _refuses(code: int) -> Answer:
    return answers_rpc(error={"code": code, "message": "no"})


def _state(came: Reply | AgentError | None) -> tuple[str | None, str | None]:
    assert isinstance(came, Reply)
    return came.task_id, came.task_state


def test_tasks_of_other_contexts_are_not_ours_even_if_listed() -> None:
    foreign = _task("t-1", OURS, context="c-2")
    came, asked = _find(_lists(foreign, _task("t-2", THEIRS)))
    assert came is None
    assert asked == [
        ("ListTasks", {"contextId": "c-1", "pageSize": 100, "historyLength": 1000, "includeArtifacts": False})
    ]


def test_every_page_is_read_until_the_message_is_found() -> None:
    pages = [[_task(f"t-{page}-{number}", THEIRS) for number in range(100)] for page in range(2)]
    ours = _task("t", OURS)
    came, asked = _find(_lists(*pages[0], further="p2"), _lists(*pages[1], further="p3"), _lists(ours), _tells(ours))
    assert _state(came) == ("t", "completed")
    assert [params.get("pageToken") for method, params in asked if method == "ListTasks"] == [None, "p2", "p3"]
    assert asked[-1] == ("GetTask", {"id": "t", "historyLength": 1000})


def test_a_list_without_end_is_given_up() -> None:
    came, asked = _find(_lists(_task("t-1", THEIRS), further="again"))
    assert (came, len(asked)) == (None, 100)


def test_a_history_that_is_not_listed_is_asked_for() -> None:
    bare, whole = _task("t-1"), _task("t-1", OURS)
    came, asked = _find(_lists(bare), _tells(bare), _tells(whole), _tells(whole))
    assert _state(came) == ("t-1", "completed")
    assert asked[1:] == [
        ("GetTask", {"id": "t-1", "historyLength": 1000}),
        ("GetTask", {"id": "t-1"}),
        ("GetTask", {"id": "t-1", "historyLength": 1000}),
    ]


@pytest.mark.parametrize("code", [-32001, -32004, -32601])
@pytest.mark.parametrize(("version", "task_id"), [("1.0", None), ("1.0", "t-1"), ("0.3.0", "t-1")])
def test_an_agent_that_cannot_be_asked_is_no_error(code: int, version: str, task_id: str | None) -> None:
    came, asked = _find(_refuses(code), version=version, task_id=task_id)
    assert (came, len(asked)) == (None, 1)


def test_an_agent_of_0_3_is_not_even_asked_without_a_task() -> None:
    assert _find(hangs, version="0.3.0") == (None, [])


@pytest.mark.parametrize(
    "stale",
    [
        _task("t-1", THEIRS, OLD, OURS, state="INPUT_REQUIRED"),  # as a2a-python leaves it for a moment
        _task("t-1", THEIRS, OLD, OURS, state="INPUT_REQUIRED", message=OLD),  # as a2a-js does while it works
        _task("t-1", THEIRS, OURS, state="INPUT_REQUIRED", message=OLD),  # as a2a-go does while it works
        _task("t-1", OURS, state="AUTH_REQUIRED", message=OLD),
        _task("t-1", THEIRS, OLD, OURS, state="WORKING"),
        _task("t-1", THEIRS, OLD, OURS, state="SUBMITTED"),
    ],
)
def test_a_question_asked_before_the_message_is_not_its_answer(stale: Json) -> None:
    done = _task("t-1", THEIRS, OLD, OURS)
    came, asked = _find(_tells(stale), _tells(stale), _tells(stale), _tells(done), task_id="t-1")
    assert _state(came) == ("t-1", "completed")
    assert len(asked) == 4


@pytest.mark.parametrize(
    "asks",
    [
        _task("t-1", THEIRS, OLD, OURS, NEW, state="INPUT_REQUIRED", message=NEW),  # a2a-js
        _task("t-1", THEIRS, OURS, OLD, state="INPUT_REQUIRED", message=NEW),  # a2a-go
    ],
)
def test_a_question_asked_after_the_message_is_its_answer(asks: Json) -> None:
    came, _ = _find(_tells(asks), task_id="t-1")
    assert _state(came) == ("t-1", "input-required")
    assert isinstance(came, Reply)
    assert came.text == "to whom?"


def test_a_task_that_began_with_the_message_and_waits_has_answered_it() -> None:
    asks = _task("t-1", OURS, state="INPUT_REQUIRED", message=NEW)
    came, _ = _find(_lists(asks), _tells(asks))
    assert _state(came) == ("t-1", "input-required")


def test_a_task_that_ends_is_the_answer_however_short_its_history() -> None:
    came, _ = _find(_tells(_task("t-1", OURS, state="FAILED")), task_id="t-1")
    assert _state(came) == ("t-1", "failed")


def test_asking_again_survives_a_bad_moment_of_the_agent() -> None:
    works, done = _task("t-1", OURS, state="WORKING"), _task("t-1", OURS)
    came, asked = _find(_lists(works), _tells(works), sends(), answers("down", 503), _tells(done))
    assert _state(came) == ("t-1", "completed")
    assert [method for method, _ in asked] == ["ListTasks", *["GetTask"] * 4]


def test_an_agent_that_forgets_its_task_meanwhile_knows_nothing_of_it() -> None:
    works = _task("t-1", OURS, state="WORKING")
    came, asked = _find(_lists(works), _tells(works), _refuses(-32001))
    assert (came, len(asked)) == (None, 3)


@pytest.mark.parametrize(
    ("answer", "fields", "expected"),
    [
        (hangs, {"timeout": 0.2}, TimedOut),
        (hangs, {"timeout": 0.2, "task_id": "t-1"}, TimedOut),
        (sends(), {}, Disconnected),
        (_refuses(-32603), {}, RpcFailed),
        (_refuses(-32602), {"task_id": "t-1"}, RpcFailed),
        (answers("<html>"), {}, BadReply),
        (_tells({"tasks": "many"}), {}, BadReply),
        (_tells({"tasks": [1]}), {}, BadReply),
        (_tells({"tasks": [_task("t-1", OURS) | {"history": [1]}]}), {}, BadReply),
        (_tells({"tasks": [{"contextId": "c-1", "history": [OURS]}]}), {}, BadReply),
        (answers_rpc(result="a task"), {"task_id": "t-1"}, BadReply),
        (_tells(_task("t-2", OURS)), {"task_id": "t-1"}, BadReply),
        (_tells(_task("t-1", OURS, state="LOST")), {"task_id": "t-1"}, BadReply),
        (_tells(_task("t-1", OURS) | {"artifacts": [1]}), {"task_id": "t-1"}, BadReply),
    ],
)
def test_whatever_else_goes_wrong_is_one_error(answer: Answer, fields: Json, expected: type[AgentError]) -> None:
    came, _ = _find(answer, **fields)
    assert type(came) is expected
    assert isinstance(came, AgentError)
    assert came.acted is None  # it tells of the asking, not of the message
    assert not isinstance(came, TimedOut) or came.task_id is None
