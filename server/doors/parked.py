"""`/parked`: writes of which nobody knows whether their agents acted on them, and what a person says came of one."""

from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Depends, Path, Request, Response
from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator

from graph.store.effects import Record
from nodes.ports import Reply
from server.doors.admin import must_administer
from server.doors.execution_documents import body_of
from server.doors.reading import read_document
from server.identifiers import MESSAGE_LENGTH
from server.problems import responses
from server.resolving import Settled, resolution_of
from server.runtime import Runtime

router = APIRouter(prefix="/parked", tags=["calls"], dependencies=[Depends(must_administer)])

_PARKED: dict[str, JsonValue] = {
    "id": "CALL-001.9f2c1b7a4e0d5c38",
    "call_identify_id": "CALL-001",
    "flow": "call",
    "stage": "fulfillment",
    "agent": "refund",
    "intent": "process_refund",
    "input_message": "Yes, send me the money",
    "message_id": "5a3e…",
    "context_id": "7be0…-refund",
    "task_id": None,
    "sent_at": "2026-02-28T10:00:04.120Z",
}
_RESOLUTION: dict[str, JsonValue] = {
    "outcome": "done",
    "by": "jo@example.com",
    "why": "the payment is in the ledger of the bank",
    "response": "Refund of 12.50 sent.",
}

ParkedId = Annotated[str, Path(max_length=300, description="The parked write's `id`.", examples=[_PARKED["id"]])]


class Parked(BaseModel):
    """A write that waits for a person to say what came of it."""

    model_config = ConfigDict(json_schema_extra={"examples": [_PARKED]})

    id: str
    call_identify_id: str
    flow: str | None
    stage: str
    agent: str
    intent: str
    input_message: str
    message_id: str = Field(description="By which the agent knows the message, if it got it.")
    context_id: str
    task_id: str | None
    sent_at: str


class ParkedList(BaseModel):
    """The writes that wait, the oldest first."""

    parked: list[Parked]


class ResolveRequest(BaseModel):
    """What somebody says came of a write."""

    model_config = ConfigDict(json_schema_extra={"examples": [_RESOLUTION]}, strict=True, extra="forbid")

    outcome: Literal["done", "not_done"] = Field(
        description="`done`: its agent acted on it, and the stage is complete; `not_done`: it did not, and the "
        "message can be sent again."
    )
    by: str = Field(min_length=1, max_length=200, description="Who says so.")
    why: str = Field(min_length=1, max_length=2_000, description="How they know.")
    response: str | dict[str, Any] | None = Field(
        default=None, description="What the agent answered, if that is known: text, or `{text, data}`; for `done`."
    )

    @field_validator("by", "why")
    @classmethod
    def _not_blank(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("it is blank; the audit trail keeps who said so and why")
        return value

    @field_validator("response")
    @classmethod
    def _readable(cls, value: str | dict[str, Any] | None) -> str | dict[str, Any] | None:
        if isinstance(value, dict) and not (
            value.keys() <= {"text", "data"} and isinstance(value.get("text", ""), str)
        ):
            raise ValueError("write it as text, or as {text, data}")
        if len(orjson.dumps(value)) > MESSAGE_LENGTH:
            raise ValueError(f"it is longer than {MESSAGE_LENGTH:,} bytes; send less")
        return value


class Resolved(BaseModel):
    """A parked write that is settled."""

    id: str
    call_identify_id: str
    outcome: str
    step: dict[str, Any] = Field(description="The step of the audit trail that tells of it.")


@router.get("", summary="The writes that wait", response_model=None, responses={200: {"model": ParkedList}})
async def parked(request: Request) -> Response:
    """List the writes of which nobody knows whether their agents acted on them, the oldest first."""
    runtime: Runtime = request.app.state.runtime
    return _json({"parked": [_shown(call, record) for call, record in await runtime.turns.parked()]})


@router.post(
    "/{parked_id}/resolve",
    summary="Say what came of a write",
    response_model=None,
    openapi_extra=body_of(ResolveRequest),
    responses={200: {"model": Resolved}, **responses(401, 404, 409, 413, 415, 422, 503)},
)
async def resolve(parked_id: ParkedId, request: Request) -> Response:
    """Settle a write, into the audit trail. After `done` the stage is complete, and the message that waited for it is
    answered under its Idempotency-Key; after `not_done` the same message runs its turn anew."""
    runtime: Runtime = request.app.state.runtime
    sent = await read_document(request, ResolveRequest, runtime.settings.max_body_bytes)
    reply = _reply(sent.response) if sent.outcome == "done" else None
    settled = await runtime.turns.resolve(resolution_of(parked_id, sent.outcome, sent.by, sent.why, reply))
    return _json(_told(parked_id, sent.outcome, settled))


def _shown(call: str, record: Record) -> dict[str, Any]:
    effect = record.effect
    return {
        "id": record.parked,
        "call_identify_id": call,
        "flow": record.said.get("flow"),
        "stage": effect.stage,
        "agent": effect.agent,
        "intent": effect.intent,
        "input_message": record.said.get("input_message", ""),
        "message_id": effect.message_id,
        "context_id": effect.context_id,
        "task_id": effect.task_id,
        "sent_at": effect.sent_at,
    }


def _told(parked_id: str, outcome: str, settled: Settled) -> dict[str, Any]:
    told = {"id": parked_id, "call_identify_id": settled.call, "outcome": outcome}
    return {**told, "step": settled.step}


def _reply(response: str | dict[str, Any] | None) -> Reply:
    if isinstance(response, dict):
        return Reply(response.get("text", ""), (response["data"],) if response.get("data") is not None else ())
    return Reply(response or "")


def _json(document: Any) -> Response:
    return Response(orjson.dumps(document), media_type="application/json")
