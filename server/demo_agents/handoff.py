"""The hand-off desk: tells a caller that a person takes over. Nobody works its queue in the demo: it only grows."""

from __future__ import annotations

import hashlib
from itertools import count

from server.demo_agents.answer import Answer, Asked, Recent


class HandoffDesk:
    """Gives each context a place in the queue; who asks again keeps it."""

    def __init__(self) -> None:
        self._places: Recent[str, int] = Recent()
        self._next = count(1)

    def __call__(self, asked: Asked) -> Answer:
        place = self._places.get(asked.context_id)
        if place is None:
            place = self._places[asked.context_id] = next(self._next)
        reference = f"H-{hashlib.sha256(asked.context_id.encode()).hexdigest()[:8].upper()}"
        return Answer(
            f"A colleague takes over from here. You are number {place} in the queue; your reference is {reference}.",
            data={"queue_position": place, "reference": reference},
        )
