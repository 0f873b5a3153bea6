"""Ending a call on request: the agent at work is left, and every agent with an open task of the call is told."""

import asyncio
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self, TypeVar

import structlog

from nodes.jobs import Job
from nodes.ports import AgentCaller, AgentRequest, TaskState
from nodes.reaching.pool import Pool
from nodes.remote.errors import AgentError
from nodes.spec import UNKNOWN, FlowFacts, public_url
from nodes.state import CallState, RemoteTask, wanted

CANCEL_TIMEOUT = 5.0
"""Seconds that an agent has to confirm."""

Answer = TypeVar("Answer")

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class OpenTask:
    """What an agent may still have at work for the call."""

    request: AgentRequest
    """Names the agent, the context and the task, if its id is known."""
    entry: RemoteTask
    """What the call remembers of it, should the agent not confirm."""
    writes: bool
    """Whether it moves money or changes records."""
    talk: str = ""
    """By which the call knows the talk with the agent."""
    now: TaskState | None = None
    """The state it is in since the agent was told; None if the agent said nothing."""

    @property
    def settled(self) -> bool:
        """Whether nothing can come of it any more that one would have to know."""
        return self.now == "canceled" or not self.writes


class Canceled(AgentError):
    """The call was ended on request, before its agent had answered.

    Attributes:
        tasks: what was open, each as it is now; the one at work first.
    """

    kind = "canceled"
    retryable = False
    acted = False

    def __init__(self, tasks: Sequence[OpenTask]) -> None:
        told = "".join(f"; {_told(task)}" for task in tasks)
        super().__init__(tasks[0].request.agent if tasks else "", f"the call was canceled{told}")
        self.tasks = tasks

    @property
    def url(self) -> str:
        """Where the agent answers that was told first; empty if none was."""
        return self.tasks[0].request.url if self.tasks else ""

    @property
    def confirmed(self) -> bool:
        """Whether there was an open task, and every one is canceled."""
        return bool(self.tasks) and all(task.now == "canceled" for task in self.tasks)


def open_tasks(
    facts: FlowFacts, pool: Pool, state: CallState, job: Job, asked: AgentRequest | None
) -> list[OpenTask]:
    """Return what agents may still have at work for the call; where several are asked at once, for this job.

    Args:
        facts: the flow.
        pool: where its agents answer.
        state: the call.
        job: what is asked.
        asked: what its agent was asked, with the task's id if that is known; None if nobody was.
    """
    at_work = [_at_work(state, job, asked)] if asked else []
    here = {task.talk for task in at_work}
    return at_work + [
        _left_open(facts, pool, talk, task)
        for talk, task in state.get("remote_tasks", {}).items()
        if (task.get("task_id") or task.get("unanswered"))
        and task.get("agent", talk) in facts.agents
        and talk not in here
        and (job.alone or task.get("stage") == job.where)
    ]


def _at_work(state: CallState, job: Job, asked: AgentRequest) -> OpenTask:
    entry: RemoteTask = {"context_id": asked.context_id, "stage": job.where, "intent": wanted(state) or UNKNOWN}
    entry["unanswered"] = asked.message_id
    entry["url"] = public_url(asked.url)
    if asked.task_id:
        entry["task_id"], entry["works"] = asked.task_id, True
    if not job.alone:
        entry["agent"] = asked.agent
    return OpenTask(asked, entry, job.effect == "write", job.talk_with(asked.agent))


def _left_open(facts: FlowFacts, pool: Pool, talk: str, task: RemoteTask) -> OpenTask:
    """Return what an earlier turn left open."""
    agent = task.get("agent", talk)
    request = AgentRequest(
        agent=agent,
        url=pool.where(agent, facts.agents[agent], task.get("url")),
        text="",
        message_id="",
        context_id=task["context_id"],
        task_id=task.get("task_id"),
        timeout=CANCEL_TIMEOUT,
    )
    return OpenTask(request, task, "unanswered" in task or _writes(facts, task.get("stage", "")), talk)


def _writes(facts: FlowFacts, where: str) -> bool:
    stage = where.partition("/")[0]
    return stage in facts.places and facts.places[stage].stage.effect == "write"


async def unless(cancel: asyncio.Event | None, work: Coroutine[Any, Any, Answer]) -> Answer | None:
    """Return what `work` returns, or None if it was cut short because `cancel` was set before it was done."""
    if cancel is None:
        return await work
    if cancel.is_set():
        work.close()
        return None
    with _Cut(cancel) as cut:
        try:
            return await work  # an answer that is there wins
        except (Exception, asyncio.CancelledError):
            if not cut.is_all:
                raise
    return None


class _Cut:
    """Cancels what the task does while it is in the context, as soon as an event is set: the task does the work
    itself, since another one for it would cost a part of what the message costs."""

    def __init__(self, cancel: asyncio.Event) -> None:
        self._cancel = cancel
        self._made = self._over = False

    def __enter__(self) -> Self:
        task = asyncio.current_task()
        if task is None:
            raise LookupError("there is no task to cancel")
        self._task, self._before = task, task.cancelling()
        self._waiting = asyncio.create_task(self._cancel.wait())
        self._waiting.add_done_callback(self._make)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over = True
        self._waiting.cancel()
        if self._made:
            self._task.uncancel()

    @property
    def is_all(self) -> bool:
        """Whether it was made, and nobody else has canceled the task."""
        return self._made and self._task.cancelling() <= self._before + 1

    def _make(self, _: object) -> None:
        if not self._over:  # the event may have been set in the very moment in which the work was done
            self._made = True
            self._task.cancel()


async def cancel_all(caller: AgentCaller, tasks: Iterable[OpenTask]) -> Canceled:
    """Tell the agents to cancel, all at once, and return what came of it; an agent that fails is logged."""
    async with asyncio.TaskGroup() as telling:
        told = [telling.create_task(_cancel(caller, task)) for task in tasks]
    canceled = Canceled([task.result() for task in told])
    log.info("call canceled", agents=[task.request.agent for task in canceled.tasks], confirmed=canceled.confirmed)
    return canceled


async def _cancel(caller: AgentCaller, task: OpenTask) -> OpenTask:
    request = replace(task.request, timeout=CANCEL_TIMEOUT)
    try:
        async with asyncio.timeout(CANCEL_TIMEOUT):
            return replace(task, now=await caller.cancel(request))
    except (AgentError, TimeoutError) as error:
        kind = error.kind if isinstance(error, AgentError) else "timeout"
        log.warning("agent did not cancel", agent=request.agent, type=kind)
        return task


def _told(task: OpenTask) -> str:
    agent = f"agent {task.request.agent!r}"
    if task.now == "canceled":
        return f"{agent} canceled its task"
    return f"the task of {agent} is {task.now}" if task.now else f"{agent} did not confirm it"
