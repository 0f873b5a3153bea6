"""What the README tells people to do works as it stands."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from graph.loader import parse_flow, shipped_flows
from server.settings import Settings
from tests.conftest import StartService

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """Return the README's code blocks of one language."""
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def program(name: str) -> str:
    """Return the Python program that the README marks with a name."""
    (text,) = re.findall(rf"<!-- tested: {name} -->\n```python\n(.*?)```", README, re.DOTALL)
    return str(text)


def output_of(text: str, env: dict[str, str] | None = None) -> str:
    """Run a program to its end and return what it printed."""
    command = [sys.executable, "-c", text]
    done = subprocess.run(command, env={**os.environ, **(env or {})}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_flow_checks() -> None:
    (text,) = blocks("yaml")

    flow = parse_flow(text, "README.md", {})

    assert list(flow.stages) == ["welcome", "request"]


def test_the_python_program_runs(agents: dict[str, str]) -> None:
    env = {f"{name.upper()}_AGENT_URL": url for name, url in agents.items()}

    said = output_of(program("python"), env)

    assert said == "{'text': 'Welcome to customer service. How can I help you today?'}\n"


def test_the_a2a_client_is_answered(start: StartService) -> None:
    service = start(checkpointer="memory", flows=None)

    said = output_of(program("a2a").replace("http://localhost:8000", service.url))

    assert [said.count(kind) for kind in ("\ntask {", "status_update {", "artifact_update {")] == [0, 2, 1]
    assert said.startswith("task {")
    assert "Welcome to customer service." in said
    assert "TASK_STATE_INPUT_REQUIRED" in said


def test_the_websocket_client_is_told(start: StartService) -> None:
    service = start(checkpointer="memory", flows=None)

    said = output_of(program("websocket").replace("ws://localhost:8000", service.url.replace("http", "ws", 1)))

    assert said.split() == ["state_change", "step", "turn"]


@pytest.mark.skipif(shutil.which("curl") is None, reason="the README's commands use curl")
def test_the_curl_calls_are_answered(start: StartService) -> None:
    service = start(checkpointer="memory", flows=None)
    commands = [block for block in blocks("sh") if block.startswith("curl")]

    said = []
    for block in commands:
        script = block.replace("http://localhost:8000", service.url).replace("curl -s", "curl -sS --fail-with-body")
        said.append(subprocess.run(["sh", "-ec", script], capture_output=True, text=True, check=True).stdout)

    assert '"next_flow_id":2' in said[0]
    assert '"deleted":true' in said[1]
    assert '"status":"ready"' in said[1]
    assert "event: turn" in said[2]


@pytest.mark.skipif(shutil.which("curl") is None, reason="the commands use curl")
def test_the_curl_calls_of_the_flows_are_answered(start: StartService) -> None:
    service = start(checkpointer="memory", flows=None)
    text = (ROOT / "docs" / "workflows.md").read_text(encoding="utf-8")

    said = []
    for block in re.findall(r"```sh\n(curl.*?)```", text, re.DOTALL):
        script = block.replace("http://localhost:8000", service.url).replace("curl -s", "curl -sS --fail-with-body")
        said.append(subprocess.run(["sh", "-ec", script], capture_output=True, text=True, check=True).stdout)

    assert '"status":"completed"' in said[0]
    assert '"workflow_id":"wf-content-analysis-workflow' in said[1]
    assert '"status":"ESCALATED"' in said[2] or '"status":"RESOLVED"' in said[2]


def test_the_flows_that_are_shipped_are_in_the_table() -> None:
    table = README.split("### Run any flow")[1].split("###")[0]

    assert {
        name for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)
    } == {*shipped_flows()}


def test_every_setting_is_in_the_table_with_its_default() -> None:
    table = README.split("### Configuration")[1].split("###")[0]

    for name, setting in Settings.model_fields.items():
        variable = str(setting.validation_alias or f"FLOWS_{name.upper()}")
        row = next((line for line in table.splitlines() if f"`{variable}`" in line), None)
        assert row is not None, f"{variable} is not in the README's table"
        assert setting.default in (None, ()) or f"`{setting.default}`" in row or "OpenAI" in row, row


def test_every_link_to_a_file_leads_somewhere() -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_every_problem_type_is_in_the_table() -> None:
    from server.problems import REFUSALS, TABLE

    for row in [*TABLE.values(), *REFUSALS.values()]:
        assert f"| {row.status} | `{row.type}` |" in README
