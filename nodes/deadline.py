"""How much of a turn's time is left, and where it goes: every wait nests inside the turn's own deadline."""

import asyncio
from contextlib import AbstractContextManager, nullcontext

from nodes.ports import TurnContext
from nodes.timing import Part


def seconds_left(context: TurnContext | None, at_most: float) -> float:
    """Return `at_most` seconds, or what the turn's deadline leaves of them (never below 0)."""
    if context is None or context.deadline is None:
        return at_most
    return max(0.0, min(at_most, context.deadline - asyncio.get_running_loop().time()))


def timed(context: TurnContext | None, part: Part) -> AbstractContextManager[None]:
    """Count the time in the context towards a part of the turn, if anybody counts."""
    return context.timing.of(part) if context is not None and context.timing is not None else nullcontext()
