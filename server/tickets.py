"""A ticket is an execution of the flow `ticket`, told in a ticket's words. Pure.

NEW → ROUTING → KNOWLEDGE_SEARCH → SENTIMENT_ANALYSIS → DECISION → RESOLVED | ESCALATED
"""

from collections.abc import Mapping
from typing import Any

from server.execution_logs import end_of
from server.executions import Execution, began_at

FLOW = "ticket"
NEW, RESOLVED, ESCALATED = "NEW", "RESOLVED", "ESCALATED"
GENERAL = "general"
"""The category of a ticket that nobody could sort."""

_SORTING = "routing"


def status_of(ticket: Execution) -> str:
    """Return where the ticket stands: the state of the stage at work, or how it ended.

    Only a ticket that was decided so is resolved; one that nobody could decide, or that was canceled, is escalated.
    """
    if ticket.status in ("completed", "failed", "canceled"):
        decided = ticket.status == "completed" and _known(ticket).get("outcome") == "resolve"
        return RESOLVED if decided else ESCALATED
    return (_at(ticket) or NEW).upper()


def ticket_document(ticket: Execution) -> dict[str, Any]:
    """Return the ticket as clients see it."""
    known = _known(ticket)
    history = history_of(ticket)
    return {
        "ticket_id": ticket.id,
        "status": status_of(ticket),
        **{name: known.get(name, "") for name in ("customer_id", "subject", "body")},
        "category": known.get("category") or (GENERAL if _was_not_sorted(ticket) else None),
        **{name: known.get(name) for name in ("priority", "sentiment", "articles")},
        "decision": known.get("outcome"),
        "reason": known.get("reason"),
        "reply": known.get("reply"),
        "history": history,
        "created_at": history[0]["at"],
        "updated_at": ticket.state.get("updated_at") or history[-1]["at"],
    }


def history_of(ticket: Execution) -> list[dict[str, Any]]:
    """Return the states that the ticket was in, each with when it began and which agent was asked."""
    began = began_at(ticket)
    history: list[dict[str, Any]] = [{"status": NEW, "at": began, "agent": None}]
    for step in ticket.trail:
        state = {"status": step["stage"].upper(), "at": step["timestamp"], "agent": step["agent"]}
        failed = {"error": step["response_data"]["error"]["message"]} if step["response_status"] == "error" else {}
        history.append({**state, "attempts": len(step.get("tried", ())) + 1, **failed})
    status = status_of(ticket)
    at = end_of(ticket.trail[-1]) if ticket.trail else ticket.state.get("updated_at", began)
    if status in (RESOLVED, ESCALATED):
        history.append({"status": status, "at": at, "agent": None})
    elif (stage := _at(ticket)) and ticket.flow and stage in ticket.flow.stages:
        history.append({"status": status, "at": at, "agent": ticket.flow.stages[stage].agent})
    return history


def _was_not_sorted(ticket: Execution) -> bool:
    return _SORTING in ticket.stages() and ticket.status_of(_SORTING) == "failed"


def _at(ticket: Execution) -> str | None:
    """Return the stage that is at work; none before the first one is."""
    opened = ticket.record.opened
    first = next(iter(ticket.stages()), None) if opened and opened.live else None
    stage: str | None = ticket.state.get("stage", first)
    return stage


def _known(ticket: Execution) -> Mapping[str, Any]:
    opened = ticket.record.opened
    said: Mapping[str, Any] = opened.said.get("context", {}) if opened else {}
    known: Mapping[str, Any] = ticket.state.get("context", said)
    return known
