"""`POST /flows/{flow}/runs`: any flow, by its name: with the whole outcome, or event by event."""

from typing import Annotated

from fastapi import APIRouter, Path, Request, Response

from graph.store.calls import OpenTurn
from graph.workflows import outer_name
from nodes.timing import Timing
from server.deadlines import Wait
from server.doors.events import of_turn
from server.doors.execution_documents import ExecutionAnswer, RunRequest, body_of
from server.doors.executions import answered
from server.doors.keys import WITH_KEY, named_by
from server.doors.orchestrate import seconds, traceparent_of
from server.doors.reading import read_document
from server.doors.stream import sse
from server.executing import Executions, known_inputs, new_id
from server.executions import Execution, document
from server.flows import Version
from server.problems import BadInput, NotWaiting, responses
from server.runtime import Runtime
from server.turn import Begun, Started, Taken, TurnRequest
from server.workflows import is_workflow

router = APIRouter(prefix="/flows/{flow}/runs", tags=["flows"])

FlowName = Annotated[str, Path(max_length=64, description="The flow's name.", examples=["ticket"])]


@router.post(
    "",
    summary="Run a flow",
    response_model=None,
    openapi_extra=body_of(RunRequest) | WITH_KEY,
    responses={
        200: {"model": ExecutionAnswer, "description": "It has ended, or waits"},
        202: {"model": ExecutionAnswer, "description": "It has begun"},
        **responses(404, 409, 413, 415, 422, 503, 504),
    },
)
async def run(flow: FlowName, request: Request) -> Response:
    """Run a flow to its end, or to where it waits: for a person, or for what its caller says next.

    A flow that waits for its caller goes on with the next message under the same `id`.
    """
    timing = Timing()
    runtime: Runtime = request.app.state.runtime
    sent = await read_document(request, RunRequest, runtime.settings.max_body_bytes)
    wait = Wait(seconds(sent.deadline_ms), timing)
    found = await runtime.turns.in_time(wait, _ran(runtime, flow, sent, request, wait))
    return answered(document(found), 200 if sent.wait else 202)


@router.post(
    "/stream",
    summary="Run a flow, and see what happens in it",
    response_model=None,
    openapi_extra=body_of(RunRequest) | WITH_KEY,
    responses={
        200: {"description": "Events, the last of them `turn` or `error`", "content": {"text/event-stream": {}}},
        **responses(404, 409, 413, 415, 422, 503, 504),
    },
)
async def stream(flow: FlowName, request: Request) -> Response:
    """Run a flow, and get server-sent events: `state_change`, `message_chunk` and `step` as they happen, then `turn`,
    which says what its last step came to, or `error`, a problem document. The run goes on if the client leaves."""
    timing = Timing()
    runtime: Runtime = request.app.state.runtime
    sent = await read_document(request, RunRequest, runtime.settings.max_body_bytes)
    wait = Wait(seconds(sent.deadline_ms), timing)
    started = await runtime.turns.in_time(wait, _started(runtime, flow, sent, request, wait))
    answer = sse(of_turn(runtime.store.events, started), grace=runtime.settings.turn_timeout_seconds)
    answer.headers["execution-id"] = started.request.call_identify_id.encode().decode("latin-1")
    return answer


async def _ran(runtime: Runtime, flow: str, sent: RunRequest, request: Request, wait: Wait) -> Execution:
    executions, version = Executions(runtime), await runtime.flows.find(flow)
    turn = await _turn(runtime, version, sent, request, wait)
    try:
        return await executions.run(turn, wait=sent.wait, once_begun=_unless_asking(turn, version))
    except _AsksSomebody:
        return await executions.find(turn.call_identify_id)


async def _started(runtime: Runtime, flow: str, sent: RunRequest, request: Request, wait: Wait) -> Started | Taken:
    version = await runtime.flows.find(flow)
    turn = await _turn(runtime, version, sent, request, wait)
    try:
        return await Executions(runtime).begin(turn, _unless_asking(turn, version))
    except _AsksSomebody as asks:
        raise NotWaiting(str(asks)) from asks


class _AsksSomebody(Exception):
    """The run waits for an answer, which a run that is sent again is not."""


def _unless_asking(sent: TurnRequest, version: Version) -> Begun | None:
    """Return what keeps a run that is sent again from answering the question that it waits with: only what a flow's
    caller says goes on with it."""
    if version.flow.waits_for == "caller":
        return None
    name = sent.call_identify_id

    async def look(turn: OpenTurn, _: int) -> None:
        tasks = turn.state.get("remote_tasks", {}).values()
        if turn.state.get("asked") or any("task_id" in task and not task.get("works") for task in tasks):
            raise _AsksSomebody(f"run {name!r} waits for an answer; send it to /executions/{name}/answer")

    return look


async def _turn(runtime: Runtime, version: Version, sent: RunRequest, request: Request, wait: Wait) -> TurnRequest:
    """Return the turn that a run is asked for as; raises `BadInput` for what is missing."""
    flow = version.flow.flow
    calls = version.flow.waits_for == "caller"
    if calls and not sent.message.strip():
        raise BadInput([{"field": "message", "message": f"it is missing; flow {flow!r} answers what a caller says"}])
    named = named_by(request, "run", sent, flow)
    name = sent.id or (named.call() if named else new_id())
    return TurnRequest(
        name,
        sent.account_id,
        sent.eci,
        sent.message,
        sent.intent,
        sent.language,
        sent.metadata,
        traceparent_of(request.headers),
        flow=flow,
        context=await _inputs(runtime, version, sent, name),
        ttl=None if calls else runtime.settings.execution_ttl_seconds,
        key=named.key if named else None,
        body=named.body if named else "",
        begins=named is not None and not sent.id,
        deadline=wait.deadline,
        timing=wait.timing,
    )


async def _inputs(runtime: Runtime, version: Version, sent: RunRequest, name: str) -> dict[str, object]:
    """Return what the run begins with; one that has begun goes on with what it knows."""
    record = await runtime.store.calls.read(Executions(runtime).thread(name)) if sent.id and not sent.input else None
    if record is not None:
        began = record.opened.said if record.opened and not record.state else {}  # its process died at once
        return dict(began.get("context", {}))
    names = {one: outer_name(one) if is_workflow(version.flow.flow) else one for one in version.flow.inputs}
    if unknown := sorted(sent.input.keys() - names.values()):
        message = f"the flow reads no such input; it reads {', '.join(names.values()) or 'none'}"
        raise BadInput([{"field": f"input.{one}", "message": message} for one in unknown])
    return known_inputs(version.flow, sent.input, names, "input")
