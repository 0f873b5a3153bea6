"""The knowledge agent: a dozen short articles for customers, searched by the words they share with a question."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Any

from server.demo_agents.answer import Answer, Asked
from server.demo_agents.tickets import told_in
from server.demo_agents.words import stems_of

_MOST = 3


@dataclass(frozen=True, slots=True)
class Article:
    """One answer; `words` is what people say who need it."""

    id: str
    title: str
    words: str
    answer: str

    def found_by(self, asked: set[str]) -> float:
        """The cosine of the two sets of words: 0 when they share none, 1 when they are the same."""
        own = stems_of(f"{self.title} {self.words}")
        return round(len(own & asked) / sqrt(len(own) * len(asked)), 3) if asked else 0.0


ARTICLES = (
    Article(
        "KB-01",
        "Charged twice",
        "double duplicate charge payment two charges account card",
        "A second charge is mostly a reservation by your bank that disappears within five working days. If both "
        "charges are booked after that, we refund one of them.",
    ),
    Article(
        "KB-02",
        "Refunds",
        "refund money back return order paid",
        "A refund goes back to the card or account you paid with and takes three to five working days.",
    ),
    Article(
        "KB-03",
        "Invoices",
        "invoice bill receipt copy download statement",
        "Every invoice is in your account under Billing, Invoices, where you can download it.",
    ),
    Article(
        "KB-04",
        "Payment methods",
        "payment method change card credit expired bank details update",
        "You change your payment method in your account under Billing, Payment; the next bill uses it.",
    ),
    Article(
        "KB-05",
        "Reset your password",
        "forgot password reset login sign link",
        "Choose 'Forgot password' where you sign in. We send a link that is valid for one hour.",
    ),
    Article(
        "KB-06",
        "Account locked",
        "locked account blocked access attempts sign login",
        "After five wrong passwords an account is locked for thirty minutes and then opens by itself.",
    ),
    Article(
        "KB-07",
        "Change your email address",
        "change email address account profile name update",
        "You change your email address in your account under Profile; we send a link to the new address first.",
    ),
    Article(
        "KB-08",
        "The app crashes",
        "app crash crashes error bug freezes start update install phone",
        "Update the app to its newest version. If it still crashes, remove it and install it again.",
    ),
    Article(
        "KB-09",
        "No internet connection",
        "internet connection offline slow router network wifi down",
        "Unplug the router for a minute and wait until its light is green, which takes about two minutes.",
    ),
    Article(
        "KB-10",
        "Where is my delivery",
        "delivery parcel order late shipped shipping tracking arrive package",
        "The tracking number is in the message that told you of the dispatch; a parcel takes two to four days.",
    ),
    Article(
        "KB-11",
        "Cancel a subscription",
        "cancel subscription end contract plan stop renewal",
        "You cancel in your account under Plan, Cancel; the plan then runs to the end of the month you paid for.",
    ),
    Article(
        "KB-12",
        "Opening hours",
        "opening hours open contact phone support weekend reach",
        "People answer on working days from 8 to 20 and on Saturdays from 9 to 14.",
    ),
)


def search(question: str) -> list[dict[str, Any]]:
    """The best articles for a question, the best first; none that shares no word with it."""
    asked = stems_of(question)
    scored = sorted(((article.found_by(asked), article) for article in ARTICLES), key=lambda found: -found[0])
    return [_as_json(article, score) for score, article in scored[:_MOST] if score > 0]


def knowledge(asked: Asked) -> Answer:
    """The articles for a ticket: its subject and body, a `query`, or the message's text."""
    question = told_in(asked, "query", "subject", "body")
    if not question:
        return Answer("Send a question: as text, as `query`, or as the ticket's `subject` and `body`.", "failed")
    articles = search(question)
    text = f"The best of {len(articles)}: {articles[0]['title']}." if articles else "No article fits."
    return Answer(text, data={"articles": articles, "best_score": articles[0]["score"] if articles else 0})


def _as_json(article: Article, score: float) -> dict[str, Any]:
    return {"id": article.id, "title": article.title, "answer": article.answer, "score": score}
