"""`POST /agents/execute`: one piece of work for an agent of a type."""

from collections.abc import Mapping
from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from nodes.spec import Name
from nodes.timing import Timing
from server.agent_work import flow_for, parts_of, writes
from server.deadlines import DeadlineMs
from server.doors.admin import must_administer
from server.doors.documents import DEADLINE
from server.doors.execution_documents import Data, ExecutionAnswer, body_of
from server.doors.executions import answered
from server.doors.keys import WITH_KEY, named_by
from server.doors.orchestrate import seconds, traceparent_of
from server.doors.reading import read_document
from server.executing import Executions, new_id
from server.executions import Execution, document
from server.problems import responses
from server.runtime import Runtime
from server.turn import TurnRequest

router = APIRouter(prefix="/agents", tags=["agents"])


class AgentWork(BaseModel):
    """A piece of work."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "agent_type": "text_processor",
                    "input_data": {"task_type": "sentiment_analysis", "text": "Sample text to analyze"},
                }
            ]
        },
        strict=True,
        extra="forbid",
    )

    agent_type: Name = Field(description="The type of agent that does it, or an agent's name.")
    input_data: Data = Field(description="What the agent gets: `text` as its text, the rest as one data part.")
    effect: Literal["read", "write"] | None = Field(
        default=None,
        description="`write` if it moves money or changes records; left out, what flows say of the agent, and "
        "`write` if they say nothing. `read` is refused where a flow says that it writes.",
    )
    deadline_ms: DeadlineMs | None = Field(default=None, description=DEADLINE)


class WorkAnswer(ExecutionAnswer):
    """What came of it."""

    agent_type: str
    agent: str | None = Field(description="Who answered; null while nobody has.")
    endpoint: str | None = Field(description="Where, without credentials.")
    version: str | None = Field(description="The agent's version, if it has versions.")


@router.post(
    "/execute",
    summary="Give an agent a piece of work",
    response_model=None,
    openapi_extra=body_of(AgentWork) | WITH_KEY,
    responses={200: {"model": WorkAnswer}, **responses(401, 409, 413, 415, 422, 503, 504)},
)
async def execute(request: Request) -> Response:
    """Have an agent of a type do one thing, and answer when it has ended.

    A write needs whoever administers the service, as no gate of a flow stands before it.

    It is an execution like any other: `/executions/{execution_id}` tells of it later, and a write whose outcome
    nobody knows waits for a person.
    """
    timing = Timing()
    runtime: Runtime = request.app.state.runtime
    sent = await read_document(request, AgentWork, runtime.settings.max_body_bytes)
    version = await flow_for(runtime.flows, runtime.pool, sent.agent_type, sent.effect)
    if writes(version):
        must_administer(request)  # no gate of a flow stands before it
    named = named_by(request, "agent", sent, sent.agent_type)
    turn = TurnRequest(
        named.call() if named else new_id(),
        None,
        None,
        "",
        parts=parts_of(sent.input_data),
        flow=version.flow.flow,
        ttl=runtime.settings.execution_ttl_seconds,
        begins=True,
        key=named.key if named else None,
        body=named.body if named else "",
        traceparent=traceparent_of(request.headers),
        deadline=seconds(sent.deadline_ms),
        timing=timing,
    )
    return answered(_told(await Executions(runtime).run(turn, wait=True), sent.agent_type, sent.input_data))


def _told(execution: Execution, agent_type: str, input_data: Mapping[str, Any]) -> dict[str, object]:
    step = execution.made[-1] if execution.made else None
    return {
        **document(execution),
        "input_data": dict(input_data),
        "agent_type": agent_type,
        "agent": step["agent"] if step else None,
        "endpoint": step["a2a_agent_url"] if step else None,
        "version": step.get("agent_version") if step else None,
    }
