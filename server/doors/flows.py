"""`/flows`: which flows are served, in which versions, how many calls are on each; and reading their files again."""

import asyncio
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import orjson
from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from graph.flow import Flow
from server.agent_work import is_made_for_work
from server.doors.admin import may_administer, must_administer
from server.flows import Change, Flows, Version
from server.problems import FlowNotFound, Row, respond, responses
from server.runtime import Runtime

router = APIRouter(prefix="/flows", tags=["flows"])

_CREDENTIALS = re.compile(r"//[^/\s\"']*@")
_REFUSED = Row(422, "flow-refused", "A flow does not check")

_FLOW: dict[str, JsonValue] = {
    "flow": "call",
    "default": True,
    "version": 2,
    "digest": "7d1fa2b0c4e59386",
    "about": "A customer-service call in five stages.",
    "waits_for": "caller",
    "stages": [{"id": 1, "name": "greeting", "about": "Welcomes the caller.", "kind": "intents", "effect": "read"}],
    "intents": ["greeting", "welcome"],
    "inputs": [],
    "calls": 12,
    "older": [{"version": 1, "digest": "0c5e9a2f7b3d1846", "calls": 3}],
    "a2a": "/a2a/call",
}


class OlderVersion(BaseModel):
    """A version that no new call begins on, but some calls still are on."""

    version: int | None = Field(description="Null if it cannot be read any more; its calls then cannot go on.")
    digest: str
    calls: int


class ServedFlow(BaseModel):
    """A flow that is served."""

    model_config = ConfigDict(json_schema_extra={"examples": [_FLOW]})

    flow: str
    default: bool = Field(description="Whether calls begin on it that name no flow.")
    version: int
    digest: str = Field(description="The content hash of the version that new calls begin on.")
    about: str
    waits_for: str
    stages: list[dict[str, Any]]
    intents: list[str]
    inputs: list[str] = Field(description="The names that whoever starts a run gives values to.")
    calls: int = Field(description="How many calls are in a run on this version.")
    older: list[OlderVersion]
    a2a: str = Field(description="Where it is reached as an A2A agent.")


class ServedFlows(BaseModel):
    """The flows that are served, the default one first."""

    flows: list[ServedFlow]


class WholeFlow(ServedFlow):
    """A flow, drawn."""

    mermaid: str
    text: str | None = Field(description="As its file is written, for those who may administer; else null.")


class Reload(BaseModel):
    """What a reload changed."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"changed": {"call": {"from": "0c5e9a2f7b3d1846", "to": "7d1fa2b0c4e59386"}}}]
        }
    )

    changed: dict[str, dict[str, str | None]] = Field(
        description="By flow: the digest of the version that new calls began on, and of the one that they begin on."
    )


@router.get("", summary="The flows that are served", response_model=None, responses={200: {"model": ServedFlows}})
async def list_flows(request: Request) -> Response:
    """Return every flow with its versions, and how many calls are on each: all of them are looked at for that."""
    flows = _flows(request)
    counted = await flows.calls_on()
    served = [flows.current(name) for name in flows.names()]
    for name in await flows.made():
        if is_made_for_work(name):
            continue
        with suppress(FlowNotFound):  # removed meanwhile, or it checks no more with what the environment holds
            served += [] if name in flows.names() else [await flows.find(name)]
    return _json({"flows": [await _shown(flows, version, counted) for version in served]})


@router.get(
    "/{flow}",
    summary="One flow, drawn",
    response_model=None,
    responses={200: {"model": WholeFlow}, **responses(404)},
)
async def one_flow(flow: str, request: Request) -> Response:
    """Return a flow as `/flows` does, with a Mermaid drawing and, for those who may administer, its YAML."""
    from graph.draw import mermaid

    flows = _flows(request)
    version = await flows.find(flow)
    shown = await _shown(flows, version, await flows.calls_on())
    text = _CREDENTIALS.sub("//…@", version.text) if may_administer(request) else None
    return _json({**shown, "mermaid": await asyncio.to_thread(mermaid, version.flow), "text": text})


@router.post(
    "/reload",
    summary="Read the files of the flows again",
    response_model=None,
    responses={200: {"model": Reload}, **responses(401, 422)},
    dependencies=[Depends(must_administer)],
)
async def reload(request: Request) -> Response:
    """Let new runs begin on what the files say now; runs under way go on with what they began with.

    Flows whose files do not check stay as they were; the others are changed all the same, and the answer is 422.
    """
    reloaded = await _flows(request).reload()
    changed = {name: _told(change) for name, change in reloaded.changed.items()}
    if not reloaded.refused:
        return _json({"changed": changed})
    errors = [{"file": one.file, "line": one.line, "message": one.message} for one in reloaded.refused]
    detail = "; ".join(map(str, reloaded.refused))
    return respond(_REFUSED, f"{detail}; it stays as it was", errors=errors, changed=changed)


def _flows(request: Request) -> Flows:
    runtime: Runtime = request.app.state.runtime
    return runtime.flows


async def _shown(flows: Flows, version: Version, counted: Mapping[str, int]) -> dict[str, Any]:
    flow = version.flow
    older = [(key, calls) for key, calls in counted.items() if key.startswith(f"{flow.flow} ") and key != version.key]
    return {
        "flow": flow.flow,
        "default": flow.flow == flows.default,
        "version": flow.version,
        "digest": flow.digest,
        "about": flow.about,
        "waits_for": flow.waits_for,
        "stages": _stages(flow),
        "intents": list(dict.fromkeys([*version.routes.stages_of, *flow.anywhere])),
        "inputs": list(flow.inputs),
        "calls": counted.get(version.key, 0),
        "older": [await _older(flows, key.partition(" ")[2], calls) for key, calls in sorted(older)],
        "a2a": f"/a2a/{flow.flow}",
    }


def _stages(flow: Flow) -> list[dict[str, Any]]:
    return [
        {
            "id": number,
            "name": name,
            "about": flow.stages[name].about,
            "kind": flow.stages[name].kinds[0],
            "effect": flow.stages[name].effect,
        }
        for name, number in flow.stage_ids().items()
    ]


async def _older(flows: Flows, digest: str, calls: int) -> dict[str, Any]:
    version = await flows.version(digest)
    return {"version": version.flow.version if version else None, "digest": digest, "calls": calls}


def _told(change: Change) -> dict[str, str | None]:
    return {"from": change.before, "to": change.after}


def _json(document: Any) -> Response:
    return Response(orjson.dumps(document), media_type="application/json")
