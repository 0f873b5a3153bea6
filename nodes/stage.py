"""The stage node: asks one agent, or one model, and learns from the answer what that means for the call.

One class serves every such stage, and the fallback, which answers at any stage and never moves the call.
"""

from typing import Any

from langgraph.runtime import Runtime

from nodes.asking import World, asked
from nodes.fallbacks import unless_off
from nodes.jobs import fallback_job, job_at
from nodes.learning import learn, opened
from nodes.ports import TurnContext
from nodes.runs import at_its_run
from nodes.spec import FlowFacts, Place
from nodes.state import CallState


class StageNode:
    """A node of the graph: one stage of the flow, or its fallback when `place` is None."""

    def __init__(self, facts: FlowFacts, place: Place | None, world: World) -> None:
        self._facts = facts
        self._place = place
        self._world = world

    async def __call__(self, state: CallState, runtime: Runtime[TurnContext]) -> dict[str, Any]:
        """Ask, and return what the call learned."""
        state = opened(self._facts, at_its_run(state, self._facts.restarts))
        place = self._place
        job = job_at(self._facts, place, state) if place else fallback_job(self._facts, state)
        job = unless_off(self._facts, self._world.pool, job, state, runtime.context)
        request, outcome = await asked(self._facts, self._world, job, state, runtime)
        return learn(self._facts, state, job, request, outcome)
