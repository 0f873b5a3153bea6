"""The text processor: a generic worker that does small tasks on a text, by rule."""

from __future__ import annotations

import re
from typing import Any

from server.demo_agents.answer import Answer, Asked, Behaviour
from server.demo_agents.feelings import feeling_of
from server.demo_agents.tables import is_number, number_in
from server.demo_agents.words import keywords_in, sentences_in, summary_of, words_in
from server.demo_agents.worker import Refused, Work, worker

_WORDS_WANTED = 50
_THEMES = ("crisis", "emergency", "report", "analysis")
_URGENT = frozenset(
    ("crisis", "emergency", "urgent", "urgently", "immediately", "asap", "critical", "danger", "outage")
)
# 3 is not in "3.5m", nor 1.2 in "1.2.3".
_NUMBER = re.compile(r"(?<![\w.])[-+]?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?(?!\w|\.[0-9])")
_SENTENCE_START = re.compile(r"(?:^|(?<=[.!?]\s)|(?<=\n))([^\W\d_])")


def _text(asked: Asked) -> str:
    given = asked.data.get("text")
    text = (given if isinstance(given, str) else asked.text).strip()
    if not text:
        raise Refused("There is no text: send it as `text`, or as the words of the message.")
    return text


def _sentiment(asked: Asked) -> Answer:
    feeling = feeling_of(_text(asked))
    data = {"sentiment": feeling.sentiment, "score": feeling.score}
    return Answer(f"The text is {feeling.sentiment}.", data=data)


def _keywords(asked: Asked) -> Answer:
    keywords = keywords_in(_text(asked))
    return Answer(f"Keywords: {', '.join(keywords) or 'none'}.", data={"keywords": keywords})


def _summary(asked: Asked) -> Answer:
    summary = summary_of(_text(asked))
    return Answer(summary, data={"summary": summary})


def _refine(asked: Asked) -> Answer:
    """Drop the last sentence of a text of more than `max_words` words; one sentence alone stays as it is."""
    text, limit = _text(asked), asked.data.get("max_words", _WORDS_WANTED)
    if not is_number(limit):
        raise Refused("`max_words` must be a number.")
    sentences = sentences_in(text)
    if len(text.split()) > limit and len(sentences) > 1:
        text = " ".join(sentences[:-1])
    return Answer(text, data={"text": text, "words": len(text.split())})


def _urgency(asked: Asked) -> Answer:
    text = _text(asked)
    urgency = "urgent" if _URGENT & set(words_in(text)) else "normal"
    return Answer(f"The text is {urgency}.", data={"urgency": urgency, "topic": _topic(text)})


def _extract(asked: Asked) -> Answer:
    text = _text(asked)
    numbers = [number for number in map(number_in, _NUMBER.findall(text)) if is_number(number)]
    data: dict[str, Any] = {"numbers": numbers, "sentences": len(sentences_in(text)), "topic": _topic(text)}
    return Answer(
        f"The text is about {data['topic'] or 'nothing in particular'}; it has {len(numbers)} numbers.", data=data
    )


def _load(asked: Asked) -> Answer:
    text = _text(asked)
    return Answer(f"A document of {len(text.split())} words.", data={"document": text})


def _count(asked: Asked) -> Answer:
    text = _text(asked)
    words = len(text.split())
    return Answer(f"{words} words, {len(text)} characters.", data={"words": words, "characters": len(text)})


def _upper(asked: Asked) -> Answer:
    text = _text(asked).upper()
    return Answer(text, data={"text": text})


def _format(asked: Asked) -> Answer:
    """Tidy a text: no spare blanks, capitals where sentences begin, a stop at the end."""
    lines = (" ".join(line.split()) for line in _text(asked).splitlines())
    text = re.sub(r"\n{3,}", "\n\n", "\n".join(lines))
    text = _SENTENCE_START.sub(lambda found: found[1].upper(), text)
    text += "" if text.endswith((".", "!", "?", ":")) else "."
    return Answer(text, data={"text": text})


def _topic(text: str) -> str:
    """What a text is about: the theme it names, or else its first keyword."""
    named = set(words_in(text))
    themes = [theme for theme in _THEMES if theme in named]
    return next(iter(themes or keywords_in(text, 1)), "")


text_processor: Behaviour = worker(
    Work("sentiment", ("sentiment",), _sentiment),
    Work("keywords", ("keyword",), _keywords),
    Work("summary", ("summar",), _summary),
    Work("refine", ("refine",), _refine),
    Work("classify", ("classify", "urgency"), _urgency),
    Work("extract", ("extract",), _extract),
    Work("load", ("load",), _load),
    Work("count", ("count", "words"), _count),
    Work("upper", ("upper",), _upper),
    Work("format", ("format",), _format),
)
