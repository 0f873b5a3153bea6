"""The decision agent: resolves a ticket with the best article, or escalates it to a person and says why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from server.demo_agents.answer import Answer, Asked
from server.demo_agents.tables import is_number

GOOD_SCORE = 0.3
"""From this score on an article is an answer."""
ANGRY = 0.5
"""From this anger on a person had better take over."""
_NOTHING = "Send a data part with `category`, `priority`, `articles` and `sentiment`."


def decision(asked: Asked) -> Answer:
    """Decide on what the other three found: their fields side by side, or each one's whole data under its name."""
    facts = asked.data
    if not facts.keys() & {"category", "priority", "articles", "sentiment", "knowledge", "router"}:
        return Answer(_NOTHING, "failed")
    article = _best(_field(facts, "articles"))
    reason = _against(facts, article)
    if article is None or reason:
        reply = "Thank you for writing to us. A colleague will look into this personally and answer you soon."
        return _decided("escalate", reason or "no article answers it", reply)
    return _decided("resolve", f"article {article.get('id', '')} answers it", f"Thank you. {article['answer']}")


def _against(facts: Mapping[str, Any], article: Mapping[str, Any] | None) -> str:
    """Why a person should take over; empty if none has to."""
    if _field(facts, "priority") == "urgent":
        return "it is urgent"
    anger = _field(facts, "anger")
    if _field(facts, "sentiment") == "negative" and is_number(anger) and anger >= ANGRY:
        return "the customer is angry"
    return "" if article else "no article answers it"


def _field(facts: Mapping[str, Any], name: str) -> Any:
    """A field of the data part, or of one of the objects in it."""
    found = facts.get(name)
    if found is not None and not isinstance(found, dict):
        return found
    inner = (value[name] for value in facts.values() if isinstance(value, dict) and name in value)
    return next(inner, None)


def _best(articles: Any) -> Mapping[str, Any] | None:
    """The article with the highest score, if it is good enough and says something."""
    good = [article for article in articles if _is_good(article)] if isinstance(articles, list) else []
    return max(good, key=lambda article: float(article["score"]), default=None)


def _is_good(article: Any) -> bool:
    if not isinstance(article, dict) or not isinstance(article.get("answer"), str):
        return False
    score = article.get("score")
    return is_number(score) and score >= GOOD_SCORE


def _decided(decision: str, reason: str, reply: str) -> Answer:
    return Answer(reply, data={"decision": decision, "reason": reason, "reply": reply})
