"""Texts as the agents that read them see them: words, sentences, keywords, a summary. English, by rule and list."""

from __future__ import annotations

import re
from collections import Counter

_WORD = re.compile(r"[^\W_]+(?:['-][^\W_]+)*")
_END = re.compile(r"(?<=[.!?])\s+")
_ENDINGS = ("ing", "ies", "ied", "ed", "es", "s", "e", "y")


def words_in(text: str) -> list[str]:
    """Every word of a text in lower case, in order; a number is a word, a sign is none."""
    return _WORD.findall(text.replace("’", "'").lower())


_STOP = frozenset(
    words_in(
        """a about after all also am an and any are as at be because been before but by can cannot could did do does
        each for from get got had has have he her here him his how i if in into is it its just like me more most my
        no nor not now of off on once one only or other our out over own please she should so some such than that the
        their them then there these they this those through to too under until up us very was we were what when where
        which while who why will with would yes you your"""
    )
)


def content_words(text: str) -> list[str]:
    """The words that say what a text is about, in order: no numbers, no short words, none that every text has."""
    return [word for word in words_in(text) if len(word) > 2 and word not in _STOP and not word[0].isdigit()]


def stem(word: str) -> str:
    """What is left of a word without its ending, so that charge, charged and charges are one."""
    for ending in _ENDINGS:
        if word.endswith(ending) and not word.endswith("ss") and len(word) - len(ending) >= 3:
            return word.removesuffix(ending)
    return word


def listed(words: str) -> frozenset[str]:
    """The stems of a list of words, to look words up in."""
    return frozenset(map(stem, words.split()))


def stems_of(text: str) -> set[str]:
    """The stems of the content words of a text."""
    return {stem(word) for word in content_words(text)}


def sentences_in(text: str) -> list[str]:
    """The sentences of a text; the end of a line ends one too."""
    return [sentence for line in text.splitlines() for sentence in _END.split(line.strip()) if sentence]


def keywords_in(text: str, most: int = 5) -> list[str]:
    """The most frequent content words, the first named first among equals; forms of one word count together."""
    forms: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for word in content_words(text):
        forms.setdefault(stem(word), word)
        counts[stem(word)] += 1
    return [forms[found] for found, _ in counts.most_common(most)]


def summary_of(text: str) -> str:
    """The most central third of the sentences, from one to three of them, in their own order."""
    sentences = sentences_in(text)
    counts = Counter(stem(word) for word in content_words(text))
    wanted = min(3, max(1, len(sentences) // 3))
    central = sorted(range(len(sentences)), key=lambda at: (-_weight(sentences[at], counts), at))[:wanted]
    return " ".join(sentences[at] for at in sorted(central))


def _weight(sentence: str, counts: Counter[str]) -> float:
    """How much a sentence has of what the whole text has often; long sentences are not favoured much."""
    stems = stems_of(sentence)
    return sum(counts[found] for found in stems) / (len(stems) + 1)
