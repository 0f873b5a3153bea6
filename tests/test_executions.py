"""What an execution is told as, where a service can hardly be brought to: its process died, or its flow is gone."""

from typing import Any

import pytest

from graph.flow import Flow
from graph.loader import parse_flow
from graph.store.calls import CallRecord, OpenedTurn
from server.execution_logs import logs_of
from server.executions import Execution, document

FLOW = parse_flow(
    """
flow: story
agents: {one: {url: "http://one:1"}}
inputs: [words]
stages:
  a: {agent: one, needs: [], output: {x: x}}
  b: {agent: one, needs: [], when: words == "go"}
  c: {agent: one, needs: [a, b], input: {text: x}}
""",
    "story.yaml",
    {},
)
AT = "2026-02-28T10:00:00.000Z"
SAID = {"at": "2026-02-28T10:00:00.000+00:00", "flow": "story", "context": {"words": "go"}}
STATE = {"flow": "story", "flow_digest": FLOW.digest, "created_at": AT, "updated_at": AT, "run": 1, "stage": "a"}


def step(stage: str, status: str = "success", **more: Any) -> Any:
    error = {"error": {"type": "timeout", "message": "too slow", "retryable": True}} if status == "error" else {}
    return {
        "number": 1,
        "stage": stage,
        "agent": "one",
        "response_status": status,
        "response_data": error,
        "timestamp": AT,
        "duration_ms": 1500.0,
        "is_complete": False,
        **more,
    }


def told(
    state: dict[str, Any], *steps: Any, live: bool | None = None, flow: Flow | None = FLOW
) -> tuple[dict[str, Any], list[tuple[str, str | None, str]]]:
    opened = None if live is None else OpenedTurn("1", live, SAID)
    execution = Execution("E", CallRecord(state, steps, opened=opened), flow)
    return document(execution), [(line["level"], line["step"], line["message"]) for line in logs_of(execution)]


@pytest.mark.parametrize(("live", "interrupted"), [(True, False), (False, True)])
def test_one_of_which_nothing_is_saved_yet(live: bool, interrupted: bool) -> None:
    document, logs = told({}, live=live)

    assert (document["status"], document.get("interrupted", False)) == ("running", interrupted)
    assert [(one["name"], one["status"], one["agent"]) for one in document["steps"]] == [
        ("a", "running", "one"),
        ("b", "running", "one"),
        ("c", "pending", "one"),
    ]
    assert (document["input_data"], document["output_data"]) == ({"words": "go"}, {})
    assert document["created_at"] == document["updated_at"] == SAID["at"]
    assert logs == [("info", None, "the execution of flow 'story' began")]


def test_one_whose_process_died_on_the_way() -> None:
    state = {**STATE, "done": {"a": "answered", "b": "skipped"}, "context": {"words": "no", "x": 1}}

    document, logs = told(state, step("a"), live=False)

    assert (document["status"], document["interrupted"], document["current_steps"]) == ("running", True, ["c"])
    assert [one["status"] for one in document["steps"]] == ["completed", "skipped", "running"]
    assert document["output_data"] == {"x": 1}
    assert logs[1:] == [("info", "b", "skipped: its condition is not true"), ("info", "a", "one answered")]


def test_one_that_stopped_where_an_agent_failed() -> None:
    tried = [{"agent": "one", "attempt": 1, "type": "timeout", "message": "slow"}]
    state = {**STATE, "done": {"b": "answered"}, "context": {"words": "go"}}
    finish = step(
        "a", "error", agent="all", duration_ms=0.0, response_data={"error": {"type": "stages_failed"}}, sums_up=True
    )

    document, logs = told(state, step("b"), step("a", "error", tried=tried, attempt=2), finish)

    assert (document["status"], document["current_steps"]) == ("failed", ["a"])
    assert document["error"] == {
        "step": "a",
        "agent": "one",
        "type": "timeout",
        "message": "too slow",
        "retryable": True,
    }
    assert document["steps"][0]["tried"] == tried
    assert logs[1:] == [
        ("warning", "a", "attempt 1 at one failed: slow"),
        ("info", "b", "one answered"),
        ("error", "a", "one failed: too slow"),
    ]


def test_one_whose_flow_is_gone() -> None:
    state = {**STATE, "ended": "completed", "is_complete": True, "context": {"words": "go", "x": 1}}

    document, _ = told(state, step("a"), step("c"), flow=None)

    assert (document["flow"], document["flow_digest"], document["status"]) == ("story", FLOW.digest, "completed")
    assert [(one["name"], one["status"]) for one in document["steps"]] == [("a", "completed"), ("c", "completed")]
    assert document["output_data"] == {"words": "go", "x": 1}
