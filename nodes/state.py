"""The state of a call: a TypedDict of JSON-native values, and the record of a step.

Per-turn values live in `EphemeralValue` channels, so that a turn without an intent cannot run the last turn's again.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, NotRequired

from langgraph.channels import EphemeralValue
from typing_extensions import TypedDict

from nodes.ports import Part

Status = Literal["success", "error"]

IntentSource = Literal["declared", "llm", "triggers", "open_task", "none"]
"""Where an intent came from: the client, the classifier's model or trigger words, a remote task that waits for
the caller, or nowhere."""


Ended = Literal["completed", "canceled", "failed"]


class RemoteTask(TypedDict):
    """Our side of a conversation with one agent."""

    context_id: str
    stage: NotRequired[str]
    """Where the task or the message below was begun; `fallback` for the fallback's."""
    intent: NotRequired[str]
    task_id: NotRequired[str]
    """Only while the agent's task waits for the caller, or was still at work when a turn's time ran out."""
    works: NotRequired[bool]
    """Whether it was at work."""
    unanswered: NotRequired[str]
    """The id of a write's message of which we do not know whether the agent acted on it."""


class Step(TypedDict):
    """The record of one agent call made in a stage: a line of the audit trail."""

    number: int
    """Counts from 1 within a call."""
    stage: str
    intent_flow_id: int
    intent: str
    intent_source: IntentSource
    input_message: str
    agent: str
    a2a_agent_url: str
    message_id: str
    response_status: Status
    response_data: dict[str, Any]
    timestamp: str
    """When the agent was called, ISO 8601 in UTC."""
    duration_ms: float
    next_flow_id: int | None
    """Where the next turn goes; null when the call is complete."""
    is_complete: bool
    run: NotRequired[int]
    """Which run of the flow it belongs to, from 1; a flow that restarts has several in one call."""
    flow: NotRequired[str]
    """The flow, by name."""
    skipped: NotRequired[list[str]]
    """The stages that were passed over on the way to the next."""
    ended: NotRequired[Ended]
    """How the run ended, if it ended here."""
    caller_message_id: NotRequired[str]
    """The id that the caller gave the message."""
    parts: NotRequired[list[Part]]
    """What the caller sent, if that was more than one text; with the first step of the turn only."""
    layout: NotRequired[Mapping[str, Any]]
    """How `response_data` lay in the agent's artifacts and message (`nodes.parts`)."""


class Summary(TypedDict):
    """What is left to say when a run is complete; readers add its part of the audit trail as `steps`."""

    call_identify_id: str
    account_id: str
    eci: str
    completed_flows: list[int]
    step_count: int
    started_at: str
    ended_at: str
    run: int


class CallInput(TypedDict, total=False):
    """What one turn brings; the first turn of a call also says whose it is."""

    call_identify_id: str
    account_id: str
    eci: str
    incarnation: str
    """Made by the stage if nobody brings one."""
    input_message: str
    intent: str | None
    metadata: dict[str, Any]
    parts: list[Part]
    """The message as the caller sent it, if it is more than one text (A2A 1.0 JSON)."""
    caller_message_id: str
    messages: list[Any]
    context: dict[str, Any]
    """What the run knows by name as it begins: the flow's `inputs`."""


class CallState(TypedDict, total=False):
    """Everything a call remembers between turns, and what one turn carries."""

    call_identify_id: str
    account_id: str
    eci: str
    incarnation: str
    """A random id made with the call: a reused call id is another call to the agents."""
    flow: str
    stage: str
    """Where the call is, by name: numbers may move when the flow's file is edited."""
    current_flow_id: int
    completed_flows: list[int]
    is_complete: bool
    run: int
    """Counts from 1; a flow that restarts has several runs in one call."""
    run_after: int
    """How many steps the call had when the run began; left out in the first run, as is the next."""
    run_began_at: str
    ended: Ended | None
    session_summary: Summary | None
    context: dict[str, Any]
    """What the run knows by name: inputs, outputs, and the answers of stages that some expression reads."""
    passes: int
    """How often the run has passed the stage it is at, because `repeat` says so."""
    taken: dict[str, int]
    """How often each way was taken that is open only so often."""
    step_count: int
    remote_tasks: dict[str, RemoteTask]
    """By agent name."""
    last_agent: str
    """Who answered the caller last, the fallback aside."""
    created_at: str
    updated_at: str

    steps: Annotated[list[Step], EphemeralValue]
    """The steps made since the last save; the trail is kept beside the state (or is the state's history)."""
    input_message: Annotated[str, EphemeralValue]
    intent: Annotated[str | None, EphemeralValue]
    intent_source: Annotated[IntentSource, EphemeralValue]
    metadata: Annotated[dict[str, Any], EphemeralValue]
    """What the client adds for the agents."""
    parts: Annotated[list[Part], EphemeralValue]
    caller_message_id: Annotated[str, EphemeralValue]
    messages: Annotated[list[Any], EphemeralValue]
    """Chat messages, another way in and out for LangGraph Studio: the last human one is the `input_message`."""


TURN_KEYS = ("input_message", "intent", "intent_source", "metadata", "parts", "caller_message_id", "messages")
"""The per-turn channels that a node running before the stage must pass on."""


def said(state: CallState) -> str:
    """Return what the caller said this turn."""
    if state.get("input_message"):
        return state["input_message"]
    return next((_text(message) for message in reversed(state.get("messages") or []) if _is_human(message)), "")


def wanted(state: Mapping[str, Any]) -> str | None:
    """Return the turn's intent, or None where it was left out (absent, null or blank)."""
    return (state.get("intent") or "").strip() or None


def _is_human(message: Any) -> bool:
    role = message.get("role") or message.get("type") if isinstance(message, dict) else getattr(message, "type", "")
    return role in ("user", "human")


def _text(message: Any) -> str:
    content = (message.get("content") if isinstance(message, dict) else getattr(message, "content", None)) or ""
    if isinstance(content, str):
        return content
    blocks = [block if isinstance(block, str) else block.get("text", "") for block in content]
    return "\n".join(block for block in blocks if block)
