"""Tells the webhooks of a call's clients what happens in its turns."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from graph.routing import Routes
from graph.store.calls import OpenedTurn, OpenTurn
from graph.store.events import Published
from nodes.outcome import now
from server.a2a.push import configs_of
from server.a2a.push_delivery import PushSender
from server.a2a.runs import Run, as_task, task_id
from server.a2a.telling import Teller
from server.flows import Flows

_NOTIFIED = ("state_change", "step", "turn")
"""Chunks are not: who is notified reads the whole artifact."""


class Notifier:
    """A hook of turns.

    Args:
        sender: delivers.
        flows: the flows that are served.
    """

    def __init__(self, sender: PushSender, flows: Flows) -> None:
        self._sender = sender
        self._flows = flows
        self._tellers: dict[str, Teller] = {}
        """Those of turns under way that are notified of, by token."""

    def told(self, turn: OpenTurn, call: str, events: Sequence[Mapping[str, Any]]) -> None:
        """Notify of a turn's events those who asked for it."""
        if not turn.push:
            return
        teller = self._teller(turn, call, events)
        heard = [event for event in events if event["event"] in _NOTIFIED or _is_parked(event)]
        if not heard:
            return
        run, over = heard[0]["run"], _is_end(heard[-1])
        kept = configs_of(turn.push, task_id(call, run, turn.incarnation))
        # 0.3 is sent the whole task, which is not at hand while the turn runs.
        configs = [config for config in kept if over or config.version == "1.0"]
        position = f"{int(time.time() * 1000)}-0"
        updates = [
            update
            for event in heard
            for update in (
                teller.hear_parked(event) if _is_parked(event) else teller.hear(Published(position, event))
            )
        ]
        if updates and configs:
            self._sender.notify(configs, as_task(_run_now(turn, call, run, heard), self._routes(turn)), updates)

    def _teller(self, turn: OpenTurn, call: str, events: Sequence[Mapping[str, Any]]) -> Teller:
        """Return the turn's, which knows what was told before."""
        run = Run(call, events[0]["run"], turn.incarnation, ())
        teller = self._tellers.pop(turn.token, None) or Teller(run, self._routes(turn))
        if events[-1]["event"] not in ("turn", "error"):
            self._tellers[turn.token] = teller
        return teller

    def _routes(self, turn: OpenTurn) -> Routes:
        """Return the flow in the version that the turn runs on, which is at hand while it runs."""
        return (self._flows.known(turn.version) or self._flows.current()).routes


def _run_now(turn: OpenTurn, call: str, run: int, heard: Sequence[Mapping[str, Any]]) -> Run:
    steps, last = [step for step in turn.trail if step.get("run", 1) == run], heard[-1]
    opened = None if _is_end(last) else OpenedTurn(turn.token, True, {"at": now()})
    summary, parked = last.get("session_summary"), last.get("parked_ids", ())
    return Run(call, run, turn.incarnation, steps, opened, summary=summary, parked=parked)


def _is_end(event: Mapping[str, Any]) -> bool:
    return event["event"] == "turn" or _is_parked(event)


def _is_parked(event: Mapping[str, Any]) -> bool:
    """Tell whether a turn ended with a write that waits for a person; whoever is notified reads no other errors."""
    return event["event"] == "error" and event.get("type") == "outcome-unknown"
