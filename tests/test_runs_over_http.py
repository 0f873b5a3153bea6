"""Any flow by its name over HTTP: to its end, in the background, event by event, and with people in it."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.background import Background
from tests.conftest import Service, StartService
from tests.moody import HOLD, moody_agent
from tests.test_bad_input import refused

TICKET = {"customer_id": "C-1", "subject": "I was charged twice", "body": "I noticed two charges on my account..."}
APPROVAL = """
flow: approval
agents:
  router: {url: "${ROUTER_AGENT_URL:-http://router-agent:8011}"}
inputs: [words]
stages:
  sort:
    agent: router
    input: {text: words}
    output: {category: category}
  approve:
    ask:
      question: "Is {{ category }} right?"
      schema: {type: object, required: [right], properties: {right: {type: boolean}}}
    output: {right: right}
    next: [{when: right, goto: end}, {goto: again}]
  again:
    agent: router
    output: {category: category}
"""


MANY = """
flow: many
agents:
  text: {url: "${TEXT_PROCESSOR_AGENT_URL:-http://text-processor-agent:8015}"}
inputs: [words, list]
stages:
  both:
    parallel:
      mood: {agent: text, input: {text: words, task_type: '"sentiment"'}, output: {sentiment: mood}}
      keys: {agent: text, input: {text: words, task_type: '"keywords"'}, output: {keywords: keys}}
  each:
    map: {over: list, agent: text}
    input: {text: item, task_type: '"count"'}
    output: {results: counts}
"""


@pytest.fixture
def approval(tmp_path: Path) -> str:
    file = tmp_path / "approval.yaml"
    file.write_text(APPROVAL)
    return str(file)


@pytest.fixture
def service(start: StartService, approval: str) -> Service:
    return start(checkpointer="memory", flows=["ticket", "relay", approval])


def run(service: Service, flow: str, status: int = 200, **sent: Any) -> dict[str, Any]:
    answer = service.http.post(f"/flows/{flow}/runs", json=sent)
    assert answer.status_code == status, answer.text
    told: dict[str, Any] = answer.json()
    return told


def test_a_flow_is_run_to_its_end(service: Service) -> None:
    told = run(service, "ticket", input=TICKET, id="RUN-1")

    assert (told["execution_id"], told["flow"], told["status"]) == ("RUN-1", "ticket", "completed")
    assert "workflow_id" not in told
    assert [(one["name"], one["status"], one["agent"]) for one in told["steps"]] == [
        ("routing", "completed", "router"),
        ("knowledge_search", "completed", "knowledge"),
        ("sentiment_analysis", "completed", "sentiment"),
        ("decision", "completed", "decision"),
    ]
    assert told["input_data"] == TICKET
    assert told["output_data"]["outcome"] == "resolve"
    assert service.http.get("/executions/RUN-1").json() == told


def test_a_flow_is_run_in_the_background(start: StartService, background: Background) -> None:
    with moody_agent(background, HOLD) as agent:
        service = start({"ROUTER_AGENT_URL": agent.url}, checkpointer="memory", flows=("ticket",))
        told = run(service, "ticket", 202, input=TICKET, wait=False)

    assert (told["status"], told["current_steps"]) == ("running", ["routing"])


def test_a_call_is_taken_turn_by_turn(service: Service) -> None:
    first = run(service, "call", id="CALL-1", message="Hello", intent="greeting", account_id="ACC-1")
    second = run(service, "call", id="CALL-1", message="My SSN is 123-45-6789")

    assert (first["status"], second["status"]) == ("waiting", "waiting")
    assert [one["status"] for one in second["steps"]] == ["completed", "completed", "pending", "pending", "pending"]
    assert service.http.get("/session/CALL-1").json()["account_id"] == "ACC-1"


def test_a_run_that_has_ended_is_not_begun_again(service: Service) -> None:
    run(service, "ticket", input=TICKET, id="RUN-1")

    refused(service.http.post("/flows/ticket/runs", json={"id": "RUN-1", "input": TICKET}), 409, "call-complete")
    refused(
        service.http.post("/flows/call/runs", json={"id": "RUN-1", "message": "Hello", "intent": "greeting"}),
        409,
        "another-flow",
    )


def test_a_run_that_stopped_where_an_agent_failed_goes_on(start: StartService, background: Background) -> None:
    with moody_agent(background, 503, {"category": "billing"}) as agent:
        service = start({"RELAY_AGENT_URL": agent.url}, checkpointer="memory", flows=["relay"])
        failed = run(service, "relay", id="R-1", message="hello")
        again = run(service, "relay", id="R-1", message="hello")

    assert (failed["status"], failed["error"]["step"], again["status"]) == ("failed", "relay", "completed")


def test_a_person_is_asked_and_answers(start: StartService, approval: str, store: dict[str, Any]) -> None:
    service = start(flows=[approval], **store)

    waiting = run(service, "approval", input={"words": "I was charged twice"}, id="RUN-1")
    listed = service.http.get("/executions", params={"status": "waiting"}).json()["executions"]
    wrong = service.http.post("/executions/RUN-1/answer", json={"answer": {"right": "yes"}})
    still = service.http.get("/executions/RUN-1/status").json()
    answered = service.http.post("/executions/RUN-1/answer", json={"answer": {"right": True}, "wait": True})
    late = service.http.post("/executions/RUN-1/answer", json={"answer": {"right": True}})

    assert (waiting["status"], waiting["current_steps"]) == ("waiting", ["approve"])
    assert waiting["question"] == {
        "step": "approve",
        "question": "Is billing right?",
        "schema": {"type": "object", "required": ["right"], "properties": {"right": {"type": "boolean"}}},
    }
    assert [one["execution_id"] for one in listed] == ["RUN-1"]
    assert "boolean" in refused(wrong, 422, "bad-input")["errors"][0]["message"]
    assert still == waiting
    assert (answered.status_code, answered.json()["status"]) == (200, "completed")
    assert answered.json()["output_data"] == {"category": "billing", "right": True}
    refused(late, 409, "not-waiting")


def test_an_execution_is_answered_although_its_workflow_is_gone(service: Service) -> None:
    document = {"name": "x", "steps": [{"name": "hi", "agent_type": "auth", "input_mapping": {"text": "words"}}]}
    name = service.http.post("/workflows/", json=document).json()["workflow_id"]
    waiting = run(service, name, input={"words": "Log me in"}, metadata={"intent": "authenticate"})
    service.http.delete(f"/workflows/{name}")

    told = service.http.post(
        f"/executions/{waiting['execution_id']}/answer", json={"answer": "123456", "wait": True}
    ).json()

    assert (waiting["status"], waiting["question"]["step"]) == ("waiting", "hi")
    assert (told["workflow_id"], told["steps"][0]["times"]) == (name, 2)


def test_steps_that_ask_several_at_once_tell_of_each(start: StartService, tmp_path: Path) -> None:
    (tmp_path / "many.yaml").write_text(MANY)
    service = start(checkpointer="memory", flows=[str(tmp_path / "many.yaml")])

    told = run(service, "many", input={"words": "I love it", "list": ["one two", "three", 4]})
    logs = service.http.get(f"/executions/{told['execution_id']}/logs").json()["logs"]

    both, each = told["steps"]
    assert (both["status"], each["status"], told["status"]) == ("completed", "failed", "failed")
    assert {(branch["name"], branch["status"]) for branch in both["branches"]} == {
        ("mood", "completed"),
        ("keys", "completed"),
    }
    assert [(branch["name"], branch["status"]) for branch in each["branches"]] == [
        ("0", "completed"),
        ("1", "completed"),
        ("2", "failed"),
    ]
    assert told["output_data"]["mood"] == "positive"
    assert told["error"]["step"] == "each"
    assert [line["level"] for line in logs if line.get("branch") == "2"] == ["error"]


def test_an_answer_lets_it_go_on_in_the_background(service: Service) -> None:
    run(service, "approval", input={"words": "I was charged twice"}, id="RUN-1")

    answer = service.http.post("/executions/RUN-1/answer", json={"answer": {"right": False}, "wait": False})

    assert answer.status_code == 202
    assert answer.json()["status"] in ("running", "completed")


def test_a_run_that_is_sent_again_answers_no_question(service: Service) -> None:
    sent: dict[str, Any] = {"input": {"words": "I was charged twice"}, "id": "RUN-1", "message": "yes"}
    first = run(service, "approval", **sent)

    again = run(service, "approval", **sent)
    streamed = service.http.post("/flows/approval/runs/stream", json=sent)

    assert (first["status"], again) == ("waiting", first)
    assert (streamed.status_code, streamed.json()["type"]) == (409, "not-waiting")


def test_inputs_that_the_flow_does_not_read_are_refused(service: Service) -> None:
    answer = service.http.post("/flows/approval/runs", json={"input": {"words": "x", "wrods": 1}})
    keys = service.http.post("/flows/approval/runs", json={"input": {"words": "x"}, "wiat": False})
    begun = service.turn("CALL-9", "Hello", flow="approval")

    assert (answer.status_code, answer.json()["errors"]) == (
        422,
        [{"field": "input.wrods", "message": "the flow reads no such input; it reads words"}],
    )
    assert (keys.status_code, keys.json()["errors"][0]["field"]) == (422, "wiat")
    assert (begun.status_code, begun.json()["type"], begun.json()["missing"]) == (422, "input-missing", ["words"])


def test_an_execution_that_waits_is_canceled(service: Service) -> None:
    run(service, "approval", input={"words": "I was charged twice"}, id="RUN-1")

    told = service.http.post("/executions/RUN-1/cancel").json()
    logs = service.http.get("/executions/RUN-1/logs").json()["logs"]

    assert (told["status"], told["question"]) == ("canceled", None)
    assert (logs[-1]["level"], logs[-1]["message"]) == ("warning", "the execution was canceled")


def test_a_run_is_followed_event_by_event(service: Service) -> None:
    with service.http.stream("POST", "/flows/ticket/runs/stream", json={"id": "RUN-1", "input": TICKET}) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["execution-id"] == "RUN-1"
        lines = [line for line in answer.iter_lines() if line.startswith("data: ")]
    events = [json.loads(line.removeprefix("data: ")) for line in lines]

    steps = [event["step"]["stage"] for event in events if event["event"] == "step"]
    assert steps == ["routing", "knowledge_search", "sentiment_analysis", "decision"]
    assert (events[-1]["event"], events[-1]["is_complete"]) == ("turn", True)


def test_what_a_run_cannot_begin_with(service: Service) -> None:
    unknown = service.http.post("/flows/nothing/runs", json={})
    missing = service.http.post("/flows/ticket/runs", json={"input": {"subject": "x"}})
    silent = service.http.post("/flows/call/runs", json={})
    streamed = service.http.post("/flows/nothing/runs/stream", json={})

    assert "call, approval, relay, ticket" in refused(unknown, 404, "flow-not-found")["detail"]
    assert [error["field"] for error in refused(missing, 422, "bad-input")["errors"]] == [
        "input.customer_id",
        "input.body",
    ]
    assert refused(silent, 422, "bad-input")["errors"][0]["field"] == "message"
    refused(streamed, 404, "flow-not-found")


def test_a_workflow_is_a_flow_like_any_other(service: Service) -> None:
    document = {
        "name": "x",
        "steps": [{"name": "router", "agent_type": "router", "input_mapping": {"text": "the text"}}],
    }
    name = service.http.post("/workflows/", json=document).json()["workflow_id"]

    told = run(service, name, input={"the text": "I was charged twice"})

    assert (told["workflow_id"], told["status"], told["input_data"]) == (
        name,
        "completed",
        {"the text": "I was charged twice"},
    )
