"""`/executions`: runs of flows that go by themselves, and what becomes of them."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any, TypeVar

import orjson
from fastapi import APIRouter, Path, Query, Request, Response

from server.doors.execution_documents import (
    AnswerRequest,
    ExecutionAnswer,
    ExecutionList,
    Logs,
    Removed,
    body_of,
)
from server.doors.keys import WITH_KEY, named_by
from server.doors.reading import read_document
from server.executing import Executions
from server.execution_logs import logs_of
from server.executions import Status, document
from server.identifiers import Id
from server.json_text import is_json
from server.problems import NotJson, responses

router = APIRouter(prefix="/executions", tags=["executions"])

Item = TypeVar("Item")
ExecutionId = Annotated[Id, Path(description="The execution's name.")]
Limit = Annotated[int, Query(ge=1, le=200, description="How many are told at most.")]
Offset = Annotated[int, Query(ge=0, le=1_000_000, description="How many are left out first.")]


@router.get(
    "",
    summary="The executions there are",
    response_model=None,
    responses={200: {"model": ExecutionList}, **responses(422, 503)},
)
async def executions(
    request: Request,
    flow: Annotated[str | None, Query(description="Only those of this flow.")] = None,
    workflow_id: Annotated[str | None, Query(description="Only those of this workflow.")] = None,
    status: Annotated[Status | None, Query(description="Only those that stand so.")] = None,
    limit: Limit = 50,
    offset: Offset = 0,
) -> Response:
    """List executions, the one that moved last first; of flows that wait for a caller only if the flow is named."""
    found, following = await page_of(_executions(request).listed(workflow_id or flow, status), limit, offset)
    told = [document(execution) for execution in found]
    return answered({"executions": told, "next_offset": following})


@router.get(
    "/{execution_id}",
    summary="Where an execution stands",
    response_model=None,
    responses={200: {"model": ExecutionAnswer}, **responses(404, 422, 503)},
)
@router.get(
    "/{execution_id}/status",
    summary="Where an execution stands",
    response_model=None,
    responses={200: {"model": ExecutionAnswer}, **responses(404, 422, 503)},
)
async def status(execution_id: ExecutionId, request: Request) -> Response:
    """Say where an execution stands, step by step, and what it has found so far."""
    return answered(document(await _executions(request).find(execution_id)))


@router.get(
    "/{execution_id}/logs",
    summary="What happened in an execution",
    response_model=None,
    responses={200: {"model": Logs}, **responses(404, 422, 503)},
)
async def logs(execution_id: ExecutionId, request: Request) -> Response:
    """Return the audit trail as log lines, oldest first: every agent that was asked, every attempt, every step that
    was skipped."""
    found = await _executions(request).find(execution_id)
    return answered({"execution_id": execution_id, "logs": logs_of(found)})


@router.post(
    "/{execution_id}/cancel",
    summary="Cancel an execution",
    response_model=None,
    responses={200: {"model": ExecutionAnswer}, **responses(404, 409, 415, 422, 503)},
)
async def cancel(execution_id: ExecutionId, request: Request) -> Response:
    """End an execution: the agents at work are told, and nobody else is asked."""
    if "origin" in request.headers and not is_json(request.headers.get("content-type", "")):
        raise NotJson("send it with content-type: application/json")  # as `read_document` does; there is no body
    return answered(document(await _executions(request).cancel(execution_id)))


@router.post(
    "/{execution_id}/answer",
    summary="Answer what an execution asks",
    response_model=None,
    openapi_extra=body_of(AnswerRequest) | WITH_KEY,
    responses={
        200: {"model": ExecutionAnswer},
        202: {"model": ExecutionAnswer, "description": "It goes on"},
        **responses(404, 409, 413, 415, 422, 503),
    },
)
async def answer(execution_id: ExecutionId, request: Request) -> Response:
    """Give a person's answer to the question that the execution waits with; it goes on at once."""
    sent = await read_document(request, AnswerRequest, request.app.state.runtime.settings.max_body_bytes)
    named = named_by(request, "answer", sent)
    key, body = (named.key, named.body) if named else (None, "")
    found = await _executions(request).answer(
        execution_id, sent.answer, step=sent.step, wait=sent.wait, key=key, body=body
    )
    return answered(document(found), 200 if sent.wait else 202)


@router.delete(
    "/{execution_id}",
    summary="Remove an execution",
    response_model=None,
    responses={200: {"model": Removed}, **responses(404, 409, 422, 503)},
)
async def delete(execution_id: ExecutionId, request: Request) -> Response:
    """Remove everything that is kept of an execution; one that runs has to be canceled first."""
    await _executions(request).remove(execution_id)
    return answered({"execution_id": execution_id, "deleted": True})


async def page_of(found: AsyncGenerator[Item, None], limit: int, offset: int) -> tuple[list[Item], int | None]:
    """Return a page of what is found, and where the next one begins; None if there is none."""
    page: list[Item] = []
    passed = 0
    async with aclosing(found):
        async for item in found:
            passed += 1
            if passed > offset + limit:
                return page, offset + limit
            if passed > offset:
                page.append(item)
    return page, None


def answered(told: Any, status: int = 200) -> Response:
    """Return a document as an answer."""
    return Response(orjson.dumps(told), status, media_type="application/json")


def _executions(request: Request) -> Executions:
    return Executions(request.app.state.runtime)
