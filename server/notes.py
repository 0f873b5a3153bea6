"""The step that tells of a write when the call has moved on since, or was not told of it: a note in the trail."""

from collections.abc import Mapping
from typing import Any

from graph.store.effects import Record
from nodes.jobs import Job
from nodes.moving import Move
from nodes.outcome import Outcome, now
from nodes.ports import AgentRequest, Reply
from nodes.remote.errors import AgentError
from nodes.spec import Place, Stage
from nodes.state import CallState
from nodes.steps import step_of
from server.flows import Version


class NotDone(AgentError):
    """A person says that an agent did not act on a write."""

    kind = "not_done"
    acted = False

    def __init__(self, agent: str) -> None:
        super().__init__(agent, f"agent {agent!r} did not act on the message")


def note(state: Mapping[str, Any], record: Record, version: Version | None) -> dict[str, Any]:
    """Return the update that adds the step; the call stays where it is.

    Args:
        state: the call.
        record: of the write, with what was said of it.
        version: the flow version that the call is on; None if it is gone.
    """
    effect, job = record.effect, _job(record, version)
    said = record.said.get("input_message", "")
    request = AgentRequest(effect.agent, effect.url, said, effect.message_id, effect.context_id, None, 0.0)
    here: Any = {**state, "intent": effect.intent, "intent_source": "declared"}
    here.setdefault("run", effect.run)
    stays_at = None if state.get("is_complete") else state.get("current_flow_id", job.place.id)
    step = step_of(here, job, request, _outcome(record), Move(), next_flow_id=stays_at, ended=None)
    update: dict[str, Any] = {"steps": [step], "step_count": 1, "updated_at": now()}
    return update | _forgotten(here, record, job)


def _job(record: Record, version: Version | None) -> Job:
    effect = record.effect
    places: Mapping[str, Place] = version.routes.places if version else {}
    place = places.get(effect.stage) or Place(effect.stage, 0, Stage(effect="write"), None, None)
    alone = effect.where == effect.stage and not (version and version.flow.is_dag)
    return Job(place, effect.where, effect.agent, alone=alone, branch=effect.where.partition("/")[2] or None)


def _outcome(record: Record) -> Outcome:
    resolution = record.effect.resolution
    if resolution is None:
        raise LookupError("nobody has said what came of it")
    if resolution.outcome == "done":
        return Outcome(resolution.reply or Reply(""), None, now(), 0.0, resolution=resolution)
    return Outcome(None, NotDone(record.effect.agent), now(), 0.0, resolution=resolution)


def _forgotten(state: CallState, record: Record, job: Job) -> dict[str, Any]:
    """Return the update by which the message is not sent again, if that is still what the call remembers of it."""
    task = state.get("remote_tasks", {}).get(job.talk)
    if task is None or task.get("unanswered") != record.effect.message_id:
        return {}
    return {"remote_tasks": {job.talk: {"context_id": record.effect.context_id}}}
