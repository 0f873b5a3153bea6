"""The state that a flow's graph keeps: of everything a call can remember, what this flow has a use for.

LangGraph looks at every channel in every super-step, so one that stays empty costs time in each turn.
"""

from typing import cast, get_type_hints

from typing_extensions import TypedDict

from graph.flow import Flow
from nodes.state import CallInput, CallState


def state_of(flow: Flow) -> type[CallState]:
    """Return the state's schema."""
    return cast(type[CallState], _without(CallState, unused_by(flow)))


def input_of(flow: Flow) -> type[CallInput]:
    """Return the schema of what a turn brings."""
    return cast(type[CallInput], _without(CallInput, unused_by(flow)))


def unused_by(flow: Flow) -> set[str]:
    """Name what the flow has no use for."""
    stages = flow.stages.values()
    branches = any(stage.branches for stage in stages)
    asks = any(stage.ask for stage in stages)
    waits = flow.waits_for == "caller"
    uses = {
        "done": flow.is_dag,
        "branches": flow.is_dag or branches,
        "item": branches,
        "asked": asks,
        "answer": asks,
        "answer_for": asks or flow.is_dag,
        "passes": any(stage.repeat for stage in stages),
        "taken": any(way.at_most for stage in stages for way in (*stage.next, *stage.detours)),
        "requests": any(stage.several for stage in stages),
        "further_intents": any(stage.several for stage in stages),
        "goes_to": not waits or branches or asks,
        "parts_told": not waits or branches or asks,
        "run_after": flow.restarts,
        "run_began_at": flow.restarts,
    }
    return {name for name, used in uses.items() if not used}


def _without(schema: type, unused: set[str]) -> type:
    hints = get_type_hints(schema, include_extras=True)
    kept = {name: hint for name, hint in hints.items() if name not in unused}
    return TypedDict(schema.__name__, kept, total=False)  # type: ignore[operator, no-any-return]
