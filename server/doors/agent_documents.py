"""What `/agents` is sent and answers: the one view in which agents of flows and registered ones meet."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator

from graph.store.registry import moment
from nodes.reaching.pace import together
from nodes.reaching.pool import Member
from nodes.reaching.records import Happening, Registered
from nodes.spec import VersionName
from server.agents import Agents, KnownAgent

_AGENT: dict[str, JsonValue] = {
    "name": "refund",
    "type": None,
    "flows": ["call"],
    "state": "on",
    "off": None,
    "fallback": "human_desk",
    "weights": {"from": "run time", "by": "jo", "why": "v2 is new", "at": "2026-02-28T10:00:04.120Z"},
    "versions": [
        {
            "version": "v2",
            "weight": 10,
            "share": 0.1,
            "calls": 40,
            "errors": 1,
            "error_rate": 0.025,
            "p50_ms": 41.5,
            "p95_ms": 180.2,
            "endpoints": 1,
        }
    ],
    "endpoints": [
        {
            "url": "http://refund-2:8003",
            "version": "v2",
            "source": "registered",
            "instance": "refund-2",
            "expires_at": "2026-02-28T10:01:04.120Z",
            "state": "healthy",
            "probe": {"at": "2026-02-28T10:00:01.120Z", "seconds": 0.004, "why": None},
            "circuit": "closed",
            "rests_seconds": 0,
            "in_flight": 2,
            "elsewhere": 1,
            "calls": 40,
            "errors": 1,
            "p50_ms": 41.5,
            "p95_ms": 180.2,
        }
    ],
    "capabilities": [{"name": "process_refund", "input_types": ["text"], "output_types": ["json"]}],
}


class AgentAnswer(BaseModel):
    """An agent: where it stands, where it answers, and how it does."""

    model_config = ConfigDict(json_schema_extra={"examples": [_AGENT]})

    name: str
    type: str | None
    flows: list[str] = Field(description="The flows that name it; none if only instances of it are registered.")
    state: str = Field(description="`on`, or `off`: no call reaches it.")
    off: dict[str, str] | None = Field(description="Who switched it off, why, and when.")
    fallback: str | None
    weights: dict[str, Any] | None = Field(
        description="Where the weights of its versions are `from`: its `flow`, or set at `run time` by whom and why."
    )
    versions: list[dict[str, Any]] = Field(
        description="With what all replicas saw of each in the last five minutes (how long that took: this one)."
    )
    endpoints: list[dict[str, Any]] = Field(
        description="With what this replica saw of each in the last five minutes; `elsewhere` is what other replicas "
        "have in flight there."
    )
    capabilities: list[dict[str, Any]]


class AgentList(BaseModel):
    """All agents."""

    agents: list[AgentAnswer]
    heard_at: str | None = Field(description="When the registry was heard of last.")


class WholeAgent(AgentAnswer):
    """An agent, with what happened to it."""

    heard_at: str | None
    history: list[dict[str, Any]] = Field(description="What happened last, the last first.")


class Registration(BaseModel):
    """An instance that is registered."""

    name: str
    agent_type: str
    url: str
    version: str | None
    capabilities: list[dict[str, Any]]
    dialect: str | None = Field(description="The version of A2A that it speaks, if its card told.")
    registered_at: str
    expires_at: str | None = Field(description="When it is forgotten unless a heartbeat comes; null for never.")
    heartbeat_seconds: int | None = Field(description="How often to send one; null if none is needed.")
    by_card: bool
    card_url: str | None


class Heartbeat(BaseModel):
    """An instance that is kept for another while."""

    name: str
    expires_at: str | None


class _ByWhom(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    @field_validator("by", "why", "reason", check_fields=False)
    @classmethod
    def _not_blank(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("it is blank; the history keeps who did it and why")
        return value


class OffRequest(_ByWhom):
    """Why an agent is switched off."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"by": "jo", "reason": "it pays twice"}]})

    by: str = Field(min_length=1, max_length=200, description="Who says so.")
    reason: str = Field(min_length=1, max_length=2_000)


class OnRequest(_ByWhom):
    """Who switches an agent on, and why."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"by": "jo", "why": "it is mended"}]})

    by: str = Field(min_length=1, max_length=200, description="Who says so.")
    why: str = Field(default="switched on", min_length=1, max_length=2_000)


class WeightsRequest(_ByWhom):
    """How the calls of an agent are shared out over its versions."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"weights": {"v1": 90, "v2": 10}, "by": "jo", "why": "v2 is new"}]}
    )

    weights: dict[VersionName, float] | None = Field(
        max_length=20,
        description="The weight of each version: 0 for no calls; one that is left out gets them only where no other "
        "can be asked. Null: the weights of the flow again.",
    )
    by: str = Field(min_length=1, max_length=200, description="Who says so.")
    why: str = Field(min_length=1, max_length=2_000)

    @field_validator("weights")
    @classmethod
    def _able(cls, value: dict[str, float] | None) -> dict[str, float] | None:
        for version, weight in (value or {}).items():
            if not 0 <= weight <= 1_000_000:  # false for what is no number, too
                raise ValueError(f"the weight of {version!r} is none; write a number from 0 to 1,000,000")
        if value is not None and not any(value.values()):
            raise ValueError("no version would get a call; give one a weight above 0, or switch the agent off")
        return value


def shown(agents: Agents, agent: KnownAgent) -> dict[str, Any]:
    """Return an agent as clients see it."""
    off, members = agents.off(agent), agents.members(agent)
    return {
        "name": agent.name,
        "type": next((spec.type for spec in agent.specs if spec.type), None),
        "flows": sorted(agent.flows),
        "state": "off" if off else "on",
        "off": asdict(off) if off else None,
        "fallback": next((spec.fallback for spec in agent.specs if spec.fallback), None),
        "weights": _weights(agents, agent),
        "versions": _versions(agents, agent, members),
        "endpoints": [_endpoint(member) for member in members],
        "capabilities": _capabilities(members),
    }


def told(instance: Registered, ttl_seconds: int | None) -> dict[str, Any]:
    """Return a registration as its instance sees it."""
    beats = None if ttl_seconds is None else max(1, ttl_seconds // 3)
    return {**asdict(instance), "expires_at": when(instance.expires_at), "heartbeat_seconds": beats}


def happened(happening: Happening) -> dict[str, Any]:
    """Return an entry of the history as clients see it."""
    return asdict(happening)


def when(seconds: float | None) -> str | None:
    """Return a time as clients see it."""
    return None if seconds is None else moment(seconds)


def _weights(agents: Agents, agent: KnownAgent) -> dict[str, Any] | None:
    said = agents.pool.news.weights.get(agent.name)
    if said is not None:
        return {"from": "run time", "by": said.by, "why": said.why, "at": said.at}
    return {"from": "flow"} if agents.weights(agent) else None


def _versions(agents: Agents, agent: KnownAgent, members: Sequence[Member]) -> list[dict[str, Any]]:
    weights, counts = agents.weights(agent), agents.versions.get(agent.name, {})
    total = sum(weights.values())
    return [
        {
            "version": version,
            "weight": weights.get(version),
            "share": round(weights.get(version, 0) / total, 4) if total else None,
            **_counted(counts.get(version, (0, 0))),
            **_pace([member for member in members if member.version == version]),
        }
        for version in versions_of(agent, members)
    ]


def versions_of(agent: KnownAgent, members: Sequence[Member]) -> list[str]:
    """Return the versions of an agent: those that flows name, and those of its endpoints."""
    named = {version for spec in agent.specs for version in spec.versions}
    return sorted(named | {member.version for member in members if member.version is not None})


def _counted(count: Sequence[int]) -> dict[str, Any]:
    calls, errors = count
    return {"calls": calls, "errors": errors, "error_rate": round(errors / calls, 4) if calls else None}


def _pace(members: Sequence[Member]) -> dict[str, Any]:
    figures = together(member.endpoint.pace for member in members)
    return {"p50_ms": figures["p50_ms"], "p95_ms": figures["p95_ms"], "endpoints": len(members)}


def _endpoint(member: Member) -> dict[str, Any]:
    endpoint, instance = member.endpoint, member.registered
    return {
        "url": endpoint.public,
        "version": member.version,
        "source": "registered" if instance else "flow",
        "instance": instance.name if instance else None,
        "expires_at": when(instance.expires_at) if instance else None,
        "state": {True: "healthy", False: "unhealthy", None: "unknown"}[endpoint.healthy],
        "probe": asdict(endpoint.probe) if endpoint.probe else None,
        "circuit": endpoint.circuit.state,
        "rests_seconds": round(endpoint.rests, 1),
        "in_flight": endpoint.in_flight,
        "elsewhere": endpoint.elsewhere,
        **endpoint.pace.figures(),
    }


def _capabilities(members: Sequence[Member]) -> list[dict[str, Any]]:
    """Return what its instances said that they can do, each once."""
    able: dict[str, dict[str, Any]] = {}
    for member in members:
        for capability in member.registered.capabilities if member.registered else ():
            able.setdefault(capability["name"], dict(capability))
    return list(able.values())
