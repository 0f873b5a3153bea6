"""`build_graph`: any flow becomes a compiled LangGraph graph, with or without a server around it.

START ─┬─ intent given ──► its stage ──► END (or the next stage, in a flow that waits for nothing)
       ├─ no intent ─────► classifier ─► the stage, or the fallback
       └─ unknown ───────► fallback ───► END
"""

from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, Literal

from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph

from graph.flow import Flow
from graph.loader import load_flow
from graph.paths import Paths
from graph.proofs import names_of, reads_of
from graph.routing import CLASSIFIER, Routes, decide, routes_of
from nodes.classify import CLASSIFIER_TIMEOUT, ClassifierNode, TriggerClassifier
from nodes.learning import FALLBACK
from nodes.ports import AgentCaller, Classifier, TurnContext
from nodes.remote import Caller
from nodes.spec import END as LEAVE
from nodes.spec import FlowFacts, Place
from nodes.stage import StageNode
from nodes.state import CallInput, CallState, wanted

AGENT_TIMEOUT = 15.0

CallGraph = CompiledStateGraph[CallState, TurnContext, CallInput, CallState]
Checkpointer = BaseCheckpointSaver[Any] | Literal["memory"] | None


def build_graph(
    flow: str | Path | Flow = "call",
    *,
    caller: AgentCaller | None = None,
    classifier: Classifier | None = None,
    checkpointer: Checkpointer = "memory",
    agent_timeout: float = AGENT_TIMEOUT,
    classifier_timeout: float = CLASSIFIER_TIMEOUT,
    env: Mapping[str, str] | None = None,
) -> CallGraph:
    """Compile a flow.

    Args:
        flow: a shipped flow's name, a path to a YAML file, or a loaded flow.
        caller: who reaches the agents; by default over A2A at the addresses in the flow.
        classifier: who fills in a missing intent; by default the flow's trigger words.
        checkpointer: where calls live; in memory by default, None for a host that brings its own.
        agent_timeout: seconds for one attempt where the flow does not say.
        classifier_timeout: seconds for the classifier.
        env: where the flow's `${NAME}` are looked up; the process's environment by default.

    Raises:
        graph.loader.FlowError: if the flow does not check.
    """
    loaded = load_flow(flow, env)
    routes = routes_of(loaded)
    facts = FlowFacts(
        name=loaded.flow,
        digest=loaded.digest,
        agents=loaded.agents,
        places=routes.places,
        fallback=loaded.fallback,
        waits=loaded.waits_for == "caller",
        restarts=loaded.restarts,
        names=names_of(loaded),
        reads=reads_of(loaded),
        agent_timeout=agent_timeout,
    )
    reach = caller or Caller()
    ways = _ways(loaded)
    graph = StateGraph(CallState, context_schema=TurnContext, input_schema=CallInput)
    for place in routes.places.values():
        graph.add_node(place.name, StageNode(facts, place, reach), destinations=ways[place.name])
    if loaded.fallback:
        graph.add_node(FALLBACK, StageNode(facts, None, reach))
        graph.add_edge(FALLBACK, END)
    if routes.stages_of:
        recognise = classifier or TriggerClassifier(loaded.triggers)
        node = ClassifierNode(routes.places, recognise, classifier_timeout, restarts=loaded.restarts)
        graph.add_node(CLASSIFIER, node)
    _connect(graph, routes, ways)
    saver = _in_memory() if checkpointer == "memory" else checkpointer
    return graph.compile(checkpointer=saver, name=loaded.flow)


def _connect(
    graph: StateGraph[CallState, TurnContext, CallInput, CallState],
    routes: Routes,
    ways: Mapping[str, tuple[str, ...]],
) -> None:
    stages = [place.name for place in routes.places.values()]
    answering = [*stages, FALLBACK] if routes.flow.fallback else stages
    entries = [*answering, CLASSIFIER] if routes.stages_of else answering
    graph.add_conditional_edges(START, _router(routes), entries)
    if routes.stages_of:
        graph.add_conditional_edges(CLASSIFIER, _router(routes), answering)
    if routes.flow.waits_for == "nothing":
        for place in routes.places.values():
            graph.add_conditional_edges(place.name, _onward(place), list(ways[place.name]))


def _ways(flow: Flow) -> dict[str, tuple[str, ...]]:
    """Name where a run may go from each stage; where the flow waits for the caller, this is only drawn."""
    paths = Paths(flow)
    return {name: _targets(flow, paths, name) for name in flow.stages}


def _targets(flow: Flow, paths: Paths, name: str) -> tuple[str, ...]:
    anywhere = set(flow.anywhere.values())
    targets = [step.target for step in paths.steps[name] if step.completes or step.target not in anywhere]
    for target in targets:  # it grows: past a stage that may be skipped lie others
        if target != LEAVE and flow.stages[target].when is not None:
            targets += [step.target for step in paths.steps[target] if step.target not in (*targets, *anywhere)]
    again = [name] if flow.stages[name].repeat else []
    return tuple(dict.fromkeys([*(END if target == LEAVE else target for target in targets), *again, END]))


def _router(routes: Routes) -> Callable[[CallState], Coroutine[Any, Any, str]]:
    async def route(state: CallState) -> str:
        return decide(routes, state, wanted(state))

    return route


def _onward(place: Place) -> Callable[[CallState], Coroutine[Any, Any, str]]:
    async def onward(state: CallState) -> str:
        if state.get("is_complete") or state.get("ended"):
            return END
        moves = state["stage"] != place.name or state.get("passes")
        return state["stage"] if moves else END  # it stays where its agent failed

    return onward


def _in_memory() -> BaseCheckpointSaver[Any]:
    from langgraph.checkpoint.memory import InMemorySaver

    return InMemorySaver()
