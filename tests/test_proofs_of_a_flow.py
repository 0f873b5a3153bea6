"""What is proven of a flow before it may run, and what its author is told where it does not hold."""

import pytest

from graph.flow import Flow
from graph.loader import FlowError, load_flow, parse_flow

SMALL = """\
flow: small
inputs: [topic]
agents: {desk: {url: "http://desk:1"}}
stages:
  one: {agent: desk, output: {text: words}}
  two: {agent: desk}
  three: {agent: desk}
"""

CALL = """\
flow: call
waits_for: caller
agents: {desk: {url: "http://desk:1"}}
stages:
  hello: {intents: {greet: desk}}
  check: {intents: {prove: desk}}
  work: {intents: {pay: desk}}
fallback: desk
"""


def parsed(text: str) -> Flow:
    return parse_flow(text, "small.yaml", {})


def told(text: str) -> list[str]:
    with pytest.raises(FlowError) as caught:
        parsed(text)
    return [line.removeprefix("small.yaml:") for line in str(caught.value).splitlines()]


def changed(text: str, old: str, new: str) -> str:
    assert text.count(old) == 1
    return text.replace(old, new)


def second(more: str) -> str:
    return changed(SMALL, "two: {agent: desk}", f"two: {{agent: desk, {more}}}")


WRONG = {
    "a stage out of reach": (
        changed(SMALL, "words}}", "words}, next: three}"),
        "6: no way leads to stage 'two'; lead one there with `next`, or remove it",
    ),
    "a way to nowhere": (second("next: tree"), "6: there is no stage 'tree'; did you mean 'three'?"),
    "a detour to nowhere": (
        second("on_error: tree"),
        "6: there is no stage 'tree'; write `fail`, `continue`, or a stage's name",
    ),
    "stages without a way out": (
        changed(
            SMALL, "three: {agent: desk}", "three: {agent: desk, next: [{goto: two, at_most: 2}, {goto: three}]}"
        ),
        "5: from stage 'one' no way leads to the end; let one lead to `end`",
    ),
    "a loop that nothing ends": (
        changed(SMALL, "three: {agent: desk}", "three: {agent: desk, next: [{when: topic == 'x', goto: two}]}"),
        "7: nothing ends the loop two → three → two; give one of its ways `at_most: N`",
    ),
    "a name that nothing writes": (
        second("when: wrods == 'x'"),
        "6: \"wrods == 'x'\" reads 'wrods', which nothing writes; did you mean 'words'?",
    ),
    "a name that is written later": (
        changed(SMALL, "one: {agent: desk,", "one: {agent: desk, input: {text: three.text},"),
        "5: 'three.text' reads 'three' before anything writes it; no stage before 'one' does",
    ),
    "an answer that is not there yet": (
        second("when: answer.text == 'x'"),
        "6: \"answer.text == 'x'\" reads 'answer', which nothing writes; write it with `output`, "
        "name it under `inputs`, or quote it if it is a text",
    ),
    "a condition that breaks off": (
        second("when: topic =="),
        "6: 'stages.two.when': 'topic ==' is no CEL expression at character 9: it breaks off; correct it",
    ),
    "a condition that is a number": (
        second("when: size(topic)"),
        "6: 'stages.two.when': 'size(topic)' cannot be true or false; compare it with something",
    ),
    "a condition that is always a number": (
        second("when: '3'"),
        "6: 'stages.two.when': '3' is int, not true or false; compare it with something",
    ),
    "a function that is none": (
        second("when: lower(topic) == 'x'"),
        "6: 'stages.two.when': \"lower(topic) == 'x'\" calls 'lower', which CEL does not have; "
        "it has size, contains, startsWith, endsWith, matches, int, double, string, all, exists",
    ),
    "a long condition": (
        second(f"when: \"topic == '{'x' * 2_000}'\""),
        "6: 'stages.two.when' has more than 2000 characters; shorten it",
    ),
    "the first stage skipped": (
        changed(SMALL, "one: {agent: desk,", "one: {agent: desk, when: topic == 'x',"),
        "5: stage 'one' is entered at once, so it cannot be skipped; remove `when`",
    ),
    "an output over a stage": (
        second("output: {text: three}"),
        "6: 'three' is a stage's answer; choose another name",
    ),
    "an output over what is always there": (
        second("output: {text: intent}"),
        "6: 'intent' is always there; choose another name",
    ),
    "anywhere without a caller": (
        f"{SMALL}anywhere: {{escalate: three}}\n",
        "8: intents need a caller; add `waits_for: caller`",
    ),
    "anywhere to nowhere": (
        f"{CALL}anywhere: {{escalate: wrok}}\n",
        "9: there is no stage 'wrok'; did you mean 'work'?",
    ),
    "an intent here and anywhere": (
        f"{CALL}anywhere: {{prove: work}}\n",
        "6: 'prove' is legal everywhere already; keep one of them",
    ),
    "a gate that can be walked around": (
        changed(CALL, "{greet: desk}}", "{greet: desk}, next: [{when: eci == 'x', goto: work}]}")
        + "gates: [{stage: work, after: check}]\n",
        "9: stage 'work' can be reached before 'check' was answered: hello → work",
    ),
    "a gate that an error opens": (
        changed(CALL, "{prove: desk}}", "{prove: desk}, on_error: work}") + "gates: [{stage: work, after: check}]\n",
        "9: stage 'work' can be reached before 'check' was answered: hello → check → work",
    ),
    "a gate that an intent opens": (
        f"{CALL}anywhere: {{hurry: work}}\ngates: [{{stage: work, after: check}}]\n",
        "10: stage 'work' can be reached before 'check' was answered: hello → work",
    ),
}


@pytest.mark.parametrize(("text", "line"), WRONG.values(), ids=WRONG)
def test_what_does_not_hold_is_told(text: str, line: str) -> None:
    assert line in told(text)


def test_a_gate_that_holds_on_every_path() -> None:
    detour = changed(CALL, "{greet: desk}}", "{greet: desk}, next: [{when: eci == 'x', goto: check}]}")
    assert parsed(f"{detour}gates: [{{stage: work, after: check}}]\n").gates


def test_the_shipped_call_is_gated() -> None:
    assert [(gate.stage, gate.after) for gate in load_flow("call", {}).gates] == [("fulfillment", "authentication")]


def test_a_flow_may_have_a_thousand_stages_and_no_more() -> None:
    stages = "".join(f"  s{n}: {{agent: desk, output: {{text: t{n}}}}}\n" for n in range(1_000))
    text = f'flow: long\nagents: {{desk: {{url: "http://desk:1"}}}}\nstages:\n{stages}'

    assert len(parsed(text).stages) == 1_000
    assert "more than 1000 entries" in told(f"{text}  more: {{agent: desk}}\n")[0]
