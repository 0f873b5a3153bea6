"""Calls of the shipped flow `contact_centre` through the public door: tries, a person, several requests, hanging up.

Every story compares `next_flow_id` with where the call really is then, and with where the next turn was.
"""

from pathlib import Path
from typing import Any

import pytest

from graph import load_flow
from graph.loader import FlowError, parse_flow
from tests.conftest import Service, StartService
from tests.puppet import Puppet

Store = dict[str, Any]
Turn = tuple[str, str | None]
"""What the caller says, and the intent given with it; None where the client leaves it out."""
Row = tuple[str, str, str, int | None, list[str]]
"""Of a turn: intent, where that came from, who answered, `next_flow_id`, and the requests that wait then."""

HELLO: Turn = ("Hello, I need help", "greeting")
VERIFY: Turn = ("My SSN is 123-45-6789", "verify_identity")
NOBODY: Turn = ("My SSN is 000-00-0000", "verify_identity")
CODE: Turn = ("Send me a code", "authenticate")
BOTH = "I'd like to lodge a complaint and request a refund"
COMPLAIN: Turn = (BOTH, None)
RESOLVE: Turn = ("Yes, go ahead", "resolve_complaint")
FILE = Path(__file__).parents[1] / "graph/flows/contact_centre.yaml"
NOWHERE = "http://127.0.0.1:9"


def centre(start: StartService, env: dict[str, str] | None = None, **options: Any) -> Service:
    return start(env, flow="contact_centre", **(options or {"checkpointer": "memory"}))


def tell(service: Service, call: str, *turns: Turn, first: int = 1, **more: Any) -> list[Row]:
    """Take the turns, each where the one before said that it would be, and return what came of them."""
    rows: list[Row] = []
    before = service.http.get(f"/session/{call}").json().get("current_flow_id", first)
    for message, intent in turns:
        response = service.turn(call, message, intent, **more)
        assert response.status_code == 200, response.text
        told, session = response.json(), service.http.get(f"/session/{call}").json()
        assert told["intent_flow_id"] == {"escalate": 6, "end_call": 5}.get(told["intent"], before)
        before = None if session["is_complete"] else session["current_flow_id"]
        assert told["next_flow_id"] == before
        step = session["steps"][-1]
        row = told["intent"], told["intent_source"], told["agent"], told["next_flow_id"], step.get("requests", [])
        rows.append(row)
    return rows


# Several requests in one call.


def test_the_seeds_example_in_the_callers_words_alone(start: StartService, store: Store) -> None:
    service = centre(start, **store)

    told = tell(
        service,
        "CALL-101",
        ("Hello, I need help", None),
        ("My SSN is 123-45-6789", None),
        (BOTH, None),
        ("Yes, go ahead", None),
        ("All right, what is next?", None),
        ("Yes, go ahead", None),
        ("Thank you", None),
    )

    assert told == [
        ("greeting", "triggers", "greeting", 2, []),
        ("verify_identity", "triggers", "auth", 3, []),
        ("complaint", "triggers", "complaint", 4, ["refund_request"]),
        ("resolve_complaint", "triggers", "complaint", 3, ["refund_request"]),
        ("refund_request", "kept", "refund", 4, []),
        ("process_refund", "triggers", "refund", 5, []),
        ("closing", "triggers", "closing", None, []),
    ]
    session = service.http.get("/session/CALL-101").json()
    assert (session["completed_flows"], session["ended"]) == ([1, 2, 3, 4, 5], "completed")
    assert session["session_summary"]["step_count"] == 7


def test_the_seeds_example_with_every_intent_from_the_client(start: StartService, store: Store) -> None:
    service = centre(start, **store)
    tell(service, "CALL-102", HELLO, VERIFY)

    told = tell(service, "CALL-102", (BOTH, "complaint"), further_intents=["refund_request"])
    told += tell(
        service,
        "CALL-102",
        RESOLVE,
        ("The refund now, please", "refund_request"),
        ("Yes, go ahead", "process_refund"),
        ("Bye", "end_call"),
    )

    assert told == [
        ("complaint", "declared", "complaint", 4, ["refund_request"]),
        ("resolve_complaint", "declared", "complaint", 3, ["refund_request"]),
        ("refund_request", "declared", "refund", 4, []),
        ("process_refund", "declared", "refund", 5, []),
        ("end_call", "declared", "closing", None, []),
    ]


def test_one_request_goes_straight_to_the_end(start: StartService) -> None:
    service = centre(start)

    told = tell(
        service,
        "CALL-103",
        *(HELLO, VERIFY),
        ("I need a refund", "refund_request"),
        ("Yes", "process_refund"),
        ("Bye", "closing"),
    )

    assert [row[3:] for row in told] == [(2, []), (3, []), (4, []), (5, []), (None, [])]


def test_the_agent_is_told_by_which_words_a_kept_request_was_made(
    start: StartService, puppet: tuple[Puppet, str]
) -> None:
    service = centre(start, {"REFUND_AGENT_URL": puppet[1]})

    tell(service, "CALL-104", HELLO, VERIFY, COMPLAIN, RESOLVE, ("go on", None), ("yes", "process_refund"))

    asked, done = puppet[0].messages
    assert (asked["parts"][0]["text"], asked["metadata"]["request"]) == ("go on", BOTH)
    assert "request" not in done["metadata"]


def test_the_requests_survive_a_restart(start: StartService, tmp_path: Path) -> None:
    before = centre(start, data_dir=tmp_path)
    tell(before, "CALL-105", HELLO, VERIFY, COMPLAIN)
    before.stop()

    after = centre(start, data_dir=tmp_path)

    assert tell(after, "CALL-105", RESOLVE, ("go on", None)) == [
        ("resolve_complaint", "declared", "complaint", 3, ["refund_request"]),
        ("refund_request", "kept", "refund", 4, []),
    ]


def test_a_request_whose_agent_fails_waits_on(start: StartService, puppet: tuple[Puppet, str]) -> None:
    service = centre(start, {"REFUND_AGENT_URL": puppet[1]})
    tell(service, "CALL-106", HELLO, VERIFY, COMPLAIN, RESOLVE)

    told = tell(service, "CALL-106", ("fail", None), ("again", None), ("yes", "process_refund"))

    assert told == [
        ("refund_request", "kept", "refund", 3, ["refund_request"]),
        ("refund_request", "kept", "refund", 4, []),
        ("process_refund", "declared", "refund", 5, []),
    ]


def test_what_is_refused_leaves_the_requests_and_the_stage_alone(start: StartService) -> None:
    service = centre(start)
    tell(service, "CALL-107", HELLO, VERIFY, COMPLAIN, RESOLVE)
    before = service.http.get("/session/CALL-107").json()

    refused = service.turn("CALL-107", "Thanks", "closing")

    assert refused.status_code == 409
    assert refused.json()["legal_intents"][-3:] == ["escalate", "end_call", "unknown"]
    assert service.http.get("/session/CALL-107").json() == before
    assert tell(service, "CALL-107", ("juggle", "unknown"), ("go on", None)) == [
        ("unknown", "declared", "fallback", 3, ["refund_request"]),
        ("refund_request", "kept", "refund", 4, []),
    ]


# Three tries.


@pytest.mark.parametrize("tries", [(NOBODY, NOBODY), (NOBODY, CODE, ("I give up", None))], ids=["zeros", "a code"])
def test_after_two_failures_there_is_a_third_try(start: StartService, store: Store, tries: tuple[Turn, ...]) -> None:
    service = centre(start, **store)

    told = tell(service, "CALL-110", HELLO, *tries, VERIFY)

    assert [row[3] for row in told] == [2, *(2 for _ in tries), 3]
    assert service.http.get("/session/CALL-110").json()["completed_flows"] == [1, 2]


def test_after_the_third_failure_a_person_takes_over(start: StartService, store: Store) -> None:
    service = centre(start, **store)

    told = tell(service, "CALL-111", HELLO, NOBODY, NOBODY, NOBODY, ("But it is me!", None))

    assert [row[2:4] for row in told] == [
        ("greeting", 2),
        ("auth", 2),
        ("auth", 2),
        ("auth", 6),
        ("handoff", None),
    ]
    session = service.http.get("/session/CALL-111").json()
    assert (session["ended"], session["session_summary"]["step_count"]) == ("completed", 5)


def test_answers_and_tasks_that_fail_are_counted_together(start: StartService) -> None:
    service = centre(start)
    wrong: Turn = ("111111", None)

    told = tell(service, "CALL-112", HELLO, CODE, wrong, wrong, wrong, NOBODY, CODE, ("I give up", None))

    # A question is no try, nor is a wrong code: the third one of a task is.
    assert [row[3] for row in told] == [2, 2, 2, 2, 2, 2, 2, 6]


def test_while_a_try_fails_authentication_is_not_done(start: StartService) -> None:
    service = centre(start)

    tell(service, "CALL-113", HELLO, NOBODY)

    session = service.http.get("/session/CALL-113").json()
    assert (session["stage"], session["completed_flows"]) == ("authentication", [1])


def test_an_agent_that_cannot_be_reached_costs_no_try(start: StartService) -> None:
    service = centre(start, {"AUTH_AGENT_URL": NOWHERE})

    told = tell(service, "CALL-114", HELLO, VERIFY, VERIFY, VERIFY, VERIFY, VERIFY)

    assert [row[3] for row in told] == [2, 2, 2, 2, 2, 2]


def test_of_the_ways_to_fail_only_an_agents_no_costs_a_try(start: StartService, puppet: tuple[Puppet, str]) -> None:
    service = centre(start, {"AUTH_AGENT_URL": puppet[1]})
    said = ["refuse", "lose", "cancel", "fail", "refuse", "reject", "lose", "fail"]

    told = tell(service, "CALL-115", HELLO, *((word, "verify_identity") for word in said))

    assert [row[3] for row in told] == [2, *(2 for _ in said[1:]), 6]


def test_an_agent_that_says_nothing_of_verified_has_verified(start: StartService, puppet: tuple[Puppet, str]) -> None:
    service = centre(start, {"AUTH_AGENT_URL": puppet[1]})

    assert tell(service, "CALL-116", HELLO, VERIFY)[-1][3] == 3


# A person, and the end.

STAGES: list[list[Turn]] = [
    [],
    [HELLO],
    [HELLO, CODE],
    [HELLO, VERIFY],
    [HELLO, VERIFY, COMPLAIN],
    [HELLO, VERIFY, COMPLAIN, RESOLVE],
    [HELLO, VERIFY, ("refund", None), ("yes", None)],
    [HELLO, NOBODY, NOBODY, NOBODY],
]


@pytest.mark.parametrize("turns", STAGES, ids=lambda turns: f"after {len(turns)}")
def test_a_person_takes_over_from_any_stage(start: StartService, turns: list[Turn]) -> None:
    service = centre(start)
    tell(service, "CALL-120", *turns)

    told = tell(service, "CALL-120", ("I would rather speak to a human", "escalate"))

    waiting = ["refund_request"] if COMPLAIN in turns else []
    assert told == [("escalate", "declared", "handoff", None, waiting)]
    assert service.turn("CALL-120", "Hello?").json()["type"] == "call-complete"


@pytest.mark.parametrize("turns", [*STAGES[:2], *STAGES[3:7]], ids=lambda turns: f"after {len(turns)}")
def test_the_wish_for_a_person_is_recognised_at_any_stage(start: StartService, turns: list[Turn]) -> None:
    service = centre(start)
    tell(service, "CALL-121", *turns)

    [told] = tell(service, "CALL-121", ("I would rather speak to a human", None))

    assert told[:4] == ("escalate", "triggers", "handoff", None)


@pytest.mark.parametrize("turns", STAGES, ids=lambda turns: f"after {len(turns)}")
def test_a_caller_may_hang_up_at_any_stage(start: StartService, turns: list[Turn]) -> None:
    service = centre(start)
    tell(service, "CALL-122", *turns)

    told = tell(service, "CALL-122", ("Goodbye", "end_call"))

    assert told == [("end_call", "declared", "closing", None, ["refund_request"] if COMPLAIN in turns else [])]


def test_a_person_is_told_what_still_waits(start: StartService, puppet: tuple[Puppet, str]) -> None:
    service = centre(start, {"HANDOFF_AGENT_URL": puppet[1]})

    tell(service, "CALL-123", HELLO, VERIFY, COMPLAIN, ("A person!", "escalate"))

    text, data = puppet[0].messages[0]["parts"]
    assert (text["text"], data["data"]) == (
        "A person!",
        {"requests": [{"intent": "refund_request", "input_message": BOTH}]},
    )


def test_a_hand_off_that_fails_is_not_the_end(start: StartService, puppet: tuple[Puppet, str]) -> None:
    service = centre(start, {"HANDOFF_AGENT_URL": puppet[1]})

    told = tell(service, "CALL-124", HELLO, ("fail", "escalate"), ("fail", None), ("hello", "refund_request"))

    assert [row[2:4] for row in told] == [("greeting", 2), ("handoff", 6), ("handoff", 6), ("handoff", None)]


def test_every_stage_tells_that_a_person_and_the_end_are_there(start: StartService) -> None:
    service = centre(start)
    for turn in (HELLO, VERIFY, ("I need a refund", "refund_request"), ("Yes", "process_refund")):
        tell(service, "CALL-125", turn)
        legal = service.http.get("/session/CALL-125").json()["legal_intents"]
        assert [legal.count(intent) for intent in ("escalate", "end_call", "unknown")] == [1, 1, 1]


# Where the next turn is, in other flows.

FRONT_DESK = """\
flow: front_desk
waits_for: caller
agents:
  auth: {url: "${AUTH_AGENT_URL}"}
  closing: {url: "${CLOSING_AGENT_URL}"}
  handoff: {url: "${HANDOFF_AGENT_URL}"}
stages:
  check:
    id: 3
    intents: {verify_identity: auth}
    output: {verified: verified}
    repeat: {until: verified == true, at_most: 2}
    next: [{when: verified == true, goto: survey}]
    on_error: sorry
  sorry: {id: 1, agent: handoff, next: end}
  survey: {id: 4, agent: closing, when: eci == 'nobody'}
  goodbye: {id: 2, agent: closing}
fallback: closing
"""


@pytest.mark.parametrize(
    ("turns", "numbers"),
    [
        ([NOBODY, VERIFY, ("Bye", None)], [3, 2, None]),
        ([NOBODY, NOBODY, ("Bye", None)], [3, 1, None]),
        ([("juggle", "unknown"), VERIFY, ("Bye", None)], [3, 2, None]),
    ],
    ids=["repeated, then past one that is skipped", "repeated as often as may be", "not understood"],
)
def test_where_repeats_and_skips_lead_is_told(
    start: StartService, tmp_path: Path, turns: list[Turn], numbers: list[int | None]
) -> None:
    file = tmp_path / "front_desk.yaml"
    file.write_text(FRONT_DESK)
    service = start(flow=str(file), checkpointer="memory")

    assert [row[3] for row in tell(service, "CALL-130", *turns, first=3)] == numbers


def test_where_an_error_leads_is_told(start: StartService, tmp_path: Path) -> None:
    file = tmp_path / "front_desk.yaml"
    file.write_text(FRONT_DESK)
    service = start({"AUTH_AGENT_URL": NOWHERE}, flow=str(file), checkpointer="memory")

    assert [row[3] for row in tell(service, "CALL-131", VERIFY, ("Well?", None), first=3)] == [1, None]


# What is proven of it.


def test_nothing_is_fulfilled_before_the_caller_was_authenticated() -> None:
    assert [(gate.stage, gate.after) for gate in load_flow("contact_centre", {}).gates] == [
        ("fulfillment", "authentication")
    ]


@pytest.mark.parametrize(
    ("sound", "broken", "path"),
    [
        ("escalate: handoff,", "escalate: fulfillment,", "greeting → fulfillment"),
        (
            "['task_failed', 'task_rejected']\", goto: handoff}",
            "['task_failed', 'task_rejected']\", goto: intent_capture}",
            "greeting → authentication → intent_capture → fulfillment",
        ),
    ],
)
def test_a_change_that_opens_the_gate_is_refused(sound: str, broken: str, path: str) -> None:
    text = FILE.read_text()
    assert text.count(sound) == 1

    with pytest.raises(FlowError, match=f"can be reached before 'authentication' was answered: {path}"):
        parse_flow(text.replace(sound, broken), "centre.yaml", {})


@pytest.mark.parametrize(
    ("sound", "broken", "wrong"),
    [
        (
            "{closing: closing, end_call: closing,",
            "{closing: closing,",
            "stage 'closing' does not say who answers 'end_call'; add it to the intents there",
        ),
        (
            "end_call: closing}\n\n",
            "feedback: handoff}\n\n",
            "'feedback' is legal everywhere already; keep one of them",
        ),
    ],
)
def test_what_is_legal_everywhere_is_answered_where_it_leads_and_only_there(
    sound: str, broken: str, wrong: str
) -> None:
    text = FILE.read_text()
    assert text.count(sound) == 1

    with pytest.raises(FlowError, match=wrong):
        parse_flow(text.replace(sound, broken), "centre.yaml", {})


def test_who_asks_for_a_person_gets_one_while_an_agent_waits(start: StartService) -> None:
    service = centre(start)

    told = tell(service, "CALL-190", HELLO, CODE, ("I want to speak to a human", None))

    assert [(intent, source, agent) for intent, source, agent, _, _ in told[1:]] == [
        ("authenticate", "declared", "auth"),
        ("escalate", "triggers", "handoff"),
    ]
