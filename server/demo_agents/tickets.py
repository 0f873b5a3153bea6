"""The ticket desk's agents that read a ticket: the router sorts it, the sentiment agent reads its feeling."""

from __future__ import annotations

from server.demo_agents.answer import Answer, Asked
from server.demo_agents.feelings import feeling_of
from server.demo_agents.words import listed, stem, stems_of, words_in

_NOTHING = "The ticket is empty: send its `subject` and `body`, or its words as text."


CATEGORIES = {
    "billing": listed(
        """amount bank bill billing charge charged cost credit debit fee invoice money overcharged pay payment paid
        price receipt refund subscription twice"""
    ),
    "technical": listed(
        """app broken browser bug connection crash device down error fail freeze install internet loading network
        offline outage router screen server slow software technical update website wifi working works"""
    ),
    "account": listed(
        """access account address blocked email locked login name password phone profile register settings sign
        username verify"""
    ),
}
_PRIORITIES = {
    "urgent": listed("urgent urgently emergency immediately asap critical crisis fraud hacked stolen outage danger"),
    "high": listed("important soon today twice broken locked blocked down angry unacceptable lawyer deadline"),
    "low": listed("question wondering suggestion feedback curious whenever idea someday"),
}


def told_in(asked: Asked, *names: str) -> str:
    """The texts under these names of the data part and the message's own text, one below the other."""
    given = [asked.data.get(name) for name in names]
    return "\n".join(text.strip() for text in (*given, asked.text) if isinstance(text, str) and text.strip())


def router(asked: Asked) -> Answer:
    """The category and the priority of a ticket; `confidence` is the share of the known words that agree on it."""
    ticket = told_in(asked, "subject", "body")
    if not ticket:
        return Answer(_NOTHING, "failed")
    category, confidence = _category(stems_of(ticket))
    priority = _priority({stem(word) for word in words_in(ticket)})
    text = f"This is a {category} ticket of {priority} priority."
    return Answer(text, data={"category": category, "priority": priority, "confidence": confidence})


def sentiment(asked: Asked) -> Answer:
    """The feeling of a ticket, or of any `text`."""
    ticket = told_in(asked, "subject", "body")
    if not ticket:
        return Answer(_NOTHING, "failed")
    feeling = feeling_of(ticket)
    text = f"The customer sounds {feeling.sentiment}{' and angry' if feeling.anger >= 0.5 else ''}."
    return Answer(text, data={"sentiment": feeling.sentiment, "score": feeling.score, "anger": feeling.anger})


def _category(ticket: set[str]) -> tuple[str, float]:
    hits = {category: len(words & ticket) for category, words in CATEGORIES.items()}
    best = max(hits, key=lambda category: hits[category])
    if not hits[best]:
        return "general", 0.0
    return best, round(hits[best] / sum(hits.values()), 2)


def _priority(ticket: set[str]) -> str:
    return next((priority for priority, words in _PRIORITIES.items() if words & ticket), "normal")
