"""How much of a turn's time is left: every wait nests inside the turn's own deadline."""

import asyncio

from nodes.ports import TurnContext


def seconds_left(context: TurnContext | None, at_most: float) -> float:
    """Return `at_most` seconds, or what the turn's deadline leaves of them (never below 0)."""
    if context is None or context.deadline is None:
        return at_most
    return max(0.0, min(at_most, context.deadline - asyncio.get_running_loop().time()))
