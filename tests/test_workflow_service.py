"""The workflow service over HTTP, as the seed describes it: workflows are made, executed, looked at, and survive."""

import time
from pathlib import Path
from typing import Any

import pytest

from graph.document import TOO_LARGE
from tests.background import Background
from tests.conftest import Service, StartService
from tests.moody import HOLD, moody_agent
from tests.test_bad_input import refused
from tests.workflow_stories import CONTENT, DATA, step, workflow

GOOD, BAD = "What a wonderful day, I love it. It was great.", "This is terrible. I hate it."


@pytest.fixture
def service(start: StartService) -> Service:
    return start(checkpointer="memory")


def make(service: Service, document: dict[str, Any]) -> str:
    """Make a workflow and return its name."""
    made = service.http.post("/workflows/", json=document)
    assert made.status_code == 201, made.text
    name: str = made.json()["workflow_id"]
    return name


def execute(service: Service, name: str, wait: bool = True, **data: Any) -> dict[str, Any]:
    """Execute a workflow and return the execution."""
    answer = service.http.post(f"/workflows/{name}/execute", params={"wait": wait}, json={"input_data": data})
    assert answer.status_code == (200 if wait else 202), answer.text
    told: dict[str, Any] = answer.json()
    return told


def once(service: Service, execution: str, status: str) -> dict[str, Any]:
    """The execution, once it stands so."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        told: dict[str, Any] = service.http.get(f"/executions/{execution}/status").json()
        if told["status"] == status:
            return told
    raise AssertionError(f"{told['status']} instead of {status}: {told}")


def standing(execution: dict[str, Any]) -> dict[str, str]:
    return {one["name"]: one["status"] for one in execution["steps"]}


MINE = """
flow: mine
agents: {special: {url: "${SPECIAL_URL}", type: special}}
stages: {work: {agent: special}}
"""


def test_a_document_that_is_too_long_is_refused(service: Service) -> None:
    mapping = {f"field{number}": f"name{number}" for number in range(200)}
    long = workflow(*(step(f"s{number}", input_mapping=mapping) for number in range(100)))

    answer = service.http.post("/workflows/", json=long)

    assert (answer.status_code, answer.json()["errors"]) == (422, [{"field": "steps", "message": TOO_LARGE}])


def test_a_workflow_whose_agent_is_gone_hides_no_other_flow(start: StartService, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(MINE)
    store = {"data_dir": tmp_path / "data"}
    before = start({"SPECIAL_URL": "http://special:1"}, flows=(str(tmp_path / "mine.yaml"),), **store)
    made = make(before, {"name": "W", "steps": [{"name": "a", "agent_type": "special"}]})
    before.stop()

    after = start(**store).http.get("/flows")

    assert after.status_code == 200
    names = [one["flow"] for one in after.json()["flows"]]
    assert ("call" in names, made in names) == (True, False)


def test_the_seeds_content_analysis(start: StartService, store: dict[str, Any]) -> None:
    service = start(**store)
    name = make(service, CONTENT)

    told = execute(service, name, input_text=GOOD)

    assert (told["workflow_id"], told["flow"], told["status"]) == (name, name, "completed")
    assert standing(told) == {"sentiment_analysis": "completed", "text_summary": "completed"}
    assert told["input_data"] == {"input_text": GOOD}
    assert told["output_data"]["content_sentiment"] == "positive"
    assert told["output_data"]["content_summary"]
    assert told["current_steps"] == []
    assert (told["error"], told["question"]) == (None, None)


def test_a_step_whose_condition_is_not_true_is_skipped(service: Service) -> None:
    told = execute(service, make(service, CONTENT), input_text=BAD)

    assert told["status"] == "completed"
    assert standing(told) == {"sentiment_analysis": "completed", "text_summary": "skipped"}
    assert told["output_data"] == {"content_sentiment": "negative"}


def test_the_seeds_data_analysis(start: StartService, store: dict[str, Any]) -> None:
    service = start(**store)

    told = execute(service, make(service, DATA), raw_data=[1, 2, "oops", 3])

    assert told["status"] == "completed"
    assert told["output_data"]["validated_data"] == [1, 2, 3]
    assert told["output_data"]["analysis_results"]["mean"] == 2


def test_an_execution_goes_on_in_the_background(start: StartService, background: Background) -> None:
    with moody_agent(background, HOLD, {"sentiment": "positive"}, {"summary": "short"}) as agent:
        service = start({"TEXT_PROCESSOR_AGENT_URL": agent.url}, checkpointer="memory")
        begun = execute(service, make(service, CONTENT), wait=False, input_text=GOOD)
        there = service.http.get(f"/executions/{begun['execution_id']}/status").json()
        agent.moods = [{"sentiment": "positive", "summary": "short"}]
        listed = service.http.get("/executions", params={"status": "running"}).json()["executions"]
        agent.let_go()

    assert (begun["status"], there["status"]) == ("running", "running")
    assert begun["input_data"] == {"input_text": GOOD}
    assert [one["execution_id"] for one in listed] == [begun["execution_id"]]
    assert there["current_steps"] == ["sentiment_analysis"]
    assert standing(there) == {"sentiment_analysis": "running", "text_summary": "pending"}


def test_workflows_and_executions_survive_a_restart(start: StartService, tmp_path: Path) -> None:
    before = start(data_dir=tmp_path)
    name = make(before, CONTENT)
    first = execute(before, name, input_text=GOOD)
    before.stop()

    after = start(data_dir=tmp_path)
    second = execute(after, name, input_text=BAD)

    assert after.http.get(f"/executions/{first['execution_id']}/status").json() == first
    kept = after.http.get(f"/workflows/{name}").json()
    assert (kept["name"], kept["steps"]) == (CONTENT["name"], CONTENT["steps"])
    listed = after.http.get("/executions").json()["executions"]
    assert [one["execution_id"] for one in listed] == [second["execution_id"], first["execution_id"]]


def test_the_logs_of_an_execution(service: Service) -> None:
    told = execute(service, make(service, CONTENT), input_text=BAD)

    logs = service.http.get(f"/executions/{told['execution_id']}/logs").json()["logs"]

    assert [(line["level"], line["step"], line["message"]) for line in logs] == [
        ("info", None, f"the execution of flow {told['flow']!r} began"),
        ("info", "sentiment_analysis", "text_processor answered"),
        ("info", "text_summary", "skipped: its condition is not true"),
        ("info", None, "the execution is complete"),
    ]
    assert logs[1]["response"]["data"][0]["sentiment"] == "negative"
    assert [line["timestamp"] for line in logs] == sorted(line["timestamp"] for line in logs)


def test_workflows_are_made_listed_and_removed(service: Service) -> None:
    made = service.http.post("/workflows", json={**CONTENT, "description": "Both.", "version": 3}).json()
    other = make(service, DATA)

    listed = service.http.get("/workflows/").json()
    removed = service.http.delete(f"/workflows/{other}")

    assert {key: made[key] for key in ("name", "description", "version", "steps")} == {
        **CONTENT,
        "description": "Both.",
        "version": 3,
    }
    assert made.pop("inputs") == ["input_text"]
    assert made["workflow_id"].startswith("wf-content-analysis-workflow-")
    assert listed["total"] == 2
    assert {one["workflow_id"] for one in listed["workflows"]} == {made["workflow_id"], other}
    assert next(one for one in listed["workflows"] if one["workflow_id"] != other) == made
    assert removed.json() == {"workflow_id": other, "deleted": True}
    for answer in (
        service.http.get(f"/workflows/{other}"),
        service.http.delete(f"/workflows/{other}"),
        service.http.post(f"/workflows/{other}/execute", json={"input_data": {"raw_data": [1]}}),
    ):
        refused(answer, 404, "workflow-not-found")


def test_one_document_makes_two_workflows(service: Service) -> None:
    assert make(service, CONTENT) != make(service, CONTENT)


def test_executions_are_listed_by_workflow_and_page_by_page(service: Service) -> None:
    mine, other = make(service, CONTENT), make(service, DATA)
    ids = [execute(service, mine, input_text=GOOD)["execution_id"] for _ in range(3)]
    execute(service, other, raw_data=[1, 2])
    service.turn("CALL-1", "Hello", "greeting")

    def page(**params: Any) -> tuple[list[str], int | None]:
        told = service.http.get("/executions", params=params).json()
        return [one["execution_id"] for one in told["executions"]], told["next_offset"]

    assert len(page()[0]) == 4
    assert page(workflow_id=mine) == (ids[::-1], None)
    assert page(workflow_id=mine, limit=2) == (ids[:0:-1], 2)
    assert page(workflow_id=mine, limit=2, offset=2) == (ids[:1], None)
    assert page(workflow_id=mine, status="failed") == ([], None)
    assert page(flow="call") == (["CALL-1"], None)


def test_an_execution_is_canceled(start: StartService, background: Background) -> None:
    with moody_agent(background, HOLD) as agent:
        service = start({"TEXT_PROCESSOR_AGENT_URL": agent.url}, checkpointer="memory")
        begun = execute(service, make(service, CONTENT), wait=False, input_text=GOOD)
        agent.until_heard()

        canceled = service.http.post(f"/executions/{begun['execution_id']}/cancel")
        again = service.http.post(f"/executions/{begun['execution_id']}/cancel")

    assert (canceled.status_code, canceled.json()["status"]) == (200, "canceled")
    assert standing(canceled.json())["text_summary"] in ("pending", "canceled")
    assert refused(again, 409, "execution-ended")["detail"].endswith("is canceled; there is nothing to cancel")


def test_no_page_of_another_site_cancels_anything(service: Service) -> None:
    told = execute(service, make(service, CONTENT), input_text=GOOD)

    answer = service.http.post(
        f"/executions/{told['execution_id']}/cancel", headers={"origin": "https://evil.example"}
    )

    refused(answer, 415, "unsupported-media-type")


def test_an_execution_is_removed(service: Service) -> None:
    told = execute(service, make(service, CONTENT), input_text=GOOD)
    path = f"/executions/{told['execution_id']}"

    assert service.http.delete(path).json() == {"execution_id": told["execution_id"], "deleted": True}
    for answer in (
        service.http.get(path),
        service.http.get(f"{path}/status"),
        service.http.get(f"{path}/logs"),
        service.http.delete(path),
        service.http.post(f"{path}/cancel"),
        service.http.post(f"{path}/answer", json={"answer": 1}),
    ):
        refused(answer, 404, "execution-not-found")


def test_an_agent_that_is_down_is_asked_again_and_then_the_execution_fails(
    start: StartService, background: Background
) -> None:
    with moody_agent(background, 503) as agent:
        service = start({"TEXT_PROCESSOR_AGENT_URL": agent.url}, checkpointer="memory")
        told = execute(service, make(service, CONTENT), input_text=GOOD)
        logs = service.http.get(f"/executions/{told['execution_id']}/logs").json()["logs"]

    assert len(agent.heard) == 3
    assert told["status"] == "failed"
    assert standing(told) == {"sentiment_analysis": "failed", "text_summary": "skipped"}
    assert (told["error"]["step"], told["error"]["agent"]) == ("sentiment_analysis", "text_processor")
    assert [line["level"] for line in logs] == ["info", "warning", "warning", "error", "error"]


def test_a_step_is_tried_again_as_often_as_it_says_or_gone_on_without(
    start: StartService, background: Background
) -> None:
    document = workflow(
        step("first", retry=1, output_mapping={"a": "x"}),
        step("second", agent_type="data_analyzer", retry=0, on_error="continue", depends_on=["first"]),
        step("third", input_mapping={"text": "x"}, depends_on=["second"]),
    )
    with moody_agent(background, 503, {"a": "well"}) as agent, moody_agent(background, 503) as down:
        env = {"TEXT_PROCESSOR_AGENT_URL": agent.url, "DATA_ANALYZER_AGENT_URL": down.url}
        service = start(env, checkpointer="memory")
        told = execute(service, make(service, document))

    assert (len(agent.heard), len(down.heard)) == (3, 1)
    assert told["status"] == "completed"
    assert standing(told) == {"first": "completed", "second": "failed", "third": "completed"}
    assert told["steps"][0]["attempt"] == 2
    assert agent.heard[-1]["parts"][0]["text"] == "well"


def test_inputs_that_are_missing_are_named_and_what_nobody_reads_is_left_out(service: Service) -> None:
    name = make(service, CONTENT)

    problem = refused(
        service.http.post(f"/workflows/{name}/execute", json={"input_data": {"input_txt": GOOD}}), 422, "bad-input"
    )
    told = execute(service, name, input_text=GOOD, content_summary="forged", more=1)

    assert problem["errors"] == [{"field": "input_data.input_text", "message": "it is missing; the flow reads it"}]
    assert told["input_data"] == {"input_text": GOOD}
    assert told["output_data"]["content_summary"] != "forged"


def test_an_execution_can_be_named_once(service: Service) -> None:
    path = f"/workflows/{make(service, CONTENT)}/execute"
    sent = {"execution_id": "E-1", "input_data": {"input_text": GOOD}}

    first = service.http.post(path, params={"wait": True}, json=sent)
    again = service.http.post(path, json=sent)

    assert first.json()["execution_id"] == "E-1"
    assert "E-1" in refused(again, 422, "key-reused")["detail"]


def test_odd_names_are_told_as_they_were_sent(service: Service) -> None:
    document = workflow(
        step(
            "Step 1: sentiment",
            input_mapping={"text": "the text"},
            output_mapping={"sentiment": "mood of it", "score": "Step 2"},
        ),
        step("Step 2", input_mapping={"text": "the text", "old": "mood of it"}, condition="'mood' == mood"),
    )
    document["steps"][1]["name"] = "Step 2: summary"

    told = execute(service, make(service, document), wait=True, **{"the text": GOOD, "mood": "mood"})

    assert standing(told) == {"Step 1: sentiment": "completed", "Step 2: summary": "completed"}
    assert told["input_data"] == {"mood": "mood", "the text": GOOD}
    assert told["output_data"]["mood of it"] == "positive"
    assert told["output_data"]["Step 2"] > 0


def test_what_a_client_sends_reads_no_environment(start: StartService) -> None:
    service = start({"SECRET": "hunter2"}, checkpointer="memory")
    document = workflow(step("sentiment", description="${SECRET}", input_mapping={"text": "a", "b": "a.${SECRET}"}))
    name = make(service, {**document, "description": "${SECRET} ${OTHER}"})

    told = execute(service, name, a={"${SECRET}": GOOD})

    assert "hunter2" not in service.http.get(f"/workflows/{name}").text
    assert told["status"] == "failed"
    assert "hunter2" not in str(told)


@pytest.mark.parametrize(
    ("document", "field", "words"),
    [
        ({}, "name", "it is missing"),
        ({"name": "x", "steps": []}, "steps", "at least 1"),
        (workflow(step("a", depends_on=["b"]), step("b", depends_on=["a"])), "steps.1.depends_on", "a → b → a"),
        (workflow(step("a", depends_on=["z"])), "steps.0.depends_on.0", "there is no step 'z'"),
        (workflow(step("a"), step("a")), "steps.1.name", "two steps are called 'a'"),
        (workflow(step("a", agent_type="poet")), "steps.0.agent_type", "known: text_processor, data_analyzer"),
        (workflow(step("a", condition="x = 1")), "steps.0.condition", "write == to compare"),
        (workflow(step("a", condition="x" * 3000)), "steps.0.condition", "2000"),
        (workflow(step("a" * 200)), "steps.0.name", "64"),
        (workflow(step("ü" * 20)), "steps.0.name", "too long"),
        (workflow(step("a", output_mapping={"__class__": "x"})), "steps.0.output_mapping", "cannot be a field"),
        (workflow(step("a", more=1)), "steps.0.more", "not permitted"),
        (workflow(*(step(f"s{number}") for number in range(10_000))), "steps", "1000"),
    ],
)
def test_documents_that_are_no_workflow(service: Service, document: dict[str, Any], field: str, words: str) -> None:
    clock = time.monotonic()
    problem = refused(service.http.post("/workflows/", json=document), 422, "bad-input")

    assert time.monotonic() - clock < 5
    assert problem["errors"][0]["field"] == field
    assert words in problem["errors"][0]["message"]


@pytest.mark.parametrize("name", ["none", "call", "wf-none-00000000", "wf-a-0000000g", "%00", "a b"])
def test_a_workflow_that_was_never_made(service: Service, name: str) -> None:
    refused(service.http.get(f"/workflows/{name}"), 404, "workflow-not-found")
    refused(service.http.post(f"/workflows/{name}/execute", json={}), 404, "workflow-not-found")


def test_a_workflow_may_ask_any_agent_of_a_served_flow(service: Service) -> None:
    told = execute(
        service, make(service, workflow(step("hi", agent_type="greeting", input_mapping={"text": "t"}))), t="Hi"
    )

    assert told["status"] == "completed"
    assert told["steps"][0]["agent"] == "greeting"


def test_a_large_workflow(service: Service) -> None:
    steps = [step(f"s{number}", agent_type="greeting") for number in range(1_000)]
    clock = time.monotonic()

    answer = service.http.post("/workflows/", json=workflow(*steps))

    assert answer.status_code == 201, answer.text
    assert time.monotonic() - clock < 20
