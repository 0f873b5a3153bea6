"""What readers of a call ask for: the answer to a turn, and the audit trail from the state's history."""

from collections.abc import AsyncIterable, Mapping
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.types import StateSnapshot

from nodes.state import Step, Summary


def answer(call_identify_id: str, step: Step, summary: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return what the client is told of a step: a pure function of it, so that a repeated turn is answered alike.

    `ended` is there only if the run did not end by being completed, `requests` only if some wait.
    """
    ended = {} if step.get("ended") in (None, "completed") else {"ended": step["ended"]}
    waiting = {"requests": step["requests"]} if step.get("requests") else {}
    timing = {"timing": step["timing"]} if step.get("timing") else {}
    return {
        "call_identify_id": call_identify_id,
        "intent_flow_id": step["intent_flow_id"],
        "intent": step["intent"],
        "status": step["response_status"],
        "response": step["response_data"],
        "next_flow_id": step["next_flow_id"],
        "is_complete": step["is_complete"],
        "session_summary": summary if step["is_complete"] else None,
        "stage": step["stage"],
        "agent": step["agent"],
        "intent_source": step["intent_source"],
        "step": step["number"],
        "duration_ms": step["duration_ms"],
        **timing,
        **waiting,
        **ended,
    }


def full_summary(summary: Summary | Mapping[str, Any] | None, steps: list[Step]) -> dict[str, Any] | None:
    """Return a finished run's summary with the full audit trail of that run, taken from the call's."""
    if not summary:
        return None
    return {**summary, "steps": [step for step in steps if step.get("run", 1) == summary.get("run", 1)]}


async def steps_of(graph: Any, config: RunnableConfig) -> list[Step]:
    """Return the audit trail of a call run without the server, oldest first, from its state history."""
    snapshots: AsyncIterable[StateSnapshot] = graph.aget_state_history(config)
    found: dict[int, Step] = {}
    async for snapshot in snapshots:
        for step in snapshot.values.get("steps", []):
            found.setdefault(step["number"], step)
    return [found[number] for number in sorted(found)]
