"""Reading the files of the flows again while the service runs: by HTTP, by the command line, by a signal."""

import json
import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from graph.loader import FlowError
from server.app import create_app
from tests.a2a_client import Client, state_of
from tests.background import Background
from tests.conftest import StartService
from tests.test_command_line import FLOWS, flows
from tests.test_flow_versions import DESK, LONGER, file, listed, stage_after  # noqa: F401  (a fixture)

BAD = DESK.replace("agent: back", "agent: nobody")


def test_a_file_that_does_not_check_changes_nothing_and_the_others_are_read(
    start: StartService, tmp_path: Path
) -> None:
    one, two = tmp_path / "one.yaml", tmp_path / "two.yaml"
    one.write_text(DESK)
    two.write_text(DESK.replace("flow: desk", "flow: other"))
    service = start(checkpointer="memory", flow=str(one), flows=(str(two),))
    before = {name: listed(service, name)["digest"] for name in ("desk", "other")}
    one.write_text(BAD)
    two.write_text(LONGER.replace("flow: desk", "flow: other"))

    refused = service.http.post("/flows/reload")

    told = refused.json()
    line = next(at for at, text in enumerate(BAD.splitlines(), start=1) if "nobody" in text)
    assert (refused.status_code, told["type"]) == (422, "flow-refused")
    assert [(error["file"], error["line"]) for error in told["errors"]] == [(str(one), line)]
    assert f"{one}:{line}: " in told["detail"]
    assert told["changed"] == {"other": {"from": before["other"], "to": listed(service, "other")["digest"]}}
    assert listed(service)["digest"] == before["desk"]
    assert stage_after(service, "C") == "bye"


def test_a_flow_that_appears_has_every_door_and_one_that_goes_has_none(start: StartService, tmp_path: Path) -> None:
    (tmp_path / "desk.yaml").write_text(DESK)
    service = start(checkpointer="memory", flows=(str(tmp_path),))
    (tmp_path / "new.yaml").write_text(DESK.replace("flow: desk", "flow: new"))
    (tmp_path / "desk.yaml").unlink()

    changed = service.http.post("/flows/reload").json()["changed"]

    assert {flow: [digest is None for digest in change.values()] for flow, change in changed.items()} == {
        "desk": [False, True],
        "new": [True, False],
    }
    card = service.http.get("/a2a/new/.well-known/agent-card.json").json()
    assert (card["name"], card["supportedInterfaces"][0]["url"]) == ("new", f"{service.url}/a2a/new")
    assert state_of(Client(service.http, path="/a2a/new").send("hello", context="C")) == "input-required"
    assert service.http.get("/session/C").json()["flow"] == "new"
    assert service.http.get("/a2a/desk/.well-known/agent-card.json").status_code == 404
    assert service.turn("D", "hello", flow="desk").status_code == 404


def test_a_file_whose_name_is_no_text_is_refused(start: StartService, tmp_path: Path) -> None:
    service = start(checkpointer="memory", flows=(str(tmp_path),))
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.yaml")).write_text(DESK)

    refused = service.http.post("/flows/reload")

    assert (refused.status_code, refused.json()["changed"]) == (422, {})
    assert [error["message"] for error in refused.json()["errors"]] == ["the file's name is not UTF-8; rename it"]
    with pytest.raises(FlowError, match="not UTF-8"):
        start(checkpointer="memory", flows=(str(tmp_path),))


def test_the_default_flows_card_is_that_of_its_current_version(start: StartService, file: Path) -> None:  # noqa: F811
    service = start(checkpointer="memory", flow=str(file), flows=("call",))
    file.write_text(DESK.replace("A desk.", "Another desk."))
    service.http.post("/flows/reload").raise_for_status()

    for path in ("", "/a2a/desk"):
        assert service.http.get(f"{path}/.well-known/agent-card.json").json()["description"] == "Another desk."


# Which files


def test_two_flows_of_one_name_are_refused_with_both_files_named(start: StartService, tmp_path: Path) -> None:
    for name in ("one.yaml", "two.yaml"):
        (tmp_path / name).write_text(f"# {name}\n{DESK}")

    with pytest.raises(FlowError) as refused:
        start(checkpointer="memory", flows=(str(tmp_path),))

    assert re.search(r"two\.yaml:2: a flow named 'desk' is in .*one\.yaml already; rename", str(refused.value))


def test_a_file_of_a_shipped_flows_name_takes_its_place(start: StartService, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(DESK.replace("flow: desk", "flow: relay"))

    service = start(checkpointer="memory", flow=str(tmp_path / "mine.yaml"), flows=None)

    assert listed(service, "relay")["about"] == "A desk."
    assert listed(service, "relay")["default"]
    assert not listed(service, "call")["default"]


def test_a_flow_that_was_asked_for_stops_the_start_if_it_does_not_check(start: StartService, tmp_path: Path) -> None:
    (tmp_path / "desk.yaml").write_text(BAD)

    with pytest.raises(FlowError, match=r"desk\.yaml:\d+: .*nobody"):
        start(checkpointer="memory", flows=("relay", str(tmp_path / "desk.yaml")))


# One flow


def test_a_flow_is_drawn_and_its_file_shown_to_who_administers(start: StartService, file: Path) -> None:  # noqa: F811
    file.write_text(DESK.replace('"${CLOSING_AGENT_URL}"', '"http://me:secret@back:1"'))
    here = start(checkpointer="memory", flow=str(file)).http.get("/flows/desk").json()
    there = start(checkpointer="memory", flow=str(file), admin_token="x" * 16).http.get("/flows/desk").json()

    assert here["mermaid"].startswith("%% ")
    assert "hello" in here["mermaid"]
    assert here["text"] == DESK.replace('"${CLOSING_AGENT_URL}"', '"http://…@back:1"')
    assert there == {**here, "text": None}
    assert [stage["name"] for stage in here["stages"]] == ["hello", "bye"]


def test_an_unknown_flow_is_none(start: StartService) -> None:
    answer = start(checkpointer="memory").http.get("/flows/nobody")

    assert (answer.status_code, answer.json()["type"]) == (404, "flow-not-found")


# Who may


@pytest.mark.parametrize("options", [{"host": "0.0.0.0"}, {"public_url": "https://flows.example"}])
def test_a_service_that_others_reach_wants_a_token_to_be_set(start: StartService, options: dict[str, str]) -> None:
    refused = start(checkpointer="memory", **options).http.post("/flows/reload")

    assert (refused.status_code, refused.json()["type"]) == (401, "not-admin")
    assert "set FLOWS_ADMIN_TOKEN" in refused.json()["detail"]


@pytest.mark.parametrize("header", ["forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via"])
def test_who_comes_through_a_proxy_is_not_on_this_machine(start: StartService, header: str) -> None:
    refused = start(checkpointer="memory").http.post("/flows/reload", headers={header: "for=127.0.0.1"})

    assert (refused.status_code, refused.json()["type"]) == (401, "not-admin")


@pytest.mark.parametrize(("address", "status"), [("127.0.0.1", 200), ("[::1]", 200), ("192.0.2.7", 401)])
def test_the_address_counts_at_which_a_process_manager_serves(
    start: StartService, background: Background, address: str, status: int
) -> None:
    service = start(checkpointer="memory")

    async def reload_at() -> int:
        app = create_app(service.runtime.settings, service.runtime)
        app.state.runtime = service.runtime
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url=f"http://{address}:8000") as http:
            return (await http.post("/flows/reload")).status_code

    assert background.run(reload_at()) == status


def test_only_who_has_the_token_administers(start: StartService) -> None:
    token = "a-token-that-is-long"
    service = start(checkpointer="memory", host="0.0.0.0", admin_token=token)

    def answer(**headers: str) -> int:
        return service.http.post("/flows/reload", headers=headers).status_code

    assert answer(authorization=f"Bearer {token}") == 200
    assert answer(authorization=f"bearer {token}") == 200
    for wrong in ({}, {"authorization": "Bearer no"}, {"authorization": token}):
        assert answer(**wrong) == 401
    assert answer(authorization=f"Bearer {token}", origin="http://evil.example") == 401
    assert service.http.post("/flows/reload").headers["www-authenticate"] == "Bearer"


def test_a_web_page_cannot_reload(start: StartService) -> None:
    refused = start(checkpointer="memory").http.post("/flows/reload", headers={"origin": "http://evil.example"})

    assert (refused.status_code, refused.json()["type"]) == (401, "not-admin")


# The command line, and a signal


def reload(url: str, **env: str) -> tuple[int, str, str]:
    ended = flows("reload", "--url", url, env=env)
    return ended.returncode, ended.stdout, ended.stderr


def test_the_command_says_what_has_changed(start: StartService, file: Path) -> None:  # noqa: F811
    service = start(checkpointer="memory", flow=str(file))
    before = listed(service)["digest"]
    assert reload(service.url) == (0, "nothing has changed\n", "")

    file.write_text(LONGER)
    assert reload(service.url) == (0, f"desk: {before} → {listed(service)['digest']}\n", "")

    file.write_text(BAD)
    code, told, refused = reload(service.url)
    assert (code, told) == (1, "nothing has changed\n")
    assert refused.startswith(f"flows: {file}:")


def test_the_command_shows_its_token(start: StartService) -> None:
    token = "a-token-that-is-long"
    service = start(checkpointer="memory", admin_token=token)

    assert reload(service.url, FLOWS_ADMIN_TOKEN=token)[0] == 0
    code, _, refused = reload(service.url, FLOWS_ADMIN_TOKEN="")
    assert (code, "FLOWS_ADMIN_TOKEN" in refused) == (1, True)


@contextmanager
def serving(flow: Path, data: Path, env: dict[str, str]) -> Iterator[tuple[subprocess.Popen[str], Iterator[str]]]:
    """`flows serve` as a process of its own; yields it and what it logs."""
    given = {**os.environ, **env, "FLOWS_DATA_DIR": str(data), "FLOWS_PORT": "0", "NO_COLOR": "1"}
    command = [FLOWS, "serve", "--flow", str(flow)]
    process = subprocess.Popen(
        command, env=given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", start_new_session=True
    )
    assert process.stdout
    impatient = threading.Timer(60, process.kill)
    impatient.start()
    try:
        yield process, iter(process.stdout)
    finally:
        impatient.cancel()
        process.send_signal(signal.SIGTERM)
        process.stdout.read()
        process.wait(timeout=30)
        process.stdout.close()


def said(log: Iterator[str], event: str) -> dict[str, Any]:
    """The next line of the log that tells of an event."""
    return next(line for line in map(json.loads, log) if line["event"] == event)


def test_a_signal_reloads_and_a_bad_file_is_logged(
    agents: dict[str, str],
    file: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    urls = {f"{name.upper()}_AGENT_URL": url for name, url in agents.items()}
    with serving(file, tmp_path / "data", urls) as (process, log):
        url = said(log, "serving")["url"]

        def versions() -> dict[str, int]:
            return {one["flow"]: one["version"] for one in httpx.get(f"{url}/flows").json()["flows"]}

        file.write_text(LONGER)
        process.send_signal(signal.SIGHUP)
        assert said(log, "flows reloaded")["changed"] == ["desk"]
        assert versions()["desk"] == 2

        file.write_text(BAD)
        process.send_signal(signal.SIGHUP)
        assert said(log, "flows reloaded")["refused"][0].startswith(f"{file}:")
        assert versions()["desk"] == 2
    assert process.returncode == 0
