"""Several requests in one message: the first is answered, the others are kept until the call comes by again. Pure."""

from collections.abc import Mapping
from typing import Any

from nodes.jobs import Job
from nodes.state import CallState, Request, said, wanted


def requests_after(state: CallState, job: Job) -> list[Request]:
    """Return the requests that wait once a stage was asked: without the one it was asked for, with what else the
    caller wanted."""
    waiting = list(state.get("requests") or [])
    stage = job.place.stage
    if job.is_fallback or not stage.several:
        return waiting
    waiting = [one for one in waiting if one["intent"] != wanted(state)]
    known = {wanted(state), *(one["intent"] for one in waiting)}
    further = dict.fromkeys(intent for intent in state.get("further_intents") or () if intent in stage.intents)
    news: list[Request] = [
        {"intent": intent, "input_message": said(state)} for intent in further if intent not in known
    ]
    return waiting + news


def waiting_at(state: CallState, intents: Mapping[str, Any]) -> list[str]:
    """Return the intents of the requests that wait and are legal at a stage, the oldest first."""
    return [one["intent"] for one in state.get("requests") or () if one["intent"] in intents]
