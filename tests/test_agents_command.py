"""`flows agents`, run as the engineer on call would run it."""

import getpass
import json
import re
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console, Group

from graph.workflows import DEFAULT_AGENTS
from server.commands.agents_table import as_fits
from tests.conftest import Service, StartService
from tests.puppet import Puppet
from tests.terminal import CTRL_C, typed_at
from tests.test_command_line import FLOWS, flows

FLOW = """
flow: desk
waits_for: caller
agents:
  clerk: {{url: "{url}"}}
  payer:
    versions:
      v1: {{url: "http://127.0.0.1:9/one", weight: 90}}
      v2: {{url: "http://127.0.0.1:9/two", weight: 10}}
    fallback: clerk
  reader: {{type: paper}}
stages:
  ask: {{intents: {{ask: clerk, pay: payer, read: reader}}}}
  bye: {{agent: clerk}}
fallback: clerk
"""
TOKEN = "a-token-that-is-long"
PACE = re.compile(r"[\d.]+ / [\d.]+")


@pytest.fixture
def desk(start: StartService, puppet: tuple[Puppet, str], tmp_path: Path) -> Service:
    """A service that wants a token, with an agent that answers."""
    file = tmp_path / "desk.yaml"
    file.write_text(FLOW.format(url=puppet[1]))
    return start(checkpointer="memory", flow=str(file), admin_token=TOKEN)


def ran(service: Service, *arguments: str, token: str = TOKEN) -> tuple[int, str, str]:
    """The exit code of a command, and what it says."""
    done = flows("agents", *arguments, "--service", service.url, env={"FLOWS_ADMIN_TOKEN": token, "COLUMNS": "40"})
    return done.returncode, done.stdout, done.stderr


def told(service: Service, name: str) -> dict[str, Any]:
    answer = service.http.get(f"/agents/{name}", headers={"authorization": f"Bearer {TOKEN}"})
    return dict(answer.raise_for_status().json())


def table_of(said: str) -> list[str]:
    """The lines of a table that are not about agents of workflows, which every service knows."""
    lines, others = [], False
    for line in said.splitlines():
        others = others if line.startswith(" ") else line.split(" ")[0] in DEFAULT_AGENTS
        lines += [] if others else [line]
    return lines


def done(service: Service, *arguments: str) -> str:
    code, said, wrong = ran(service, *arguments)
    assert (code, wrong) == (0, "")
    return said


def refused(service: Service, *arguments: str, token: str = TOKEN) -> tuple[int, str]:
    code, said, wrong = ran(service, *arguments, token=token)
    assert said == ""
    return code, wrong.replace(service.url, "URL")


def test_the_table_tells_of_every_endpoint_on_one_line(desk: Service, puppet: tuple[Puppet, str]) -> None:
    desk.turn("C-1", "hello", "ask")
    desk.turn("C-2", "refuse", "ask")
    done(desk, "off", "reader", "--reason", "it [red]errs[/]\n\x1b[2J", "--by", "jo")

    lines = [re.split(r" {2,}", line.strip()) for line in table_of(done(desk, "--once"))]

    head = ["AGENT", "STATE", "ENDPOINT", "VERSION", "HEALTH", "CIRCUIT"]
    assert lines[0] == [*head, "IN FLIGHT", "CALLS", "ERRORS", "P50 / P95 MS", "SOURCE"]
    clerk = [PACE.sub("its pace", cell) for cell in lines[1]]
    well = ["unknown", "closed", "0"]
    assert clerk == ["clerk", "on", puppet[1], *well, "2", "1", "its pace", "flow"]
    assert lines[2] == ["payer", "on", "http://127.0.0.1:9/one", "v1 (90)", *well, "0", "0", "flow"]
    assert lines[3] == ["http://127.0.0.1:9/two", "v2 (10)", *well, "0", "0", "flow"]
    assert lines[4] == ["reader", "off", "none"]
    since = told(desk, "reader")["off"]["at"]
    assert lines[5:] == [[f"reader is off since {since}, by jo: it [red]errs[/]", "[2J"]]


def test_what_is_wrong_with_an_endpoint_is_told(desk: Service) -> None:
    endpoint = desk.runtime.pool.endpoint("http://127.0.0.1:9/two")
    for _ in range(2):
        endpoint.probed(healthy=False, why="it cannot be reached")

    row, *_, note = table_of(done(desk, "--once"))[3:]

    assert " unhealthy " in row
    assert endpoint.probe is not None
    assert note == f"http://127.0.0.1:9/two is unhealthy: it cannot be reached ({endpoint.probe.at})"


def test_the_document_is_printed_as_it_is(desk: Service) -> None:
    names = [agent["name"] for agent in json.loads(done(desk, "--json"))["agents"]]
    assert {"clerk", "payer", "reader"}.issubset(names)


def test_at_a_terminal_the_table_is_drawn_again_until_ctrl_c(desk: Service) -> None:
    script = [("Ctrl-C ends", ""), ("payer", ""), ("Ctrl-C ends", CTRL_C)]
    env = {"FLOWS_ADMIN_TOKEN": TOKEN, "COLUMNS": "200"}

    seen, code = typed_at([FLOWS, "agents", "--service", desk.url], script, env)

    assert (code, "Traceback" in seen) == (0, False)
    assert seen.count("payer") >= 2


def test_a_version_that_was_turned_down_is_told(desk: Service) -> None:
    why = "'v2' failed 63 of 284 calls (22%), 'v1' failed 2 of 300 calls (1%); the margin is 10%"
    done(desk, "weights", "payer", "v1=90", "v2=0", "--by", "orchestrator", "--why", why)

    lines = table_of(done(desk, "--once"))

    assert ["v1 (90)" in lines[2], "v2 (0, turned down)" in lines[3]] == [True, True]
    at = told(desk, "payer")["history"][0]["at"]
    undo = "`flows agents weights payer --reset` undoes it"
    assert lines[-1] == f"payer: a version was turned down at {at}: {why}; {undo}"


@pytest.mark.parametrize("columns", [80, 100, 120])
def test_in_a_small_window_there_are_fewer_columns_and_it_is_told_how_much_is_left_out(columns: int) -> None:
    url = "http://text-processor-{}.agents.internal:8001"
    agents = [agent(f"agent-{number}", url.format(number)) for number in range(40)]
    console = Console(file=StringIO(), force_terminal=True, color_system=None, width=columns, height=20)

    with console.capture() as seen:
        console.print(Group(*as_fits(console, agents)))

    head, *rows, last = seen.get().splitlines()
    flight = "FLIGHT CALLS ERRORS P50/P95 MS"
    assert " ".join(head.split()) == f"AGENT STATE ENDPOINT VERSION CIRCUIT {flight}"
    assert len(rows) == 16
    assert {line.split()[-7:] == ["closed", "0", "0", "0", "9.0", "/", "12"] for line in rows} == {True}
    assert max(map(len, [head, *rows])) <= columns
    assert last == "… and 24 more; make the window larger or use --once"


def agent(name: str, url: str) -> dict[str, Any]:
    """An agent as the service tells of it."""
    well = {"state": "healthy", "probe": None, "circuit": "closed", "rests_seconds": 0}
    figures = {"in_flight": 0, "elsewhere": 0, "calls": 0, "errors": 0, "p50_ms": 9.0, "p95_ms": 12.0}
    endpoint = {"url": url, "version": "v2-of-february", "source": "flow", "instance": None, **well, **figures}
    return {"name": name, "state": "on", "off": None, "versions": [], "weights": None, "endpoints": [endpoint]}


def test_an_agent_is_switched_off_and_on(desk: Service) -> None:
    off = done(desk, "off", "payer", "--reason", "it pays twice")
    while_off = told(desk, "payer")
    on = done(desk, "on", "payer", "--by", "jo", "--reason", "mended")
    nobody_else = done(desk, "off", "reader", "--why", "a try")

    assert off == "payer is off: no call reaches it; its fallback 'clerk' is asked in its place\n"
    assert nobody_else == (
        "reader is off: no call reaches it; it has no fallback of its own, so its flow's fallback answers and the "
        "call stays at its stage; where there is none, the step fails\n"
    )
    assert while_off["state"] == "off"
    assert while_off["off"] == {**while_off["off"], "by": getpass.getuser(), "reason": "it pays twice"}
    assert on == "payer is on\n"
    history = told(desk, "payer")["history"]
    assert [(one["what"], one["by"], one["why"]) for one in history] == [
        ("on", "jo", "mended"),
        ("off", getpass.getuser(), "it pays twice"),
    ]


def test_versions_are_weighed_and_go_back_to_what_the_flow_says(desk: Service) -> None:
    assert (
        done(desk, "weights", "payer", "v1=1", "v2=3", "--why", "v2 is good") == "payer is weighed: v1 25%, v2 75%\n"
    )
    assert told(desk, "payer")["weights"]["why"] == "v2 is good"
    alone = done(desk, "weights", "payer", "v1=1", "--reason", "v2 errs")
    assert alone == "payer is weighed: v1 100%, v2 only where no other can be asked\n"
    assert done(desk, "weights", "payer", "--reset") == "payer is weighed: v1 90%, v2 10%\n"
    assert told(desk, "payer")["weights"] == {"from": "flow"}


def test_instances_are_registered_by_what_they_are_or_by_their_card_and_removed(
    desk: Service, agents: dict[str, str]
) -> None:
    url = agents["text_processor"]
    plain = ("--name", "paper-1", "--type", "paper", "--url", url, "--version", "v7", "--ttl", "60")
    said = done(desk, "register", *plain)
    known = told(desk, "reader")["endpoints"][0]
    by_card = done(desk, "register", "--card", f"{url}/.well-known/agent-card.json", "--name", "paper-2")
    removed = done(desk, "remove", "paper-1")

    at = f"paper-1 is registered as one of paper at {url}, until {known['expires_at']} unless it sends POST "
    assert said == f"{at}/agents/paper-1/heartbeat\n"
    assert (known["url"], known["version"], known["instance"]) == (url, "v7", "paper-1")
    assert by_card == f"paper-2 is registered at {url}, until it is removed\n"
    assert removed == "paper-1 is removed\n"
    assert told(desk, "reader")["endpoints"] == []


@pytest.mark.parametrize("given", [["v1"], ["=3"], ["v1=nan"], ["v1=1e7"], ["v1=x"], ["v1= 1"]])
def test_what_is_no_weight_is_refused_here(desk: Service, given: list[str]) -> None:
    remedy = "write VERSION=WEIGHT, a plain number, such as v1=90 v2=10"
    code, why = refused(desk, "weights", "payer", *given)
    assert (code, why) == (2, f"flows: {given[-1]!r} is no weight; {remedy}\n")


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (["v1=10000000"], "the weight of 'v1' is 10000000; write a number from 0 to 1,000,000"),
        (["v1=-1"], "the weight of 'v1' is -1; write a number from 0 to 1,000,000"),
        (["v1=1", "v1=5"], "version 'v1' is there twice; give it one weight"),
    ],
)
def test_a_weight_that_cannot_be_is_told_apart(desk: Service, given: list[str], why: str) -> None:
    assert refused(desk, "weights", "payer", *given) == (2, f"flows: {why}\n")


@pytest.mark.parametrize("given", [[], ["v1=1", "--reset"]])
def test_weights_or_none_of_them_must_be_said(desk: Service, given: list[str]) -> None:
    either = "say either the weights, such as v1=90 v2=10, or --reset for those of the flow"
    assert refused(desk, "weights", "payer", *given) == (2, f"flows: {either}\n")


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["off", "nobody", "--reason", "x"], "there is no agent 'nobody'"),
        (["off", "a/b", "--reason", "x"], "did not do it"),
        (["on", "payer", "--why", " "], "why: "),
        (["off", "payer", "--reason", ""], "reason: "),
        (["weights", "payer", "v1=0", "v2=0"], "weights: "),
        (["weights", "payer", "v9=1"], "agent 'payer' has no version 'v9'; its versions are v1, v2"),
        (["weights", "clerk", "v1=1"], "it has no versions"),
        (["remove", "payer"], "agent 'payer' stands in flow 'desk'"),
        (["remove", "nobody"], "no agent 'nobody' is registered"),
        (["register", "--name", "x"], "agent_type: it is missing"),
        (["register", "--card", "file:///etc/passwd"], "card_url: "),
    ],
)
def test_what_the_service_refuses_is_said_in_its_words(desk: Service, arguments: list[str], why: str) -> None:
    code, said = refused(desk, *arguments)
    assert (code, said.count("\n")) == (1, 1)
    assert said.startswith("flows: the service at URL did not do it: ")
    assert why in said


def test_without_the_token_nothing_is_told(desk: Service) -> None:
    code, why = refused(desk, "--once", token="")
    assert (code, "FLOWS_ADMIN_TOKEN" in why) == (1, True)


def test_a_token_that_cannot_be_sent_is_told(desk: Service) -> None:
    why = "FLOWS_ADMIN_TOKEN holds a character that no header can carry; use ASCII letters, digits and signs"
    assert refused(desk, "--once", token="ünïcode-of-16-characters") == (1, f"flows: {why}\n")


def test_the_service_is_named_where_it_is_heard(desk: Service) -> None:
    astray = flows("agents", "--url", desk.url, "on", "payer")
    nobody = flows("agents", "register", "--card", "http://a", "--service", "http://127.0.0.1:1")
    assert (astray.returncode, "write it after `on`" in astray.stderr) == (2, True)
    assert (nobody.returncode, nobody.stderr.endswith("name it with --service\n")) == (1, True)
