"""Workflow documents become flows: the seed's two scenarios, odd names, conditions, and what is wrong with others."""

import time
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from graph.loader import FlowError, parse_flow
from graph.workflows import DEFAULT_AGENTS, Untranslatable, Workflow, outer_name, slug, translate, writers_in, written
from graph.workflows.names import NoName, stage_name, variable_name
from nodes.conditions import holds
from tests.workflow_stories import CONTENT, DATA, step, workflow


def flow_of(document: dict[str, Any], *families: Any) -> dict[str, Any]:
    """Translate, and have the result checked like any flow."""
    told = translate(Workflow.model_validate(document), "story", families or [DEFAULT_AGENTS])
    parse_flow(written(told), "story.yaml", {})
    return told


def wrong_with(*steps: dict[str, Any]) -> list[tuple[str, str]]:
    with pytest.raises(Untranslatable) as caught:
        flow_of(workflow(*steps))
    return [(".".join(map(str, place)), message) for place, message in caught.value.found]


def condition_of(text: str, **more: Any) -> tuple[str, list[str]]:
    """The condition in CEL, and the inputs, of a step that comes after one which keeps `mood` and `score`."""
    first = step("look", output_mapping={"a": "mood", "b": "score"})
    told = flow_of(workflow(first, step("act", depends_on=["look"], condition=text, **more)))
    return told["stages"]["act"]["when"], told["inputs"]


def test_the_seeds_content_analysis() -> None:
    told = flow_of(CONTENT)

    assert told["inputs"] == ["input_text"]
    assert told["about"] == "Content Analysis Workflow"
    assert told["stages"] == {
        "sentiment_analysis": {
            "agent": "text_processor",
            "needs": [],
            "input": {"task_type": '"sentiment_analysis"', "text": "input_text"},
            "output": {"sentiment": "content_sentiment"},
            "on_error": "fail",
        },
        "text_summary": {
            "agent": "text_processor",
            "needs": ["sentiment_analysis"],
            "when": 'content_sentiment == "positive"',
            "input": {"task_type": '"text_summary"', "text": "input_text"},
            "output": {"summary": "content_summary"},
            "on_error": "fail",
        },
    }


def test_the_seeds_data_analysis() -> None:
    told = flow_of(DATA)

    assert told["inputs"] == ["raw_data"]
    assert [(name, stage["agent"], stage["needs"]) for name, stage in told["stages"].items()] == [
        ("data_validation", "data_analyzer", []),
        ("statistical_analysis", "data_analyzer", ["data_validation"]),
    ]
    assert told["stages"]["statistical_analysis"]["input"]["data"] == "validated_data"


@pytest.mark.parametrize(
    ("text", "cel", "inputs"),
    [
        ("mood == positive", 'mood == "positive"', []),
        ("positive == mood", '"positive" == mood', []),
        ("mood == 'very good' and score > 0.5", '(mood == "very good") && (score > 0.5)', []),
        ("mood=='good'&&score>=-1||!vip", '((mood == "good") && (score >= -1)) || (!vip)', ["vip"]),
        ("NOT (mood == bad OR score < 1e3)", '!((mood == "bad") || (score < 1e3))', []),
        ("mood in [good, 'fair', fine]", 'mood in ["good", "fair", "fine"]', []),
        ("mood not in moods", "!(mood in moods)", ["moods"]),
        ("gold in tiers", '"gold" in tiers', ["tiers"]),
        ("tier == gold", 'tier == "gold"', ["tier"]),
        ("mood == None or mood != null", "(mood == null) || (mood != null)", []),
        ("order.total > 100", "order.total > 100", ["order"]),
        ("order.lines.0.first-name == Ann", 'order.lines[0]["first-name"] == "Ann"', ["order"]),
        ("look.sure == true", "look.data.sure == true", []),
        ("site == example.com", 'site == "example.com"', ["site"]),
        ("mood == very-good", 'mood == "very-good"', []),
        (r"mood == 'it\'s \"\\'", r'mood == "it\'s \"\\"'.replace(r"\'", "'"), []),
        ("metadata == x", 'v__metadata == "x"', ["v__metadata"]),
        ("5 < score", "5 < score", []),
    ],
)
def test_conditions(text: str, cel: str, inputs: list[str]) -> None:
    assert condition_of(text) == (cel, inputs)


@pytest.mark.parametrize(
    ("text", "where", "remedy"),
    [
        ("mood = positive", 6, "write == to compare"),
        ("mood ==", 8, "it breaks off there"),
        ("mood == a == b", 11, "compare two at a time"),
        ("len(mood) > 3", 4, "calls no functions"),
        ("(mood == a", 11, "close the ( before it"),
        ("mood == 'a", 9, "close the quotation"),
        ("mood & score", 6, "write `and`"),
        ("mood == a score > 1", 11, "write `and` or `or` between"),
        ("{{mood}} == a", 1, "without braces"),
        ("${SECRET} == a", 1, "without signs"),
        ("score + 1 > 2", 7, "do not calculate"),
        ("and", 1, "write a name"),
        ("score == 99999999999999999999", 10, "18 digits"),
        ("__import__('os').system('ls')", 11, "calls no functions"),
        ("(" * 900 + "mood" + ")" * 900, 31, "nested too deeply"),
        ("not " * 400 + "mood )", 1606, "between two conditions"),
    ],
)
def test_conditions_that_are_none(text: str, where: int, remedy: str) -> None:
    first = step("look", output_mapping={"a": "mood", "b": "score"})
    ((place, message),) = wrong_with(first, step("act", condition=text))

    assert place == "steps.1.condition"
    assert f"is no condition, see character {where}: " in message
    assert remedy in message


def test_a_literal_alone_is_no_condition() -> None:
    ((_, message),) = wrong_with(step("act", condition="'yes'"))

    assert "cannot be true or false" in message


def test_a_step_is_no_value() -> None:
    ((_, message),) = wrong_with(step("look"), step("act", condition="mood == look or look == 3"))

    assert message == "'look' is a step; name a field of its answer, look.FIELD, or put text in quotes"


def test_steps_wait_for_what_they_read_and_never_race() -> None:
    told = flow_of(
        workflow(
            step("write", output_mapping={"a": "x"}),
            step("read", input_mapping={"a": "x"}),
            step("rewrite", output_mapping={"a": "x"}),
            step("alone", input_mapping={"a": "y"}),
            step("reply", condition="read.good == true"),
        )
    )

    assert {name: stage["needs"] for name, stage in told["stages"].items()} == {
        "write": [],
        "read": ["write"],
        "rewrite": ["write", "read"],
        "alone": [],
        "reply": ["read"],
    }
    assert told["inputs"] == ["y"]


def test_a_name_that_is_read_before_it_is_written_is_an_input() -> None:
    told = flow_of(workflow(step("count", input_mapping={"n": "total"}, output_mapping={"n": "total"})))

    assert told["inputs"] == ["total"]


def test_odd_names_are_mapped_and_found_again() -> None:
    told = flow_of(
        workflow(
            step("Step 1: look", input_mapping={"text": "the text"}, output_mapping={"a": "end", "b": "Step 2"}),
            step("Step 2", depends_on=["Step 1: look"], input_mapping={"a": "Step 2", "b": "end", "c": "intent"}),
            step("s__y", input_mapping={"a": "größe", "b": "in"}),
        )
    )

    assert [outer_name(name) for name in told["stages"]] == ["Step 1: look", "Step 2", "s__y"]
    assert [outer_name(name) for name in told["inputs"]] == ["the text", "intent", "größe", "in"]
    assert told["stages"]["s__Step_202"]["input"]["task_type"] == '"Step 2"'


@given(st.lists(st.text(min_size=1, max_size=20), min_size=2, max_size=5, unique=True))
def test_no_two_names_become_one(names: list[str]) -> None:
    inner = []
    for name in names:
        for make in (stage_name, lambda name: variable_name(name, ())):
            try:
                inner.append((name, make(name)))
            except (NoName, UnicodeEncodeError):
                return
    assert all(outer_name(made) == name for name, made in inner)


@given(st.text(alphabet="ab.=!<>()[]&|'\" 1-,é\n{}$\\", max_size=40))
@settings(max_examples=300)
def test_any_condition_is_translated_to_cel_that_compiles_or_refused(text: str) -> None:
    refused = ""
    with suppress(Untranslatable):
        try:
            flow_of(workflow(step("act", condition=text)))
        except FlowError as error:
            refused = str(error)

    # It compiles, and can never be true or false: `!1`.
    assert not refused or "cannot be worked out" in refused or "true or false" in refused


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30))
def test_any_text_arrives_as_it_was_sent(text: str) -> None:
    said = text.replace("\\", "\\\\").replace("'", "\\'")
    document = {**workflow(step("act", condition=f"a == '{said}'")), "description": text}
    told = translate(Workflow.model_validate(document), "story", [DEFAULT_AGENTS])
    flow = parse_flow(written(told), "story.yaml", {})

    assert flow.about == f"A story: {text}"
    assert holds(str(flow.stages["act"].when), {"a": text})


def test_what_a_client_sends_reads_no_environment() -> None:
    told = translate(
        Workflow.model_validate(
            {
                **workflow(
                    step(
                        "act",
                        description="${SECRET}",
                        input_mapping={"a": "b.${SECRET}"},
                        condition="b == '${SECRET}'",
                    )
                ),
                "description": "${SECRET}",
            }
        ),
        "story",
        [DEFAULT_AGENTS],
    )
    flow = parse_flow(written(told), "story.yaml", {"SECRET": "hunter2"})

    assert "hunter2" not in flow.model_dump_json()
    assert flow.about.endswith("${SECRET}")
    assert flow.stages["act"].when == 'b == "${SECRET}"'


def test_agents_by_type_or_name_and_tried_so_often_as_a_step_says() -> None:
    desk = {"front": {"url": "http://front:1", "type": "desk", "fallback": "back"}, "back": {"url": "http://back:1"}}
    told = flow_of(
        workflow(
            step("a", agent_type="desk"),
            step("b", agent_type="front", retry=2),
            step("c", agent_type="back", retry={"max_attempts": 3}, timeout=5, on_error="continue"),
            step("d", agent_type="back", retry={"max_retries": 2}, timeout="250ms"),
        ),
        desk,
        DEFAULT_AGENTS,
    )

    assert {name: stage["agent"] for name, stage in told["stages"].items()} == {
        "a": "front",
        "b": "front-2",
        "c": "back-2",
        "d": "back-2",
    }
    assert told["agents"] == {
        "front": {"url": "http://front:1", "type": "desk", "fallback": "back"},
        "back": {"url": "http://back:1"},
        "front-2": {"url": "http://front:1", "type": "desk", "fallback": "back", "attempts": 3},
        "back-2": {"type": "back", "url": "http://back:1", "attempts": 3},
    }
    assert [told["stages"][name].get("timeout") for name in "abcd"] == [None, None, 5, 0.25]


def test_everything_wrong_is_told_at_once() -> None:
    found = wrong_with(
        step("look", agent_type="text_procesor"),
        step("look", depends_on=["lok"]),
        step("act", depends_on=["fly"], output_mapping={"a": "x", "b": "x", "a b": "y"}, input_mapping={"1": "z"}),
    )

    assert found == [
        ("steps.1.name", "two steps are called 'look'; rename one"),
        ("steps.2.output_mapping", "two fields are kept as 'x'; keep one by another name"),
        ("steps.2.input_mapping", f"'1' cannot be a field; {_FIELDS}"),
        ("steps.2.output_mapping", f"'a b' cannot be a field; {_FIELDS}"),
        ("steps.1.depends_on.0", "there is no step 'lok'; did you mean 'look'?"),
        ("steps.2.depends_on.0", "there is no step 'fly'; add it, or depend on another"),
        (
            "steps.0.agent_type",
            "no agent is of type 'text_procesor' or has that name; did you mean 'text_processor'? "
            "known: text_processor, data_analyzer",
        ),
    ]


_FIELDS = "an agent's fields have letters, digits, - and _, begin with a letter, and are at most 64 long"


def test_steps_that_wait_for_each_other() -> None:
    found = wrong_with(
        step("start"),
        step("a", depends_on=["c", "start"]),
        step("b", depends_on=["a"]),
        step("c", depends_on=["b"]),
        step("itself", depends_on=["itself"]),
    )

    ((place, message),) = found
    assert place == "steps.3.depends_on"
    assert message == "the steps wait for each other: a → b → c → a; remove one of the dependencies"


def test_a_step_that_waits_for_itself() -> None:
    assert wrong_with(step("a", depends_on=["a"])) == [
        ("steps.0.depends_on", "the steps wait for each other: a → a; remove one of the dependencies")
    ]


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"name": "x"},
        {"name": "x", "steps": []},
        {"name": "", "steps": [step("a")]},
        {"name": "a\nb", "steps": [step("a")]},
        {"name": "x", "steps": [{"name": "a"}]},
        {"name": "x", "steps": [step(" ")]},
        {"name": "x", "steps": [step("a", retry=10)]},
        {"name": "x", "steps": [step("a", retry={"max_attempts": 1, "max_retries": 1})]},
        {"name": "x", "steps": [step("a", timeout="soon")]},
        {"name": "x", "steps": [step("a", input_mapping={"a": 1})]},
        {"name": "x", "steps": [step("a", dependson=["b"])]},
        {"name": "x", "steps": [step(f"s{number}") for number in range(10_000)]},
    ],
)
def test_documents_that_are_no_workflow(document: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Workflow.model_validate(document)


def test_a_thousand_steps_are_translated_quickly_and_a_thousand_mistakes_told_briefly() -> None:
    names = [f"s{number}" for number in range(1000)]
    chain = [step(name, depends_on=names[:number][-1:]) for number, name in enumerate(names)]
    lost = [step(name, agent_type="nobody", depends_on=[f"no{n}" for n in range(100)]) for name in names]

    clock = time.perf_counter()
    translate(Workflow.model_validate(workflow(*chain)), "story", [DEFAULT_AGENTS])
    with pytest.raises(Untranslatable) as caught:
        translate(Workflow.model_validate(workflow(*lost)), "story", [DEFAULT_AGENTS])

    assert time.perf_counter() - clock < 5
    assert len(caught.value.found) == 20


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("Content: Analysis (2)", "content-analysis-2"),
        ("日本", "workflow"),
        ("3rd try", "workflow"),
        ("a" * 99, "a" * 20),
        ("abcdefghijklmnopqrs Tuv", "abcdefghijklmnopqrs"),
    ],
)
def test_a_short_name_for_a_workflow(name: str, short: str) -> None:
    assert slug(name, 20) == short


def test_an_agent_that_writes_in_a_flow_writes_in_a_workflow() -> None:
    call: dict[str, Any] = {
        "agents": {"bank": {"url": "http://bank:1"}, "clerk": {"url": "http://clerk:1"}},
        "stages": {"ask": {"agent": "clerk"}, "pay": {"intents": {"go": "bank"}, "effect": "write"}},
    }
    steps = [
        {"name": "look", "agent_type": "clerk"},
        {"name": "pay", "agent_type": "bank"},
        {"name": "balance", "agent_type": "bank", "effect": "read"},
    ]
    document = Workflow.model_validate({"name": "Pay", "steps": steps})

    told = translate(document, "pay", [call["agents"]], writers_in(call))

    assert {name: stage.get("effect") for name, stage in told["stages"].items()} == {
        "look": None,
        "pay": "write",
        "balance": None,
    }
    with pytest.raises(Untranslatable) as refused:
        translate(document, "pay", [call["agents"]], writers_in(call), writers_in(call))
    message = "a flow says that 'bank' writes; leave it out, or let who administers the service make the workflow"
    assert refused.value.found == [(("steps", 2, "effect"), message)]
