"""LangGraph Studio's server, `langgraph dev`, started for real with langgraph.json and driven over HTTP."""

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest

from graph import shipped_flows
from server.listening import listen
from tests.background import Background
from tests.openai_server import model_server, says, thinks

ROOT = Path(__file__).parent.parent
STAGES = ["greeting", "authentication", "intent_capture", "fulfillment", "closing"]


@dataclass(frozen=True)
class Studio:
    """What LangGraph Studio asks of the server."""

    http: httpx.Client

    def assistant(self) -> str:
        """The id of the assistant that takes calls; there is one for each flow."""
        return self.assistants()["call"]

    def assistants(self) -> dict[str, str]:
        """The ids of the assistants; there is one for each flow."""
        found = self.http.post("/assistants/search", json={"limit": 100}).json()
        return {assistant["graph_id"]: str(assistant["assistant_id"]) for assistant in found}

    def thread(self) -> str:
        return str(self.http.post("/threads", json={}).json()["thread_id"])

    def turn(self, thread: str, flow: str = "call", **said: Any) -> dict[str, Any]:
        """The state after one run."""
        run = self.http.post(f"/threads/{thread}/runs/wait", json={"assistant_id": flow, "input": said})
        return dict(run.json())

    def resumed(self, thread: str, flow: str, answer: Any) -> dict[str, Any]:
        """The state after a question was answered."""
        command = {"assistant_id": flow, "command": {"resume": answer}}
        return dict(self.http.post(f"/threads/{thread}/runs/wait", json=command).json())

    def drawn(self, flow: str) -> set[tuple[str, str]]:
        """The edges of a flow's drawing."""
        graph = self.http.get(f"/assistants/{self.assistants()[flow]}/graph").json()
        return {(edge["source"], edge["target"]) for edge in graph["edges"]}

    def history(self, thread: str) -> list[dict[str, Any]]:
        return list(self.http.get(f"/threads/{thread}/history", params={"limit": 100}).json())

    def say(self, assistant: str, text: str, context: str | None = None) -> dict[str, Any]:
        """The task with which the platform's own A2A door answers."""
        message = {"role": "user", "parts": [{"kind": "text", "text": text}], "messageId": str(uuid.uuid4())}
        message |= {"contextId": context} if context else {}
        request = {"jsonrpc": "2.0", "id": "1", "method": "message/send", "params": {"message": message}}
        return dict(self.http.post(f"/a2a/{assistant}", json=request).json()["result"])


@pytest.fixture(scope="module")
def studio(agents: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    env = {f"{name.upper()}_AGENT_URL": url for name, url in agents.items()}
    env["RELAY_AGENT_URL"] = agents["greeting"]
    with langgraph_dev(tmp_path_factory.mktemp("studio"), env) as url, _client(url) as http:
        yield Studio(http)


@contextmanager
def langgraph_dev(folder: Path, env: dict[str, str]) -> Iterator[str]:
    """Run `langgraph dev` in `folder`, where it may leave its files, and yield its address."""
    with listen("langgraph dev", "127.0.0.1", 0) as free:
        port = free.getsockname()[1]
    options = ["--config", str(ROOT / "langgraph.json"), "--port", str(port), "--no-browser", "--no-reload"]
    log = folder / "dev.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "langgraph_cli", "dev", *options],
            cwd=folder,
            env=_plain_environment() | env | {"FLOWS_DATA_DIR": str(folder / "data")},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        _await_ok(url, process, log)
        yield url
    finally:
        _stop(process)
    assert "Application shutdown failed" not in log.read_text()


def _plain_environment() -> dict[str, str]:
    """This process's surroundings without its settings: no key, no Redis, nobody told that we ran."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR", "LANG") if name in os.environ}
    quiet = {"LANGGRAPH_CLI_NO_ANALYTICS": "1", "LANGGRAPH_NO_VERSION_CHECK": "true", "LANGSMITH_TRACING": "false"}
    return kept | quiet | {"PYTHONPATH": str(ROOT)}


def _client(url: str) -> httpx.Client:
    return httpx.Client(base_url=url, timeout=30, trust_env=False, headers={"Accept": "application/json"})


def _await_ok(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    give_up = time.monotonic() + 60
    with _client(url) as http:
        while time.monotonic() < give_up and process.poll() is None:
            try:
                if http.get("/ok").json() == {"ok": True, "services": {}}:
                    return
            except httpx.TransportError:
                time.sleep(0.1)
    pytest.fail(f"langgraph dev did not come up:\n{log.read_text(errors='replace')[-3000:]}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(5)
        raise


def test_a_whole_call_runs_on_one_thread_in_plain_input_and_in_chat_messages(studio: Studio) -> None:
    thread = studio.thread()

    hello = studio.turn(thread, messages=[{"role": "human", "content": "Hello, I am Maria"}])
    studio.turn(thread, input_message="Please send me a code", intent="authenticate", account_id="ACC-1")
    studio.turn(thread, messages=[{"type": "human", "content": [{"type": "text", "text": "It is 123456"}]}])
    studio.turn(thread, input_message="I was charged twice")
    paid = studio.turn(thread, messages=[{"role": "user", "content": "Yes, please"}])
    closed = studio.turn(thread, input_message="That is all, thank you", intent="closing")

    assert hello["messages"][-1]["content"] == "Welcome to customer service, Maria. How can I help you today?"
    assert paid["messages"][-1]["content"].startswith("Your refund of ")
    assert paid["steps"][0]["response_data"]["data"][0]["refund"]["account_id"] == "ACC-1"
    assert closed["is_complete"]
    assert closed["completed_flows"] == [1, 2, 3, 4, 5]
    assert "messages" not in closed
    assert _trail(studio.history(thread)) == [
        ("greeting", "greeting", "triggers", "Hello, I am Maria"),
        ("authentication", "authenticate", "declared", "Please send me a code"),
        ("authentication", "authenticate", "open_task", "It is 123456"),
        ("intent_capture", "refund_request", "triggers", "I was charged twice"),
        ("fulfillment", "process_refund", "triggers", "Yes, please"),
        ("closing", "closing", "declared", "That is all, thank you"),
    ]


def test_an_intent_that_is_not_legal_fails_the_run_and_leaves_the_call_where_it_was(studio: Studio) -> None:
    thread = studio.thread()
    before = studio.turn(thread, input_message="Hello")

    refused = studio.turn(thread, input_message="Pay it out", intent="process_refund")

    assert refused["__error__"]["error"] == "Refused"
    state = studio.http.get(f"/threads/{thread}/state").json()
    assert "send one of verify_identity, authenticate, otp_verify" in state["tasks"][0]["error"]
    assert state["values"] == {key: value for key, value in before.items() if key not in ("steps", "messages")}


def test_the_drawing_shows_the_stages_one_after_the_other(studio: Studio) -> None:
    drawn = studio.http.get(f"/assistants/{studio.assistant()}/graph").json()

    assert {*STAGES, "classifier", "fallback"} <= {node["id"] for node in drawn["nodes"]}
    edges = {(edge["source"], edge["target"]) for edge in drawn["edges"]}
    between = [edge for edge in edges if edge[0] in STAGES and edge[1] in STAGES]
    assert sorted(between) == sorted(pairwise(STAGES))


def test_another_agent_may_hold_the_call_over_a2a(studio: Studio) -> None:
    assistant = studio.assistant()

    greeted = studio.say(assistant, "Good morning")
    verified = studio.say(assistant, "My number is 12345678", greeted["contextId"])

    assert [_said(greeted), _said(verified)] == [
        "Welcome to customer service. How can I help you today?",
        "Thank you, your identity is verified.",
    ]
    state = studio.http.get(f"/threads/{greeted['contextId']}/state").json()
    assert state["values"]["completed_flows"] == [1, 2]


def test_the_relay_takes_one_message_after_another(studio: Studio) -> None:
    thread = studio.thread()

    states = [studio.turn(thread, "relay", input_message=words) for words in ("Hello", "Hello again")]

    assert [(state["run"], state["ended"], state["steps"][0]["number"]) for state in states] == [
        (1, "completed", 1),
        (2, "completed", 2),
    ]


def test_every_flow_that_we_ship_has_a_graph_of_its_own(studio: Studio) -> None:
    named = json.loads((ROOT / "langgraph.json").read_text())["graphs"]

    assert named == {flow: f"graph.studio:{flow}" for flow in shipped_flows()}
    assert sorted(studio.assistants()) == shipped_flows()


TEXT = "This is an analysis. Profit is good. Sales are strong."
DOCUMENTS = ["It is great.", "It is broken."]


@pytest.mark.parametrize(
    ("flow", "said", "stages", "known"),
    [
        ("sequential", {}, ["extract", "summarise", "format"], {"briefing": "About analysis. Profit is good."}),
        ("parallel", {}, ["read", "read", "read", "read", "report"], {"sentiment": "positive"}),
        ("conditional", {}, ["classify", "sentiment", "summary"], {"summary": "Profit is good."}),
        ("loop", {}, ["load", "refine", "format"], {"text": TEXT}),
        (
            "map_reduce",
            {"context": {"documents": DOCUMENTS}},
            ["read_each", "read_each", "read_each", "reduce"],
            {"failed": []},
        ),
    ],
)
def test_the_patterns_run(
    studio: Studio, flow: str, said: dict[str, Any], stages: list[str], known: dict[str, Any]
) -> None:
    thread = studio.thread()

    state = studio.turn(thread, flow, input_message=TEXT, **said)

    assert (state["ended"], state["context"]) == ("completed", state["context"] | known)
    assert [stage for stage, *_ in _trail(studio.history(thread))] == stages


def test_branches_are_drawn_as_nodes_of_their_own(studio: Studio) -> None:
    both_ways = {("read", f"read/{branch}") for branch in ("sentiment", "keywords", "summary")}

    assert studio.drawn("parallel") >= both_ways | {(end, begin) for begin, end in both_ways} | {("read", "report")}
    assert studio.drawn("map_reduce") >= {("read_each", "read_each/item"), ("read_each/item", "read_each")}


def test_a_question_is_an_interrupt_that_the_api_resumes(studio: Studio) -> None:
    thread = studio.thread()

    waiting = studio.turn(thread, "approval", input_message=TEXT)
    task = studio.http.get(f"/threads/{thread}/state").json()["tasks"][0]
    again = studio.resumed(thread, "approval", "perhaps")
    done = studio.resumed(thread, "approval", True)

    question = {"question": "May this go out? Profit is good.", "schema": {"type": "boolean"}}
    assert [one["value"] for one in waiting["__interrupt__"]] == [{"stage": "approve", **question}]
    assert (task["name"], task["interrupts"][0]["value"]["question"]) == ("approve", question["question"])
    assert again["__interrupt__"][0]["value"] == {"stage": "approve", **question}
    assert (done["ended"], done["context"]["published"]) == ("completed", "Profit is good.")


def test_models_answer_where_there_is_a_key(agents: dict[str, str], background: Background, tmp_path: Path) -> None:
    model = background.open(model_server())
    facts = '{"topic": "Annual report", "statistics": [], "conclusions": []}'
    others = {"trends in": says("up"), "potential risks": says('["None."]'), "investor": says("all is well")}
    model.thought = thinks({"Extract": says(facts), **others})
    env = {"TEXT_PROCESSOR_AGENT_URL": agents["text_processor"]}
    key = {"OPENAI_API_KEY": "sk-secret", "OPENAI_BASE_URL": model.url, "OPENAI_MODEL": "small"}

    with langgraph_dev(tmp_path, env | key) as url, _client(url) as http:
        studio = Studio(http)
        state = studio.turn(studio.thread(), "financial_report", input_message=TEXT)

    assert (state["ended"], state["context"]["risks"]) == ("completed", ["None."])
    assert state["context"]["report"] == "All is well."
    assert {body["model"] for body in model.bodies} == {"small"}


def test_what_studio_asks_for_a_form_is_told(studio: Studio) -> None:
    schemas = studio.http.get(f"/assistants/{studio.assistant()}/schemas").json()

    assert {"input_message", "intent", "account_id"} <= schemas["input_schema"]["properties"].keys()
    assert {"tenant", "language"} <= schemas["context_schema"]["properties"].keys()


def test_the_service_is_served_beside_it(studio: Studio) -> None:
    turn = {"call_identify_id": "CALL-1", "account_id": "ACC-1", "eci": "ECI-1", "input_message": "Hello"}

    answer = studio.http.post("/orchestrate", json=turn).json()

    assert (answer["status"], answer["intent"], answer["next_flow_id"]) == ("success", "greeting", 2)
    assert studio.http.get("/session/CALL-1").json()["stage"] == "authentication"
    assert studio.http.get("/ready").json() == {"status": "ready", "checkpointer": "core", "flow": "call"}


def _trail(history: list[dict[str, Any]]) -> list[tuple[str, str, str, str]]:
    steps = {step["number"]: step for saved in history for step in saved["values"].get("steps", [])}
    return [
        (step["stage"], step["intent"], step["intent_source"], step["input_message"])
        for _, step in sorted(steps.items())
    ]


def _said(task: dict[str, Any]) -> str:
    return str(task["artifacts"][0]["parts"][0]["text"])
