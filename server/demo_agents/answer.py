"""What the demo agents share: the question put to them, the answer they give, and memories with a limit.

Nothing here knows A2A; `executor` translates.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, TypeVar

K = TypeVar("K")
V = TypeVar("V")

State: TypeAlias = Literal["message", "completed", "input-required", "failed"]


@dataclass(frozen=True, slots=True)
class Asked:
    """One message to an agent. `task_id` names the task it opens or continues."""

    intent: str
    text: str
    account_id: str
    message_id: str
    task_id: str
    context_id: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)
    """The data parts as one object; a part that is none is there under the name `data`."""
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class File:
    """A file as an agent sends it: inline bytes."""

    name: str
    media_type: str
    content: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """What an agent says, and the state it leaves the task in; `message` means a bare message without a task.

    `secret` means the caller's words must not be kept in the history of the task.
    """

    text: str
    state: State = "completed"
    data: dict[str, Any] | None = None
    file: File | None = None
    secret: bool = False


Behaviour: TypeAlias = Callable[[Asked], Answer]


class Recent(dict[K, V]):
    """A mapping that forgets its oldest entry beyond `limit`: callers hang up without telling us."""

    def __init__(self, limit: int = 10_000) -> None:
        super().__init__()
        self._limit = limit

    def __setitem__(self, key: K, value: V) -> None:
        super().__setitem__(key, value)
        if len(self) > self._limit:
            del self[next(iter(self))]


class Once:
    """Does a write once for each message id and gives a repeated message the first answer again."""

    def __init__(self) -> None:
        self._answers: Recent[str, Answer] = Recent()

    def __call__(self, asked: Asked, write: Behaviour) -> Answer:
        answer = self._answers.get(asked.message_id)
        if answer is None:
            answer = self._answers[asked.message_id] = write(asked)
        return answer
