"""The documents of workflows, executions, runs and tickets, for reading requests and for the OpenAPI description."""

from typing import Annotated, Any, Literal

import orjson
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue

from server.deadlines import DeadlineMs
from server.doors.documents import DEADLINE, Timing
from server.identifiers import MESSAGE_LENGTH, Id, Intent

_STEPS: list[JsonValue] = [
    {
        "name": "sentiment_analysis",
        "agent_type": "text_processor",
        "input_mapping": {"text": "input_text"},
        "output_mapping": {"sentiment": "content_sentiment"},
    },
    {
        "name": "text_summary",
        "agent_type": "text_processor",
        "input_mapping": {"text": "input_text"},
        "output_mapping": {"summary": "content_summary"},
        "depends_on": ["sentiment_analysis"],
        "condition": "content_sentiment == positive",
    },
]
WORKFLOW_EXAMPLE: dict[str, JsonValue] = {"name": "Content Analysis Workflow", "steps": _STEPS}
_WORKFLOW_ID = "wf-content-analysis-workflow-1f0c62ab"
_EXECUTION: dict[str, JsonValue] = {
    "execution_id": "5a5c0d9f6c0f4f5c8a3e5ad1c2b3e4f5",
    "workflow_id": _WORKFLOW_ID,
    "flow": _WORKFLOW_ID,
    "flow_digest": "0f4e5d6c7b8a9f00",
    "status": "completed",
    "current_steps": [],
    "steps": [
        {
            "name": "sentiment_analysis",
            "status": "completed",
            "agent": "text_processor",
            "started_at": "2026-02-28T10:00:00.000Z",
            "duration_ms": 12.5,
            "attempt": 1,
        },
        {"name": "text_summary", "status": "skipped", "agent": "text_processor"},
    ],
    "input_data": {"input_text": "This is dreadful."},
    "output_data": {"content_sentiment": "negative"},
    "response": {"data": [{"sentiment": "negative", "score": -1.0}]},
    "question": None,
    "parked": [],
    "error": None,
    "timing": {"queue_ms": 0.0, "store_ms": 1.9, "classify_ms": 0.0, "agent_ms": 12.4, "total_ms": 18.3},
    "created_at": "2026-02-28T10:00:00.000Z",
    "updated_at": "2026-02-28T10:00:00.013Z",
}
_TICKET: dict[str, JsonValue] = {
    "customer_id": "CUST_123",
    "subject": "I was charged twice",
    "body": "I noticed two charges on my account...",
}


def _can_be_handed_on(value: Any) -> Any:
    try:
        orjson.dumps([[[[value]]]])
    except TypeError as error:
        raise ValueError("it is nested too deeply or holds a number beyond 64 bits; send less") from error
    return value


Json = Annotated[Any, AfterValidator(_can_be_handed_on)]
Data = Annotated[dict[str, Any], AfterValidator(_can_be_handed_on)]


class ExecuteRequest(BaseModel):
    """What a workflow is executed on."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"input_data": {"input_text": "What a day!"}}]}, strict=True
    )

    input_data: Data = Field(default_factory=dict, description="The values that its steps read, by name.")
    execution_id: Id | None = Field(default=None, description="Names the execution; left out, it gets a name.")


class RunRequest(BaseModel):
    """What a run of a flow begins with."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"input": {"customer_id": "C-1", "subject": "Hello", "body": "Is it open?"}}]
        },
        strict=True,
        extra="forbid",
    )

    id: Id | None = Field(
        default=None, description="Names the run; left out, it gets a name. One that exists goes on."
    )
    input: Data = Field(default_factory=dict, description="The flow's `inputs`, by name.")
    message: str = Field(default="", max_length=MESSAGE_LENGTH, description="What the caller says, if there is one.")
    intent: Intent = Field(default=None, description="What the caller wants; left out, the classifier decides.")
    account_id: Id | None = Field(default=None, description="The customer's account.")
    eci: Id | None = Field(default=None, description="The e-commerce indicator, handed to the agents.")
    language: str | None = Field(default=None, max_length=35, description="The caller's language (BCP 47).")
    metadata: Data = Field(default_factory=dict, description="Handed to the agents as it is.")
    wait: bool = Field(default=True, description="Whether to answer when it has ended, or waits; else at once.")
    deadline_ms: DeadlineMs | None = Field(default=None, description=DEADLINE)


class AnswerRequest(BaseModel):
    """A person's answer."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"answer": True}]}, strict=True, extra="forbid")

    answer: Json = Field(description="Any JSON that fits the question's schema.")
    step: str | None = Field(default=None, description="Whose question it answers, if several wait.")
    wait: bool = Field(default=True, description="Whether to answer when it has ended, or waits again; else at once.")


class TicketRequest(BaseModel):
    """A customer's ticket."""

    model_config = ConfigDict(json_schema_extra={"examples": [_TICKET]}, strict=True)

    customer_id: Id = Field(description="Whose ticket it is.")
    subject: str = Field(min_length=1, max_length=1_000)
    body: str = Field(min_length=1, max_length=MESSAGE_LENGTH)
    ticket_id: Id | None = Field(
        default=None, description="Names the ticket, so that it is opened once however often it is sent."
    )
    metadata: Data = Field(default_factory=dict, description="Handed to the agents as it is.")


class WorkflowAnswer(BaseModel):
    """A workflow that was made."""

    model_config = ConfigDict(extra="allow")

    workflow_id: str
    name: str
    description: str
    version: int
    digest: str = Field(description="The content hash of the flow it became.")
    created_at: str
    steps: list[dict[str, Any]]
    inputs: list[str] = Field(default=[], description="What an execution begins with; told when it is made.")


class WorkflowList(BaseModel):
    """Workflows, the one made last first."""

    workflows: list[WorkflowAnswer]
    total: int


class StepAnswer(BaseModel):
    """A step of an execution."""

    model_config = ConfigDict(extra="allow")

    name: str
    status: Literal["pending", "running", "waiting", "completed", "skipped", "failed", "canceled"]
    agent: str | None


class ExecutionAnswer(BaseModel):
    """Where an execution stands."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXECUTION]}, extra="allow")

    execution_id: str
    workflow_id: str | None = None
    flow: str | None
    flow_digest: str | None
    status: Literal["running", "waiting", "completed", "failed", "canceled"]
    interrupted: bool = Field(
        default=False, description="Whether its process died, and it is about to be gone on with."
    )
    current_steps: list[str]
    steps: list[StepAnswer]
    input_data: dict[str, Any]
    output_data: dict[str, Any] = Field(description="What its steps kept, by name.")
    response: dict[str, Any] | None = Field(description="What the last step came to; null while it runs.")
    question: dict[str, Any] | None = Field(
        description="`step`, `question` and `schema`, while it waits for a person."
    )
    parked: list[str] = Field(
        description="Writes of which a person has to say what came of them (`GET /parked`); it waits for that."
    )
    error: dict[str, Any] | None
    timing: Timing | None = Field(description="Where the time of its last turn went; null while it runs.")
    created_at: str | None
    updated_at: str | None


class ExecutionList(BaseModel):
    """Executions, the one that moved last first."""

    executions: list[ExecutionAnswer]
    next_offset: int | None = Field(description="Where the next page begins; null on the last.")


class LogLine(BaseModel):
    """One line of a log."""

    model_config = ConfigDict(extra="allow")

    timestamp: str
    level: Literal["info", "warning", "error"]
    step: str | None
    message: str


class Logs(BaseModel):
    """What happened in an execution, oldest first."""

    execution_id: str
    logs: list[LogLine]


class Removed(BaseModel):
    """Something that is gone."""

    model_config = ConfigDict(extra="allow")

    deleted: bool


class TicketAnswer(BaseModel):
    """A ticket, and what became of it."""

    ticket_id: str
    status: str = Field(
        description="NEW, ROUTING, KNOWLEDGE_SEARCH, SENTIMENT_ANALYSIS, DECISION, RESOLVED or ESCALATED."
    )
    customer_id: str
    subject: str
    body: str
    category: str | None
    priority: str | None
    sentiment: str | None
    articles: list[dict[str, Any]] | None
    decision: str | None
    reason: str | None
    reply: str | None
    history: list[dict[str, Any]]
    created_at: str | None
    updated_at: str | None


class TicketList(BaseModel):
    """Tickets, the one that moved last first."""

    tickets: list[TicketAnswer]
    next_offset: int | None = Field(description="Where the next page begins; null on the last.")


def body_of(document: type[BaseModel]) -> dict[str, Any]:
    """Describe a request body, for the OpenAPI document."""
    schema = document.model_json_schema()
    parts = schema.pop("$defs", {})
    return {
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": _in_place(schema, parts)}},
        }
    }


def _in_place(schema: Any, parts: dict[str, Any]) -> Any:
    """Return a JSON Schema with its parts where it refers to them: within an OpenAPI document it finds none."""
    if isinstance(schema, list):
        return [_in_place(child, parts) for child in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _in_place(parts[schema["$ref"].removeprefix("#/$defs/")], parts)
    return {key: _in_place(child, parts) for key, child in schema.items()}
