"""`/workflows`: workflow documents become flows, and are executed."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response

from graph.workflows import Workflow, outer_name
from server.doors.admin import may_administer
from server.doors.execution_documents import (
    WORKFLOW_EXAMPLE,
    ExecuteRequest,
    ExecutionAnswer,
    Removed,
    WorkflowAnswer,
    WorkflowList,
    body_of,
)
from server.doors.executions import Limit, Offset, answered
from server.doors.keys import WITH_KEY, named_by
from server.doors.orchestrate import traceparent_of
from server.doors.reading import read_document
from server.executing import Executions, known_inputs, new_id
from server.executions import document
from server.problems import AlreadyBegun, responses
from server.runtime import Runtime
from server.turn import TurnRequest
from server.workflows import Workflows

router = APIRouter(prefix="/workflows", tags=["workflows"])

WorkflowId = Annotated[str, Path(max_length=64, description="The workflow's name, as it was told when it was made.")]
_WORKFLOW = body_of(Workflow)
_WORKFLOW["requestBody"]["content"]["application/json"]["example"] = WORKFLOW_EXAMPLE


@router.post("", include_in_schema=False)
@router.post(
    "/",
    summary="Make a workflow",
    status_code=201,
    response_model=None,
    openapi_extra=_WORKFLOW,
    responses={201: {"model": WorkflowAnswer}, **responses(413, 415, 422, 503)},
)
async def make(request: Request) -> Response:
    """Make a workflow of steps, each done by an agent of a type.

    Their order follows from what they depend on and from the names they read; the others run at once.
    """
    runtime: Runtime = request.app.state.runtime
    sent = await read_document(request, Workflow, runtime.settings.max_body_bytes)
    made = await _workflows(runtime).make(sent, may_relax=may_administer(request))
    version = await runtime.flows.find(made.id)
    return answered({**made.told(), "inputs": [outer_name(name) for name in version.flow.inputs]}, 201)


@router.get("", include_in_schema=False)
@router.get(
    "/",
    summary="The workflows there are",
    response_model=None,
    responses={200: {"model": WorkflowList}, **responses(422, 503)},
)
async def workflows(request: Request, limit: Limit = 50, offset: Offset = 0) -> Response:
    """List workflows, the one made last first."""
    kept = await _workflows(request.app.state.runtime).all()
    page = [one.told() for one in kept[offset : offset + limit]]
    return answered({"workflows": page, "total": len(kept)})


@router.get(
    "/{workflow_id}",
    summary="A workflow",
    response_model=None,
    responses={200: {"model": WorkflowAnswer}, **responses(404, 422, 503)},
)
async def workflow(workflow_id: WorkflowId, request: Request) -> Response:
    """Return a workflow as it was sent."""
    kept, _ = await _workflows(request.app.state.runtime).find(workflow_id)
    return answered(kept.told())


@router.delete(
    "/{workflow_id}",
    summary="Remove a workflow",
    response_model=None,
    responses={200: {"model": Removed}, **responses(404, 422, 503)},
)
async def delete(workflow_id: WorkflowId, request: Request) -> Response:
    """Remove a workflow: it cannot be executed any more. Executions under way go on."""
    await _workflows(request.app.state.runtime).remove(workflow_id)
    return answered({"workflow_id": workflow_id, "deleted": True})


@router.post(
    "/{workflow_id}/execute",
    summary="Execute a workflow",
    status_code=202,
    response_model=None,
    openapi_extra=body_of(ExecuteRequest) | WITH_KEY,
    responses={
        200: {"model": ExecutionAnswer, "description": "It has ended"},
        202: {"model": ExecutionAnswer, "description": "It has begun"},
        **responses(404, 409, 413, 415, 422, 503),
    },
)
async def execute(
    workflow_id: WorkflowId,
    request: Request,
    wait: Annotated[bool, Query(description="Whether to answer when it has ended; else at once.")] = False,
) -> Response:
    """Begin an execution, which goes on by itself: `/executions/{execution_id}/status` says what becomes of it.

    Values that no step reads are left out.
    """
    runtime: Runtime = request.app.state.runtime
    sent = await read_document(request, ExecuteRequest, runtime.settings.max_body_bytes)
    _, version = await _workflows(runtime).find(workflow_id)
    names = {name: outer_name(name) for name in version.flow.inputs}
    begun: dict[str, Any] = known_inputs(version.flow, sent.input_data, names, "input_data")
    named = named_by(request, "execute", sent, workflow_id)
    turn = TurnRequest(
        sent.execution_id or (named.call() if named else new_id()),
        None,
        None,
        "",
        flow=workflow_id,
        context=begun,
        ttl=runtime.settings.execution_ttl_seconds,
        begins=True,
        key=named.key if named else None,
        body=named.body if named else "",
        traceparent=traceparent_of(request.headers),
    )
    try:
        found = await Executions(runtime).run(turn, wait=wait)
    except AlreadyBegun as error:
        message = (
            f"there is an execution {turn.call_identify_id!r} already; choose another execution_id, or leave it out"
        )
        raise AlreadyBegun(message) from error
    return answered(document(found), 200 if wait else 202)


def _workflows(runtime: Runtime) -> Workflows:
    return Workflows(runtime.flows, runtime.pool, runtime.store.versions, runtime.settings.tenant)
