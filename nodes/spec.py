"""What a node must know of a flow: frozen records, checked when the flow is read and only read afterwards."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit, urlunsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from nodes.conditions import Condition, Expression

END = "end"
"""Where a way leads that leads to no stage."""

ON_ERROR = ("fail", "continue")
"""What may come of an agent that fails, besides a stage to go to."""

ANSWER = "answer"
"""What conditions call the answer of their own stage's agent."""

KNOWN = frozenset({"call_identify_id", "account_id", "eci", "input_message", "intent", "metadata"})
"""What every expression may read: whose call it is, and what the caller said this turn."""

UNKNOWN = "unknown"
"""The intent that is always legal: the fallback agent answers it and the call stays where it is."""

Effect = Literal["read", "write"]
"""`write` moves money or changes records; such a request is never sent twice."""

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m)")
_UNIT_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0}


def _seconds(value: Any) -> Any:
    """Read `15s`, `250ms`, `2m` or a bare number of seconds."""
    if isinstance(value, str):
        match = _DURATION.fullmatch(value.strip())
        if match is None:
            raise ValueError(f"{value!r} is not a duration; write it as 15s, 250ms or 2m")
        return float(match[1]) * _UNIT_SECONDS[match[2]]
    return value


def _http_url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{value!r} is not an address; write it as http://host:port")
    return value.rstrip("/")


def public_url(url: str) -> str:
    """Return an address without the credentials it may hold, to be shown and kept."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


Seconds = Annotated[float, BeforeValidator(_seconds, json_schema_input_type=float | str), Field(gt=0, le=86_400)]
HttpUrl = Annotated[str, AfterValidator(_http_url)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,63}$")]


class Record(BaseModel):
    """A frozen record that refuses keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Agent(Record):
    """A named remote capability that speaks A2A."""

    url: HttpUrl = Field(description="Where the agent answers; its card lies below it.")
    timeout: Seconds | None = Field(
        default=None, description="How long one attempt may take (15s unless configured)."
    )


class Way(Record):
    """A way on from a stage."""

    when: Condition | None = Field(
        default=None, description="Taken only if this is true, a CEL condition; left out, it is always taken."
    )
    goto: Name = Field(description="The stage it leads to, or `end`.")
    at_most: int | None = Field(default=None, ge=1, le=1000, description="How often it may be taken in one run.")


class Repeat(Record):
    """How a stage is repeated."""

    until: Condition = Field(description="The stage is left once this is true, a CEL condition.")
    at_most: int = Field(ge=1, le=1000, description="How often the stage is passed at most; then it is left anyway.")


def _ways(value: Any) -> Any:
    """Read `next: closing` as the one way there."""
    return [{"goto": value}] if isinstance(value, str) else value


class Stage(Record):
    """A place in a flow: either the caller's intent picks the agent (`intents`), or one agent answers (`agent`)."""

    id: int | None = Field(default=None, ge=1, description="Its `intent_flow_id`; its place in the file by default.")
    about: str = ""
    intents: dict[Name, Name] = Field(
        default_factory=dict,
        description="The intents legal at this stage, each with the agent that answers it.",
    )
    agent: Name | None = Field(default=None, description="The one agent that answers at this stage.")
    effect: Effect = Field(default="read", description="`write` if its agents move money or change records.")
    when: Condition | None = Field(
        default=None, description="The stage is skipped unless this is true, a CEL condition."
    )
    next: Annotated[list[Way], BeforeValidator(_ways, json_schema_input_type=list[Way] | str)] = Field(
        default_factory=list,
        description="The ways on, of which the first open one is taken; by default to the next stage.",
    )
    repeat: Repeat | None = Field(default=None, description="The stage is repeated.")
    input: dict[Name, Expression] = Field(
        default_factory=dict,
        description="What its agent gets, by name, each a CEL expression; by default the caller's message.",
    )
    output: dict[Name, Name] = Field(
        default_factory=dict, description="What the flow keeps of the answer: its fields, each with the name to keep."
    )
    on_error: Name | None = Field(
        default=None,
        description="What an agent that fails leads to: `fail` ends the run as failed, `continue` goes on as if it "
        "had answered, a stage's name leads there; left out, the call stays, and the message can be sent again.",
    )
    timeout: Seconds | None = Field(default=None, description="How long one attempt may take at this stage.")

    @property
    def detour(self) -> str | None:
        """Where an agent that fails leads, if that is a stage, or `end`."""
        return self.on_error if self.on_error not in ON_ERROR else None


@dataclass(frozen=True, slots=True)
class Place:
    """A stage where it stands in its flow."""

    name: str
    id: int
    stage: Stage
    following: str | None
    """The stage after it; None after the last."""
    next_id: int | None
    """That stage's `intent_flow_id`."""


@dataclass(frozen=True, slots=True)
class FlowFacts:
    """What every stage node of a flow shares."""

    name: str
    digest: str
    agents: Mapping[str, Agent]
    places: Mapping[str, Place]
    fallback: str | None
    waits: bool
    """Whether a turn ends after each stage."""
    restarts: bool
    """Whether the turn after the end of a run begins another."""
    names: frozenset[str]
    """Every name that the run may know something by: inputs, outputs, and stages by their answers."""
    reads: frozenset[str]
    """The names that any expression reads."""
    agent_timeout: float
    """Seconds one attempt may take where neither stage nor agent says otherwise."""

    @property
    def first(self) -> Place:
        return next(iter(self.places.values()))
