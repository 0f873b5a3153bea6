"""`flows run`: a flow run from the command line, as a script and as a person at a terminal would run it."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from graph.flow import Flow
from graph.loader import parse_flow
from server.commands.inputs import BadInput, inputs_of
from server.commands.progress import Progress, counted, lasting, line_of
from tests.puppet import Puppet
from tests.terminal import CTRL_C, typed_at
from tests.test_command_line import FLOWS, flows

REPORT = """\
flow: report
agents: {desk: {url: "$DESK"}}
inputs: [name, rows]
stages:
  first: {agent: desk, input: {text: "'hello ' + name"}, output: {text: greeting}}
  both: {parallel: {one: {agent: desk}, two: {agent: desk}}}
  each: {map: {over: rows, agent: desk, at_once: 2}, input: {text: item}}
  never: {agent: desk, when: name == 'nobody'}
  last: {agent: desk, input: {text: "string(size(rows))"}}
"""
ASKING = """\
flow: asking
agents: {desk: {url: "$DESK"}}
stages:
  first: {agent: desk, input: {text: "'hello'"}}
  sure: {ask: {question: "Are you sure?", schema: {type: boolean}}, output: {data: certain}}
  last: {agent: desk, input: {text: "certain ? 'it is' : 'it is not'"}}
"""
TALK = """\
flow: talk
waits_for: caller
agents: {desk: {url: "$DESK"}}
fallback: desk
triggers: {greet: [hello]}
stages:
  hello: {intents: {greet: desk}}
  work: {intents: {pay: desk}}
"""

Written = Callable[[str], str]
"""Writes a flow to a file, the desk's address filled in, and returns the file's name."""


@pytest.fixture
def written(puppet: tuple[Puppet, str], tmp_path: Path) -> Written:
    def write(text: str) -> str:
        file = tmp_path / "flow.yaml"
        file.write_text(text.replace("$DESK", puppet[1]))
        return str(file)

    return write


def seen(text: str) -> list[str]:
    """Return the lines of an output without the times in them."""
    return re.sub(r"in [0-9.]+ (ms|s)\b", "in TIME", text).splitlines()


def test_a_script_sees_a_line_for_every_change(written: Written) -> None:
    done = flows("run", written(REPORT), "--input", "name=Ann", "--input", 'rows=["a"]')

    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    lines = seen(done.stdout)
    assert lines[:3] == ["first: running (desk)", "first: done (desk) in TIME", "both: running"]
    assert sorted(lines[3:7]) == sorted(
        [f"both/{name}: {how}" for name in ("one", "two") for how in ("running (desk)", "done (desk) in TIME")]
    )
    assert lines[7:] == [
        "both: done (all) in TIME",
        "each: running",
        "each/0: running (desk)",
        "each/0: done (desk) in TIME",
        "each: done (all) in TIME",
        "never: skipped",
        "last: running (desk)",
        "last: done (desk) in TIME",
        "report: completed in TIME",
        'name = "Ann"',
        'rows = ["a"]',
        'greeting = "you said hello Ann"',
        "you said 1",
    ]


def test_a_program_reads_only_a_document(written: Written) -> None:
    done = flows("run", written(REPORT), "--json", "--input-json", '{"name": "Ann", "rows": ["a", "b"]}')

    told = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (0, "")
    assert (told["flow"], told["status"], told["questions"]) == ("report", "completed", [])
    assert told["context"] == {"name": "Ann", "rows": ["a", "b"], "greeting": "you said hello Ann"}
    assert told["answer"]["text"] == "you said 2"
    assert [(step["stage"], step.get("branch")) for step in told["steps"]] == [
        *(("first", None), ("both", "one"), ("both", "two"), ("both", None)),
        *(("each", "0"), ("each", "1"), ("each", None), ("last", None)),
    ]


def test_a_missing_input_is_named(written: Written) -> None:
    done = flows("run", written(REPORT), "--input", "name=Ann")

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "flows: flow 'report' needs rows; add --input rows=…\n"


@pytest.mark.parametrize(
    ("given", "as_json", "told"),
    [
        (["nme=Ann"], None, "flow 'report' has no input 'nme'; did you mean 'name'?"),
        (["colour=red"], None, "flow 'report' has no input 'colour'; its inputs: name, rows"),
        (["name"], None, "'name' is no input; write --input name=value"),
        ([], "[1]", "--input-json is no object; write '{\"name\": value}'"),
        ([], "{", "--input-json is no JSON ("),
    ],
)
def test_inputs_that_do_not_fit_are_named(given: list[str], as_json: str | None, told: str) -> None:
    flow = parse_flow(REPORT.replace("$DESK", "http://desk"), "report.yaml", {})

    with pytest.raises(BadInput, match=re.escape(told)):
        inputs_of(flow, given, as_json)


def test_an_input_is_json_if_it_can_be() -> None:
    flow = parse_flow(REPORT.replace("$DESK", "http://desk"), "report.yaml", {})

    assert inputs_of(flow, ["name=Ann=1", "rows=[1, null]"], '{"name": "Bob"}') == {
        "name": "Ann=1",
        "rows": [1, None],
    }


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_a_failed_run_exits_1_with_the_reason(written: Written, more: list[str]) -> None:
    done = flows("run", written(ASKING.replace("'hello'", "'fail'")), *more)

    assert (done.returncode, done.stderr) == (1, "flows: stage 'first' failed: you said fail\n")


def test_a_flow_that_does_not_check_is_not_run(written: Written) -> None:
    done = flows("run", written(ASKING.replace("last: {agent", "last: {agnt")))

    assert done.returncode == 1
    assert "unknown key 'stages.last.agnt'; did you mean 'agent'?" in done.stderr


def test_without_a_terminal_a_question_ends_the_command(written: Written) -> None:
    done = flows("run", written(ASKING), "--json")

    told = json.loads(done.stdout)
    assert done.returncode == 3
    assert done.stderr == (
        "flows: it waits for a person (stage 'sure' asks: Are you sure?); run it at a terminal to answer\n"
    )
    assert (told["status"], told["stage"]) == ("waits", "sure")
    assert told["questions"] == [{"stage": "sure", "question": "Are you sure?", "schema": {"type": "boolean"}}]


def test_at_a_terminal_the_person_is_asked_until_the_answer_fits(written: Written) -> None:
    screen, code = typed_at(
        [FLOWS, "run", written(ASKING)], [("answer> ", "perhaps"), ("does not fit", ""), ("answer> ", "yes")], {}
    )

    assert code == 0
    assert "Are you sure? (yes or no)" in screen
    assert "it does not fit: the answer: 'perhaps' is not of type 'boolean'" in screen
    assert "certain = true" in screen
    assert "you said it is" in screen


def test_at_a_terminal_the_stages_light_up(written: Written) -> None:
    slow = REPORT.replace("'hello ' + name", "'slow 0.5'")
    screen, code = typed_at([FLOWS, "run", written(slow), "--input", "name=a", "--input", "rows=[]"], [], {})

    assert code == 0
    assert re.search(r"[⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏] +first +desk +[0-9]+ ms", screen)
    assert re.search(r"· +both", screen)
    assert re.search(r"✓ +first +desk +5[0-9]+ ms", screen)
    assert re.search(r"– +never", screen)


def test_ctrl_c_ends_the_run_and_says_so(written: Written) -> None:
    screen, code = typed_at([FLOWS, "run", written(ASKING.replace("'hello'", "'slow 9'"))], [("⠋", CTRL_C)], {})

    assert code == 130
    assert "asking: canceled in" in screen


def test_ctrl_c_at_a_question_ends_the_run(written: Written) -> None:
    screen, code = typed_at([FLOWS, "run", written(ASKING)], [("answer> ", CTRL_C)], {})

    assert code == 130
    assert "Traceback" not in screen


def test_one_message_takes_one_turn_of_a_flow_that_waits(written: Written) -> None:
    done = flows("run", written(TALK), "--message", "hello there", "--json")

    told = json.loads(done.stdout)
    assert (done.returncode, told["status"], told["stage"]) == (0, "waits", "work")
    assert [(step["intent"], step["intent_source"]) for step in told["steps"]] == [("greet", "triggers")]


def test_an_intent_that_is_not_legal_is_refused(written: Written) -> None:
    done = flows("run", written(TALK), "--message", "hello", "--intent", "pay")

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "flows: intent 'pay' is not legal at stage 'hello'; send one of greet, unknown, or none\n"


def test_a_conversation_is_read_line_by_line(written: Written) -> None:
    done = flows("run", written(TALK), typed="hello\n\n/as pay ten pounds\nmore\n")

    assert done.returncode == 0, done.stderr
    assert "talk: completed" in done.stdout
    assert "you said ten pounds" in done.stdout


def test_a_conversation_ends_with_its_input(written: Written) -> None:
    done = flows("run", written(TALK), typed="hello\n")

    assert done.returncode == 0
    assert seen(done.stdout)[-1] == "talk: waits in TIME"


def test_at_a_terminal_a_refused_message_can_be_said_otherwise(written: Written) -> None:
    screen, code = typed_at(
        [FLOWS, "run", written(TALK)],
        [("you> ", "/as pay now"), ("not legal", ""), ("you> ", "hello"), ("you> ", "/as pay now")],
        {},
    )

    assert code == 0
    assert "talk: completed" in screen


def test_the_progress_of_many_items_is_counted() -> None:
    flow = Flow.model_validate(
        {
            "flow": "many",
            "agents": {"desk": {"url": "http://desk"}},
            "stages": {"each": {"map": {"over": "[1]", "agent": "desk"}}},
        }
    )
    progress = Progress(flow, clock=lambda: 7.0)
    about = {"event": "state_change", "stage": "each", "agent": "desk"}
    for number in range(40):
        progress.take("custom", {**about, "branch": str(number)})
    progress.take("updates", {"each/item": {"steps": [_step("each", "3", "error", {"error": {"message": "lost"}})]}})

    assert counted(list(progress.rows["each"].branches.values())) == "40: 39 running, 1 failed"
    assert line_of(progress.rows["each"].branches["3"]) == "each/3: failed (desk) in 1.5 s, attempt 2, lost"
    assert progress.table().row_count == 3


def _step(stage: str, branch: str, status: str, response: dict[str, Any]) -> dict[str, Any]:
    told = {"stage": stage, "branch": branch, "response_status": status, "response_data": response}
    return {**told, "agent": "desk", "duration_ms": 1500.0, "attempt": 2}


@pytest.mark.parametrize(
    ("seconds", "told"), [(0.0004, "0 ms"), (0.25, "250 ms"), (3.14, "3.1 s"), (125, "2 min 5 s")]
)
def test_times_are_told_as_people_read_them(seconds: float, told: str) -> None:
    assert lasting(seconds) == told


def test_a_dag_is_run_in_its_order(written: Written) -> None:
    text = """\
flow: dag
agents: {desk: {url: "$DESK"}}
stages:
  end_of_all: {agent: desk, needs: [left, right]}
  left: {agent: desk, needs: [begun]}
  right: {agent: desk, needs: [begun], when: input_message == 'never'}
  begun: {agent: desk}
"""
    done = flows("run", written(text))

    settled = [line for line in seen(done.stdout) if "done" in line or "skipped" in line]
    assert done.returncode == 0, done.stderr
    assert settled[0] == "begun: done (desk) in TIME"
    assert sorted(settled[1:3]) == ["left: done (desk) in TIME", "right: skipped"]
    assert settled[3:] == ["end_of_all: done (desk) in TIME"]
