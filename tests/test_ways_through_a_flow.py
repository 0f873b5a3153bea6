"""The ways through a flow: branches, repetitions, skips, detours and loops, and what is known along them."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from graph import Refused, build_graph, steps_of
from graph.loader import parse_flow
from nodes.ports import AgentRequest, Reply, TaskState, Tell
from nodes.remote.errors import Disconnected

CONFIG: Any = {"configurable": {"thread_id": "CALL-1"}}

CENTRE = """\
flow: centre
waits_for: caller
agents:
  desk: {url: "http://desk:1"}
  auth: {url: "http://auth:2"}
  person: {url: "http://person:3"}
stages:
  hello: {intents: {greet: desk}}
  check:
    intents: {prove: auth}
    output: {verified: verified}
    repeat: {until: verified == true, at_most: 3}
    next: [{when: verified == true, goto: survey}, {goto: handoff}]
  survey: {agent: desk, when: intent == 'never'}
  work: {intents: {pay: desk}, effect: write, next: closing}
  handoff: {agent: person, next: end}
  closing: {intents: {bye: desk}}
anywhere: {escalate: handoff}
gates: [{stage: work, after: check}]
fallback: desk
"""

PIPELINE = """\
flow: pipeline
inputs: [topic]
agents:
  writer: {url: "http://writer:1"}
  critic: {url: "http://critic:2"}
  printer: {url: "http://printer:3"}
stages:
  draft:
    agent: writer
    input: {text: "'write about ' + topic", round: "rounds == null ? 1 : rounds + 1"}
    output: {text: draft_text, round: rounds}
  review:
    agent: critic
    input: {draft: draft_text}
    next: [{when: "answer.data.good != true", goto: draft, at_most: 2}, {goto: illustrate}]
  illustrate: {agent: printer, when: review.data.good == true, on_error: continue}
  publish: {agent: printer, input: {text: draft_text}, on_error: apology, next: end}
  apology: {agent: writer}
"""

Says = Callable[[AgentRequest], Reply]


class Agents:
    """Agents that say what they are told to, in turn, the last of it for ever."""

    def __init__(self, **says: Sequence[dict[str, Any] | str | Exception]) -> None:
        self.says = {agent: list(told) for agent, told in says.items()}
        self.asked: list[AgentRequest] = []

    async def call(self, request: AgentRequest, tell: Tell | None = None) -> Reply:
        self.asked.append(request)
        told = self.says.get(request.agent, ["well"])
        said = told.pop(0) if len(told) > 1 else told[0]
        if isinstance(said, Exception):
            raise said
        if isinstance(said, str):
            return Reply(said)
        return Reply("", data=(said,))

    async def cancel(self, request: AgentRequest) -> TaskState | None:
        return None

    async def find(self, request: AgentRequest) -> Reply | None:
        return None


def call(
    flow: str, agents: Agents, *turns: tuple[str, str | None], **inputs: Any
) -> tuple[dict[str, Any], list[Any]]:
    """Take turns of one call, and return its state and its whole trail."""

    async def story() -> tuple[dict[str, Any], list[Any]]:
        graph: Any = build_graph(parse_flow(flow, "centre.yaml", {}), caller=agents)
        state: dict[str, Any] = {}
        for words, intent in turns:
            said = {"call_identify_id": "C", "account_id": "A", "eci": "E", "input_message": words, "intent": intent}
            state = await graph.ainvoke(said | ({"context": inputs} if inputs else {}), CONFIG)
        return state, list(await steps_of(graph, CONFIG))

    return asyncio.run(story())


def stages(trail: list[Any]) -> list[str]:
    return [step["stage"] for step in trail]


HELLO, PROVE = ("hello", "greet"), ("1234", "prove")


def test_a_stage_is_repeated_until_its_condition_holds() -> None:
    agents = Agents(auth=[{"verified": False}, {"verified": True}])

    state, trail = call(CENTRE, agents, HELLO, PROVE, PROVE, ("50", "pay"))

    assert stages(trail) == ["hello", "check", "check", "work"]
    assert [step["next_flow_id"] for step in trail] == [2, 2, 4, 6]
    assert (state["completed_flows"], state["context"]) == ([1, 2, 4], {"verified": True})


def test_a_stage_is_repeated_so_often_and_then_left() -> None:
    agents = Agents(auth=[{"verified": False}], person=["a person will call you"])

    state, trail = call(CENTRE, agents, HELLO, PROVE, PROVE, PROVE, ("so?", None))

    assert [step["next_flow_id"] for step in trail] == [2, 2, 2, 5, None]
    assert (state["is_complete"], state["session_summary"]["completed_flows"]) == (True, [1, 2, 5])
    assert trail[-1]["response_data"]["text"] == "a person will call you"


@pytest.mark.parametrize("turns", [[], [HELLO], [HELLO, PROVE]])
def test_what_is_legal_anywhere_leads_there_from_everywhere(turns: list[tuple[str, str]]) -> None:
    agents = Agents(auth=[{"verified": True}])

    state, trail = call(CENTRE, agents, *turns, ("a person, please", "escalate"))

    assert (stages(trail)[-1], agents.asked[-1].agent, state["is_complete"]) == ("handoff", "person", True)


def test_what_is_legal_anywhere_is_told_with_what_is_legal_here() -> None:
    with pytest.raises(Refused) as refused:
        call(CENTRE, Agents(), HELLO, ("bye", "bye"))

    assert refused.value.facts["legal_intents"] == ["prove", "escalate", "unknown"]


def test_a_loop_is_taken_only_so_often() -> None:
    agents = Agents(writer=[{"text": f"draft {n}", "round": n} for n in (1, 2, 3)], critic=[{"good": False}])

    state, trail = call(PIPELINE, agents, ("go", None), topic="rain")

    assert stages(trail) == ["draft", "review", "draft", "review", "draft", "review", "publish"]
    assert [step["number"] for step in trail] == [1, 2, 3, 4, 5, 6, 7]
    assert trail[5]["skipped"] == ["illustrate"]
    assert state["is_complete"]
    assert [state["context"][name] for name in ("draft_text", "rounds")] == ["draft 3", 3]


def test_what_is_known_goes_to_the_agents_as_the_flow_says() -> None:
    agents = Agents(
        writer=[{"text": "draft 1", "round": 1}, {"text": "draft 2", "round": 2}], critic=[{"good": True}]
    )

    call(PIPELINE, agents, ("go", None), topic="rain")

    draft, review, illustrate, publish = agents.asked
    assert draft.parts == ({"text": "write about rain"}, {"data": {"round": 1}})
    assert review.parts == ({"data": {"draft": "draft 1"}},)
    assert (illustrate.text, illustrate.parts) == ("go", ())  # no input of its own: what the caller said
    assert (publish.text, publish.parts) == ("draft 1", ({"text": "draft 1"},))


def test_an_agent_that_fails_leads_where_its_stage_says() -> None:
    broken = Disconnected("printer", "the line went dead")
    agents = Agents(writer=[{"text": "draft 1", "round": 1}, "sorry"], critic=[{"good": True}], printer=[broken])

    state, trail = call(PIPELINE, agents, ("go", None), topic="rain")

    assert stages(trail) == ["draft", "review", "illustrate", "publish", "apology"]
    assert [step["response_status"] for step in trail] == ["success", "success", "error", "error", "success"]
    assert (state["is_complete"], state["completed_flows"]) == (True, [1, 2, 5])


def test_an_answer_without_what_the_flow_keeps_is_an_error_that_says_so() -> None:
    agents = Agents(auth=[{"verifed": True}])

    state, trail = call(CENTRE, agents, HELLO, PROVE)

    step = trail[-1]
    assert (step["response_status"], step["next_flow_id"], step["response_data"]["data"]) == (
        "error",
        2,
        [{"verifed": True}],
    )
    assert step["response_data"]["error"] == {
        "type": "expression_failed",
        "message": "the answer has no 'verified', which `output` keeps; it has 'verifed'",
        "retryable": False,
    }
    assert state["stage"] == "check"


def test_a_condition_that_cannot_be_worked_out_never_counts_as_false() -> None:
    agents = Agents(writer=[{"text": "draft 1", "round": 1}], critic=["just words"])

    state, trail = call(PIPELINE, agents, ("go", None), topic="rain")

    assert (stages(trail), state["is_complete"]) == (["draft", "review"], False)
    assert trail[-1]["response_data"]["error"]["message"] == "'answer.data.good != true' cannot be worked out: 'good'"


def test_an_input_that_cannot_be_worked_out_asks_nobody() -> None:
    agents = Agents()

    _, trail = call(PIPELINE, agents, ("go", None), topic=5)

    assert (agents.asked, trail[-1]["response_data"]["error"]["type"]) == ([], "expression_failed")
    assert "'write about ' + topic" in trail[-1]["response_data"]["error"]["message"]
