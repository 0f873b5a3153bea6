"""The text processor: what it does with a text, and how it finds out what it is asked for."""

from typing import Any

import pytest

from tests.asking import Told, ask

REVIEW = (
    "The new phone is great. The battery of the phone lasts two days. My cat slept all afternoon. "
    "The screen of the phone is excellent. It rained."
)


@pytest.mark.parametrize(
    ("task", "text", "data"),
    [
        ("sentiment", REVIEW, {"sentiment": "positive", "score": 0.67}),
        ("summary", REVIEW, {"summary": "The new phone is great."}),
        ("keywords", "Banks lend money. A bank lends to banks.", {"keywords": ["banks", "lend", "money"]}),
        ("word_count", "one two  three", {"words": 3, "characters": 14}),
        ("words", "one", {"words": 1, "characters": 3}),
        ("upper", "straße", {"text": "STRASSE"}),
        ("formatter", " hello   there. how\nare you ", {"text": "Hello there. How\nAre you."}),
        (
            "extract_key_data",
            "Report of 2024: revenue $1,200.50, growth -3%. Version 1.2.3 cost 3.5m.",
            {"numbers": [2024, 1200.5, -3], "sentences": 2, "topic": "report"},
        ),
        ("loader", " The whole text. ", {"document": "The whole text."}),
        ("classify", "An outage! This is an emergency.", {"urgency": "urgent", "topic": "emergency"}),
        ("urgency", "The garden needs a gardener.", {"urgency": "normal", "topic": "garden"}),
        ("refine", "Short enough.", {"text": "Short enough.", "words": 2}),
    ],
)
def test_each_task_is_done(agents: dict[str, str], task: str, text: str, data: dict[str, Any]) -> None:
    told = ask(agents["text_processor"], text, task=task)

    assert (told.state, told.data) == ("completed", data)
    assert told.text


def test_a_text_is_refined_by_a_sentence_at_a_time(agents: dict[str, str]) -> None:
    text, lengths = REVIEW, []
    for _ in range(4):
        told = ask(agents["text_processor"], text, {"max_words": 13}, task="refine").data
        text = told["text"]
        lengths.append(told["words"])

    assert lengths == [25, 18, 13, 13]
    assert text == "The new phone is great. The battery of the phone lasts two days."


def test_the_stage_names_the_task_where_the_message_does_not(agents: dict[str, str]) -> None:
    told = ask(agents["text_processor"], "I love it", label="SENTIMENT_ANALYSIS")

    assert told == Told("completed", "The text is positive.", {"sentiment": "positive", "score": 0.5})


def test_the_message_goes_before_the_stage(agents: dict[str, str]) -> None:
    told = ask(agents["text_processor"], data={"text": "a b", "task_type": "Word Count"}, label="SENTIMENT_ANALYSIS")

    assert told.data == {"words": 2, "characters": 3}


def test_the_content_pipeline_of_the_founding_document_is_answered(agents: dict[str, str]) -> None:
    """Its steps' names, and `text` as their one input."""
    url = agents["text_processor"]
    sentiment = ask(url, REVIEW, task="sentiment_analysis", label="SENTIMENT_ANALYSIS")
    summary = ask(url, REVIEW, task="text_summary", label="TEXT_SUMMARY")

    assert sentiment.data["sentiment"] == "positive"
    assert summary.data["summary"] in REVIEW


@pytest.mark.parametrize(
    ("task", "start"), [("translate", "I do not know the task 'translate'."), ("", "Which task?")]
)
def test_an_unknown_task_fails_and_the_known_ones_are_named(agents: dict[str, str], task: str, start: str) -> None:
    assert ask(agents["text_processor"], "Guten Tag", task=task) == Told(
        "failed",
        f"{start} Name one of these as `task_type`: sentiment, keywords, summary, refine, classify, extract, load, "
        "count, upper, format.",
        None,
    )


@pytest.mark.parametrize("data", [{}, {"text": "  "}, {"text": 7}, {"other": "words"}])
def test_without_a_text_every_task_fails(agents: dict[str, str], data: dict[str, Any]) -> None:
    assert ask(agents["text_processor"], data=data, task="summary") == Told(
        "failed", "There is no text: send it as `text`, or as the words of the message.", None
    )


def test_a_limit_that_is_no_number_is_refused(agents: dict[str, str]) -> None:
    told = ask(agents["text_processor"], "One. Two.", {"max_words": "few"}, task="refine")

    assert (told.state, told.text) == ("failed", "`max_words` must be a number.")
