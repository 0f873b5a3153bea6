"""What comes of choosing: an endpoint, and who else could have been asked; or why nobody can be."""

from dataclasses import dataclass
from typing import Literal

from nodes.reaching.endpoint import Endpoint
from nodes.remote.errors import AgentError

Excluded = Literal["circuit_open", "resting", "unhealthy", "failed_just_before", "another_version", "no_weight"]
"""Why an endpoint was not asked: it failed again and again; it asked to be left alone for a while (`Retry-After`);
its card cannot be had; an attempt of this very turn failed there; the call belongs to another version; its version
gets no calls."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """An endpoint that could have been asked."""

    url: str
    """Without credentials."""
    version: str | None
    excluded: Excluded | None


@dataclass(frozen=True, slots=True)
class Choice:
    """The endpoint to ask."""

    agent: str
    endpoint: Endpoint
    version: str | None
    candidates: tuple[Candidate, ...]
    """All of them, the chosen one too; empty where there is only one and nothing speaks against it."""
    fresh: int = 1
    """How many endpoints of the candidates could be asked now that were not asked before."""


class AgentOff(AgentError):
    """Somebody has switched the agent off: nothing was sent."""

    kind = "agent_off"
    acted = False

    def __init__(self, agent: str) -> None:
        super().__init__(agent, f"agent {agent!r} is switched off")


class NoEndpoint(AgentError):
    """The agent has no endpoint that may be asked now: nothing was sent.

    Attributes:
        candidates: those that could have been, each with what excluded it.
    """

    kind = "no_endpoint"
    acted = False

    def __init__(
        self, agent: str, why: str, retry_after: float | None = None, candidates: tuple[Candidate, ...] = ()
    ) -> None:
        super().__init__(agent, f"agent {agent!r} has no endpoint that can be asked now: {why}")
        self.retry_after = retry_after
        self.candidates = candidates
