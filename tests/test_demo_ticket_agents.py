"""The four agents of the ticket desk and the hand-off desk, each asked over a real socket."""

from typing import Any

import pytest

from server.demo_agents import serve
from tests.asking import Told, ask
from tests.background import Background

CHARGED_TWICE = {"subject": "I was charged twice", "body": "I noticed two charges on my account..."}


@pytest.mark.parametrize(
    ("ticket", "sorted_as"),
    [
        (CHARGED_TWICE, ("billing", "high", 0.67)),
        (
            {"subject": "Help", "body": "My password does not work and my account is locked"},
            ("account", "high", 0.75),
        ),
        ({"subject": "URGENT", "body": "The app crashes and I get an error"}, ("technical", "urgent", 1.0)),
        ({"subject": "A suggestion", "body": "Paint the shop green"}, ("general", "low", 0.0)),
    ],
)
def test_the_router_sorts_a_ticket_by_its_words(
    agents: dict[str, str], ticket: dict[str, str], sorted_as: tuple[str, str, float]
) -> None:
    category, priority, confidence = sorted_as
    assert ask(agents["router"], data=ticket) == Told(
        "completed",
        f"This is a {category} ticket of {priority} priority.",
        {"category": category, "priority": priority, "confidence": confidence},
    )


def test_a_ticket_may_come_as_text(agents: dict[str, str]) -> None:
    told = ask(agents["router"], "My invoice is wrong")

    assert told.data == {"category": "billing", "priority": "normal", "confidence": 1.0}


def test_the_best_article_comes_first(agents: dict[str, str]) -> None:
    told = ask(agents["knowledge"], data=CHARGED_TWICE)

    articles = told.data["articles"]
    assert [article["id"] for article in articles] == ["KB-01", "KB-06", "KB-07"]
    assert articles[0].keys() == {"id", "title", "answer", "score"}
    assert told.data["best_score"] == articles[0]["score"] >= 0.3 > articles[1]["score"]


def test_where_no_word_is_shared_no_article_is_found(agents: dict[str, str]) -> None:
    assert ask(agents["knowledge"], "Zebras whistle at dawn") == Told(
        "completed", "No article fits.", {"articles": [], "best_score": 0}
    )


@pytest.mark.parametrize(
    ("text", "feeling"),
    [
        ("Thank you, that was great and helpful.", {"sentiment": "positive", "score": 0.75, "anger": 0}),
        ("The parcel is on the table.", {"sentiment": "neutral", "score": 0, "anger": 0}),
        ("It is not good, it is broken.", {"sentiment": "negative", "score": -0.67, "anger": 0}),
        ("No problem, not bad at all!", {"sentiment": "positive", "score": 0.67, "anger": 0}),
        ("I am not angry, but it's slow.", {"sentiment": "negative", "score": -0.5, "anger": 0}),
        ("This is a SCAM! Outrageous!", {"sentiment": "negative", "score": -0.67, "anger": 1}),
    ],
)
def test_a_feeling_is_read_from_words_and_negations(
    agents: dict[str, str], text: str, feeling: dict[str, Any]
) -> None:
    assert ask(agents["sentiment"], text).data == feeling


_FOUND: dict[str, Any] = {
    "category": "billing",
    "priority": "normal",
    "articles": [
        {"id": "KB-02", "title": "Refunds", "answer": "It takes five days.", "score": 0.31},
        {"id": "KB-01", "title": "Charged twice", "answer": "It disappears.", "score": 0.6},
    ],
    "sentiment": "neutral",
}


def test_a_good_article_resolves_a_ticket(agents: dict[str, str]) -> None:
    reply = "Thank you. It disappears."
    assert ask(agents["decision"], data=_FOUND) == Told(
        "completed", reply, {"decision": "resolve", "reason": "article KB-01 answers it", "reply": reply}
    )


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"priority": "urgent"}, "it is urgent"),
        ({"sentiment": "negative", "anger": 0.7}, "the customer is angry"),
        ({"sentiment": {"sentiment": "negative", "score": -0.5, "anger": 1}}, "the customer is angry"),
        ({"articles": [{"answer": "Weak.", "score": 0.1}]}, "no article answers it"),
        ({"articles": []}, "no article answers it"),
        ({"articles": None}, "no article answers it"),
        ({"articles": ["text", {"score": 1}, {"answer": "x", "score": "high"}]}, "no article answers it"),
    ],
)
def test_a_ticket_for_a_person_is_escalated(agents: dict[str, str], change: dict[str, Any], reason: str) -> None:
    told = ask(agents["decision"], data={**_FOUND, **change})

    assert (told.state, told.data["decision"], told.data["reason"]) == ("completed", "escalate", reason)
    assert told.text == told.data["reply"]


def test_a_negative_ticket_without_anger_can_be_resolved(agents: dict[str, str]) -> None:
    told = ask(agents["decision"], data={**_FOUND, "sentiment": "negative", "anger": 0.2})

    assert told.data["decision"] == "resolve"


def test_the_four_agents_work_a_ticket_together(agents: dict[str, str]) -> None:
    """Each one's data is passed to the decision under the agent's name."""

    def worked(ticket: dict[str, str]) -> str:
        found = {name: ask(agents[name], data=ticket).data for name in ("router", "knowledge", "sentiment")}
        return str(ask(agents["decision"], data=found).data["decision"])

    angry = {"subject": "I was charged twice", "body": "This is outrageous! You are a SCAM!"}
    assert (worked(CHARGED_TWICE), worked(angry)) == ("resolve", "escalate")


@pytest.mark.parametrize("name", ["router", "knowledge", "sentiment", "decision"])
def test_an_empty_ticket_fails_and_says_what_to_send(agents: dict[str, str], name: str) -> None:
    told = ask(agents[name], data={"subject": " ", "body": 7})

    assert (told.state, told.data) == ("failed", None)
    assert told.text.lower().startswith(("the ticket is empty: send", "send "))


def test_a_caller_keeps_place_and_reference_in_the_queue(background: Background) -> None:
    urls = background.open(serve(ports={"handoff": 0}))
    first, other, again = [ask(urls["handoff"], "help", context=context) for context in ("one", "two", "one")]

    assert first == again
    assert first == Told(
        "completed",
        "A colleague takes over from here. You are number 1 in the queue; your reference is H-7692C3AD.",
        {"queue_position": 1, "reference": "H-7692C3AD"},
    )
    assert other.data == {"queue_position": 2, "reference": "H-3FC4CCFE"}
