"""What the call remembers of its talks with agents: contexts, tasks that wait, messages without an answer. Pure."""

from collections.abc import Mapping
from typing import Any, cast

from nodes.canceling import Canceled, OpenTask
from nodes.jobs import ALL, MODEL, PERSON, Job
from nodes.outcome import WAITS, Outcome
from nodes.ports import AgentRequest, Reply
from nodes.remote.errors import AgentError, TimedOut
from nodes.spec import UNKNOWN, public_url
from nodes.state import CallState, RemoteTask, wanted
from nodes.steps import unsettled


def talks_after(state: CallState, job: Job, request: AgentRequest, outcome: Outcome) -> dict[str, RemoteTask | None]:
    """Return what is to be remembered from now on, by talk; null for what can be forgotten."""
    if isinstance(outcome.error, Canceled):
        return {task.talk: _after_cancel(task) for task in outcome.error.tasks}
    if request.agent in (ALL, MODEL, PERSON):
        return {}
    begun: RemoteTask = {"context_id": request.context_id, "stage": job.where, "intent": wanted(state) or UNKNOWN}
    if not job.alone:
        begun["agent"] = request.agent
    talk = job.talk_with(request.agent)
    there = public_url(request.url)
    if outcome.reply is not None:
        return {talk: _after_reply(begun, job, outcome.reply, there)}
    if outcome.error is not None:
        return {talk: _after_error(state, begun, job, request, outcome.error)}
    return {}


def _after_reply(begun: RemoteTask, job: Job, reply: Reply, there: str) -> RemoteTask | None:
    """Keep the agent's context, and its task while that waits for the caller; of many at once only the latter."""
    context_id = reply.context_id or begun["context_id"]
    if reply.task_state in WAITS and reply.task_id:
        return {**begun, "context_id": context_id, "task_id": reply.task_id, "url": there}
    return {"context_id": context_id} if job.alone else None


def _after_error(
    state: CallState, begun: RemoteTask, job: Job, request: AgentRequest, error: AgentError
) -> RemoteTask:
    """Keep what the next turn needs in order to ask first, or to send the same message and not a second one.

    A task the agent no longer takes messages for is forgotten, or the call could never leave its stage.
    """
    kept = dict(begun)
    if isinstance(error, TimedOut) and error.task_id:
        kept |= {"task_id": error.task_id, "works": True}
    elif error.retryable and request.task_id:
        kept |= {"task_id": request.task_id, "works": request.task_works}
    if unsettled(state, job, request, error):
        kept["unanswered"] = request.message_id
    if "task_id" in kept or "unanswered" in kept:
        before: Mapping[str, Any] = state.get("remote_tasks", {}).get(job.talk_with(request.agent), {})
        kept["url"] = public_url(request.url) or before.get("url", "")
    return cast(RemoteTask, kept)


def _after_cancel(task: OpenTask) -> RemoteTask:
    """Keep the agent's context; of a write that the agent did not confirm as canceled, all that is known."""
    return {"context_id": task.request.context_id} if task.settled else task.entry
