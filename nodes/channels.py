"""The channels of the state that several nodes may write at once, and their reducers. What only one stage at a time
writes has none."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from langgraph.channels import BinaryOperatorAggregate, EphemeralValue, Topic

_NOTHING: Any = EphemeralValue(str).value
"""What LangGraph's channels hold while they hold nothing."""


class Reduced(BinaryOperatorAggregate[Any]):
    """What several nodes may write at once; until it holds something it is not there, and so is not saved."""

    def __init__(self, typ: type[Any], operator: Callable[[Any, Any], Any]) -> None:
        super().__init__(typ, operator)
        self.value = _NOTHING

    def update(self, values: Sequence[Any]) -> bool:
        """Take what the super-step's nodes wrote.

        What has held something is saved when it is empty too: LangGraph takes a channel of this kind that was written
        and is not saved for one to be rebuilt from the checkpoints before, and what was forgotten would come back.
        """
        was_there = self.value is not _NOTHING
        if values and not was_there:
            self.value = self.typ()
        changed = super().update(_as_one(values))
        if not was_there and self.value == {}:
            self.value = _NOTHING
            return False
        return changed


def _as_one(values: Sequence[Any]) -> Sequence[Any]:
    """Return names written by many as written by one: a list's thousand items would copy all that is known each."""
    if len(values) < 2 or not all(isinstance(value, dict) and "__overwrite__" not in value for value in values):
        return values
    return [{name: one for value in values for name, one in value.items()}]


class Trail(Topic[Any]):
    """The steps made in one super-step, numbered in order: stages that run at once cannot know each other's numbers.

    A step comes in with the number that the first of them has, as far as its node could know, and with its place
    among them (`order`).
    """

    def update(self, values: Sequence[Any]) -> bool:
        """Take the steps that the super-step's nodes wrote; those of the one before are forgotten."""
        made: list[Any] = [step for value in values for step in (value if isinstance(value, list) else [value])]
        if not made:
            return super().update([])
        made.sort(key=lambda step: step.get("order", ()))
        # Items of a list know the count of when they were sent out, and others may have made steps meanwhile.
        first = max([step["number"] for step in made] + [step["number"] + 1 for step in self.values[-1:]])
        return super().update([[_numbered(step, number) for number, step in enumerate(made, start=first)]])


def _numbered(step: Mapping[str, Any], number: int) -> Any:
    return {**{key: value for key, value in step.items() if key != "order"}, "number": number}


def merged(known: Mapping[str, Any], news: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is known by name, with the news."""
    return {**known, **news}


def kept(known: Mapping[str, Any], news: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is known by name, with the news; what they call null is forgotten."""
    return {name: value for name, value in {**known, **news}.items() if value is not None}


def united(known: list[int], news: list[int]) -> list[int]:
    """Return both without doubles, in order."""
    return list(dict.fromkeys([*known, *news]))


def whole(value: Any) -> dict[str, Any]:
    """Return what replaces a channel's value whatever its reducer (LangGraph's JSON form of `Overwrite`)."""
    return {"__overwrite__": value}
