"""An answer is for the question that was asked: one that comes when another was first answers nothing else, and none
changes how long a session is kept."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from redis import Redis

from graph.store.names import keys_of, thread_name
from server.executing import Executions
from server.executions import Execution
from server.problems import NotWaiting
from server.runtime import Runtime
from tests.background import Background
from tests.conftest import StartService
from tests.moody import moody_agent

ROUNDS = """
flow: rounds
agents: {one: {url: "${ONE_URL}"}}
stages:
  ask: {ask: {question: "Round {{ n == null ? 0 : n }}?", schema: {type: boolean}}}
  work:
    agent: one
    output: {n: n}
    next: [{when: n < 5, goto: ask, at_most: 9}, {goto: end}]
"""
AT_ONCE = """
flow: rounds
agents: {one: {url: "${ONE_URL}"}}
stages:
  ask: {ask: {question: "One?", schema: {type: boolean}}, needs: []}
  also: {ask: {question: "Other?", schema: {type: boolean}}, needs: []}
  work: {agent: one, needs: [ask, also]}
"""


class Slow(Executions):
    """Is overtaken by another answer after it saw what is asked."""

    def __init__(self, runtime: Runtime, other: Callable[[], Awaitable[Execution]]) -> None:
        super().__init__(runtime)
        self._other: Callable[[], Awaitable[Execution]] | None = other

    async def find(self, execution_id: str) -> Execution:
        found = await super().find(execution_id)
        if self._other is not None:
            other, self._other = self._other, None
            await other()
        return found


@pytest.mark.parametrize("flow", [ROUNDS, AT_ONCE])
def test_of_two_answers_the_second_answers_nothing(
    start: StartService, background: Background, tmp_path: Path, flow: str
) -> None:
    (tmp_path / "rounds.yaml").write_text(flow)
    with moody_agent(background, {"n": 1}, {"n": 2}) as agent:
        service = start({"ONE_URL": agent.url}, flows=(str(tmp_path / "rounds.yaml"),), data_dir=tmp_path / "data")
        service.http.post("/flows/rounds/runs", json={"id": "R"})
        quick = Executions(service.runtime)
        slow = Slow(service.runtime, lambda: quick.answer("R", True, step="ask", wait=True))

        with pytest.raises(NotWaiting, match="'ask' asks was answered meanwhile"):
            background.run(slow.answer("R", True, step="ask", wait=True))

        assert service.http.get("/executions/R").json()["question"]["question"] in ("Round 1?", "Other?")
        assert len(agent.heard) == (1 if flow is ROUNDS else 0)


def test_of_two_questions_each_is_answered(start: StartService, background: Background, tmp_path: Path) -> None:
    (tmp_path / "rounds.yaml").write_text(AT_ONCE)
    with moody_agent(background) as agent:
        service = start({"ONE_URL": agent.url}, flows=(str(tmp_path / "rounds.yaml"),), data_dir=tmp_path / "data")
        service.http.post("/flows/rounds/runs", json={"id": "R"})
        quick = Executions(service.runtime)
        slow = Slow(service.runtime, lambda: quick.answer("R", True, step="also", wait=True))

        ended = background.run(slow.answer("R", False, step="ask", wait=True))

    assert (ended.status, len(agent.heard)) == ("completed", 1)


def test_a_session_is_kept_as_long_as_before(start: StartService, valkey_url: str) -> None:
    service = start(redis_url=valkey_url, tenant="answers-once")
    service.turn("C", "hello", "greeting")
    service.turn("C", "code please", "otp_verify")

    answered = service.http.post("/executions/C/answer", json={"answer": "123456", "wait": True})

    assert (answered.status_code, service.http.get("/session/C").json()["current_flow_id"]) == (200, 3)
    with Redis.from_url(valkey_url) as redis:
        assert 3500 < redis.ttl(keys_of(thread_name("answers-once", "C"))[0]) <= 3600
