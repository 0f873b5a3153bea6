"""Who stands in for an agent: its fallback, that one's, and, where all of them are switched off, the flow's."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from nodes.jobs import Job, fallback_job
from nodes.ports import TurnContext
from nodes.reaching.pool import Pool
from nodes.spec import UNKNOWN, FlowFacts
from nodes.state import CallState, wanted
from nodes.writing import effects_of


def in_turn(facts: FlowFacts, agent: str) -> Iterator[str]:
    """Yield the agent, its fallback, that one's, and so on; checked to end when the flow is read."""
    name: str | None = agent
    while name is not None:
        yield name
        name = facts.agents[name].fallback


def is_unanswered(job: Job, agent: str, state: CallState, context: TurnContext | None) -> bool:
    """Tell whether the agent was sent this very write before, and what came of it is not known, or still to come:
    then nobody else may be sent it, and the agent is asked."""
    effects = effects_of(context or TurnContext())
    if effects and effects.left_at(job.where, agent):
        return True
    talk: Mapping[str, Any] = state.get("remote_tasks", {}).get(job.talk_with(agent), {})
    same = talk.get("stage") == job.where and talk.get("intent") == (wanted(state) or UNKNOWN)
    return job.effect == "write" and same and bool(talk.get("unanswered") or talk.get("works"))


def unless_off(facts: FlowFacts, pool: Pool, job: Job, state: CallState, context: TurnContext | None) -> Job:
    """Return the job; or, if its agent and all that stand in for it are switched off, what the flow's fallback is
    asked in its place. A write that was sent and never answered is asked after nevertheless."""
    if job.llm or job.is_fallback or facts.fallback is None or not job.alone or not facts.waits:
        return job
    chain = list(in_turn(facts, job.agent))
    if not all(pool.off(agent, facts.agents[agent]) for agent in chain):
        return job
    if pool.off(facts.fallback, facts.agents[facts.fallback]):
        return job
    if any(is_unanswered(job, agent, state, context) for agent in chain):
        return job
    return replace(fallback_job(facts, state), instead_of=job.agent)
