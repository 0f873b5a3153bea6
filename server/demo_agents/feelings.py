"""How a text feels: for or against, and how angry. By word lists; a negation just before a word turns it round."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, TypeAlias

from server.demo_agents.words import listed, stem, words_in

Sentiment: TypeAlias = Literal["positive", "neutral", "negative"]


_GOOD = listed(
    """amazing awesome best better brilliant calm cheerful delighted easy enjoy excellent fantastic fast fine friendly
    glad good grateful great happy helpful impressed improve improved love lovely nice perfect pleasant pleased
    profit quick recommend reliable satisfied solved strong success successful superb thank thanks wonderful"""
)
_BAD = listed(
    """annoyed annoying awful bad broken broke cancel complain complaint confusing crash damaged defective
    disappointed disappointing error fail failed failure fault frustrated frustrating hate horrible hurt issue late
    lose loss lost mess miserable missing mistake poor problem rude sad slow stuck terrible trouble unable unhappy
    unhelpful upset useless waste weak worse worst wrong"""
)
_ANGRY = listed(
    """angry appalling disgrace disgraceful disgusted disgusting fraud furious hate lawyer lawsuit liar lies
    livid outrage outraged outrageous ridiculous rip-off scam scandalous shameful stupid sue thief thieves
    unacceptable worst"""
)
_NEGATIONS = frozenset(
    ("no", "not", "never", "none", "nobody", "nothing", "hardly", "barely", "without", "cannot", "neither", "nor")
)
_REACH = 3
_CLAUSE = re.compile(r"[.,;:!?\n]+|\bbut\b", re.IGNORECASE)
_SHOUTED = re.compile(r"\b[A-Z]{4,}\b")


@dataclass(frozen=True, slots=True)
class Feeling:
    """`score` from -1 (against) to 1 (for), `anger` from 0 to 1."""

    score: float
    anger: float

    @property
    def sentiment(self) -> Sentiment:
        if abs(self.score) < 0.2:
            return "neutral"
        return "positive" if self.score > 0 else "negative"


def feeling_of(text: str) -> Feeling:
    """Read the feeling of a text; one without any word of the lists is neutral."""
    good = bad = angry = 0
    for word, negated in _words_with_negation(text):
        furious = word in _ANGRY and not negated
        angry += furious
        good += word in (_BAD if negated else _GOOD)
        bad += furious or word in (_GOOD if negated else _BAD)
    score = (good - bad) / (good + bad + 1)
    return Feeling(round(score, 2), _anger(text, angry, score))


def _words_with_negation(text: str) -> list[tuple[str, bool]]:
    """Each word's stem, and whether one of the three words before it in its clause says no."""
    found = []
    for clause in _CLAUSE.split(text):
        words = words_in(clause)
        for at, word in enumerate(words):
            found.append((stem(word), any(_says_no(before) for before in words[max(0, at - _REACH) : at])))
    return found


def _says_no(word: str) -> bool:
    return word in _NEGATIONS or word.endswith("n't")


def _anger(text: str, angry: int, score: float) -> float:
    """Angry words count most; shouting and exclamation marks count only where the text is against something."""
    if not angry and score >= 0:
        return 0.0
    loud = 0.2 * bool(_SHOUTED.search(text)) + 0.1 * min(text.count("!"), 3)
    return round(min(1.0, 0.5 * angry + loud), 2)
