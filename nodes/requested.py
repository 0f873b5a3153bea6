"""Several requests in one message: the first is answered, the others are kept until the call comes by again. Pure.

Which words are requests of their own is told by signs of English, and only where it is fairly certain: what is missed
the caller can say again, what was never asked for delays the whole call.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from nodes.jobs import Job
from nodes.outcome import Outcome
from nodes.state import CallState, Request, said, wanted

_KEPT = 4_000
"""Characters kept of the words of a request."""

_SENTENCES = re.compile(r"[.!?;:\n]+(?=\s|$)")
_CLAUSES = re.compile(r"[,&]|\b(?:and|also|plus|then|as well as)\b", re.IGNORECASE)
_WISHES = re.compile(
    r"\b(?:want|wanna|need|wish|please|like (?:to|an?|my|some)|(?:can|could|would|will|may) (?:you|i|we)"
    r"|let me|(?:tell|give|show|get) me|how much|what(?: i|['’])s)\b",
    re.IGNORECASE,
)
_NARRATES = re.compile(
    r"\b(?:i|it|we|he|she|they|there|is|are|am|was|were|be|been|being|has|have|had|do|does|did|got|keep|kept|made"
    r"|sent|paid|went|said|why|how|where|when|if|because|but|which|who|that|since|so|not|no"
    r"|\w+n['’]t|\w+['’](?:s|ve|m|re)|\w{2,}[^\We]ed)\b",
    re.IGNORECASE,
)
_NOUN = re.compile(r"\s*(?:an?|the|my|our|your|any|some|this|that|its|other)\b", re.IGNORECASE)
_RELATES = re.compile(r"\b(?:for|of|on|about|from|with|in|by|between|both)\b", re.IGNORECASE)


def requests_in(text: str, recognise: Callable[[str], str | None]) -> list[str]:
    """Return the intents of a message's requests without doubles, in the order of its words.

    Args:
        text: the caller's words.
        recognise: finds the intent of some of them; None if there is none.
    """
    found = (recognise(clause) for clause in _requests(text[:_KEPT]))
    return list(dict.fromkeys(intent for intent in found if intent))


def requests_after(state: CallState, job: Job, outcome: Outcome) -> list[Request]:
    """Return the requests that wait once a stage was asked: what else the caller wants, and what came to nothing."""
    stage, asked, words = job.place.stage, wanted(state), said(state)[:_KEPT]
    waiting = {one["intent"]: one for one in state.get("requests") or ()}
    for intent in (asked, *(state.get("further_intents") or ())) if stage.several else ():
        if intent and intent in stage.intents:
            waiting.setdefault(intent, {"intent": intent, "input_message": words})
    if asked in stage.intents and _is_done(job, outcome):
        waiting.pop(asked, None)
    return list(waiting.values())


def waiting_at(state: CallState, intents: Mapping[str, Any]) -> list[str]:
    """Return the intents of the requests that wait and are legal at a stage, the oldest first."""
    return [one["intent"] for one in state.get("requests") or () if one["intent"] in intents]


def _is_done(job: Job, outcome: Outcome) -> bool:
    """Tell whether what the stage was asked for needs no further turn."""
    return (outcome.succeeded and not outcome.waits) or job.place.stage.on_error == "continue"


def _requests(text: str) -> Iterator[str]:
    """Yield the clauses that ask for something of their own."""
    for sentence in _SENTENCES.split(text):
        if _NARRATES.search(sentence) and not _WISHES.search(sentence):
            continue
        before = ""
        for clause in filter(str.strip, _CLAUSES.split(sentence)):
            # "a refund for the booking and the fee": the fee belongs to the refund.
            belongs = _NOUN.match(clause) and _RELATES.search(before)
            if _WISHES.search(clause) or not (_NARRATES.search(clause) or belongs):
                yield clause
            before = clause
