"""The auth agent: checks an identity number or a one-time code, over one or more messages of a task.

It never repeats a number or a code, and has the caller's own words masked where the task keeps them. A task is
completed with `verified: false` by an identity number of zeros alone, such as 0000, which is nobody's, and by a
caller who has no number or code to tell ("I do not have the code", "I give up"). The third wrong code fails it.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial

from server.demo_agents.answer import Answer, Asked, Behaviour, Recent

DEMO_CODE = "123456"
_CODES_ALLOWED = 3
_IDENTITY_NUMBER = re.compile(r"[0-9](?:[ -]?[0-9]){3,}")
_CODE = re.compile(r"(?<![0-9])[0-9](?:[ -]?[0-9]){5}(?![0-9])")
_HAS_NONE = re.compile(
    r"\bgive up\b|\bno code\b|\blost (?:my|the) (?:number|code|phone|card)\b"
    r"|\b(?:do not|don't|did not|didn't|never) (?:have|know|remember|get|got|receive|received)"
    r" (?:it|one|(?:my |the |a |any |that )?(?:\w+ )?(?:number|code|pin))\b",
    re.IGNORECASE,
)
_QUESTION = f"I have sent a one-time code to your phone. Please tell me the code. (demo code: {DEMO_CODE})"


def _verified(text: str, method: str) -> Answer:
    return Answer(text, data={"verified": True, "method": method}, secret=True)


def _not_verified(text: str, method: str) -> Answer:
    return Answer(text, data={"verified": False, "method": method}, secret=True)


def _has_none(text: str) -> bool:
    return _HAS_NONE.search(text.replace("’", "'")) is not None


def _codes_in(text: str) -> list[str]:
    return [re.sub("[ -]", "", code) for code in _CODE.findall(text)]


class Auth:
    """Holds, for each open task, how its next message is to be read."""

    def __init__(self) -> None:
        self._open: Recent[str, Behaviour] = Recent()

    def __call__(self, asked: Asked) -> Answer:
        read = self._open.pop(asked.task_id, self._begin)
        return read(asked)

    def _begin(self, asked: Asked) -> Answer:
        if asked.intent in ("authenticate", "otp_verify"):
            return self._ask(asked, _QUESTION, partial(self._read_code, wrong=0))
        return self._read_number(asked)

    def _read_number(self, asked: Asked) -> Answer:
        numbers = _IDENTITY_NUMBER.findall(asked.text)
        if any(number.strip("0 -") for number in numbers):
            return _verified("Thank you, your identity is verified.", "identity_number")
        if numbers or _has_none(asked.text):
            return _not_verified("I could not verify your identity.", "identity_number")
        return self._ask(asked, "Please tell me your identity number.", self._read_number)

    def _read_code(self, asked: Asked, wrong: int) -> Answer:
        if DEMO_CODE in _codes_in(asked.text):
            return _verified("Thank you, your code is right.", "one_time_code")
        if _has_none(asked.text):
            return _not_verified("I could not verify you without the code.", "one_time_code")
        if not re.search("[0-9]", asked.text):
            return self._ask(asked, _QUESTION, partial(self._read_code, wrong=wrong))
        if wrong + 1 == _CODES_ALLOWED:
            return replace(_not_verified("Too many wrong codes.", "one_time_code"), state="failed")
        again = partial(self._read_code, wrong=wrong + 1)
        return self._ask(asked, "That code is not right. Please try again.", again)

    def _ask(self, asked: Asked, question: str, read: Behaviour) -> Answer:
        self._open[asked.task_id] = read
        return Answer(question, "input-required", secret=True)
