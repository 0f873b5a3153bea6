"""A turn under way: what it holds, and those who are told what happens in it."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog

from graph.store.calls import OpenTurn
from graph.store.errors import StoreError
from graph.store.events import Events
from server.flows import Version
from server.turn import TurnHook, TurnRequest

log = structlog.get_logger()


@dataclass(slots=True)
class Underway:
    """A turn that holds its lease and was found legal."""

    turn: OpenTurn
    request: TurnRequest
    version: Version
    deadline: float
    run: int
    followed: bool = False
    """Whether anybody hears what happens in it: who follows its events, or is notified."""
    told: int = 0
    """How many events were told of it."""
    steps_told: int = 0
    """How many steps were told of it."""
    cancel: asyncio.Event = field(default_factory=asyncio.Event)
    replace: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a later message takes its place."""

    def fresh_steps(self) -> list[dict[str, Any]]:
        """Return the events of the steps that were committed since this was asked last."""
        fresh = self.turn.steps[self.steps_told :]
        self.steps_told += len(fresh)
        return [{"event": "step", "step": step} for step in fresh]


class Audience:
    """Those who are told of turns: who follows a call's events, and the hooks.

    Args:
        events: where those who follow a turn read what happens in it.
        hooks: who is told of every turn.
    """

    def __init__(self, events: Events, hooks: Sequence[TurnHook]) -> None:
        self._events = events
        self._hooks = hooks

    async def tell(self, begun: Underway, events: Sequence[Mapping[str, Any]]) -> None:
        """Publish events to followers, and tell the hooks; neither can fail the turn."""
        if not events:
            return
        marked = [
            {**event, "run": begun.run, "turn": begun.turn.token, "nth": nth}
            for nth, event in enumerate(events, begun.told + 1)
        ]
        begun.told += len(events)
        if begun.followed:
            try:
                await self._events.publish(begun.turn.thread, marked)
            except StoreError as error:
                log.warning("events not published", reason=str(error))
        for hook in self._hooks:
            try:
                hook.told(begun.turn, begun.request.call_identify_id, marked)
            except Exception:
                log.exception("hook failed", hook=type(hook).__name__)
