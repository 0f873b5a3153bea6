"""`flows agents`, run as the engineer on call would run it."""

import getpass
import json
import re
from pathlib import Path
from typing import Any

import pytest

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

    lines = [re.split(r" {2,}", line.strip()) for line in done(desk, "--once").splitlines()]

    head = ["AGENT", "STATE", "ENDPOINT", "VERSION", "HEALTH", "CIRCUIT"]
    assert lines[0] == [*head, "IN FLIGHT", "CALLS", "ERRORS", "P50 / P95 MS", "SOURCE"]
    clerk = [PACE.sub("its pace", cell) for cell in lines[1]]
    well = ["unknown", "closed", "0"]
    assert clerk == ["clerk", "on", puppet[1], *well, "1", "0", "its pace", "flow"]
    assert lines[2] == ["payer", "on", "http://127.0.0.1:9/one", "v1 (90)", *well, "0", "0", "flow"]
    assert lines[3] == ["http://127.0.0.1:9/two", "v2 (10)", *well, "0", "0", "flow"]
    assert lines[4] == ["reader", "off", "none"]
    since = told(desk, "reader")["off"]["at"]
    assert lines[5:] == [[f"reader is off since {since}, by jo: it [red]errs[/]", "[2J"]]


def test_what_is_wrong_with_an_endpoint_is_told(desk: Service) -> None:
    endpoint = desk.runtime.pool.endpoint("http://127.0.0.1:9/two")
    for _ in range(2):
        endpoint.probed(healthy=False, why="it cannot be reached")

    row, *_, note = done(desk, "--once").splitlines()[3:]

    assert " unhealthy " in row
    assert endpoint.probe is not None
    assert note == f"http://127.0.0.1:9/two is unhealthy: it cannot be reached ({endpoint.probe.at})"


def test_the_document_is_printed_as_it_is(desk: Service) -> None:
    assert json.loads(done(desk, "--json"))["agents"][1]["name"] == "payer"


def test_at_a_terminal_the_table_is_drawn_again_until_ctrl_c(desk: Service) -> None:
    script = [("Ctrl-C ends", ""), ("payer", ""), ("Ctrl-C ends", CTRL_C)]
    env = {"FLOWS_ADMIN_TOKEN": TOKEN, "COLUMNS": "200"}

    seen, code = typed_at([FLOWS, "agents", "--service", desk.url], script, env)

    assert (code, "Traceback" in seen) == (0, False)
    assert seen.count("payer") >= 2


def test_an_agent_is_switched_off_and_on(desk: Service) -> None:
    off = done(desk, "off", "payer", "--reason", "it pays twice")
    while_off = told(desk, "payer")
    on = done(desk, "on", "payer", "--by", "jo", "--why", "mended")

    assert off == "payer is off: no call reaches it; its fallback 'clerk' is asked in its place\n"
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


@pytest.mark.parametrize("given", [["v1"], ["=3"], ["v1=-1"], ["v1=nan"], ["v1=1", "v1=2"], ["v1=x"], ["v1= 1"]])
def test_what_is_no_weight_is_refused_here(desk: Service, given: list[str]) -> None:
    remedy = "write VERSION=WEIGHT, each version once, such as v1=90 v2=10"
    code, why = refused(desk, "weights", "payer", *given)
    assert (code, why) == (2, f"flows: {given[-1]!r} is no weight; {remedy}\n")


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


def test_the_service_is_named_where_it_is_heard(desk: Service) -> None:
    astray = flows("agents", "--url", desk.url, "on", "payer")
    nobody = flows("agents", "register", "--card", "http://a", "--service", "http://127.0.0.1:1")
    assert (astray.returncode, "write it after `on`" in astray.stderr) == (2, True)
    assert (nobody.returncode, nobody.stderr.endswith("name it with --service\n")) == (1, True)
