"""The documents of the HTTP contract, for reading requests and for the OpenAPI description of answers."""

from typing import Any

import orjson
from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator

from server.deadlines import DeadlineMs
from server.identifiers import MESSAGE_LENGTH, Id, Intent, IntentName

_REQUEST: dict[str, JsonValue] = {
    "call_identify_id": "CALL-001",
    "account_id": "ACC-999",
    "eci": "ECI-7",
    "input_message": "Hello, I need help",
    "intent": "greeting",
}
_STEP: dict[str, JsonValue] = {
    "number": 1,
    "stage": "greeting",
    "intent_flow_id": 1,
    "intent": "greeting",
    "intent_source": "declared",
    "input_message": "Hello, I need help",
    "agent": "greeting",
    "a2a_agent_url": "http://greeting-agent:8001",
    "response_status": "success",
    "response_data": {"text": "Welcome to customer service."},
    "timestamp": "2026-02-28T10:00:00.000Z",
    "duration_ms": 12.5,
    "next_flow_id": 2,
    "is_complete": False,
}


_ANSWER: dict[str, JsonValue] = {
    "call_identify_id": "CALL-001",
    "intent_flow_id": 1,
    "intent": "greeting",
    "status": "success",
    "response": {"text": "Welcome to customer service."},
    "next_flow_id": 2,
    "is_complete": False,
    "session_summary": None,
    "stage": "greeting",
    "agent": "greeting",
    "intent_source": "declared",
    "step": 1,
    "duration_ms": 12.5,
    "timing": {"queue_ms": 0.0, "store_ms": 0.9, "classify_ms": 0.0, "agent_ms": 12.4, "total_ms": 15.1},
}
_SESSION: dict[str, JsonValue] = {
    "call_identify_id": "CALL-001",
    "account_id": "ACC-999",
    "eci": "ECI-7",
    "flow": "call",
    "current_flow_id": 2,
    "stage": "authentication",
    "legal_intents": ["verify_identity", "authenticate", "otp_verify", "unknown"],
    "completed_flows": [1],
    "requests": [],
    "parked": [],
    "is_complete": False,
    "ended": None,
    "session_summary": None,
    "steps": [_STEP],
    "created_at": "2026-02-28T10:00:00.000Z",
    "updated_at": "2026-02-28T10:00:00.013Z",
}


DEADLINE = (
    "Milliseconds within which the answer is wanted, from when the request comes in; every wait ends in time for it."
)


class OrchestrateRequest(BaseModel):
    """One message from the caller."""

    model_config = ConfigDict(json_schema_extra={"examples": [_REQUEST]}, strict=True)

    call_identify_id: Id = Field(description="Names the call; the first message under a new name begins one.")
    account_id: Id = Field(description="The customer's account; the same for the whole call.")
    eci: Id = Field(description="The e-commerce indicator, handed to the agents.")
    input_message: str = Field(min_length=1, max_length=MESSAGE_LENGTH, description="What the caller said.")
    intent: Intent = Field(default=None, description="What the caller wants; left out, the classifier decides.")
    language: str | None = Field(default=None, max_length=35, description="The caller's language (BCP 47).")
    metadata: dict[str, Any] = Field(default_factory=dict, description="Handed to the agents as it is.")
    flow: str | None = Field(
        default=None,
        min_length=1,
        max_length=64,
        description="The flow of a new call; the default one if left out. A call that exists has to be of it.",
    )
    further_intents: list[IntentName] = Field(
        default_factory=list, max_length=20, description="What else the caller wants, besides `intent`."
    )
    deadline_ms: DeadlineMs | None = Field(default=None, description=DEADLINE)

    @field_validator("metadata")
    @classmethod
    def _can_be_handed_on(cls, metadata: dict[str, Any]) -> dict[str, Any]:
        try:
            orjson.dumps([[[[metadata]]]])
        except TypeError as error:
            raise ValueError("it is nested too deeply or holds a number beyond 64 bits; send less") from error
        return metadata


class Timing(BaseModel):
    """Where the time of a turn went, in milliseconds. What is done several times at once counts once."""

    queue_ms: float = Field(description="Waiting while another turn of the call was at work.")
    store_ms: float = Field(description="Reading the call, and writing down what was about to be sent.")
    classify_ms: float = Field(description="Finding out what the caller wants.")
    agent_ms: float = Field(description="Waiting for agents.")
    model_ms: float | None = Field(default=None, description="Waiting for a model, where one answered.")
    total_ms: float = Field(description="All of it, from when the message came in until the answer was to be saved.")


class OrchestrateResponse(BaseModel):
    """The answer to a turn."""

    model_config = ConfigDict(json_schema_extra={"examples": [_ANSWER]})

    call_identify_id: str
    intent_flow_id: int = Field(description="The stage that answered.")
    intent: str
    status: str = Field(description="`success`, or `error` if the agent failed; the call goes on either way.")
    response: dict[str, Any] = Field(description="`text`, `data`, `files`, `task_state`, or `error`.")
    next_flow_id: int | None = Field(description="The stage of the next turn; null when the call is complete.")
    is_complete: bool
    session_summary: dict[str, Any] | None = Field(description="Filled when the call is complete, with its steps.")
    stage: str
    agent: str
    intent_source: str
    step: int
    duration_ms: float
    timing: Timing | None = Field(default=None, description="Where the time went.")
    requests: list[str] = Field(default=[], description="The intents of the requests that wait, if any do.")


class Step(BaseModel):
    """A line of the audit trail."""

    model_config = ConfigDict(json_schema_extra={"examples": [_STEP]}, extra="allow")

    number: int
    intent_flow_id: int
    intent: str
    input_message: str
    a2a_agent_url: str
    response_status: str
    response_data: dict[str, Any]
    timestamp: str


class Session(BaseModel):
    """Where a call stands."""

    model_config = ConfigDict(json_schema_extra={"examples": [_SESSION]})

    call_identify_id: str
    account_id: str
    eci: str
    flow: str
    current_flow_id: int
    stage: str
    legal_intents: list[str] = Field(description="What the next turn may want.")
    completed_flows: list[int]
    requests: list[dict[str, str]] = Field(description="What else the caller asked for, and the words.")
    parked: list[str] = Field(description="Writes of which nobody knows what came of them: see `GET /parked`.")
    is_complete: bool
    ended: str | None
    session_summary: dict[str, Any] | None
    steps: list[Step]
    created_at: str
    updated_at: str


class Fault(BaseModel):
    """Something in an audit trail that is not as it was sealed."""

    step: int | None = Field(description="The step's number; null if it concerns the trail as a whole.")
    what: str


class Verified(BaseModel):
    """An audit trail, and whether it is as it was sealed."""

    verified: bool
    faults: list[Fault]
    count: int = Field(description="How many steps there should be.")
    head: str = Field(description="The hash that was kept of the last step.")
    steps: list[Step]


class Moment(BaseModel):
    """The call after one turn."""

    checkpoint_id: str
    saved_at: str
    call_identify_id: str
    account_id: str
    eci: str
    flow: str
    stage: str
    current_flow_id: int
    completed_flows: list[int]
    is_complete: bool
    ended: str | None
    step_count: int
    created_at: str
    updated_at: str
    step: Step | None = Field(description="The step that led here.")


class Deleted(BaseModel):
    """A call that is gone."""

    call_identify_id: str
    deleted: bool
