"""What the two generic workers share: finding the task that a message asks for, and refusing in words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from server.demo_agents.answer import Answer, Asked, Behaviour

_LONGEST_QUOTED = 60


class Refused(Exception):
    """The work cannot be done; the message says why and what to send instead."""


@dataclass(frozen=True, slots=True)
class Work:
    """One task of a worker; a label that contains one of `signs` asks for it."""

    name: str
    signs: tuple[str, ...]
    do: Callable[[Asked], Answer]


def worker(*works: Work) -> Behaviour:
    """Return the agent that does these works; where a label has signs of several, the first one listed is meant."""

    def answer(asked: Asked) -> Answer:
        try:
            return _meant(asked, works).do(asked)
        except Refused as refusal:
            return Answer(str(refusal), "failed")

    return answer


def _meant(asked: Asked, works: tuple[Work, ...]) -> Work:
    label = _label(asked)
    for work in works:
        if any(sign in label for sign in work.signs):
            return work
    what = f"I do not know the task {label[:_LONGEST_QUOTED]!r}." if label else "Which task?"
    raise Refused(f"{what} Name one of these as `task_type`: {', '.join(work.name for work in works)}.")


def _label(asked: Asked) -> str:
    """What the message says of its task: its own word for it goes before the name of the stage it comes from."""
    said = (asked.data.get("task_type"), asked.metadata.get("flow_label"), asked.metadata.get("stage"))
    return next((label.lower() for label in said if isinstance(label, str) and label), "")
