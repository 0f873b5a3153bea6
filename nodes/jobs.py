"""What is asked at one place of a flow: a job names who answers there, what they get, and what is kept of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nodes.spec import FALLBACK, INDEX, ITEM, UNKNOWN, Branch, Effect, FlowFacts, Llm, Place, Stage
from nodes.state import CallState, Item, wanted

MODEL, PERSON, ALL = "model", "person", "all"
"""Who a step says has answered where it was no agent: a model, a person, or several at once, joined."""


@dataclass(frozen=True, slots=True)
class Job:
    """One thing to ask."""

    place: Place
    where: str
    """The stage, the stage and the branch (`stage/branch`), or the fallback."""
    agent: str
    llm: Llm | None = None
    """What a model is asked; then there is no agent."""
    input: Mapping[str, str] = field(default_factory=dict)
    output: Mapping[str, str] = field(default_factory=dict)
    branch: str | None = None
    item: Item | None = None
    order: tuple[int, ...] = ()
    """Its place among those that are asked at once."""
    alone: bool = True
    """Whether nobody else of the run is asked meanwhile."""
    instead_of: str | None = None
    """The agent that would be asked if it were not switched off; the fallback is in its place."""

    @property
    def talk(self) -> str:
        """The name of the talk with its agent."""
        return self.talk_with(self.agent)

    def talk_with(self, agent: str) -> str:
        """Return the name of a talk with an agent: one a call where talks follow each other, else one a place."""
        return agent if self.alone else f"{self.where}:{agent}"

    @property
    def is_fallback(self) -> bool:
        """Whether it only answers what nobody else can; it never moves the call."""
        return self.where == FALLBACK

    @property
    def effect(self) -> Effect:
        """Whether it may change records; the fallback's agent does not."""
        return "read" if self.is_fallback else self.place.stage.effect

    def also_known(self) -> dict[str, Any]:
        """Return what its expressions may read besides what the run knows."""
        return {ITEM: self.item["value"], INDEX: self.item["index"]} if self.item else {}


def answers_at(stage: Stage) -> str:
    """Return who answers at a stage, where that is always the same."""
    return stage.agent or (MODEL if stage.llm else PERSON if stage.ask else ALL)


def job_at(facts: FlowFacts, place: Place, state: CallState) -> Job:
    """Return what is asked at a stage with one agent or model, or with one agent for each intent."""
    stage = place.stage
    agent = MODEL if stage.llm else stage.agent or stage.intents[wanted(state) or UNKNOWN]
    return Job(
        place,
        place.name,
        agent,
        stage.llm,
        stage.input,
        stage.output,
        order=(place.order,),
        alone=not facts.dag,
    )


def fallback_job(facts: FlowFacts, state: CallState) -> Job:
    """Return what the fallback is asked, at the stage where the call is."""
    if facts.fallback is None:
        raise LookupError(f"flow {facts.name!r} has no fallback agent")
    return Job(facts.places.get(state.get("stage", ""), facts.first), FALLBACK, facts.fallback)


def branch_job(place: Place, name: str, branch: Branch) -> Job:
    """Return what one branch of a stage is asked."""
    return Job(
        place,
        at_branch(place.name, name),
        branch.agent or MODEL,
        branch.llm,
        branch.input,
        branch.output,
        branch=name,
        order=(place.order, list(place.stage.parallel).index(name)),
        alone=False,
    )


def item_job(place: Place, item: Item) -> Job:
    """Return what is asked for one item of a stage's list."""
    over = place.stage.map
    if over is None:
        raise LookupError(f"stage {place.name!r} has no list")
    number = item["index"]
    return Job(
        place,
        at_branch(place.name, str(number)),
        over.agent or MODEL,
        over.llm,
        place.stage.input,
        branch=str(number),
        item=item,
        order=(place.order, number),
        alone=False,
    )


def at_branch(stage: str, branch: str) -> str:
    """Return how a branch of a stage is known."""
    return f"{stage}/{branch}"
