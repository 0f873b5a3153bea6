"""The flow language: stages and the ways between them, as data that a careful reader understands unaided.

The models are the language; its JSON Schema is generated from them. Reading files is `graph.loader`'s work, and
what must hold across a whole flow is `graph.checks`'.
"""

from typing import Any, Literal, Self

from pydantic import Field, PrivateAttr

from nodes.spec import Agent, Name, Record, Seconds, Stage


class Gate(Record):
    """What must hold on every path of the flow: nobody comes to a stage before another was answered."""

    stage: Name = Field(description="The stage that is guarded.")
    after: Name = Field(description="The stage that must have been answered before.")


class Flow(Record):
    """A flow as its file writes it."""

    flow: Name = Field(description="The flow's name.")
    version: int = Field(default=1, ge=1)
    about: str = ""
    waits_for: Literal["caller", "nothing"] = Field(
        default="nothing",
        description="`caller`: a turn ends after each stage and the next turn starts the next one; "
        "`nothing`: a turn goes on to the end.",
    )
    restarts: bool = Field(
        default=False,
        description="Whether the turn after the end of a run begins another run in the same call; "
        "needs `waits_for: caller`.",
    )
    while_busy: Literal["wait", "reject", "replace"] = Field(
        default="wait",
        description="What becomes of a message that comes while another one is being answered: it waits for its "
        "turn, is refused at once, or takes the other's place, which is then not answered; a write that has been "
        "sent is never given up for it.",
    )
    turn_timeout: Seconds | None = Field(
        default=None, description="How long one turn may take, every agent in it included (20s unless configured)."
    )
    agents: dict[Name, Agent] = Field(
        default_factory=dict, max_length=1000, description="The agents the stages may name."
    )
    inputs: list[Name] = Field(
        default_factory=list, max_length=1000, description="Names that whoever starts a run gives values to."
    )
    stages: dict[Name, Stage] = Field(
        min_length=1,
        max_length=1000,
        description="The stages, in the order a call passes them by default.",
    )
    anywhere: dict[Name, Name] = Field(
        default_factory=dict,
        max_length=100,
        description="Intents that are legal at every stage, each with the stage it leads to.",
    )
    gates: list[Gate] = Field(
        default_factory=list,
        max_length=100,
        description="What must come before what; proven when the flow is read.",
    )
    fallback: Name | None = Field(
        default=None, description="The agent that answers `unknown` at any stage; it never advances the call."
    )
    triggers: dict[Name, list[str]] = Field(
        default_factory=dict,
        description="Words by which an intent is recognised without a model: `refund*` also finds refunded, "
        "`#` any word with a digit.",
    )

    _digest: str = PrivateAttr(default="")

    @property
    def digest(self) -> str:
        """A hash of what the file says; environment and comments leave it as it is."""
        return self._digest

    def with_digest(self, digest: str) -> Self:
        """Return the same flow, known by `digest`."""
        flow = self.model_copy()
        flow._digest = digest
        return flow

    @property
    def is_dag(self) -> bool:
        """Whether `needs` alone makes the order of the stages: as soon as one of them has it, be it empty."""
        return any("needs" in stage.model_fields_set for stage in self.stages.values())

    def stage_ids(self) -> dict[str, int]:
        """Return each stage's `intent_flow_id`: its own, or its place in the file."""
        return {name: stage.id or place for place, (name, stage) in enumerate(self.stages.items(), start=1)}


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of the flow language, for editors."""
    schema = Flow.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
