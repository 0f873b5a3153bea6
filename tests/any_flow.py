"""Flows of every shape for hypothesis, and a turn of one by the engine, with agents that keep to a rule."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from hypothesis import strategies as st
from langgraph.errors import GraphRecursionError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from graph import build_graph, steps_of
from graph.flow import Flow
from graph.loader import parse_flow
from nodes.ports import AgentCaller, AgentRequest, Reply, TaskState, Tell
from nodes.remote.errors import Disconnected
from server.listening import listen, serving, url_of
from tests.meaning import MEANING, Agents, Call, by_needs, by_ways, failure

Stages = dict[str, Any]
Draw = Any
CONFIG: Any = {"configurable": {"thread_id": "CALL-1"}}
FIRST: Any = {"call_identify_id": "CALL-1", "account_id": "A", "eci": "E", "input_message": "go"}
LONGEST = 30
NUMBERS = ("x0", "x1", "x2")
"""Inputs that stages of a flow by ways write numbers to; `r0` takes what is no number."""
INPUTS = (*NUMBERS, "l0", "r0")


def _means(text: str, meaning: Any) -> str:
    MEANING[text] = meaning
    return text


def _conditions(name: str) -> list[str]:
    """Return conditions over a number that may be null: some cannot be worked out then."""
    return [
        _means(f"{name} == null", lambda known: known[name] is None),
        _means(f"{name} != null && {name} > 3", lambda known: known[name] is not None and known[name] > 3),
        _means(f"{name} == null || {name} < 6", lambda known: known[name] is None or known[name] < 6),
        _means(f"6 / {name} > 1", lambda known: 6 // known[name] > 1),
    ]


def _told(stage: str) -> str:
    return _means(
        f"{stage} != null && {stage}.status == 'success'",
        lambda known: known[stage] is not None and known[stage]["status"] == "success",
    )


def _values(name: str) -> list[str]:
    return [
        _means(name, lambda known: known[name]),
        _means(f"{name} == null ? 1 : {name} + 1", lambda known: 1 if known[name] is None else known[name] + 1),
        _means(f"6 / {name}", lambda known: 6 // known[name]),
    ]


_ANSWERED = _means("answer.status == 'success'", lambda known: known["answer"]["status"] == "success")
_MUCH = _means("answer.data.n > 3", lambda known: known["answer"]["data"]["n"] > 3)
_FIRST_BRANCH = _means("answer.data.b0.data.n > 3", lambda known: known["answer"]["data"]["b0"]["data"]["n"] > 3)
_ALL_ITEMS = _means("size(answer.data.failed) == 0", lambda known: len(known["answer"]["data"]["failed"]) == 0)
_OF_ANSWER = {
    "agent": [_MUCH, _MUCH, _ANSWERED],
    "parallel": [_FIRST_BRANCH, _ANSWERED],
    "map": [_ALL_ITEMS, _ANSWERED],
}
_OF_ITEM = [_means("item", lambda known: known["item"]), _means("index", lambda known: known["index"])]
_NONE = _means("r0 == null", lambda known: known["r0"] is None)
for _name in (*NUMBERS, *(f"o{number}" for number in range(LONGEST)), "l0", "r0"):
    _conditions(_name), _values(_name)
for _number in range(LONGEST):
    _told(f"s{_number}")


def _maybe(draw: Draw, chances: int) -> bool:
    """Draw true once in so many times."""
    return bool(draw(st.integers(0, chances - 1)) == 1)


@st.composite
def flows_by_ways(draw: Draw, *, errors: bool = True) -> Stages:
    """Draw the stages of a flow whose order comes from the file and from `next`."""
    count = draw(st.integers(1, LONGEST))
    return {f"s{number}": _stage_of_ways(draw, number, count, errors) for number in range(count)}


@st.composite
def flows_by_needs(draw: Draw, *, errors: bool = True) -> Stages:
    """Draw the stages of a flow whose order comes from `needs`."""
    count = draw(st.integers(1, LONGEST))
    needs: list[list[int]] = [
        draw(st.lists(st.integers(0, number - 1), max_size=3, unique=True)) if number else []
        for number in range(count)
    ]
    before: list[set[int]] = []
    for needed in needs:
        before.append({*needed}.union(*(before[number] for number in needed)))
    place = draw(st.permutations(range(count)))  # the file's order is not that of the needs
    stages: dict[int, Stages] = {}
    for number in range(count):
        written = [f"o{one}" for one in sorted(before[number]) if f"'n': 'o{one}'" in str(stages[one])]
        stages[number] = _stage_of_needs(draw, number, sorted(before[number]), written, errors)
    return {f"s{number}": stages[number] | {"needs": [f"s{need}" for need in needs[number]]} for number in place}


def _stage_of_ways(draw: Draw, number: int, count: int, errors: bool) -> Stages:
    name = draw(st.sampled_from(NUMBERS))
    conditions = _conditions(name) + ([_told(f"s{draw(st.integers(0, number - 1))}")] if number else [])
    stage, kind = _asks(draw, [draw(st.sampled_from(NUMBERS))], name)
    if kind == "map" and _maybe(draw, 2):
        stage["output"] = {"results": "r0"}
    if number and _maybe(draw, 4):
        stage["when"] = draw(st.sampled_from([*conditions, _NONE]))
    if _maybe(draw, 3):
        stage["next"] = _ways(draw, number, count, [*conditions, *_OF_ANSWER[kind]])
    if _maybe(draw, 6):
        stage["repeat"] = {
            "until": draw(st.sampled_from([*conditions, *_OF_ANSWER[kind]])),
            "at_most": draw(st.integers(1, 3)),
        }
    if errors and not _maybe(draw, 3):
        somewhere = _ways(draw, number, count, conditions)
        stage["on_error"] = draw(st.sampled_from(["continue", "continue", "fail", somewhere]))
    return stage


def _stage_of_needs(draw: Draw, number: int, before: list[int], written: list[str], errors: bool) -> Stages:
    readable = [*written, "x0"]
    name = draw(st.sampled_from(readable))
    conditions = _conditions(name) + ([_told(f"s{draw(st.sampled_from(before))}")] if before else [])
    stage, kind = _asks(draw, readable, f"o{number}")
    if _maybe(draw, 4):
        stage["when"] = draw(st.sampled_from(conditions))
    if _maybe(draw, 6):
        stage["repeat"] = {
            "until": draw(st.sampled_from([*conditions, *_OF_ANSWER[kind]])),
            "at_most": draw(st.integers(1, 3)),
        }
    if errors and not _maybe(draw, 3):
        stage["on_error"] = draw(st.sampled_from(["continue", "continue", "continue", "fail"]))
    return stage


def _asks(draw: Draw, readable: list[str], writes: str) -> tuple[Stages, str]:
    """Draw who answers at a stage, what they get, and what is kept of the answer under a number's name."""
    kind = draw(st.sampled_from(["agent", "agent", "agent", "parallel", "map"]))
    values = _values(draw(st.sampled_from(readable)))
    if kind == "parallel":
        count = draw(st.integers(1, 4))
        return {"parallel": {f"b{one}": _branch(draw, one, values, writes) for one in range(count)}}, kind
    given = {"input": {"given": draw(st.sampled_from(values))}} if _maybe(draw, 2) else {}
    if kind == "agent":
        return {"agent": "a", **given, **({"output": {"n": writes}} if _maybe(draw, 2) else {})}, kind
    over = draw(st.sampled_from(["l0", "l0", "r0"]))
    given = {"input": {"given": draw(st.sampled_from([*values, *_OF_ITEM]))}} if _maybe(draw, 2) else {}
    return {"map": {"over": over, "agent": "a", "at_once": draw(st.integers(1, 8))}, **given}, kind


def _branch(draw: Draw, number: int, values: list[str], writes: str) -> Stages:
    given = {"input": {"given": draw(st.sampled_from(values))}} if _maybe(draw, 2) else {}
    return {"agent": "a", **given, **({"output": {"n": writes}} if number == 0 and _maybe(draw, 2) else {})}


def _ways(draw: Draw, number: int, count: int, conditions: list[str]) -> list[Stages]:
    return [_way(draw, number, count, conditions) for _ in range(draw(st.integers(1, 3)))]


def _way(draw: Draw, number: int, count: int, conditions: list[str]) -> Stages:
    """Draw a way: mostly onward; one that leads back is taken only so often."""
    ahead = min(count, number + draw(st.integers(1, 3)))
    back = _maybe(draw, 5)
    target = draw(st.integers(0, number)) if back else ahead
    way: Stages = {"goto": "end" if target == count else f"s{target}"}
    if not _maybe(draw, 8):
        way["when"] = draw(st.sampled_from(conditions))
    if back or _maybe(draw, 6):
        way["at_most"] = draw(st.integers(1, 2))
    return way


def flow_of(stages: Stages, url: str = "http://a:1") -> Flow:
    """Read the flow as if from a file; raises `FlowError` if it does not check."""
    document = {"flow": "any", "inputs": [*INPUTS], "agents": {"a": {"url": url}}, "stages": stages}
    return parse_flow(json.dumps(document), "any.yaml", {})


def inputs_of(items: int) -> dict[str, Any]:
    """Return what a run begins with: a number, a list of so many items, and names that are null at first."""
    return {"x0": 2, "l0": [number * 3 % 7 for number in range(items)]}


class Reached:
    """Reaches the agents of the rule in this process, as a node asks for them; the one asked at `fails_at` fails."""

    def __init__(self, agents: Agents, fails_at: int | None = None) -> None:
        self._agents, self._left = agents, fails_at

    async def call(self, request: AgentRequest, tell: Tell | None = None) -> Reply:
        self._left = None if self._left is None else self._left - 1
        given = _given(list(request.parts))
        told = failure() if self._left == 0 else self._agents.say(_where(request.metadata), given)
        if not told["data"]:
            raise Disconnected(request.agent, "the line went dead")
        return Reply("", (told["data"],), task_state="failed" if told["status"] == "error" else "completed")

    async def cancel(self, request: AgentRequest) -> TaskState | None:
        return None

    async def find(self, request: AgentRequest) -> Reply | None:
        return None


def _given(parts: list[dict[str, Any]]) -> dict[str, Any]:
    return {name: value for part in parts for name, value in part.get("data", {}).items()}


def _where(metadata: Mapping[str, Any]) -> str:
    stage, branch = str(metadata["flow_label"]).lower(), metadata.get("branch")
    return stage if branch is None else f"{stage}/{branch}"


@asynccontextmanager
async def served(agents: Agents) -> AsyncIterator[str]:
    """Serve the agents of the rule over HTTP (A2A 0.3), and yield their address."""

    async def answer(request: Request) -> JSONResponse:
        rpc = await request.json()
        message = rpc["params"]["message"]
        given = _given(message["parts"])
        told = agents.say(_where(message["metadata"]), given)
        if not told["data"]:
            return JSONResponse({}, 503)
        state = "failed" if told["status"] == "error" else "completed"
        said = {
            "kind": "message",
            "role": "agent",
            "messageId": "m",
            "parts": [{"kind": "data", "data": told["data"]}],
        }
        task = {"kind": "task", "id": "t", "contextId": "c", "status": {"state": state, "message": said}}
        return JSONResponse({"jsonrpc": "2.0", "id": rpc["id"], "result": task})

    app = Starlette(routes=[Route("/", answer, methods=["POST"])])
    with listen("the agents", "127.0.0.1", 0) as listener:
        async with serving(app, listener, grace=1):
            yield url_of(listener)


async def by_engine(
    flow: Flow, caller: AgentCaller, items: int, turns: int, *, stops_after: int | None = None
) -> dict[str, Any]:
    """Take so many turns of a call, or until it ends, and tell what came of it.

    With `stops_after` the first turn is stopped after so many super-steps, and gone on with from what was saved.
    """
    graph: Any = build_graph(flow, caller=caller)
    said: Any = {**FIRST, "context": inputs_of(items)}
    try:
        state = await graph.ainvoke(said, CONFIG | ({"recursion_limit": stops_after} if stops_after else {}))
    except GraphRecursionError:
        state = await graph.ainvoke(None, CONFIG)
    for _ in range(turns - 1):
        if not state["ended"]:
            state = await graph.ainvoke(FIRST, CONFIG)
    return await _outcome(graph, flow, state)


async def _outcome(graph: Any, flow: Flow, state: dict[str, Any]) -> dict[str, Any]:
    trail = await steps_of(graph, CONFIG)
    assert [step["number"] for step in trail] == list(range(1, state["step_count"] + 1))
    skipped = [name for step in trail for name in step.get("skipped", [])]
    skipped += [name for name, how in state.get("done", {}).items() if how == "skipped"]
    return {
        "trail": [(step["stage"], step.get("branch"), step["response_status"]) for step in trail],
        "skipped": sorted(skipped) if flow.is_dag else skipped,
        "context": {name: value for name, value in state["context"].items() if name not in flow.stages},
        "done": state.get("done", {}),
        "ended": state["ended"],
    }


def by_reference(flow: Flow, stages: Stages, agents: Agents, items: int, turns: int) -> dict[str, Any]:
    """Tell what should come of the same turns."""
    names = [*INPUTS, *stages, *(f"o{number}" for number in range(LONGEST))]
    call = Call(agents.say, dict.fromkeys(names) | inputs_of(items), next(iter(stages)))
    for _ in range(turns):
        if not call.ended:
            (by_needs if flow.is_dag else by_ways)(stages, call)
    written = {name: value for name, value in call.known.items() if name not in stages and value is not None}
    return {
        "trail": call.trail,
        "skipped": sorted(call.skipped) if flow.is_dag else call.skipped,
        "context": written,
        "done": call.done,
        "ended": call.ended,
    }
