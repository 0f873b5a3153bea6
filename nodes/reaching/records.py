"""What the registry of agents says and is told: plain records of JSON values, the same in every store and replica."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Registered:
    """An instance of an agent that registered itself, or was registered by its card."""

    name: str
    """The instance: `text-processor-1`. Registering the same name again replaces it."""
    agent_type: str
    """What it is an instance of: the name or the `type` of an agent of a flow, or a name of its own."""
    url: str
    """Where it is reached. Without credentials."""
    version: str | None
    capabilities: tuple[Mapping[str, Any], ...]
    """Each with `name`, `input_types` and `output_types`, as registered or read from the skills of its card."""
    dialect: str | None
    """The A2A version it speaks, if its card told; None: found out at the first request."""
    registered_at: str
    """ISO 8601, UTC."""
    expires_at: float | None
    """When it is forgotten unless a heartbeat comes, seconds since 1970 by the store's clock."""
    by_card: bool
    """Whether it was registered by the URL of its card alone."""
    card_url: str | None


@dataclass(frozen=True, slots=True)
class Off:
    """An agent is switched off: no call reaches it, whichever endpoint it has."""

    by: str
    reason: str
    at: str
    """ISO 8601, UTC."""


@dataclass(frozen=True, slots=True)
class Weights:
    """How calls are shared out over the versions of an agent, in place of what the flow file says."""

    weights: Mapping[str, float]
    """Version → weight, none negative, at least one above zero. A version that is not named gets a
    call only where no other can be asked."""
    by: str
    why: str
    at: str
    """ISO 8601, UTC."""


@dataclass(frozen=True, slots=True)
class News:
    """Everything that the registry says at one moment."""

    registered: tuple[Registered, ...] = ()
    off: Mapping[str, Off] = field(default_factory=dict)
    """Agent → who switched it off, and why."""
    weights: Mapping[str, Weights] = field(default_factory=dict)
    """Agent → the weights that were set at run time."""
    loads: Mapping[str, int] = field(default_factory=dict)
    """Endpoint, without credentials → the requests that OTHER replicas have in flight there."""


@dataclass(frozen=True, slots=True)
class Happening:
    """An entry of the registry's history."""

    at: str
    """ISO 8601, UTC."""
    agent: str
    """The agent or the instance that it is about."""
    what: str
    """`registered`, `removed`, `expired`, `off`, `on`, `weights`, `weights_of_the_flow`, `turned_down`…"""
    by: str
    why: str
    details: Mapping[str, Any]
