"""Why a call went where it went, as `GET /session/{id}/explain` and `flows explain` tell it."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from server.cli import app
from server.explaining import explained
from tests.background import Background
from tests.conftest import Service, StartService
from tests.openai_server import ModelServer, model_server, says
from tests.puppet import Puppet

SHOP = """
flow: shop
waits_for: caller
agents:
  desk: {{url: "{url}"}}
  gone: {{url: "http://127.0.0.1:9", fallback: desk}}
  till: {{versions: {{v1: {{url: "http://127.0.0.1:9", weight: 0}}, v2: {{url: "{url}"}}}}}}
stages:
  ask:
    several: true
    intents: {{order: gone, help: desk}}
    next: [{{when: size(requests) > 0, goto: ask}}, {{goto: both}}]
  both: {{parallel: {{one: {{agent: desk}}, other: {{agent: till}}}}}}
  never: {{agent: desk, when: 'false'}}
  say: {{llm: {{prompt: "Say hi."}}, on_error: continue}}
  approve: {{ask: {{question: "Really?", schema: {{type: boolean}}}}}}
  pay: {{agent: desk, effect: write}}
  bye: {{agent: desk, on_error: fail}}
anywhere: {{quick: both}}
fallback: desk
triggers:
  order: [order*, "want to buy", "*"]
  help: [help]
  quick: ["at once"]
"""
NEEDS = """
flow: needs
agents: {{desk: {{url: "{url}"}}}}
stages:
  first: {{agent: desk, needs: []}}
  second: {{agent: desk, needs: []}}
  third: {{agent: desk, needs: [first]}}
"""


@pytest.fixture(scope="module")
def calls(start_for_module: StartService) -> Service:
    """A service with the call flow and the demo agents."""
    return start_for_module(checkpointer="memory")


@pytest.fixture
def shop(start: StartService, puppet: tuple[Puppet, str], tmp_path: Path) -> Service:
    """A service with a stage of every kind, and an agent that does what it is told."""
    file = tmp_path / "shop.yaml"
    file.write_text(SHOP.format(url=puppet[1]))
    return start(checkpointer="memory", flow=str(file))


def why(service: Service, call: str) -> list[dict[str, Any]]:
    """Return the explanation of each step."""
    told = service.http.get(f"/session/{call}/explain").json()
    assert told["call_identify_id"] == call
    return list(told["steps"])


def story(step: dict[str, Any], url: str = "-") -> list[str]:
    """Return the sentences that do not tell how long something took."""
    lines: list[str] = step["story"]
    return [line.replace(url, "URL") for line in lines if " ms" not in line]


def printed(service: Service, *arguments: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["explain", *arguments, "--url", service.url])
    return done.exit_code, done.stdout, done.stderr


def test_where_each_intent_came_from(calls: Service, agents: dict[str, str]) -> None:
    said = [("hello there", None), ("juggle", None), ("Log me in", None), ("123456", None), ("Refund", "complaint")]
    for words, intent in said:
        calls.turn("C-1", words, intent)

    steps = why(calls, "C-1")

    assert [step["intent"] for step in steps] == [
        {"name": "greeting", "source": "triggers", "because": ["hello"]},
        {"name": "unknown", "source": "none"},
        {"name": "authenticate", "source": "triggers", "because": ["log me in"]},
        {"name": "authenticate", "source": "open_task"},
        {"name": "complaint", "source": "declared"},
    ]
    assert [(step["chosen"]["agent"], step["next"]["why"], step["next"]["flow_id"]) for step in steps] == [
        ("greeting", "answered", 2),
        ("fallback", "fallback", 2),
        ("auth", "waits", 2),
        ("auth", "answered", 3),
        ("complaint", "answered", 4),
    ]
    assert steps[0] == {
        "step": 1,
        "at": steps[0]["at"],
        "flow": "call",
        "run": 1,
        "stage": "greeting",
        "intent_flow_id": 1,
        "intent": {"name": "greeting", "source": "triggers", "because": ["hello"]},
        "candidates": [{"url": agents["greeting"]}],
        "chosen": {"who": "agent", "agent": "greeting", "url": agents["greeting"], "attempt": 1},
        "tried": [],
        "outcome": {"status": "success", "duration_ms": steps[0]["outcome"]["duration_ms"]},
        "next": {"flow_id": 2, "why": "answered", "is_complete": False, "stage": "authentication"},
        "story": steps[0]["story"],
    }
    assert story(steps[1], agents["fallback"]) == [
        "No intent was said or recognised.",
        "Nobody answers that at stage 'authentication': the flow's fallback is asked, agent 'fallback'.",
        "It has one endpoint, URL.",
        "The fallback never moves the call: it stays at stage 2, 'authentication'.",
    ]


def test_a_step_with_nothing_to_say_is_no_larger(calls: Service) -> None:
    calls.turn("C-2", "hello", "greeting")

    [step] = calls.http.get("/session/C-2/steps").json()

    new = {"intent_confidence", "intent_because", "fallback", "candidates", "tried", "agent_version", "instead_of"}
    assert new.isdisjoint(step)


def test_who_was_asked_at_stages_of_every_kind(shop: Service) -> None:
    for words in ("please help and order this", "well", "hello", "go", "ok", "maybe", "yes", "hello", "fail"):
        shop.turn("C", words)

    told = [
        (step["stage"], step.get("branch"), step["chosen"]["who"], step["next"]["why"], step["next"]["flow_id"])
        for step in why(shop, "C")
    ]

    assert told == [
        ("ask", None, "agent", "repeats", 1),
        ("ask", None, "agent", "answered", 2),
        ("both", "one", "agent", "branch", 2),
        ("both", "other", "agent", "branch", 2),
        ("both", None, "all", "answered", 4),
        ("say", None, "model", "on_error", 5),
        ("approve", None, "person", "waits", 5),
        ("approve", None, "person", "stays", 5),
        ("approve", None, "person", "answered", 6),
        ("pay", None, "agent", "answered", 7),
        ("bye", None, "agent", "failed", 7),
    ]


def test_a_request_that_was_kept_goes_to_who_stands_in(shop: Service, puppet: tuple[Puppet, str]) -> None:
    shop.turn("C", "please help and order this")
    shop.turn("C", "I want to buy it, is my order there?")

    first, kept = why(shop, "C")

    assert (first["intent"]["because"], first["next"]["requests"]) == (["help"], ["order"])
    assert kept["intent"] == {"name": "order", "source": "kept", "because": ["order*", "want to buy"]}
    assert [(one["agent"], one["type"]) for one in kept["tried"]] == [("gone", "unreachable")]
    assert story(kept, puppet[1]) == [
        "Intent 'order' was asked for before, and waited for its turn ('order*', 'want to buy').",
        "At stage 'ask' agent 'desk' is asked in place of agent 'gone'.",
        "It has one endpoint, URL.",
        "The stage is answered: the call goes on to stage 2.",
    ]
    assert any(line.startswith("Attempt 1 with agent 'gone' at http://127.0.0.1:9 failed") for line in kept["story"])


def test_the_endpoints_that_were_left_out(shop: Service, puppet: tuple[Puppet, str]) -> None:
    shop.turn("C", "everything at once, please")

    _, other, joined = why(shop, "C")

    assert other["intent"] == {"name": "quick", "source": "triggers", "because": ["at once"]}
    assert other["chosen"]["version"] == "v2"
    assert {one["version"]: one.get("excluded") for one in other["candidates"]} == {"v1": "no_weight", "v2": None}
    assert story(other, puppet[1])[1:] == [
        "At branch 'other' of stage 'both' agent 'till', version 'v2' is asked.",
        "It was asked at URL, the only one of 2 endpoints that could be.",
        "Left out: http://127.0.0.1:9, version 'v1', as its version gets no calls.",
        "The stage goes on when all that it asks at once have answered.",
    ]
    assert story(joined)[1:] == [
        "At stage 'both' several are asked at once; this step joins what they answered.",
        "Passed over, as their `when` was not true: 'never'.",
        "The stage is answered: the call goes on to stage 4.",
    ]


def test_a_write_that_was_parked_and_settled(shop: Service, puppet: tuple[Puppet, str]) -> None:
    for words in ("help me", "go at once", "ok", "ask", "yes", "refuse"):
        shop.turn("C", words)
    name = shop.http.get("/parked").json()["parked"][0]["id"]
    said = {"outcome": "done", "by": "jo", "why": "it is in the ledger"}
    at = shop.http.post(f"/parked/{name}/resolve", json=said).json()["step"]["resolution"]["at"]

    lost, settled = why(shop, "C")[-2:]

    assert (lost["outcome"]["parked"], lost["outcome"]["error"]["outcome"]) == (name, "unknown")
    assert story(lost, puppet[1])[-2:] == [
        f"Nobody knows whether the agent acted on it: parked as '{name}' until a person says.",
        "Until that is settled, the call stays at stage 6, 'pay', and sends no other write.",
    ]
    assert settled["story"] == [
        f"jo said at {at} that the write '{name}' was done: it is in the ledger.",
        "With that settled, the call is at stage 7.",
    ]


def test_stages_that_need_each_other(start: StartService, puppet: tuple[Puppet, str], tmp_path: Path) -> None:
    file = tmp_path / "needs.yaml"
    file.write_text(NEEDS.format(url=puppet[1]))
    service = start(checkpointer="memory", flow=str(file))
    call = {"call_identify_id": "N", "account_id": "A", "eci": "E", "input_message": "hello"}
    assert service.http.post("/orchestrate", json=call).json()["is_complete"]

    steps = why(service, "N")

    assert [(step["stage"], step["next"]["why"]) for step in steps] == [
        ("first", "needs"),
        ("second", "needs"),
        ("third", "needs"),
        ("third", "completed"),
    ]
    assert story(steps[-1]) == [
        "This step takes all stages of the run together.",
        "With that, the run is complete.",
    ]


def test_what_the_model_recognised_and_how_sure_it_was(
    start: StartService, background: Background, agents: dict[str, str]
) -> None:
    model: ModelServer = background.open(model_server())
    service = start(checkpointer="memory", openai_api_key="sk-test", openai_base_url=model.url)
    for call, answer in {
        "sure": {"intent": "welcome", "confidence": 0.93},
        "silent": {"intent": "welcome"},
        "odd": {"intent": "welcome", "confidence": 93},
        "unsure": {"intent": "unknown", "confidence": 0.2},
        "broken": {},
    }.items():
        model.thought = says(json.dumps(answer))
        service.turn(call, "bonjour")

    told = {call: why(service, call)[0] for call in ("sure", "silent", "odd", "unsure", "broken")}

    assert {call: step["intent"] for call, step in told.items()} == {
        "sure": {"name": "welcome", "source": "llm", "confidence": 0.93},
        "silent": {"name": "welcome", "source": "llm", "not_recorded": "confidence"},
        "odd": {"name": "welcome", "source": "llm", "not_recorded": "confidence"},
        "unsure": {"name": "unknown", "source": "llm", "confidence": 0.2},
        "broken": {"name": "unknown", "source": "none", "because": ["the model gave no answer that can be read"]},
    }
    assert {call: step["story"][0] for call, step in told.items()} == {
        "sure": "The model recognised intent 'welcome' (confidence 0.93).",
        "silent": "The model recognised intent 'welcome' (confidence not recorded).",
        "odd": "The model recognised intent 'welcome' (confidence not recorded).",
        "unsure": "The model recognised no intent that is legal here (confidence 0.2).",
        "broken": "No intent was said or recognised: the model gave no answer that can be read.",
    }
    form = model.bodies[0]["response_format"]["json_schema"]
    assert (form["strict"], form["schema"]["required"]) == (True, ["intent", "confidence"])


OLD = {
    "number": 1,
    "stage": "ask",
    "intent_flow_id": 1,
    "intent": "order",
    "intent_source": "triggers",
    "input_message": "I order",
    "agent": "desk",
    "a2a_agent_url": "http://desk:1",
    "response_status": "error",
    "response_data": {"error": {"type": "timeout", "message": "too slow", "retryable": True}},
    "timestamp": "2026-02-28T10:00:00.000Z",
    "duration_ms": 15.2,
    "next_flow_id": 1,
    "is_complete": False,
    "attempt": 2,
    "tried": [{"agent": "desk", "attempt": 1, "type": "http_error", "message": "HTTP 503"}],
}


def test_a_step_of_an_older_version() -> None:
    [told] = explained([OLD])

    assert told["intent"] == {"name": "order", "source": "triggers", "not_recorded": "because"}
    assert told["story"] == [
        "Intent 'order' was recognised by the flow's trigger words: which ones is not recorded.",
        "Attempt 1 with agent 'desk' failed (http_error): HTTP 503.",
        "At stage 'ask' agent 'desk' is asked.",
        "It has one endpoint, http://desk:1.",
        "Failed after 15 ms, attempt 2 (timeout): too slow.",
        "The failure leads nowhere else: the call stays at stage 1, 'ask'.",
    ]


def test_an_agent_that_is_switched_off() -> None:
    instead = {"agent": "spare", "fallback": True, "instead_of": {"agent": "desk", "why": "off"}, "tried": []}
    error = {"error": {"type": "agent_off", "message": "agent 'desk' is switched off", "retryable": True}}

    answered, refused = explained(
        [{**OLD, **instead}, {**OLD, "a2a_agent_url": "", "response_data": error, "tried": []}]
    )

    assert answered["chosen"]["instead_of"] == {"agent": "desk", "why": "off"}
    assert answered["story"][1] == (
        "At stage 'ask' agent 'desk' is switched off: the flow's fallback is asked in its place, agent 'spare'."
    )
    assert refused["candidates"] == []
    assert refused["story"][1:4] == [
        "At stage 'ask' agent 'desk' was to be asked.",
        "Nothing was sent to it.",
        "Failed after 15 ms, attempt 2 (agent_off): agent 'desk' is switched off.",
    ]


def test_an_endpoint_that_was_chosen_in_doubt() -> None:
    candidates = [
        {"url": "http://desk:1", "excluded": "unhealthy"},
        {"url": "http://desk:2", "excluded": "circuit_open"},
        {"url": "http://desk:3", "excluded": "something_new"},
    ]

    [told] = explained([{**OLD, "candidates": candidates}])

    assert told["story"][3:7] == [
        "It was asked at http://desk:1, the only one of 3 endpoints that could be.",
        "That was in doubt (it did not answer when it was probed), but there was none better.",
        "Left out: http://desk:2, as it failed again and again, so its circuit is open.",
        "Left out: http://desk:3, as something_new.",
    ]


def test_attempts_in_which_nobody_could_be_asked() -> None:
    off = {"agent": "gone", "attempt": 1, "type": "agent_off", "message": "agent 'gone' is switched off", "url": ""}
    none = "agent 'spare' has no endpoint that can be asked now: 2 failed again and again"
    nowhere = {"agent": "spare", "attempt": 1, "type": "no_endpoint", "message": none, "url": "", "duration_ms": 0.1}

    [told] = explained([{**OLD, "tried": [off, nowhere]}])

    assert told["story"][1:3] == [
        "Agent 'gone' was switched off: nothing was sent to it.",
        "Agent 'spare' had no endpoint that could be asked: 2 failed again and again.",
    ]


def test_no_endpoint_that_could_be_asked() -> None:
    error = {"error": {"type": "no_endpoint", "message": "agent 'desk' has no endpoint …", "retryable": True}}
    candidates = [{"url": "http://desk:1", "excluded": "circuit_open"}, {"url": "http://desk:2"}]

    [told] = explained([{**OLD, "a2a_agent_url": "", "response_data": error, "candidates": candidates, "tried": []}])

    assert told["story"][1:4] == [
        "At stage 'ask' agent 'desk' was to be asked.",
        "Nothing was sent to it.",
        "Left out: http://desk:1, as it failed again and again, so its circuit is open.",
    ]


@pytest.mark.parametrize("name", ["person", "all", "model"])
def test_an_agent_that_is_named_as_what_is_none(name: str) -> None:
    off = {"error": {"type": "agent_off", "message": f"agent '{name}' is switched off", "retryable": True}}
    step = {**OLD, "agent": name, "tried": []}

    asked, refused = explained([{**step, "agent_version": "v2"}, {**step, "a2a_agent_url": "", "response_data": off}])

    assert (asked["chosen"]["who"], refused["chosen"]["who"]) == ("agent", "agent")
    assert asked["story"][1] == f"At stage 'ask' agent '{name}', version 'v2' is asked."
    assert refused["story"][1] == f"At stage 'ask' agent '{name}' was to be asked."


def test_a_stage_that_no_other_needs_leads_nowhere() -> None:
    failed = {**OLD, "artifacts": "1", "tried": []}
    answered = {**failed, "response_status": "success", "response_data": {"text": "well"}}

    stories = [explained([step])[0] for step in (failed, answered)]
    [whole] = explained([{**failed, "sums_up": True, "ended": "failed"}])
    [first, _] = explained([failed, {**answered, "stage": "pay", "intent_flow_id": 2}])

    assert [(told["next"]["why"], told["story"][-1]) for told in [*stories, first, whole]] == [
        ("needs", "Failed after 15 ms, attempt 2 (timeout): too slow."),
        ("needs", "Answered in 15 ms, attempt 2."),
        ("needs", "A stage that needs this one runs as soon as all that it needs is done with."),
        ("failed", "The run cannot go on without what failed: it fails, too."),
    ]


def test_the_command_tells_the_story(shop: Service) -> None:
    shop.turn("a call-ü", "fail \x1b[2J\nnow", "help")

    code, out, _ = printed(shop, "a call-ü")
    as_json = printed(shop, "a call-ü", "--json")[1]

    head, *lines = out.splitlines()
    assert (code, head.split(" · ")[:2], head.split(" · ")[3]) == (0, ["step 1", "ask (1)"], "error")
    assert lines[0] == "    The client said that the intent is 'help'."
    told = json.loads(as_json)["steps"][0]["story"]
    assert "(task_failed): you said fail \x1b[2J\nnow." in told[3]
    assert lines == [f"    {line}".replace("\x1b", " ").replace("\n", " ") for line in told]


def test_a_call_that_is_not_there(calls: Service) -> None:
    answer = calls.http.get("/session/nobody/explain")

    assert (answer.status_code, answer.json()["type"]) == (404, "session-not-found")
    why_not = "no session 'nobody'; it never began, was deleted, or has expired"
    assert printed(calls, "nobody") == (1, "", f"flows: the service at {calls.url} cannot tell: {why_not}\n")
    assert calls.http.get(f"/session/{'x' * 201}/explain").status_code == 422
    assert printed(Service("http://127.0.0.1:9", calls.http, calls.runtime, calls.stop), "C")[0] == 1
