"""The person who decides: looks into the agents' books for each parked write, and says whether it was done."""

import asyncio
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import orjson

from tests.chaos.ledger import Effect
from tests.chaos.processes import Replica
from tests.chaos.world import AGENT_SECONDS, LEASE_SECONDS, World

LOOKS_EVERY = 0.3


@dataclass
class Settler:
    """The person, and what was settled."""

    world: World
    patience: float = LEASE_SECONDS + AGENT_SECONDS
    """Seconds to wait before a write counts as not done: whoever holds it may still send it."""
    replicas: Sequence[Replica] = ()
    """Those that are asked; all if it is told of none."""
    settled: Counter[str] = field(default_factory=Counter)
    """How often which outcome was found."""
    resolved: dict[str, str] = field(default_factory=dict)
    """The outcome of each parked write."""
    said: dict[str, str] = field(default_factory=dict)
    """What was said of each, whether or not the service answered to that."""
    parked: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    """Every write that was ever seen parked, by id."""
    knowable: list[str] = field(default_factory=list)
    """Writes that were parked although the agent could have told, or would not have done them twice."""
    _seen: dict[str, float] = field(default_factory=dict)

    async def settle_all(self) -> None:
        """Settle what is parked, for ever."""
        while True:
            for parked in await self.listed():
                await self.settle(parked)
            await asyncio.sleep(LOOKS_EVERY)

    async def listed(self) -> list[Mapping[str, Any]]:
        """Return what is parked; nothing if nobody can be asked."""
        for replica in self.replicas or self.world.replicas:
            answer = await self._asked("GET", f"{replica.url}/parked")
            if answer is not None and answer.status_code == 200:
                return list(orjson.loads(answer.content)["parked"])
        return []

    async def settle(self, parked: Mapping[str, Any]) -> None:
        """Say whether a write was done, as soon as that can be said."""
        name, effect = parked["id"], self.world.books.of_message(parked["message_id"])
        if name not in self.parked:
            self.parked[name] = parked
            self._seen[name] = time.monotonic()
            self._judge(parked, effect)
        if effect is None and time.monotonic() - self._seen[name] < self.patience:
            return
        outcome = {"outcome": "done" if effect else "not_done", "by": "ops", "why": "looked into the books"}
        response = {"response": {"text": f"receipt {effect.receipt}"}} if effect else {}
        for replica in self.replicas or self.world.replicas:
            url = f"{replica.url}/parked/{name}/resolve"
            self.said[name] = outcome["outcome"]
            answer = await self._asked("POST", url, {**outcome, **response})
            if answer is not None and answer.status_code == 200:
                if name not in self.resolved:
                    self.settled[outcome["outcome"]] += 1
                self.resolved[name] = outcome["outcome"]
                return

    def _judge(self, parked: Mapping[str, Any], effect: Effect | None) -> None:
        """Note a write that need not have been parked."""
        if parked["agent"] == "idempotent":
            self.knowable.append(f"parked, though its agent does nothing twice: {dict(parked)}")
        if parked["agent"] != "askable" or effect is None:
            return
        excuses = [
            cut
            for cut in self.world.cuts
            if cut.agent == "askable" and cut.at > effect.at - AGENT_SECONDS and cut.method not in _SENDS
        ]
        if not any(cut.method == "card" or cut.context_id in (None, effect.context_id) for cut in excuses):
            self.knowable.append(f"parked, though its agent knows: {dict(parked)}, {effect}")

    async def _asked(self, method: str, url: str, body: Mapping[str, Any] | None = None) -> httpx.Response | None:
        content = orjson.dumps(body) if body else None
        headers = {"content-type": "application/json"} if body else {}
        try:
            async with asyncio.timeout(8):
                return await self.world.http.request(method, url, content=content, headers=headers)
        except (httpx.HTTPError, TimeoutError):
            return None


_SENDS = ("SendMessage", "message/send")
