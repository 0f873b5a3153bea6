"""The `flows` command, run as a person would run it."""

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import structlog
from typer.testing import CliRunner

from graph.loader import load_flow
from server.cli import app
from server.demo_agents import AGENTS
from tests.conftest import Service, StartService

FLOWS = str(Path(sys.executable).with_name("flows"))
PLAIN = {"NO_COLOR": "1", "COLUMNS": "100"}


def flows(
    *arguments: str, env: dict[str, str] | None = None, typed: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `flows` in this process, for another takes seconds to start, and return what it printed."""
    with _logs_elsewhere():
        done = CliRunner().invoke(app, arguments, input=typed, env={**PLAIN, **(env or {})}, catch_exceptions=False)
    return subprocess.CompletedProcess(arguments, done.exit_code, done.stdout, done.stderr)


@contextmanager
def _logs_elsewhere() -> Iterator[None]:
    """Keep what other threads log out of the output of a command, and what it configures from outliving it."""
    before, configure = structlog.get_config(), structlog.configure
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            structlog, "configure", lambda **given: configure(**given | {"cache_logger_on_first_use": False})
        )
        configure(**before | {"logger_factory": structlog.PrintLoggerFactory(sys.__stderr__)})
        try:
            yield
        finally:
            configure(**before)


def flows_alone(
    *arguments: str, env: dict[str, str] | None = None, typed: bytes | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `flows` as a process of its own, and return what it printed."""
    return subprocess.run(
        [FLOWS, *arguments],
        env={**os.environ, **PLAIN, **(env or {})},
        input=None if typed is None else typed.decode(errors="surrogateescape"),
        capture_output=True,
        encoding="utf-8",
        errors="surrogateescape",
        timeout=60,
        check=False,
    )


@contextmanager
def serving(data_dir: Path, agents: dict[str, str], **more: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Run `flows serve` on a free port, and yield its address and process."""
    env = {f"{name.upper()}_AGENT_URL": url for name, url in agents.items()}
    process = subprocess.Popen(
        [FLOWS, "serve", "--port", "0"],
        env={**os.environ, **env, "FLOWS_DATA_DIR": str(data_dir), **more},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        line = next(line for line in process.stderr if '"serving"' in line)
        yield json.loads(line)["url"], process
    finally:
        process.terminate()
        process.communicate(timeout=20)


def test_check_says_that_a_flow_is_sound() -> None:
    done = flows_alone("check", "call")

    assert (done.returncode, done.stdout) == (0, "call (version 1) is sound: 5 stages, 20 intents, 10 agents\n")


def test_check_names_file_line_and_remedy(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("flow: mine\nagents:\n  a: {url: http://a:1, timout: 3s}\nstages:\n  one: {agent: a}\n")

    done = flows("check", str(file))

    assert done.returncode == 1
    assert f"{file}:3: unknown key 'agents.a.timout'; did you mean 'timeout'?" in done.stderr
    assert "Traceback" not in done.stderr


def test_check_imports_neither_server_nor_langgraph() -> None:
    program = (
        "import sys; sys.argv = ['flows', 'check', 'call']\n"
        "from server.cli import app\n"
        "try: app()\n"
        "except SystemExit: pass\n"
        "print(sorted(m for m in ('fastapi', 'langgraph', 'uvicorn', 'redis', 'server.app') if m in sys.modules))"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout.splitlines()[-1] == "[]"


def test_draw_prints_mermaid_and_writes_a_picture(tmp_path: Path) -> None:
    picture = tmp_path / "call.png"

    text = flows("draw", "call")
    drawn = flows("draw", "call", "--png", str(picture))

    assert "flowchart TD" in text.stdout
    assert "intent_capture" in text.stdout
    assert drawn.returncode == 0
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("folder", ["/nonexist/x.png", "."])
def test_a_picture_that_cannot_be_written_is_a_clear_message(folder: str) -> None:
    done = flows("draw", "--png", folder)

    assert done.returncode == 1
    assert re.fullmatch(r"flows: cannot write '.+': .+; name a file in a folder that exists\n", done.stderr)


def test_schema_is_a_json_schema() -> None:
    schema = json.loads(flows("schema").stdout)

    assert schema["properties"]["stages"]["minProperties"] == 1


def test_serve_stops_cleanly_and_the_call_goes_on_after_a_start(
    start: StartService, tmp_path: Path, agents: dict[str, str]
) -> None:
    turn = {"call_identify_id": "CLI-1", "account_id": "A", "eci": "E"}
    with serving(tmp_path, agents, FLOWS_DRAIN_SECONDS="1") as (url, process):
        assert httpx.get(f"{url}/ready").status_code == 200
        process.send_signal(signal.SIGTERM)
        while (ready := httpx.get(f"{url}/ready")).status_code == 200:
            pass
        assert (ready.status_code, ready.json()["type"]) == (503, "stopping")
        httpx.post(f"{url}/orchestrate", json={**turn, "input_message": "Hello"}).raise_for_status()
        assert process.wait(timeout=20) == 0

    again = start(data_dir=tmp_path)
    told = again.http.post("/orchestrate", json={**turn, "input_message": "My SSN is 123-45-6789"}).json()

    assert (told["intent_flow_id"], told["step"]) == (2, 2)


def test_a_killed_service_loses_no_answered_turn(start: StartService, tmp_path: Path, agents: dict[str, str]) -> None:
    turn = {"call_identify_id": "CLI-2", "account_id": "A", "eci": "E", "input_message": "Hello"}
    with serving(tmp_path, agents) as (url, process):
        httpx.post(f"{url}/orchestrate", json=turn).raise_for_status()
        process.kill()
        process.wait()

    steps = start(data_dir=tmp_path).http.get("/session/CLI-2/steps").json()

    assert [step["intent"] for step in steps] == ["greeting"]


def test_two_services_share_one_embedded_store(start: StartService, tmp_path: Path, agents: dict[str, str]) -> None:
    turn = {"call_identify_id": "CLI-3", "account_id": "A", "eci": "E", "input_message": "Hello"}
    with serving(tmp_path, agents) as (url, _):
        other = start(data_dir=tmp_path)
        httpx.post(f"{url}/orchestrate", json=turn).raise_for_status()

        assert other.http.get("/session/CLI-3").json()["current_flow_id"] == 2


def test_the_demo_agents_environment_is_what_the_shipped_flow_looks_up() -> None:
    script = f"eval {shlex.quote(flows('demo-agents', '--env').stdout)}; env"

    done = subprocess.run(["sh", "-ec", script], capture_output=True, text=True, check=True)

    env = dict(line.split("=", 1) for line in done.stdout.splitlines() if "_AGENT_URL=" in line)
    urls = {name: agent.url for name, agent in load_flow("call", env).agents.items()}
    assert urls == {name: f"http://127.0.0.1:{AGENTS[name].port}" for name in urls}


def test_settings_nobody_reads_and_an_open_door_are_warned_of(tmp_path: Path) -> None:
    env = {"FLOWS_HOST": "0.0.0.0", "FLOWS_PROT": "1", "FLOWS_REDIS_URL": "x", "FLOWS_ZZZ": "1", "FLOWS_FLOW": "none"}

    done = flows("serve", "--port", "0", env={**env, "FLOWS_DATA_DIR": str(tmp_path)})

    lines = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    unknown = {line["variable"]: line.get("did_you_mean") for line in lines if "variable" in line}
    assert unknown == {"FLOWS_PROT": "FLOWS_PORT", "FLOWS_REDIS_URL": "REDIS_URL", "FLOWS_ZZZ": None}
    assert [line["host"] for line in lines if "no authentication" in line["event"]] == ["0.0.0.0"]


@pytest.mark.parametrize("command", [["serve"], ["demo", "--once"]])
def test_a_taken_port_is_a_clear_message(command: list[str], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = flows(*command, env={"FLOWS_PORT": str(port), "FLOWS_DATA_DIR": str(tmp_path)})

    assert done.returncode == 1
    assert re.search(rf"port {port} of the service is in use; .*FLOWS_PORT", done.stderr)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({"FLOWS_PORT": "many"}, "FLOWS_PORT"),
        ({"FLOWS_HOST": "192.0.2.1"}, "set FLOWS_HOST to an address of this machine"),
        ({"FLOWS_CHECKPOINTER": "sqlite"}, "FLOWS_CHECKPOINTER"),
        ({"FLOWS_FLOW": "nosuch"}, "nosuch"),
        ({"REDIS_URL": "redis://:secret@127.0.0.1:1/0"}, "REDIS_URL"),
        ({"REDIS_URL": "http://127.0.0.1"}, "REDIS_URL"),
    ],
)
def test_settings_that_make_no_sense_are_named(env: dict[str, str], message: str, tmp_path: Path) -> None:
    done = flows("serve", "--port", "0", env={"FLOWS_DATA_DIR": str(tmp_path), **env})

    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert "secret" not in done.stderr


def test_a_port_that_does_not_exist_is_refused() -> None:
    done = flows("serve", "--port", "99999")

    assert done.returncode == 2
    assert "65535" in done.stderr
    assert "Traceback" not in done.stderr


def test_call_talks_to_a_running_service(start: StartService) -> None:
    service: Service = start(checkpointer="memory")
    typed = "Hello\n/as verify_identity My SSN is 123-45-6789\n/as closing Bye\nI want a refund\nyes please\nbye\n"

    done = flows("call", "--url", service.url, "--call-id", "TALK-1", typed=typed)

    assert done.returncode == 0, done.stderr
    for part in ("stage 1 greeting", "stage 2 authentication", "409 intent-not-legal", "agent refund", "5 steps"):
        assert part in done.stdout
    assert "you> /as closing Bye\n" in done.stdout


def test_call_says_in_words_how_an_intent_was_found(start: StartService) -> None:
    service: Service = start(checkpointer="memory")
    typed = "Hello\ncolourless green ideas\n/as authenticate a code please\n123456\n"

    done = flows("call", "--url", service.url, typed=typed)

    for part in ("unknown (not understood)", "authenticate (the agent had asked)"):
        assert part in done.stdout


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_call_takes_bytes_that_are_not_utf_8_for_replacement_characters(start: StartService, locale: str) -> None:
    service: Service = start(checkpointer="memory")
    call = f"TALK-{locale}"

    done = flows_alone("call", "--url", service.url, "--call-id", call, typed=b"caf\xe9\n", env={"LC_ALL": locale})

    assert done.returncode == 0, done.stderr
    assert service.http.get(f"/session/{call}/steps").json()[0]["input_message"] == "caf\ufffd"


def test_call_goes_past_the_proxy_to_this_machine(start: StartService) -> None:
    service: Service = start(checkpointer="memory")

    done = flows("call", "--url", service.url, typed="Hello\n", env={"HTTP_PROXY": "http://127.0.0.1:1"})

    assert "stage 1 greeting" in done.stdout


@pytest.mark.parametrize("url", ["foo", "localhost:8000", "http://", "http://[::1", "http://localhost:99999"])
def test_call_says_what_an_address_looks_like(url: str) -> None:
    done = flows("call", "--url", url)

    assert (done.returncode, done.stderr) == (1, f"flows: {url!r} is no address; write http://host:port\n")


def test_call_does_not_take_an_agent_for_the_service(agents: dict[str, str]) -> None:
    done = flows("call", "--url", agents["greeting"])

    assert done.returncode == 1
    assert "is no service of ours; check the address" in done.stderr


def test_call_without_a_service_says_how_to_start_one() -> None:
    done = flows_alone("call", "--url", "http://127.0.0.1:1")

    assert done.returncode == 1
    assert "start one with `flows demo`" in done.stderr
