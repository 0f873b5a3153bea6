"""The state of a call: a TypedDict of JSON-native values, and the record of a step.

Per-turn values live in `EphemeralValue` channels, so that a turn without an intent cannot run the last turn's again.
What stages that run at once may both write has a reducer; what only one stage at a time writes has none.
"""

import operator
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NotRequired, get_args, get_type_hints

from langgraph.channels import EphemeralValue
from typing_extensions import TypedDict

from nodes.channels import Reduced, Trail, kept, merged, united
from nodes.ports import Part

Status = Literal["success", "error"]

IntentSource = Literal["declared", "llm", "triggers", "open_task", "kept", "none"]
"""Where an intent came from: the client, the classifier's model or trigger words, a remote task that waits for
the caller, a request that the call had kept, or nowhere."""


class Recognised(TypedDict):
    """Where an intent came from, and why it is this one."""

    source: IntentSource
    confidence: NotRequired[float]
    """How sure the model said it was, from 0 to 1."""
    because: NotRequired[list[str]]
    """The triggers that were found, as the flow writes them; where a model gave no answer, why."""


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
    url: NotRequired[str]
    """The endpoint that has the task or the message, without credentials; only while one of them is known."""
    agent: NotRequired[str]
    """The agent, where several talks with it may go on at once and the talk has a name of its own."""


Done = Literal["answered", "skipped", "failed", "fatal", "canceled"]
"""How a stage was done with: it failed and the run went on, it failed and the run ends, or the run was canceled."""


class Item(TypedDict):
    """An item of the list that a `map` is over."""

    index: int
    value: Any


class Request(TypedDict):
    """Something the caller asked for that waits for its turn."""

    intent: str
    input_message: str


class Question(TypedDict):
    """What a person is asked."""

    question: str
    schema: Mapping[str, Any]
    """The JSON Schema of the answer."""


class Tried(TypedDict):
    """An attempt that failed."""

    agent: str
    attempt: int
    type: str
    message: str
    url: NotRequired[str]
    """The endpoint, without credentials; empty where there was none to ask. Kept since version 0.2, as the next."""
    version: NotRequired[str]
    duration_ms: NotRequired[float]


class Asked(TypedDict):
    """An endpoint that could have been asked."""

    url: str
    version: NotRequired[str]
    excluded: NotRequired[str]
    """Why it was not asked (`nodes.reaching.choices.Excluded`)."""


class InsteadOf(TypedDict):
    """The agent that would have been asked."""

    agent: str
    why: str


class Resolved(TypedDict):
    """What a person said came of a write whose outcome nobody knew."""

    parked: str
    """The name by which it was parked."""
    outcome: Literal["done", "not_done"]
    by: str
    why: str
    at: str
    """ISO 8601 in UTC."""


class Step(TypedDict):
    """The record of one agent call made in a stage: a line of the audit trail."""

    number: int
    """Counts from 1 within a call."""
    stage: str
    intent_flow_id: int
    intent: str
    intent_source: IntentSource
    intent_confidence: NotRequired[float]
    """How sure the model was of it, from 0 to 1, if it said so."""
    intent_because: NotRequired[list[str]]
    """The triggers it was recognised by, as the flow writes them; where a model gave no answer, why."""
    fallback: NotRequired[bool]
    """Whether the flow's fallback was asked: no stage knows the intent, or who would answer is switched off."""
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
    branch: NotRequired[str]
    """Which of several that were asked at once: the branch's name, or the item's place in the list, from 0."""
    attempt: NotRequired[int]
    """Which attempt at the agent this is the answer to, where it is not the first."""
    tried: NotRequired[list[Tried]]
    """The attempts that failed before."""
    agent_version: NotRequired[str]
    """The version of the agent that was asked."""
    candidates: NotRequired[list[Asked]]
    """The endpoints that could have been asked, where there were several, or one was left out."""
    instead_of: NotRequired[InsteadOf]
    """The agent that would have answered, had it not been switched off; the flow's fallback answered."""
    requests: NotRequired[list[str]]
    """The intents of the requests that wait, after this step."""
    artifacts: NotRequired[str]
    """What the ids of its artifacts begin with, where that is not its number."""
    sums_up: NotRequired[bool]
    """Whether it says what came of all stages of a flow with `needs`, when nothing was left to run."""
    skipped: NotRequired[list[str]]
    """The stages that were passed over on the way to the next."""
    ended: NotRequired[Ended]
    """How the run ended, if it ended here."""
    caller_message_id: NotRequired[str]
    """The id that the caller gave the message."""
    parts: NotRequired[list[Part]]
    """What the caller sent, if that was more than one text; with the first step of the turn only."""
    parked: NotRequired[str]
    """The name by which a write is settled of which nobody can know whether its agent acted on it."""
    held_by: NotRequired[str]
    """The name of the parked write that has to be settled before this one is sent."""
    resolution: NotRequired[Resolved]
    """What a person said came of it."""
    timing: NotRequired[Mapping[str, float]]
    """Where the time of its turn went until it was saved, milliseconds; with the last step of a turn."""
    audit: NotRequired[Mapping[str, Any]]
    """What makes a change of the trail evident (`graph.audit`)."""
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
    answer: Any
    """A person's answer to the question that the call waits with, if it is more than text."""
    answer_for: str
    """The stage whose question it answers; needed where several wait."""
    further_intents: list[str]
    """What else the caller wants, besides `intent`."""


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
    flow_digest: str
    """The content hash of the flow's version that the run began with."""
    current_flow_id: int
    completed_flows: Annotated[list[int], Reduced(list, united)]
    is_complete: bool
    run: int
    """Counts from 1; a flow that restarts has several runs in one call."""
    run_after: int
    """How many steps the call had when the run began; left out in the first run, as is the next."""
    run_began_at: str
    ended: Ended | None
    session_summary: Summary | None
    context: Annotated[dict[str, Any], Reduced(dict, merged)]
    """What the run knows by name: inputs, outputs, and the answers of stages that some expression reads."""
    passes: Annotated[dict[str, int], Reduced(dict, kept)]
    """How often the run has passed a stage in a row, because its `repeat` says so."""
    taken: dict[str, int]
    """How often each way was taken that is open only so often."""
    done: Annotated[dict[str, Done], Reduced(dict, merged)]
    """The stages that are done with, in a flow whose order comes from `needs`."""
    branches: Annotated[dict[str, Any], Reduced(dict, kept)]
    """Of a stage that asks several at once: that it is at work (by its name), and the answers so far (by branch)."""
    asked: Annotated[dict[str, Question], Reduced(dict, kept)]
    """The questions that wait for a person, by stage."""
    requests: list[Request]
    """What else the caller asked for."""
    step_count: Annotated[int, Reduced(int, operator.add)]
    """How many steps the call has; a node writes how many it made."""
    remote_tasks: Annotated[dict[str, RemoteTask], Reduced(dict, kept)]
    """By agent name; where several talks with an agent may go on at once, by the talk's."""
    last_agent: str
    """Who answered the caller last, the fallback aside."""
    created_at: str
    updated_at: Annotated[str, Reduced(str, max)]

    steps: Annotated[list[Step], Trail(Step)]
    """The steps made in the last super-step; the trail is kept beside the state (or is the state's history)."""
    input_message: Annotated[str, EphemeralValue(str, guard=False)]
    intent: Annotated[str | None, EphemeralValue(str, guard=False)]
    intent_source: Annotated[IntentSource | Recognised, EphemeralValue(str, guard=False)]
    """One channel for all of it: each costs time in every turn."""
    metadata: Annotated[dict[str, Any], EphemeralValue(dict, guard=False)]
    """What the client adds for the agents."""
    parts: Annotated[list[Part], EphemeralValue(list, guard=False)]
    parts_told: Annotated[bool, EphemeralValue(bool, guard=False)]
    """Whether a step of the turn has them already."""
    caller_message_id: Annotated[str, EphemeralValue(str, guard=False)]
    answer: Annotated[Any, EphemeralValue(Any)]
    answer_for: Annotated[str, EphemeralValue]
    further_intents: Annotated[list[str], EphemeralValue]
    messages: Annotated[list[Any], EphemeralValue]
    """Chat messages, another way in and out for LangGraph Studio: the last human one is the `input_message`."""
    goes_to: Annotated[list[str], EphemeralValue(list, guard=False)]
    """The nodes that the run goes on to from the one that says so."""
    item: Annotated[Item, EphemeralValue]
    """Which item of a list a branch of a `map` is at; never saved."""


TURN_KEYS = (
    *("input_message", "intent", "intent_source", "metadata", "parts", "caller_message_id", "messages"),
    *("answer", "answer_for", "further_intents"),
)
"""The per-turn channels that a node running before the stage must pass on."""
CARRIED = ("input_message", "metadata", "parts", "parts_told", "caller_message_id")
"""Those that the next stage of the same turn still has to know."""


def _is_of_a_turn(hint: Any) -> bool:
    return any(one is EphemeralValue or isinstance(one, EphemeralValue) for one in get_args(hint)[1:])


LASTING = frozenset(
    name for name, hint in get_type_hints(CallState, include_extras=True).items() if not _is_of_a_turn(hint)
)
"""What a call remembers from turn to turn."""


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
