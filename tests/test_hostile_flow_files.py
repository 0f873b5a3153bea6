"""Flow files that mean harm: refused at once, with a line and a remedy, and without taking the machine along.

What is only written wrongly is in `test_flow_language`.
"""

import os
import resource
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from graph.checks import RESERVED
from graph.loader import FlowError, load_flow, parse_flow
from nodes.conditions import ExpressionFailed, check_expression, check_template, value_of

FLOWS = str(Path(sys.executable).with_name("flows"))
HEAD = """\
flow: hostile
agents: {desk: {url: "http://desk:1"}}
"""
MOST_SECONDS = 2.0
"""Of the processor, for one file."""
MOST_MEMORY = 1_000_000_000
"""Bytes of address space, for one process."""
NO_NAME = "use letters, digits, - and _, starting with a letter, at most 64"


def flow_with(stage: str) -> str:
    return f"{HEAD}stages:\n  first: {{agent: desk}}\n  second: {{{stage}}}\n"


def told(text: str) -> list[str]:
    """What the author is told, in time."""
    began = time.process_time()
    with pytest.raises(FlowError) as caught:
        parse_flow(text, "hostile.yaml", {})
    assert time.process_time() - began < MOST_SECONDS
    assert len(str(caught.value)) < 60_000
    return str(caught.value).splitlines()


LARGE = {
    "ten thousand stages": (
        f"{HEAD}stages:\n" + "".join(f"  stage{number}: {{agent: desk}}\n" for number in range(10_000)),
        "hostile.yaml:1: more than 250,000 characters; make the flow smaller, or several flows of it",
    ),
    "ten thousand short stages": (
        f"{HEAD}stages:\n" + "".join(f"  s{number}: {{agent: desk}}\n" for number in range(10_000)),
        "hostile.yaml:5001: more than 20000 values, repeated ones included; make the flow smaller",
    ),
    "more stages than there may be": (
        f"{HEAD}stages:\n" + "".join(f"  s{number}: {{agent: desk}}\n" for number in range(1_001)),
        "hostile.yaml:3: 'stages' has more than 1000 entries; remove some, or make two flows of it",
    ),
    "a megabyte of brackets": (f"a: {'[' * 1_000_000}", "hostile.yaml:1: more than 250,000 characters"),
    "brackets as far as the file may go": (f"a: {'[' * 200_000}", "hostile.yaml:1: nested more than 40 levels deep"),
    "a million keys without values": ("? " * 120_000, "hostile.yaml:1: nested more than 40 levels deep"),
    "a long condition": (
        flow_with(f"agent: desk, when: {'x' * 100_000}"),
        "hostile.yaml:5: 'stages.second.when' has more than 2000 characters; shorten it",
    ),
    "a long prompt": (
        flow_with(f"llm: {{prompt: {'x ' * 100_000}}}"),
        "hostile.yaml:5: 'stages.second.llm.prompt' has more than 20000 characters; shorten it",
    ),
    "a long expression in a prompt": (
        flow_with(f'llm: {{prompt: "{{{{ {"1+" * 1_500}1 }}}}"}}'),
        "hostile.yaml:5: 'stages.second.llm.prompt': an expression has 3001 characters, at most 2000 are read",
    ),
    "a long name": (
        flow_with(f"? {'k' * 100_000} : 1, agent: desk"),
        "hostile.yaml:5: unknown key 'stages.second.kkkk",
    ),
    "more branches than there may be": (
        flow_with("parallel: {" + ", ".join(f"b{number}: {{agent: desk}}" for number in range(101)) + "}"),
        "hostile.yaml:5: 'stages.second.parallel' has more than 100 entries",
    ),
}


@pytest.mark.parametrize(("text", "line"), LARGE.values(), ids=LARGE)
def test_what_is_too_large_is_refused(text: str, line: str) -> None:
    [only] = told(text)
    assert only.startswith(line)


def test_of_many_mistakes_the_first_are_told() -> None:
    lines = told(f"{HEAD}stages:\n" + "".join(f"  s{number}: {{agnt: desk}}\n" for number in range(900)))
    assert len(lines) == 51
    assert lines[0] == "hostile.yaml:4: unknown key 'stages.s0.agnt'; did you mean 'agent'?"
    assert lines[-1] == "hostile.yaml:54: and 850 more; mend these first"


def test_a_file_of_100_megabytes_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "large.yaml"
    with file.open("wb") as large:
        large.truncate(100_000_000)

    began = time.process_time()
    with pytest.raises(FlowError, match=r"large\.yaml:1: more than 250,000 characters; make the flow smaller"):
        load_flow(file)
    assert time.process_time() - began < 0.1


def test_a_file_without_end_is_not_read() -> None:
    with pytest.raises(FlowError, match="more than 250,000 characters"):
        load_flow("/dev/zero")


@pytest.mark.parametrize(
    "tag", ["!!python/object:os.system", "!!python/object/apply:os.system", "!custom", "!!set", "!", "!!str"]
)
def test_tags_are_not_followed(tag: str) -> None:
    [line] = told(f"{HEAD}stages: {{one: {{agent: {tag} desk}}}}\n")
    assert line.startswith("hostile.yaml:3: the tag ")
    assert line.endswith(" is not part of the flow language; remove it")


@pytest.mark.parametrize(
    "name", ["a.b", "a/b", "a{b}", "__class__", "__overwrite__", "_x", "a b", "$x", "é", "a\\nb"]
)
def test_a_name_is_a_plain_word(name: str) -> None:
    places = {
        "stages": f'{HEAD}stages: {{first: {{agent: desk}}, "{name}": {{agent: desk}}}}\n',
        "agents": f'flow: hostile\nagents: {{"{name}": {{url: "http://d:1"}}}}\nstages: {{one: {{agent: d}}}}\n',
        "branches": flow_with(f'parallel: {{"{name}": {{agent: desk}}}}'),
        "outputs": flow_with(f'agent: desk, output: {{text: "{name}"}}'),
        "inputs": f'{HEAD}inputs: ["{name}"]\nstages: {{one: {{agent: desk}}}}\n',
        "input": flow_with(f'agent: desk, input: {{"{name}": "1"}}'),
        "targets": flow_with(f'agent: desk, next: "{name}"'),
        "needs": flow_with(f'agent: desk, needs: ["{name}"]'),
        "fallback": f'{HEAD}fallback: "{name}"\nstages: {{one: {{agent: desk}}}}\n',
    }
    for place, text in places.items():
        assert any(line.endswith(NO_NAME) for line in told(text)), place


@pytest.mark.parametrize("name", RESERVED)
def test_names_of_the_graph_s_own_are_refused(name: str) -> None:
    assert any(
        f"{name!r} is a name of the graph's own" in line
        for line in told(flow_with("agent: desk").replace("second", name))
    )


def test_half_a_file_is_no_file() -> None:
    [line] = told(f"{HEAD}stages: {{one: {{agent: de\0sk}}}}\n")
    assert line == (
        "hostile.yaml:3: not YAML: the character '\\x00' is not allowed; remove it, or save the file as UTF-8"
    )


EXPRESSIONS = {
    "a thousand brackets": ("(" * 999 + "1" + ")" * 999, "is nested more than 50 brackets deep; flatten it"),
    "lists in lists": ("[" * 60 + "]" * 60, "is nested more than 50 brackets deep; flatten it"),
    "choices in choices": (
        "true ? 1 : " * 150 + "1",
        "is no CEL expression at character 1057: it is nested too deep",
    ),
    "macros that multiply": (
        "[1, 2].map(a, [1, 2].map(b, [1, 2].map(c, [1, 2].map(d, a))))",
        "uses 4 of all, exists, map and filter; at most 3 in one expression",
    ),
    "macros that double a text": (
        "['ab']" + ".map(x, x + x)" * 60,
        "uses 60 of all, exists, map and filter; at most 3 in one expression",
    ),
    "a pattern that is written out": ("intent.matches('(a{1,90}){1,90}')", "has a pattern that may take too long"),
    "a long pattern": (f"intent.matches('{'a' * 300}')", "has a pattern that may take too long"),
    "a pattern from outside": ("intent.matches(input_message)", "works out its pattern; write x.matches('pattern')"),
    "a pattern that is none": ("intent.matches('(')", "cannot be read: unclosed group; correct it"),
}


@pytest.mark.parametrize(("text", "line"), EXPRESSIONS.values(), ids=EXPRESSIONS)
def test_an_expression_that_may_cost_too_much_is_refused(text: str, line: str) -> None:
    [only] = told(flow_with(f'agent: desk, input: {{text: "{text}"}}'))
    assert only.startswith("hostile.yaml:5: 'stages.second.input.text': ")
    assert line in only


@pytest.mark.parametrize(
    "text",
    [
        *("(" * 49 + "1" + ")" * 49, "1" + "+1" * 999, "!" * 1_996 + "true", "a" + ".b" * 999, "a" + "[0]" * 666),
        *("true" + "&&true" * 332, "size(" * 49 + "a" + ")" * 49, "a.map(x,a.map(y,a.map(z,x)))"),
        *("a.exists(x, x == '.map(.map(.map(.map(')", "a.matches('^[A-Z]{2}[0-9]{1,12}$')", r"a.matches(r'\d+')"),
    ],
)
def test_an_expression_within_bounds_is_survived(text: str) -> None:
    assert check_expression(text) == text


def cost(text: str, known: dict[str, Any]) -> float:
    """Seconds of the processor that an expression takes, whether it comes to anything or is refused."""
    check_expression(text)
    began = time.process_time()
    with suppress(ExpressionFailed):
        value_of(text, known)
    return time.process_time() - began


def test_what_an_expression_may_not_go_over_is_told() -> None:
    with pytest.raises(ExpressionFailed, match="it goes over 9000 items, too many for it; use a `map` stage"):
        value_of("rows.map(r, r)", {"rows": [1] * 9_000})


@pytest.mark.parametrize("count", [10, 300, 1_000, 3_000, 30_000])
def test_no_list_makes_an_expression_take_long(count: int) -> None:
    rows = [{"name": "n" * 50, "number": number, "tags": ["a", "b"]} for number in range(count)]
    for text in (
        *("rows.exists(r, r.number == -1)", "rows.map(r, r.name)", "rows.filter(r, r.number > 5).map(r, r.name)"),
        *("rows.map(r, rows.map(s, s.number))", "rows.all(r, rows.exists(s, s.number == r.number))"),
        *("rows.map(r, r.name + ' ' + r.name)", "(rows + rows + rows + rows).map(r, r)"),
        *("rows.map(r, rows.map(s, rows.map(t, t)))", "rows.map(r, r.name" + " + r.name" * 100 + ")"),
        *("[rows].map(x, x + x + x + x).map(x, x + x + x)[0].map(y, y)",),
    ):
        assert cost(text, {"rows": rows}) < MOST_SECONDS, text


def test_a_sum_of_large_texts_is_refused() -> None:
    assert cost("+".join(["text"] * 300), {"text": "x" * 1_000_000}) < MOST_SECONDS


def test_lists_of_everyday_size_are_gone_over() -> None:
    rows = [{"name": f"n{number}", "ok": number % 2 == 0} for number in range(1_000)]
    assert value_of("rows.filter(r, r.ok).map(r, r.name).size()", {"rows": rows}) == 500
    assert value_of("rows.all(r, rows.exists(s, s.name == r.name))", {"rows": rows[:300]}) is True


@pytest.mark.parametrize("text", ["{{" * 9_000, "{{ 1 }}" * 2_500 + "{{", "}}" * 9_000 + "{{"])
def test_a_template_that_is_not_closed_is_found_at_once(text: str) -> None:
    began = time.process_time()
    with pytest.raises(ValueError, match="is not closed"):
        check_template(text)
    assert time.process_time() - began < MOST_SECONDS


SCHEMAS = {
    "over http": '{$ref: "http://127.0.0.1:9/schema"}',
    "from a file": '{$ref: "file:///etc/passwd"}',
    "by way of its id": '{$id: "http://127.0.0.1:9/a", $ref: b}',
    "dynamically": '{$dynamicRef: "http://127.0.0.1:9/schema"}',
    "deep inside": '{properties: {a: {items: {$ref: "http://127.0.0.1:9/schema"}}}}',
}


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS)
@pytest.mark.parametrize("asked", ["ask: {question: Why, schema: SCHEMA}", "llm: {prompt: Why, schema: SCHEMA}"])
def test_a_schema_is_never_fetched(asked: str, schema: str) -> None:
    lines = told(flow_with(asked.replace("SCHEMA", schema)))
    assert any("leads to another document, which is not fetched" in line for line in lines)


def bounded() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (10, 10))


BOMBS = {
    "laughs": "a: &a [" + "ha, " * 5_000 + "]\nb: [" + "*a, " * 5_000 + "]\n",
    "laughs in laughs": "a: &a [ha, ha]\n" + "".join(f"b{n}: &b{n} [*a, *a]\n" for n in range(100)),
    "sums": flow_with(f'agent: desk, when: "{"1+" * 100_000}1 == 1"'),
    "doubling": flow_with("agent: desk, when: \"['ab']" + ".map(x, x + x)" * 60 + '.size() == 1"'),
    "anchors": "".join(f"a{number}: &a{number} x\n" for number in range(15_000)),
    "variables": HEAD + "about: '" + "${A:-" * 40_000 + "'\n",
}


@pytest.mark.parametrize("text", BOMBS.values(), ids=BOMBS)
def test_no_file_takes_the_process_along(text: str, tmp_path: Path) -> None:
    file = tmp_path / "bomb.yaml"
    file.write_text(text)

    done = subprocess.run(
        [FLOWS, "check", str(file)],
        preexec_fn=bounded,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith(f"flows: {file}:")
    assert "Traceback" not in done.stderr
