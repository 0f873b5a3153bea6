"""The flow language: what a file may say, and what its author is told, with file, line and remedy, if it does not."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from graph.document import read_document
from graph.flow import Flow, json_schema
from graph.loader import FlowError, load_flow, parse_flow, shipped_flows
from nodes.spec import Agent, Stage

REPOSITORY = Path(__file__).parents[1]

SMALL = """\
flow: small
waits_for: caller
agents:
  desk: {url: "http://desk:1"}
  night: {url: "http://night:2", timeout: 3s}
stages:
  hello:
    intents: {greet: desk}
  work:
    agent: night
    effect: write
fallback: desk
triggers:
  greet: [hello, "good morning"]
"""


def parsed(text: str, **env: str) -> Flow:
    return parse_flow(text, "small.yaml", env)


def told(text: str, **env: str) -> list[str]:
    """What the author is told, each with file and line."""
    with pytest.raises(FlowError) as caught:
        parsed(text, **env)
    return str(caught.value).splitlines()


def changed(old: str, new: str) -> str:
    assert SMALL.count(old) == 1
    return SMALL.replace(old, new)


def test_a_file_says_what_it_says() -> None:
    assert parsed(SMALL) == Flow(
        flow="small",
        waits_for="caller",
        agents={"desk": Agent(url="http://desk:1"), "night": Agent(url="http://night:2", timeout=3)},
        stages={"hello": Stage(intents={"greet": "desk"}), "work": Stage(agent="night", effect="write")},
        fallback="desk",
        triggers={"greet": ["hello", "good morning"]},
    ).with_digest(parsed(SMALL).digest)


@pytest.mark.parametrize(
    ("written", "seconds"), [("15s", 15.0), ("250ms", 0.25), ("2m", 120.0), ("1.5s", 1.5), ("7", 7.0), ("0.5", 0.5)]
)
def test_durations(written: str, seconds: float) -> None:
    assert parsed(changed("3s", written)).agents["night"].timeout == seconds


@pytest.mark.parametrize(
    "word", ["on", "yes", "No", "12:30", "0x1f", "1e3", "2020-01-01", "1_000", "=", "<<", ".nan"]
)
def test_words_that_yaml_1_1_would_change_stay_text(word: str) -> None:
    assert parsed(f"{SMALL}about: {word}\n").about == word
    assert parsed(changed("[hello,", f"[{word},")).triggers["greet"][0] == word


@pytest.mark.parametrize("word", ["on", "yes", "true", "null", "off"])
def test_keys_are_text(word: str) -> None:
    assert list(parsed(changed("hello:", f"{word}:")).stages) == [word, "work"]


def test_a_byte_order_mark_is_no_part_of_the_file() -> None:
    assert parsed(f"\ufeff{SMALL}") == parsed(SMALL)


def test_aliases_and_merge_keys_repeat_what_is_named() -> None:
    flow = parsed(changed('{url: "http://desk:1"}', '&desk {url: "http://desk:1"}').replace(
        '{url: "http://night:2", timeout: 3s}', "{<<: *desk, timeout: 9s}"
    ))  # fmt: skip
    assert flow.agents["night"] == Agent(url="http://desk:1", timeout=9)


def test_a_mistake_in_a_merged_key_is_found_where_it_is_written() -> None:
    text = SMALL.replace('{url: "http://desk:1"}', "&desk\n    url: desk").replace(
        '{url: "http://night:2"', "{<<: *desk"
    )
    assert told(text) == [
        "small.yaml:5: 'agents.desk.url': 'desk' is not an address; write it as http://host:port",
        "small.yaml:5: 'agents.night.url': 'desk' is not an address; write it as http://host:port",
    ]


@pytest.mark.parametrize(
    ("written", "env", "url"),
    [
        ("${DESK:-http://desk:1}", {}, "http://desk:1"),
        ("${DESK:-http://desk:1}", {"DESK": ""}, "http://desk:1"),
        ("${DESK:-http://desk:1}", {"DESK": "https://elsewhere/"}, "https://elsewhere"),
        ("${DESK}", {"DESK": "http://set"}, "http://set"),
        ("http://${HOST:-desk}:${PORT:-1}${PATH_:-}", {"HOST": "a"}, "http://a:1"),
        ("http://desk/$$${X:-1}$Y", {}, "http://desk/$${X:-1}$Y"),
        ("${DESK}", {"DESK": "http://${DESK}"}, "http://${DESK}"),
    ],
)
def test_the_environment_is_filled_in(written: str, env: dict[str, str], url: str) -> None:
    assert parsed(changed("http://desk:1", written), **env).agents["desk"].url == url


def test_every_unset_variable_is_named_together_with_what_else_is_wrong() -> None:
    text = (
        changed("http://desk:1", "${DESK}")
        .replace("http://night:2", "${NIGHT}")
        .replace("agent: night", "agnt: night")
    )
    assert told(text) == [
        "small.yaml:4: DESK is not set; set it, or give a default: ${DESK:-…}",
        "small.yaml:5: NIGHT is not set; set it, or give a default: ${NIGHT:-…}",
        "small.yaml:10: unknown key 'stages.work.agnt'; did you mean 'agent'?",
    ]


@pytest.mark.parametrize("written", ["${}", "${1A}", "${A", "${A-b}", "${ A }", "${A:-${B}}"])
def test_what_only_looks_like_a_variable_is_refused(written: str) -> None:
    [line] = told(changed("http://desk:1", written), A="http://a", B="http://b")
    assert line.startswith("small.yaml:4: `${` does not begin a variable; write ${NAME} or ${NAME:-default}")


def test_a_variable_that_is_not_utf_8_is_refused() -> None:
    assert told(f"{SMALL}about: $" + "{A}\n", A="\udcff") == ["small.yaml:15: A is not UTF-8; set it to text"]


NAME_RULE = "use letters, digits, - and _, starting with a letter, at most 64"

WRONG_SHAPES = {
    "an unknown key": (
        changed("timeout: 3s", "timout: 3s"),
        "small.yaml:5: unknown key 'agents.night.timout'; did you mean 'timeout'?",
    ),
    "an unknown key like no other": (
        f"{SMALL}colour: red\n",
        "small.yaml:15: unknown key 'colour'; known here: "
        "flow, version, about, waits_for, restarts, while_busy, turn_timeout, agents, inputs, stages, anywhere, "
        "gates, fallback, triggers",
    ),
    "a missing key": (
        changed("    agent: night\n", "    agent: night\n    repeat: {at_most: 2}\n"),
        "small.yaml:11: 'stages.work.repeat.until' is missing; add it",
    ),
    "a missing name": (changed("flow: small\n", ""), "small.yaml:1: 'flow' is missing; add it"),
    "a key written twice": (
        changed("fallback: desk", "fallback: desk\nwaits_for: nothing"),
        "small.yaml:13: 'waits_for' is written twice (first on line 2); remove one",
    ),
    "a list for a mapping": (
        changed("intents: {greet: desk}", "intents: [greet]"),
        "small.yaml:8: 'stages.hello.intents' cannot be a list; write `name: …` lines below it",
    ),
    "nothing for a mapping": (
        changed("intents: {greet: desk}", "intents:"),
        "small.yaml:8: 'stages.hello.intents' cannot be empty; write `name: …` lines below it",
    ),
    "text for a stage": (
        changed("\n    intents: {greet: desk}", " desk"),
        "small.yaml:7: 'stages.hello' cannot be 'desk'; write `key: …` lines below it",
    ),
    "text for a list": (
        changed('[hello, "good morning"]', "hello"),
        "small.yaml:14: 'triggers.greet' cannot be 'hello'; write a list: [one, two]",
    ),
    "a number for text": (
        f"{SMALL}about: 15\n",
        "small.yaml:15: 'about' cannot be 15; write text, in quotes if it looks like something else",
    ),
    "text for a number": (
        f"{SMALL}version: '2'\n",
        "small.yaml:15: 'version' cannot be '2'; write a whole number of at most 15 digits",
    ),
    "a truth for a number": (
        f"{SMALL}version: true\n",
        "small.yaml:15: 'version' cannot be true; write a whole number of at most 15 digits",
    ),
    "a word for a truth": (
        changed("waits_for: caller", "waits_for: caller\nrestarts: yes"),
        "small.yaml:3: 'restarts' cannot be 'yes'; write true or false",
    ),
    "another way to take errors": (
        changed("effect: write", "on_error: retry"),
        "small.yaml:11: there is no stage 'retry'; write `fail`, `continue`, or a stage's name",
    ),
    "a truth for a duration": (
        changed("3s", "true"),
        "small.yaml:5: 'agents.night.timeout' cannot be true; write a number",
    ),
    "a huge number": (
        f"{SMALL}version: {'9' * 5000}\n",
        f"small.yaml:15: 'version' cannot be '{'9' * 60}…'; write a whole number of at most 15 digits",
    ),
    "a number below the least": (
        changed("    agent: night", "    agent: night\n    id: 0"),
        "small.yaml:11: 'stages.work.id': Input should be greater than or equal to 1",
    ),
    "an unknown choice": (
        changed("effect: write", "effect: wrote"),
        "small.yaml:11: 'stages.work.effect': Input should be 'read' or 'write'",
    ),
    "a name with a space": (changed("hello:", "hel lo:"), f"small.yaml:7: 'hel lo' is not a name; {NAME_RULE}"),
    "a name that is a number": (changed("hello:", "1:"), f"small.yaml:7: '1' is not a name; {NAME_RULE}"),
    "a long name": (changed("hello:", f"{'h' * 65}:"), f"small.yaml:7: '{'h' * 65}' is not a name; {NAME_RULE}"),
    "a bad flow name": (changed("flow: small", "flow: ../x"), f"small.yaml:1: 'flow' cannot be '../x'; {NAME_RULE}"),
    "a bad intent name": (changed("greet: desk", "gr/t: desk"), f"small.yaml:8: 'gr/t' is not a name; {NAME_RULE}"),
    "a bad duration": (
        changed("3s", "3 hours"),
        "small.yaml:5: 'agents.night.timeout': '3 hours' is not a duration; write it as 15s, 250ms or 2m",
    ),
    "a duration of nothing": (
        changed("3s", "0s"),
        "small.yaml:5: 'agents.night.timeout': Input should be greater than 0",
    ),
    "an endless duration": (
        changed("3s", f"{'9' * 400}m"),
        "small.yaml:5: 'agents.night.timeout': Input should be less than or equal to 86400",
    ),
    "an address without http": (
        changed("http://desk:1", "desk:1"),
        "small.yaml:4: 'agents.desk.url': 'desk:1' is not an address; write it as http://host:port",
    ),
    "an address with a password that is not told": (
        changed("http://desk:1", "ftp://me:sec@ret@desk:1"),
        "small.yaml:4: 'agents.desk.url': 'ftp://…@desk:1' is not an address; write it as http://host:port",
    ),
}  # fmt: skip


UNKNOWN_KEYS = {
    "of a question": ("ask: {question: Why, shema: {}}", "ask.shema'; did you mean 'schema'?"),
    "of a question, as in Python": ("ask: {question: Why, schema_: {}}", "ask.schema_'; did you mean 'schema'?"),
    "of a model": (
        "llm: {prompt: Why, colour: red}",
        "llm.colour'; known here: prompt, system, schema, model, temperature, max_tokens, attempts",
    ),
    "of a list": ("map: {over: '[1]', agent: night, atonce: 3}", "map.atonce'; did you mean 'at_once'?"),
    "of a branch": ("parallel: {a: {agnt: night}}", "parallel.a.agnt'; did you mean 'agent'?"),
    "of a branch's model": (
        "parallel: {a: {llm: {prompt: Why, schem: {}}}}",
        "parallel.a.llm.schem'; did you mean 'schema'?",
    ),
    "of a repetition": ("repeat: {until: 'true', at_most: 3, at_mst: 3}", "repeat.at_mst'; did you mean 'at_most'?"),
    "of a way": ("next: [{goto: end, wen: 'true'}]", "next.0.wen'; did you mean 'when'?"),
    "of a way on errors": ("on_error: [{goto: end, wen: 'true'}]", "on_error.0.wen'; did you mean 'when'?"),
}  # fmt: skip


@pytest.mark.parametrize(("written", "line"), UNKNOWN_KEYS.values(), ids=UNKNOWN_KEYS)
def test_an_unknown_key_is_named_with_those_that_are_known_there(written: str, line: str) -> None:
    assert told(changed("    effect: write", f"    {written}")) == [
        f"small.yaml:11: unknown key 'stages.work.{line}",
    ]


@pytest.mark.parametrize(
    ("written", "line"),
    [
        ("5", "cannot be 5; write text, in quotes if it looks like something else"),
        ("a b", f"cannot be 'a b'; {NAME_RULE}"),
        ("{goto: end}", "cannot be a mapping; write text, in quotes if it looks like something else"),
    ],
)
def test_what_may_have_two_forms_is_refused_once(written: str, line: str) -> None:
    assert told(changed("    effect: write", f"    on_error: {written}")) == [
        f"small.yaml:11: 'stages.work.on_error' {line}"
    ]


@pytest.mark.parametrize(("text", "line"), WRONG_SHAPES.values(), ids=WRONG_SHAPES)
def test_what_has_the_wrong_shape_is_refused(text: str, line: str) -> None:
    assert told(text) == [line]


ONE_OF = "small.yaml:9: stage 'work' needs exactly one of `intents`, `agent`, `parallel`, `map`, `llm` and `ask`"

WRONG_FLOWS = {
    "neither intents nor agent": (
        changed("    agent: night\n", "").replace("  greet: desk}", "").replace("fallback: desk", "fallback: night"),
        f"{ONE_OF}; it has none",
    ),
    "both intents and agent": (
        changed("agent: night", "agent: night\n    intents: {bye: desk}"),
        f"{ONE_OF}; it has `intents` and `agent`",
    ),
    "one id twice": (
        changed("agent: night", "agent: night\n    id: 1"),
        "small.yaml:11: stages 'hello' and 'work' both have id 1; change one",
    ),
    "an id that is another's place": (
        changed("intents: {greet: desk}", "id: 2\n    intents: {greet: desk}"),
        "small.yaml:10: stages 'hello' and 'work' both have id 2; change one",
    ),
    "an undefined agent in a stage": (
        changed("    agent: night", "    agent: porter").replace("fallback: desk", "fallback: night"),
        "small.yaml:10: agent 'porter' is not defined; define it under agents",
    ),
    "an undefined agent for an intent": (
        changed("{greet: desk}", "{greet: dsk}"),
        "small.yaml:8: agent 'dsk' is not defined; did you mean 'desk'?",
    ),
    "an undefined fallback": (
        changed("fallback: desk", "fallback: desc"),
        "small.yaml:12: agent 'desc' is not defined; did you mean 'desk'?",
    ),
    "an agent without work": (
        changed("stages:", '  idle: {url: "http://idle:3"}\nstages:'),
        "small.yaml:6: no stage uses agent 'idle'; name it in one, or remove it",
    ),
    "a trigger for no intent": (
        changed("  greet: [", "  great: ["),
        "small.yaml:14: no stage has the intent 'great'; did you mean 'greet'?",
    ),
    "an empty trigger": (
        changed('"good morning"', "' '"),
        "small.yaml:14: the trigger ' ' would match anything; "
        "remove it, or write '*' for whatever no other trigger takes",
    ),
    "a trigger of stars": (
        changed('"good morning"', "'* *'"),
        "small.yaml:14: the trigger '* *' would match anything; "
        "remove it, or write '*' for whatever no other trigger takes",
    ),
    "a star inside a word": (
        changed('"good morning"', "'go*od'"),
        "small.yaml:14: in the trigger 'go*od' a * does not end its word; move it there",
    ),
    "no fallback": (
        changed("fallback: desk\n", ""),
        "small.yaml:8: nobody answers an unknown intent; name an agent under `fallback`",
    ),
    "no waits_for": (
        changed("waits_for: caller\n", ""),
        "small.yaml:7: stage 'hello' needs the caller's intent, but the flow does not wait; add `waits_for: caller`",
    ),
    "an agent that may take longer than a turn": (
        changed("waits_for: caller", "waits_for: caller\nturn_timeout: 2s"),
        "small.yaml:6: it may take longer (3s) than a turn (2s); raise `turn_timeout`, or lower this",
    ),
    "restarts without waits_for": (
        changed("waits_for: caller", "restarts: true"),
        "small.yaml:2: a flow that restarts begins its next run with the caller's next message; "
        "add `waits_for: caller`",
    ),
    "a stage called fallback": (
        changed("  work:", "  fallback:"),
        "small.yaml:9: 'fallback' is a name of the graph's own; choose another",
    ),
    "a stage called classifier": (
        changed("  work:", "  classifier:"),
        "small.yaml:9: 'classifier' is a name of the graph's own; choose another",
    ),
    "unknown as an intent": (
        changed("{greet: desk}", "\n      greet: desk\n      unknown: desk"),
        "small.yaml:10: 'unknown' is legal everywhere already; name the agent that answers it under `fallback`",
    ),
    "an address with a word for a port": (
        changed("http://desk:1", "http://desk:one"),
        "small.yaml:4: the address of agent 'desk' has no port from 1 to 65535; write it as http://host:port",
    ),
    "an address with a port too high": (
        changed("http://desk:1", "http://desk:99999"),
        "small.yaml:4: the address of agent 'desk' has no port from 1 to 65535; write it as http://host:port",
    ),
    "an address with port 0": (
        changed("http://desk:1", "http://desk:0"),
        "small.yaml:4: the address of agent 'desk' has the port 0; write it as http://host:port",
    ),
    "an address with a space": (
        changed("http://desk:1", "http://the desk:1"),
        "small.yaml:4: the address of agent 'desk' holds a space or a control character; write it as http://host:port",
    ),
    "an address with a query, and a password that is not told": (
        changed("http://desk:1", "http://me:secret@desk:1/?key=secret"),
        "small.yaml:4: the address of agent 'desk' holds a ? or #, but the agent's card must lie below it; "
        "write it as http://host:port",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("text", "line"), WRONG_FLOWS.values(), ids=WRONG_FLOWS)
def test_what_cannot_run_is_refused(text: str, line: str) -> None:
    assert line in told(text)


def test_several_problems_are_told_at_once_in_the_order_of_the_file() -> None:
    text = (
        changed("waits_for: caller", "waits_for: godot")
        .replace("3s", "soon")
        .replace("effect: write", "efect: write")
    )
    assert told(text) == [
        "small.yaml:2: 'waits_for': Input should be 'caller' or 'nothing'",
        "small.yaml:5: 'agents.night.timeout': 'soon' is not a duration; write it as 15s, 250ms or 2m",
        "small.yaml:11: unknown key 'stages.work.efect'; did you mean 'effect'?",
    ]
    assert told(SMALL.replace("fallback: desk\n", "").replace("agent: night", "agent: nigt")) == [
        "small.yaml:8: nobody answers an unknown intent; name an agent under `fallback`",
        "small.yaml:10: agent 'nigt' is not defined; did you mean 'night'?",
    ]
    assert told("a: 1\nb: {c: 1, c: 2}\na: 3\n") == [
        "small.yaml:2: 'c' is written twice (first on line 2); remove one",
        "small.yaml:3: 'a' is written twice (first on line 1); remove one",
    ]


NO_DOCUMENTS = {
    "nothing": ("", "small.yaml:1: the file is empty; start with `flow: NAME`"),
    "a comment": ("# later\n", "small.yaml:1: the file is empty; start with `flow: NAME`"),
    "a list": ("- flow: small\n", "small.yaml:1: a flow is a mapping; start with `flow: NAME`"),
    "a word": ("flow", "small.yaml:1: a flow is a mapping; start with `flow: NAME`"),
    "an open bracket": (
        "flow: small\nagents: {desk: [\n",
        "small.yaml:3: not YAML: while parsing a flow node, expected the node content, but found '<stream end>'; "
        "check indentation and quotes",
    ),
    "a tab": (
        "flow: small\n\tversion: 1\n",
        "small.yaml:2: not YAML: while scanning for the next token, "
        "found character '\\t' that cannot start any token; indent with spaces",
    ),
    "two documents": (
        "flow: small\n---\nflow: large\n",
        "small.yaml:2: not YAML: expected a single document in the stream, but found another document; "
        "keep one flow in a file",
    ),
    "a control character": (
        "flow: small\nabout: \x07\n",
        "small.yaml:2: not YAML: the character '\\x07' is not allowed; remove it, or save the file as UTF-8",
    ),
    "half a character": (
        'flow: small\nabout: "\\ud800"\n',
        "small.yaml:2: half a character (\\uD800 to \\uDFFF); write the whole one",
    ),
    "a character beyond all": (
        'flow: small\nabout: "\\UFFFFFFFF"\n',
        "small.yaml:2: not YAML: an escape names no character; check indentation and quotes",
    ),
    "a tag": (
        "flow: small\nabout: !!binary eA==\n",
        "small.yaml:2: the tag 'tag:yaml.org,2002:binary' is not part of the flow language; remove it",
    ),
    "a key that is a list": (
        "flow: small\n[about]: x\n",
        "small.yaml:2: a key must be plain text, not a list or a mapping; put it in quotes",
    ),
    "a merge of nothing": (
        "flow: small\nagents: {<<: x}\n",
        "small.yaml:2: not YAML: while constructing a mapping, expected a mapping or list of mappings for merging, "
        "but found scalar; <<: takes a mapping, or a list of mappings",
    ),
    "an alias of nothing": (
        "flow: *small\n",
        "small.yaml:1: not YAML: found undefined alias 'small'; "
        "name it with & first, or put text that begins with * in quotes",
    ),
    "a list of itself": (
        "flow: small\na: &a [*a]\n",
        "small.yaml:2: *a stands inside a value that has a name (&) itself; write it out",
    ),
    "a mapping of itself": (
        "a: &a {b: {c: *a}}\n",
        "small.yaml:1: *a stands inside a value that has a name (&) itself; write it out",
    ),
    "a merge of itself": (
        "a: &a {<<: *a}\n",
        "small.yaml:1: *a stands inside a value that has a name (&) itself; write it out",
    ),
    "a billion laughs": (
        "a: &a [ha, ha]\nb: &b [*a, *a]\n",
        "small.yaml:2: *a stands inside a value that has a name (&) itself; write it out",
    ),
    "a million laughs": (
        f"a: &a [{'ha, ' * 300}]\nb: [{'*a, ' * 300}]\n",
        "small.yaml:2: more than 20000 values, repeated ones included; make the flow smaller",
    ),
    "deep nesting": (f"a: {'[' * 9000}", "small.yaml:1: nested more than 40 levels deep; flatten it"),
    "deep nesting by indentation": (
        "\n".join(f"{' ' * depth}a:" for depth in range(200)),
        "small.yaml:40: nested more than 40 levels deep; flatten it",
    ),
}


@pytest.mark.parametrize(("text", "line"), NO_DOCUMENTS.values(), ids=NO_DOCUMENTS)
def test_what_is_no_document_of_ours_is_refused(text: str, line: str) -> None:
    assert told(text) == [line]


def test_no_password_is_told_in_what_led_to_the_error() -> None:
    with pytest.raises(FlowError) as caught:
        parsed(changed("http://desk:1", "ftp://me:${PASSWORD}@desk:1"), PASSWORD="hunter2")
    assert "hunter2" not in str(caught.value)
    assert caught.value.__context__ is None


def test_what_was_loaded_does_not_change() -> None:
    flow = parsed(SMALL)
    for record, key in ((flow, "flow"), (flow.agents["desk"], "url"), (flow.stages["work"], "effect")):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(record, key, "other")


def test_the_digest_follows_what_the_file_says() -> None:
    first, last = "hello:\n    intents: {greet: desk}", "work:\n    agent: night\n    effect: write"
    swapped = SMALL.replace(first, "FIRST").replace(last, first).replace("FIRST", last)
    variable = changed("http://desk:1", "${DESK:-http://desk:1}")
    assert parsed(f"# why\n{SMALL}\n").digest == parsed(SMALL).digest
    assert parsed(variable, DESK="http://elsewhere").digest == parsed(variable).digest
    texts = [
        SMALL,
        variable,
        swapped,
        changed("3s", "4s"),
        f"{SMALL}version: 2\n",
        changed("greet: desk", "greet: night"),
    ]
    assert len({parsed(text).digest for text in texts}) == len(texts)


def test_a_flow_made_in_python_is_checked_and_known_by_what_it_says() -> None:
    made = Flow(flow="made", agents={"desk": Agent(url="http://desk")}, stages={"one": Stage(agent="desk")})
    assert load_flow(made) == made.with_digest(load_flow(made).digest)
    assert load_flow(load_flow(made)) == load_flow(made)
    assert load_flow(made).digest != load_flow(made.model_copy(update={"version": 2})).digest
    with pytest.raises(FlowError, match="'made':1: agent 'dsk' is not defined; did you mean 'desk'"):
        load_flow(made.model_copy(update={"stages": {"one": Stage(agent="dsk")}}))


def test_a_flow_is_loaded_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "small.yaml"
    file.write_text(SMALL)
    assert load_flow(file, {}) == load_flow(str(file), {}) == parsed(SMALL)


@pytest.mark.parametrize("name", ["missing", "missing.yaml", ".", "nul\0nul", "half\ud800"])
def test_a_file_that_cannot_be_read_is_named(name: str) -> None:
    with pytest.raises(FlowError) as caught:
        load_flow(name)
    assert str(caught.value).startswith(f"{name}:1: cannot be read: ")
    assert "name a YAML file or a shipped flow (" in str(caught.value)


def test_a_file_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    file = tmp_path / "old.yaml"
    file.write_bytes("about: é".encode("latin-1"))
    with pytest.raises(FlowError, match=r"old\.yaml:1: cannot be read: it is not UTF-8; save it as UTF-8"):
        load_flow(file)


SEED = {
    1: {"greeting": "greeting", "welcome": "greeting"},
    2: {"verify_identity": "auth", "authenticate": "auth", "otp_verify": "auth"},
    3: {
        "refund_request": "refund",
        "billing_inquiry": "billing",
        "booking_request": "booking",
        "complaint": "complaint",
        "account_inquiry": "account",
        "balance_inquiry": "balance",
    },
    4: {"process_refund": "refund", "confirm_booking": "booking", "update_account": "account"},
    5: {"closing": "closing", "end_call": "closing", "feedback": "closing"},
}
PORTS = ["greeting", "auth", "refund", "billing", "booking", "complaint", "account", "balance", "closing", "fallback"]


def test_the_call_flow_is_the_one_that_was_asked_for() -> None:
    flow = load_flow("call", {})
    stages = {number: flow.stages[name] for name, number in flow.stage_ids().items()}
    assert "call" in shipped_flows()
    assert list(flow.stages) == ["greeting", "authentication", "intent_capture", "fulfillment", "closing"]
    assert list(stages) == [1, 2, 3, 4, 5]
    for number, intents in SEED.items():
        assert stages[number].intents.items() >= intents.items()
    assert {name: stage.effect for name, stage in flow.stages.items() if stage.effect == "write"} == {
        "fulfillment": "write"
    }
    assert {name: agent.url for name, agent in flow.agents.items()} == {
        name: f"http://{name}-agent:{port}" for port, name in enumerate(PORTS, start=8001)
    }
    assert (flow.fallback, flow.waits_for) == ("fallback", "caller")


def test_the_address_of_every_agent_of_the_call_flow_can_be_set() -> None:
    flow = load_flow("call", {f"{name.upper()}_AGENT_URL": f"http://localhost/{name}" for name in PORTS})
    assert {name: agent.url for name, agent in flow.agents.items()} == {n: f"http://localhost/{n}" for n in PORTS}


def test_the_relay_flow_hands_every_message_to_one_agent() -> None:
    flow = load_flow("relay", {"RELAY_AGENT_URL": "http://agent:9000"})
    assert (flow.waits_for, flow.restarts, flow.fallback, flow.triggers) == ("caller", True, None, {})
    assert flow.turn_timeout == 600
    assert flow.agents == {"relay": Agent(url="http://agent:9000", timeout=600)}
    assert flow.stages == {"relay": Stage(about="The agent answers.", agent="relay", on_error="fail")}
    assert load_flow("relay", {}).agents["relay"].url == "http://relay-agent:8000"


@pytest.fixture
def schema() -> Any:
    validator = pytest.importorskip("jsonschema").Draft202012Validator
    validator.check_schema(json_schema())
    return validator(json_schema())


def test_the_json_schema_that_editors_find_is_the_one_of_the_language() -> None:
    shipped = (REPOSITORY / "graph" / "flow.schema.json").read_text(encoding="utf-8")
    assert json.loads(shipped) == json_schema(), "flows schema > graph/flow.schema.json"


@pytest.mark.parametrize("name", shipped_flows())
def test_the_json_schema_knows_every_shipped_flow(schema: Any, name: str) -> None:
    text = (REPOSITORY / "graph" / "flows" / f"{name}.yaml").read_text(encoding="utf-8")
    assert list(schema.iter_errors(read_document(text).value)) == []


def test_the_json_schema_refuses_what_the_loader_refuses(schema: Any) -> None:
    assert schema.is_valid(read_document(SMALL).value)
    for text in (f"{SMALL}colour: red\n", f"{SMALL}version: '2'\n", changed("effect: write", "effect: wrote")):
        assert not schema.is_valid(read_document(text).value)


def parses_or_tells(text: str) -> None:
    try:
        parsed(text)
    except FlowError as error:
        for problem in error.problems:
            assert problem.file == "small.yaml"
            assert 1 <= problem.line <= len(f"{text}.".splitlines())  # a lone \r ends a line too
            assert problem.message


@given(st.text())
def test_arbitrary_text_is_refused_in_our_own_words(text: str) -> None:
    parses_or_tells(text)


@given(st.text(alphabet="ab:-[]{}*&!<>|?#%@'\"\\ \n\tx19.~$,=u", max_size=60))
def test_arbitrary_yaml_is_refused_in_our_own_words(text: str) -> None:
    parses_or_tells(text)


@given(
    st.integers(0, len(SMALL)), st.integers(0, 30), st.text(alphabet="ab:-[]{}*&!<>|?#'\"\\ \n\t19~$,", max_size=8)
)
def test_a_slip_of_the_keyboard_is_refused_in_our_own_words(at: int, cut: int, typed: str) -> None:
    parses_or_tells(SMALL[:at] + typed + SMALL[at + cut :])


values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.integers(), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from(["agents", "stages", "fallback", "triggers", "about", "version", "waits_for", "flow"]), values)
def test_any_value_anywhere_is_refused_in_our_own_words(key: str, value: Any) -> None:
    parses_or_tells(yaml.safe_dump(yaml.safe_load(SMALL) | {key: value}))
    parses_or_tells(yaml.safe_dump(yaml.safe_load(SMALL) | {"stages": {"one": {key: value, "agent": value}}}))
