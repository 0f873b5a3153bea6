"""`/agents`: agents that register themselves, all of them in one view, switching one off, weighing its versions."""

from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Path, Request, Response

from server.agents import Agents, KnownAgent
from server.doors.admin import must_administer, serves_this_machine_alone
from server.doors.agent_documents import (
    AgentAnswer,
    AgentList,
    Heartbeat,
    OffRequest,
    OnRequest,
    Registration,
    WeightsRequest,
    WholeAgent,
    happened,
    shown,
    told,
    versions_of,
    when,
)
from server.doors.execution_documents import body_of
from server.doors.reading import read_document
from server.problems import AgentInFlow, AgentNotFound, BadInput, responses
from server.registering import ANYWHERE, RegisterRequest, read_registration, refuse_namesake
from server.runtime import Runtime

router = APIRouter(prefix="/agents", tags=["agents"], dependencies=[Depends(must_administer)])

_HISTORY = 50

AgentName = Annotated[str, Path(max_length=64, description="The agent's name.", examples=["refund"])]
InstanceName = Annotated[str, Path(max_length=64, description="The instance's name.", examples=["refund-2"])]


@router.get("", summary="All agents", response_model=None, responses={200: {"model": AgentList}, **responses(401)})
async def list_agents(request: Request) -> Response:
    """List the agents that flows name and those that registered themselves, with how their endpoints do.

    If the store does not answer, what it said last is shown: `heard_at` says when that was.
    """
    agents = _agents(request)
    await agents.refresh(whole=True)
    return _json({"agents": [shown(agents, one) for one in agents.known().values()], "heard_at": agents.heard_at})


@router.get(
    "/{name}",
    summary="One agent",
    response_model=None,
    responses={200: {"model": WholeAgent}, **responses(401, 404, 503)},
)
async def one_agent(name: AgentName, request: Request) -> Response:
    """Return an agent with what happened to it last."""
    agents = _agents(request)
    await agents.refresh(whole=True)
    agent = agents.find(name)
    types = {spec.type for spec in agent.specs if spec.type}
    history = await agents.registry.history(name, *types, limit=_HISTORY)
    whole = {**shown(agents, agent), "heard_at": agents.heard_at, "history": [happened(one) for one in history]}
    return _json(whole)


@router.post(
    "/register",
    summary="Register an agent",
    status_code=201,
    response_model=None,
    openapi_extra=body_of(RegisterRequest),
    responses={201: {"model": Registration}, **responses(401, 409, 413, 415, 422, 503)},
)
async def register(request: Request) -> Response:
    """Register an instance of an agent, or have it registered by what its card says.

    Calls may reach it at once, and on all replicas within a second. It is forgotten when no heartbeat comes for
    `ttl_seconds`; the same name again takes its place, but not a name that only the card says.
    """
    runtime: Runtime = request.app.state.runtime
    sent = await read_document(request, RegisterRequest, runtime.settings.max_body_bytes)
    guard = ANYWHERE if serves_this_machine_alone(request) else runtime.agents.guard
    instance = await read_registration(sent, guard)
    if sent.name is None:
        refuse_namesake(instance, await runtime.agents.registry.get(instance.name))
    kept = await runtime.agents.register(instance, sent.lives)
    return _json(told(kept, sent.lives), 201)


@router.post(
    "/{name}/heartbeat",
    summary="Keep a registered agent",
    response_model=None,
    responses={200: {"model": Heartbeat}, **responses(401, 404, 503)},
)
async def heartbeat(name: InstanceName, request: Request) -> Response:
    """Keep an instance for another while, as long as it registered for."""
    kept = await _agents(request).registry.heartbeat(name)
    if kept is None:
        raise AgentNotFound(f"no agent {name!r} is registered, or not any more; register it again")
    return _json({"name": kept.name, "expires_at": when(kept.expires_at)})


@router.delete(
    "/{name}",
    summary="Take a registered agent away",
    status_code=204,
    response_model=None,
    responses=responses(401, 404, 409, 503),
)
async def remove(name: InstanceName, request: Request) -> Response:
    """Take an instance away: no call begins there any more; those under way end."""
    agents = _agents(request)
    if await agents.remove(name):
        return Response(status_code=204)
    agent = agents.known().get(name)
    if agent is not None and agent.flows:
        flows = ", ".join(repr(flow) for flow in sorted(agent.flows))
        remedy = f"take it out of there, or switch it off with POST /agents/{name}/off"
        raise AgentInFlow(f"agent {name!r} stands in flow {flows}; {remedy}")
    raise AgentNotFound(f"no agent {name!r} is registered; GET /agents says which instances are")


@router.post(
    "/{name}/off",
    summary="Switch an agent off",
    response_model=None,
    openapi_extra=body_of(OffRequest),
    responses={200: {"model": AgentAnswer}, **responses(401, 404, 409, 413, 415, 422, 503)},
)
async def off(name: AgentName, request: Request) -> Response:
    """Let no call reach an agent: within a second, on all replicas, calls go to its fallback; where it has none, the
    flow's fallback answers and the call stays at its stage.
    """
    sent = await _sent(request, OffRequest)
    agents, agent = await _found(request, name)
    await agents.switch_off(name, sent.by, sent.reason)
    return _json(shown(agents, agent))


@router.post(
    "/{name}/on",
    summary="Switch an agent on again",
    response_model=None,
    openapi_extra=body_of(OnRequest),
    responses={200: {"model": AgentAnswer}, **responses(401, 404, 413, 415, 422, 503)},
)
async def on(name: AgentName, request: Request) -> Response:
    """Let calls reach an agent again; one that was not off stays on."""
    sent = await _sent(request, OnRequest)
    agents, agent = await _found(request, name)
    await agents.switch_on(name, sent.by, sent.why)
    return _json(shown(agents, agent))


@router.put(
    "/{name}/weights",
    summary="Weigh the versions of an agent",
    response_model=None,
    openapi_extra=body_of(WeightsRequest),
    responses={200: {"model": AgentAnswer}, **responses(401, 404, 409, 413, 415, 422, 503)},
)
async def weigh(name: AgentName, request: Request) -> Response:
    """Share out an agent's calls over its versions anew, in place of what its flow says.

    A call that has a version keeps it, as far as the new weights let it.
    """
    sent = await _sent(request, WeightsRequest)
    agents, agent = await _found(request, name)
    there = versions_of(agent, agents.members(agent))
    if unknown := sorted(set(sent.weights or ()).difference(there)):
        known = f"its versions are {', '.join(there)}" if there else "it has no versions; give it some in its flow"
        message = f"agent {name!r} has no version {', '.join(map(repr, unknown))}; {known}"
        raise BadInput([{"field": "weights", "message": message}])
    await agents.weigh(name, sent.weights, sent.by, sent.why)
    return _json(shown(agents, agent))


def _agents(request: Request) -> Agents:
    runtime: Runtime = request.app.state.runtime
    return runtime.agents


async def _found(request: Request, name: str) -> tuple[Agents, KnownAgent]:
    """Return an agent as it is now; raises `AgentNotFound` if there is none of that name."""
    agents = _agents(request)
    await agents.refresh()
    return agents, agents.find(name)


async def _sent(request: Request, document: Any) -> Any:
    runtime: Runtime = request.app.state.runtime
    return await read_document(request, document, runtime.settings.max_body_bytes)


def _json(document: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(document), status, media_type="application/json")
