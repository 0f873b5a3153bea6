"""The auth agent: checks an identity number or a one-time code, over one or more messages of a task.

It never repeats a number or a code, and has the caller's own words masked where the task keeps them.
"""

from __future__ import annotations

import re
from functools import partial

from server.demo_agents.answer import Answer, Asked, Behaviour, Recent

DEMO_CODE = "123456"
_CODES_ALLOWED = 3
_IDENTITY_NUMBER = re.compile(r"[0-9](?:[ -]?[0-9]){3,}")
_CODE = re.compile(r"(?<![0-9])[0-9](?:[ -]?[0-9]){5}(?![0-9])")
_QUESTION = f"I have sent a one-time code to your phone. Please tell me the code. (demo code: {DEMO_CODE})"


def _verified(text: str, method: str) -> Answer:
    return Answer(text, data={"verified": True, "method": method}, secret=True)


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
        if _IDENTITY_NUMBER.search(asked.text):
            return _verified("Thank you, your identity is verified.", "identity_number")
        return self._ask(asked, "Please tell me your identity number.", self._read_number)

    def _read_code(self, asked: Asked, wrong: int) -> Answer:
        if DEMO_CODE in _codes_in(asked.text):
            return _verified("Thank you, your code is right.", "one_time_code")
        if not re.search("[0-9]", asked.text):
            return self._ask(asked, _QUESTION, partial(self._read_code, wrong=wrong))
        if wrong + 1 == _CODES_ALLOWED:
            return Answer("Too many wrong codes.", "failed", secret=True)
        again = partial(self._read_code, wrong=wrong + 1)
        return self._ask(asked, "That code is not right. Please try again.", again)

    def _ask(self, asked: Asked, question: str, read: Behaviour) -> Answer:
        self._open[asked.task_id] = read
        return Answer(question, "input-required", secret=True)
