"""What is told of a run whose events are lost in part or bring nothing new: artifacts whole, and no status twice."""

from collections.abc import Mapping
from typing import Any, cast

from google.protobuf.json_format import MessageToDict

from graph.loader import load_flow
from graph.routing import routes_of
from graph.store.events import Published
from nodes.state import Step
from server.a2a.runs import Run
from server.a2a.telling import Teller
from tests.replicas import in_short

ROUTES = routes_of(load_flow("relay", {}))
STEP = cast(
    Step,
    {
        "number": 1,
        "run": 1,
        "stage": "relay",
        "intent_flow_id": 1,
        "agent": "relay",
        "intent": "unknown",
        "message_id": "m",
        "input_message": "count",
        "response_status": "success",
        "next_flow_id": None,
        "timestamp": "2026-01-01T00:00:00.000Z",
        "duration_ms": 1.0,
        "is_complete": True,
        "ended": "completed",
        "response_data": {"text": "one, two, three"},
        "layout": {"artifacts": [{"artifactId": "n", "parts": [{"text": [0, 15]}]}]},
    },
)
WORDS = ("one", ", two", ", three")
TURN: list[Mapping[str, Any]] = [
    {"event": "state_change", "step": 1, "task_state": "working"},
    {"event": "state_change", "step": 1, "task_state": "submitted"},
    *(
        {
            "event": "message_chunk",
            "step": 1,
            "artifact": {"artifactId": "1-n", "parts": [{"text": words}]},
            "append": words != "one",
            "last_chunk": False,
        }
        for words in WORDS
    ),
    {"event": "step", "step": STEP},
    {"event": "turn", "step": 1},
]
"""A turn whose agent streams its answer in three pieces, as it is published."""
NAMED = [Published(f"5-{nth}", {**event, "nth": nth, "turn": "t", "run": 1}) for nth, event in enumerate(TURN, 1)]
ENDED = "status-update completed"


def test_what_was_streamed_is_not_told_again() -> None:
    assert told(NAMED) == ["status-update working", "1-n one", "1-n , two", "1-n , three", ENDED]


def test_an_artifact_that_lost_a_piece_is_told_whole() -> None:
    for lost in (3, 4, 5):
        heard = [published for published in NAMED if published.event["nth"] != lost]
        assert told(heard)[-2:] == ["1-n one, two, three", ENDED]


def test_who_comes_when_the_first_pieces_were_forgotten_is_told_the_artifact_whole() -> None:
    teller = Teller(Run("call", 1, "i", ()), ROUTES, settled=False)
    for known in NAMED[3:4]:
        teller.skip(known.event)

    assert told(NAMED[4:], teller) == ["1-n , three", "1-n one, two, three", ENDED]


def test_who_comes_between_the_pieces_is_told_the_others() -> None:
    teller = Teller(Run("call", 1, "i", ()), ROUTES, settled=False)
    for known in NAMED[:4]:
        teller.skip(known.event)

    assert told(NAMED[4:], teller) == ["1-n , three", ENDED]


def test_a_status_is_told_only_with_news() -> None:
    said = {"message": {"parts": [{"text": "one moment"}]}}
    changes = [{}, {}, said, {}, said, {"message": {"parts": [{"text": "nearly"}]}}]
    heard = [
        Published(f"5-{nth}", {"event": "state_change", "step": 1, "run": 1, "turn": "t", "nth": nth, **change})
        for nth, change in enumerate(changes, 1)
    ]
    teller = Teller(Run("call", 1, "i", ()), ROUTES, settled=False)

    updates = [MessageToDict(update) for one in heard for update in teller.hear(one)]

    said_of = [update["status"].get("message", {}).get("parts") for update in updates]
    assert said_of == [None, [{"text": "one moment"}], [{"text": "nearly"}]]


def test_a_lost_step_is_left_to_the_call() -> None:
    teller = Teller(Run("call", 1, "i", ()), ROUTES, settled=False)
    assert told(NAMED[:5], teller)[-1] == "1-n , three"

    last = NAMED[-1]
    assert not teller.follows(last.event)
    assert not teller.can_end(last.event)
    caught_up = [in_short(shown(update)) for update in teller.catch_up(Run("call", 1, "i", [STEP]))]

    assert caught_up == ["1-n one, two, three", ENDED]
    assert told([last], teller) == []


def told(heard: list[Published], teller: Teller | None = None) -> list[str]:
    teller = teller or Teller(Run("call", 1, "i", ()), ROUTES, settled=False)
    return [in_short(shown(update)) for published in heard for update in teller.hear(published)]


def shown(update: Any) -> dict[str, Any]:
    name = "statusUpdate" if update.DESCRIPTOR.name == "TaskStatusUpdateEvent" else "artifactUpdate"
    return {name: MessageToDict(update)}
