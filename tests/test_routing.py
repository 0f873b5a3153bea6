"""Routing: what an intent means at a stage, decided by pure functions (the first table of DESIGN 5)."""

from typing import Any

import pytest

from graph.flow import Flow
from graph.routing import (
    CLASSIFIER,
    Refused,
    decide,
    next_run,
    routes_of,
    same_account,
)
from nodes.spec import FALLBACK, UNKNOWN, Agent, Place, Stage
from nodes.state import wanted

AGENTS = {"desk": Agent(url="http://desk:1")}

HELLO = Stage(intents={"greet": "desk", "repeat": "desk"})
WORK = Stage(intents={"do": "desk", "repeat": "desk"}, effect="write")
REPORT = Stage(agent="desk")

ROUTES = routes_of(
    Flow(
        flow="small",
        waits_for="caller",
        agents=AGENTS,
        stages={"hello": HELLO, "work": WORK, "report": REPORT},
        fallback="desk",
    )
)

NEW: dict[str, Any] = {}
WORKING: dict[str, Any] = {"flow": "small", "stage": "work", "current_flow_id": 2}
REPORTING: dict[str, Any] = {"flow": "small", "stage": "report", "current_flow_id": 3}


@pytest.mark.parametrize(
    ("state", "intent", "node"),
    [
        (NEW, "greet", "hello"),
        (WORKING, "do", "work"),
        (NEW, "repeat", "hello"),
        (WORKING, "repeat", "work"),
    ],
)
def test_an_intent_that_is_legal_goes_to_its_stage(state: dict[str, Any], intent: str, node: str) -> None:
    assert decide(ROUTES, state, intent) == node


@pytest.mark.parametrize("absent", [None, "", " ", "\t\n"])
@pytest.mark.parametrize("state", [NEW, WORKING])
def test_an_intent_that_is_absent_is_classified(state: dict[str, Any], absent: str | None) -> None:
    assert decide(ROUTES, state, wanted({"intent": absent})) == CLASSIFIER


@pytest.mark.parametrize("intent", [UNKNOWN, "fly", "Greet", "do it", "hello", "classifier"])
@pytest.mark.parametrize("state", [NEW, WORKING])
def test_an_intent_that_no_stage_knows_goes_to_the_fallback_unclassified(state: dict[str, Any], intent: str) -> None:
    assert decide(ROUTES, state, intent) == FALLBACK


@pytest.mark.parametrize(
    ("state", "intent", "facts"),
    [
        (
            NEW,
            "do",
            {
                "current_flow_id": 1,
                "stage": "hello",
                "legal_intents": ["greet", "repeat", "unknown"],
                "legal_at": ["work"],
            },
        ),
        (
            WORKING,
            "greet",
            {
                "current_flow_id": 2,
                "stage": "work",
                "legal_intents": ["do", "repeat", "unknown"],
                "legal_at": ["hello"],
            },
        ),
    ],
)
def test_an_intent_of_another_stage_is_refused(state: dict[str, Any], intent: str, facts: dict[str, Any]) -> None:
    with pytest.raises(Refused) as caught:
        decide(ROUTES, state, intent)
    assert (caught.value.reason, caught.value.facts) == ("intent-not-legal", facts)
    assert str(caught.value) == (
        f"intent {intent!r} is not legal at stage {facts['stage']!r}; "
        f"send one of {', '.join(facts['legal_intents'])}, or none"
    )


@pytest.mark.parametrize("intent", [None, UNKNOWN, "greet", "do", "fly"])
def test_a_stage_with_one_agent_needs_no_intent(intent: str | None) -> None:
    assert decide(ROUTES, REPORTING, intent) == "report"


@pytest.mark.parametrize("intent", [None, UNKNOWN, "greet", "do", "fly"])
def test_a_call_that_is_complete_takes_no_turn(intent: str | None) -> None:
    with pytest.raises(Refused, match="start another with a new call_identify_id") as caught:
        decide(ROUTES, WORKING | {"is_complete": True}, intent)
    assert (caught.value.reason, caught.value.facts) == ("call-complete", {})


@pytest.mark.parametrize(("ended", "told"), [("canceled", "the call was canceled;"), ("failed", "the call failed;")])
@pytest.mark.parametrize("intent", [None, UNKNOWN, "do"])
def test_a_call_that_ended_otherwise_takes_no_turn(ended: str, told: str, intent: str | None) -> None:
    with pytest.raises(Refused, match=f"{told} start another with a new call_identify_id") as caught:
        decide(ROUTES, WORKING | {"is_complete": False, "ended": ended}, intent)
    assert (caught.value.reason, caught.value.facts) == ("call-ended", {"ended": ended})


OVER: list[dict[str, Any]] = [{"is_complete": True, "ended": "completed"}, {"ended": "failed"}, {"ended": "canceled"}]


@pytest.mark.parametrize("over", OVER)
def test_a_flow_that_restarts_takes_the_turn_after_the_end_at_its_first_stage(over: dict[str, Any]) -> None:
    routes = routes_of(ROUTES.flow.model_copy(update={"restarts": True}))
    assert routes.place_of(REPORTING | over) == routes.first
    assert decide(routes, REPORTING | over, "greet") == "hello"
    assert decide(routes, REPORTING | over, None) == CLASSIFIER
    with pytest.raises(Refused, match="'do' is not legal at stage 'hello'"):
        decide(routes, WORKING | over, "do")
    with pytest.raises(Refused, match="of flow 'another'"):
        decide(routes, WORKING | over | {"flow": "another"}, "greet")


@pytest.mark.parametrize(
    ("state", "run"),
    [(NEW, 1), (WORKING, 1), (WORKING | {"run": 3, "ended": None}, 3)]
    + [(WORKING | {"run": 3} | over, 4) for over in OVER],
)
def test_a_turn_belongs_to_the_run_that_is_open_or_to_the_next(state: dict[str, Any], run: int) -> None:
    assert next_run(state, True) == run
    assert next_run(state, False) == state.get("run", 1)


def test_deciding_leaves_the_state_as_it_is() -> None:
    state = {**WORKING, "is_complete": False}
    decide(ROUTES, state, "do")
    assert state == {**WORKING, "is_complete": False}


def test_stages_follow_each_other_in_the_order_of_the_file() -> None:
    assert dict(ROUTES.places) == {
        "hello": Place("hello", 1, HELLO, "work", 2),
        "work": Place("work", 2, WORK, "report", 3, order=1),
        "report": Place("report", 3, REPORT, None, None, order=2),
    }


def test_ids_name_the_stages_and_the_file_orders_them() -> None:
    stages = {"first": Stage(id=30, agent="desk"), "second": Stage(agent="desk"), "third": Stage(id=10, agent="desk")}
    routes = routes_of(Flow(flow="odd", agents=AGENTS, stages=stages))
    assert [(place.name, place.id, place.next_id) for place in routes.places.values()] == [
        ("first", 30, 2),
        ("second", 2, 10),
        ("third", 10, None),
    ]
    assert routes.place_of(NEW) == routes.places["first"]
    assert routes.place_of({"flow": "odd", "stage": "third", "current_flow_id": 2}) == routes.places["third"]


@pytest.mark.parametrize(("flow", "stage"), [("small", "gone"), ("another", "work")])
def test_a_call_whose_stage_the_flow_does_not_have_is_refused(flow: str, stage: str) -> None:
    with pytest.raises(Refused, match=f"the call is at stage '{stage}' of flow '{flow}'") as caught:
        decide(ROUTES, {"flow": flow, "stage": stage, "current_flow_id": 2}, "do")
    assert caught.value.reason == "flow-changed"


def test_every_stage_of_an_intent_is_known() -> None:
    assert dict(ROUTES.stages_of) == {"greet": ["hello"], "repeat": ["hello", "work"], "do": ["work"]}


@pytest.mark.parametrize(
    ("written", "intent"), [(None, None), ("", None), ("  ", None), ("greet", "greet"), (" greet\n", "greet")]
)
def test_a_blank_intent_is_none(written: str | None, intent: str | None) -> None:
    assert wanted({"intent": written}) == intent


def test_unknown_is_legal_everywhere() -> None:
    assert [ROUTES.legal_intents(stage) for stage in (HELLO, WORK, REPORT)] == [
        ["greet", "repeat", "unknown"],
        ["do", "repeat", "unknown"],
        ["unknown"],
    ]


@pytest.mark.parametrize("state", [{}, {"account_id": ""}, {"account_id": "ACC-1"}])
def test_a_call_belongs_to_the_account_it_began_with(state: dict[str, Any]) -> None:
    same_account(state, "ACC-1")


@pytest.mark.parametrize("account", ["ACC-2", "acc-1", ""])
def test_another_account_is_refused_without_telling_whose_call_it_is(account: str) -> None:
    with pytest.raises(Refused) as caught:
        same_account({"account_id": "ACC-1"}, account)
    assert (caught.value.reason, caught.value.facts) == ("another-account", {})
    assert "ACC-1" not in str(caught.value)
