"""What a node must know of a flow: frozen records, checked when the flow is read and only read afterwards."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit, urlunsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from nodes.conditions import Condition, Expression, Template, holes_in

END = "end"
"""Where a way leads that leads to no stage."""

ON_ERROR = ("fail", "continue")
"""What may come of an agent that fails, besides a stage to go to."""

BEGIN, FINISH = "begin", "finish"
"""The nodes at which a run begins and ends whose order comes from `needs`; no stage has these names."""

FALLBACK = "fallback"
"""The fallback's node, and where its tasks were begun; no stage has this name."""

ANSWER = "answer"
"""What conditions call the answer of their own stage's agent."""

KNOWN = frozenset({"call_identify_id", "account_id", "eci", "input_message", "intent", "metadata", "requests"})
"""What every expression may read: whose call it is, what the caller said this turn, and the requests that wait."""

ITEM, INDEX = "item", "index"
"""What the expressions of a `map` call the item at hand, and its place in the list, from 0."""

KINDS = ("intents", "agent", "parallel", "map", "llm", "ask")
"""The kinds of stages, each by its key."""

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
VersionName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,63}$")]


class Record(BaseModel):
    """A frozen record that refuses keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class AgentVersion(Record):
    """A version of an agent, and how many calls it gets."""

    url: HttpUrl | None = Field(default=None, description="Where it answers.")
    endpoints: list[HttpUrl] = Field(
        default_factory=list, max_length=100, description="Where it answers, if that is several places."
    )
    weight: float = Field(
        default=1,
        ge=0,
        le=1_000_000,
        allow_inf_nan=False,
        description="Its share of the calls, against the weights of the other versions; 0 for none.",
    )

    @property
    def urls(self) -> list[str]:
        """Where it answers."""
        return self.endpoints or ([self.url] if self.url else [])


class Agent(Record):
    """A named remote capability that speaks A2A."""

    url: HttpUrl | None = Field(
        default=None,
        description="Where the agent answers; its card lies below it. An agent that says neither this, nor "
        "`endpoints`, nor `versions`, is reached where instances of it have registered themselves.",
    )
    endpoints: list[HttpUrl] = Field(
        default_factory=list,
        max_length=100,
        description="Where the agent answers, if that is several places: the one with the shortest wait is asked.",
    )
    versions: dict[VersionName, AgentVersion] = Field(
        default_factory=dict,
        max_length=20,
        description="Versions of the agent, each with where it answers and its share of the calls; a call stays with "
        "the version that answered it first.",
    )
    error_margin: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="By how much the share of errors of a version may exceed that of the others, from 0 to 1, before "
        "it is turned down: it gets no more calls (never, if left out).",
    )
    type: Name | None = Field(default=None, description="What kind of agent it is, for workflows that ask by type.")
    timeout: Seconds | None = Field(
        default=None, description="How long one attempt may take (15s unless configured)."
    )
    attempts: int = Field(
        default=1,
        ge=1,
        le=10,
        description="How often it is asked at most, if it fails in a way that may pass; a write only while it is "
        "certain that the agent did not act.",
    )
    fallback: Name | None = Field(
        default=None, description="The agent that is asked in its place once all attempts have failed."
    )
    idempotent: bool = Field(
        default=False,
        description="Whether it acts once on a message however often it gets it (by `messageId`): then a write whose "
        "outcome is not known is sent again; else the agent is asked about it, and in doubt a person decides.",
    )

    @cached_property
    def endpoints_and_versions(self) -> tuple[tuple[str, str | None], ...]:
        """Every place where it answers, and of which version what answers there is; None where it has none."""
        versions = tuple((url, name) for name, version in self.versions.items() for url in version.urls)
        urls = self.endpoints or ([self.url] if self.url else [])
        return versions or tuple((url, None) for url in urls)

    @cached_property
    def weights(self) -> dict[str, float]:
        """The share of the calls that each version gets; empty if it has no versions."""
        return {name: version.weight for name, version in self.versions.items()}


class Way(Record):
    """A way on from a stage."""

    when: Condition | None = Field(
        default=None, description="Taken only if this is true, a CEL condition; left out, it is always taken."
    )
    goto: Name = Field(description="The stage it leads to, or `end`.")
    at_most: int | None = Field(
        default=None,
        ge=1,
        le=1000,
        description="How often a run may go from this stage to that one at most.",
    )


class Repeat(Record):
    """How a stage is repeated."""

    until: Condition = Field(description="The stage is left once this is true, a CEL condition.")
    at_most: int = Field(ge=1, le=1000, description="How often the stage is passed at most; then it is left anyway.")


def _ways(value: Any) -> Any:
    """Read `next: closing` as the one way there."""
    return [{"goto": value}] if isinstance(value, str) else value


class Llm(Record):
    """A model to ask, behind an OpenAI-compatible API."""

    prompt: Template = Field(description="What it is asked; `{{ … }}` holds a CEL expression.")
    system: Template | None = Field(default=None, description="What it is told to be.")
    schema_: dict[str, Any] | None = Field(
        default=None,
        alias="schema",
        description="The JSON Schema of its answer; an answer that is not JSON is kept as `{raw: …}`.",
    )
    model: str | None = Field(default=None, description="Which model (OPENAI_MODEL unless it is named).")
    temperature: float | None = Field(default=None, ge=0, le=2)
    max_tokens: int | None = Field(default=None, ge=1, le=1_000_000)
    attempts: int = Field(
        default=1, ge=1, le=10, description="How often it is asked at most, if it fails in a way that may pass."
    )

    def holes(self) -> list[str]:
        """Return the expressions in its texts."""
        return [hole for text in (self.prompt, self.system or "") for hole in holes_in(text)]


class Ask(Record):
    """A question to a person."""

    question: Template = Field(description="What is asked; `{{ … }}` holds a CEL expression.")
    schema_: dict[str, Any] = Field(
        default_factory=lambda: {"type": "string"}, alias="schema", description="The JSON Schema of the answer."
    )


class Branch(Record):
    """One of several that are asked at once: an agent, or a model."""

    agent: Name | None = None
    llm: Llm | None = None
    input: dict[Name, Expression] = Field(
        default_factory=dict, description="What its agent gets, by name, each a CEL expression."
    )
    output: dict[Name, Name] = Field(
        default_factory=dict, description="What the flow keeps of its answer: its fields, each with the name to keep."
    )


class Map(Record):
    """One agent, or one model, over a list."""

    over: Expression = Field(description="The list, a CEL expression.")
    agent: Name | None = None
    llm: Llm | None = None
    at_once: int = Field(default=10, ge=1, le=1000, description="How many items are in flight at most.")


class Stage(Record):
    """A place in a flow. Exactly one of `intents`, `agent`, `parallel`, `map`, `llm` and `ask` says who answers."""

    id: int | None = Field(default=None, ge=1, description="Its `intent_flow_id`; its place in the file by default.")
    about: str = ""
    intents: dict[Name, Name] = Field(
        default_factory=dict,
        description="The intents legal at this stage, each with the agent that answers it.",
    )
    agent: Name | None = Field(default=None, description="The one agent that answers at this stage.")
    parallel: dict[Name, Branch] = Field(
        default_factory=dict, max_length=100, description="Several that are asked at once, and joined."
    )
    map: Map | None = Field(default=None, description="One agent, or model, over a list; results in its order.")
    llm: Llm | None = Field(default=None, description="A model answers.")
    ask: Ask | None = Field(default=None, description="A person answers; the run waits.")
    needs: list[Name] = Field(
        default_factory=list,
        description="The stages that come before it. In a flow where any stage has `needs`, these alone make the "
        "order: stages without run at once.",
    )
    several: bool = Field(
        default=False,
        description="Whether several intents in one message are kept: the first is answered, the others wait as "
        "`requests` until the call comes by again.",
    )
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
    on_error: Name | list[Way] | None = Field(
        default=None,
        description="What an agent that fails leads to: `fail` ends the run as failed, `continue` goes on as if it "
        "had answered, a stage's name or the first open of several ways leads there; left out, or where no way is "
        "open, the call stays, and the message can be sent again.",
    )
    timeout: Seconds | None = Field(default=None, description="How long one attempt may take at this stage.")

    @property
    def detours(self) -> list[Way]:
        """The ways that an agent that fails leads to."""
        if isinstance(self.on_error, str):
            return [] if self.on_error in ON_ERROR else [Way(goto=self.on_error)]
        return self.on_error or []

    @property
    def kinds(self) -> list[str]:
        """Who answers, by the keys that say so: exactly one, in a flow that checks."""
        return [kind for kind in KINDS if getattr(self, kind)]

    @property
    def branches(self) -> bool:
        """Whether it asks several at once."""
        return bool(self.parallel or self.map)


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
    order: int = 0
    """Its place in the file, from 0."""
    leads_to: tuple[str, ...] = ()
    """The stages that need it."""


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
    dag: bool
    """Whether `needs` alone makes the order of the stages."""
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
