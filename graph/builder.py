"""`build_graph`: any flow becomes a compiled LangGraph graph, with or without a server around it.

START ─┬─ intent given ──► its stage ──► END (or the next stage, in a flow that waits for nothing)
       ├─ no intent ─────► classifier ─► the stage, or the fallback
       └─ unknown ───────► fallback ───► END
"""

from collections.abc import Callable, Coroutine, Mapping
from importlib import import_module
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
from graph.schema import input_of, state_of
from nodes.asking import World
from nodes.branches import ITEM_NODE, BranchesNode, BranchNode, ItemNode
from nodes.classify import CLASSIFIER_TIMEOUT, ClassifierNode, TriggerClassifier
from nodes.jobs import at_branch
from nodes.models import NoModels
from nodes.ordering import BeginNode, FinishNode, InOrder, Node
from nodes.person import AskNode
from nodes.ports import AgentCaller, Classifier, Model, TurnContext
from nodes.reaching.pool import Pool
from nodes.remote import Caller
from nodes.spec import BEGIN, FALLBACK, FINISH, FlowFacts, Place
from nodes.spec import END as LEAVE
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
    model: Model | None = None,
    pool: Pool | None = None,
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
        model: who answers at `llm` stages; by default they fail and say how to configure one.
        pool: where the agents answer besides what the flow says, and how they do; by default one of its own.
        checkpointer: where calls live; in memory by default, None for a host that brings its own.
        agent_timeout: seconds for one attempt where the flow does not say.
        classifier_timeout: seconds for the classifier.
        env: where the flow's `${NAME}` are looked up; the process's environment by default.

    Raises:
        graph.loader.FlowError: if the flow does not check.
    """
    loaded = load_flow(flow, env)
    routes = routes_of(loaded)
    facts = _facts_of(loaded, routes, agent_timeout)
    world = World(_reaching(caller), model or NoModels(), pool or Pool())
    graph = StateGraph(state_of(loaded), context_schema=TurnContext, input_schema=input_of(loaded))
    ways = _ways(loaded)
    for place in routes.places.values():
        _add_stage(graph, facts, place, world, ways[place.name])
    if loaded.is_dag:
        _add_ends(graph, facts, loaded)
    if loaded.fallback:
        _add(graph, FALLBACK, StageNode(facts, None, world))
        graph.add_edge(FALLBACK, END)
    if routes.stages_of:
        _add(graph, CLASSIFIER, _classifying(loaded, routes, classifier, classifier_timeout))
    _enter(graph, routes)
    saver = _in_memory() if checkpointer == "memory" else checkpointer
    return graph.compile(checkpointer=saver, name=loaded.flow)


_Builder = StateGraph[CallState, TurnContext, CallInput, CallState]
_Way = Callable[[CallState], Coroutine[Any, Any, str | list[str] | list[Any]]]
"""Tells which nodes come next."""


def _add(graph: _Builder, name: str, node: Any, **options: Any) -> None:
    """Add a node that sees what the flow's state has: by its annotation LangGraph would let it see, and keep, all
    that any flow's state may have."""
    graph.add_node(name, node, input_schema=graph.state_schema, **options)


def _lead(graph: _Builder, source: str, way: _Way, targets: list[str]) -> None:
    """Lead on from a node by what the flow's state has then; by its annotation as well a function sees all."""

    async def leads(state: Any) -> Any:
        return await way(state)

    leads.__annotations__["state"] = graph.state_schema
    graph.add_conditional_edges(source, leads, targets)


def _facts_of(flow: Flow, routes: Routes, agent_timeout: float) -> FlowFacts:
    return FlowFacts(
        name=flow.flow,
        digest=flow.digest,
        agents=flow.agents,
        places=routes.places,
        fallback=flow.fallback,
        waits=flow.waits_for == "caller",
        dag=flow.is_dag,
        restarts=flow.restarts,
        names=names_of(flow),
        reads=reads_of(flow),
        agent_timeout=agent_timeout,
    )


def _classifying(flow: Flow, routes: Routes, classifier: Classifier | None, timeout: float) -> ClassifierNode:
    words = TriggerClassifier(flow.triggers)
    recognise, anywhere = classifier or words, list(flow.anywhere)
    return ClassifierNode(routes.places, recognise, timeout, anywhere=anywhere, words=words, restarts=flow.restarts)


def _add_ends(graph: _Builder, facts: FlowFacts, flow: Flow) -> None:
    """Add where a run begins and ends whose order comes from `needs`."""
    _add(graph, BEGIN, BeginNode(facts))
    _lead(graph, BEGIN, _goes_on, [name for name, stage in flow.stages.items() if not stage.needs])
    _add(graph, FINISH, FinishNode(facts), defer=True)
    _lead(graph, FINISH, _goes_on, [FINISH, END])


def _add_stage(graph: _Builder, facts: FlowFacts, place: Place, world: World, ways: tuple[str, ...]) -> None:
    """Add a stage's node, those of its branches, and the ways on from it."""
    node = _node_of(facts, place, world)
    branches = _branches(facts, place, world)
    goes_on = bool(branches or place.stage.ask or not facts.waits)
    _add(
        graph,
        place.name,
        InOrder(facts, place, node) if facts.dag else node,
        # Only drawn. Drawn twice, LangGraph's own drawing breaks: it sorts edges by labels of which one is None.
        destinations=None if goes_on else ways,
    )
    for name, branch in branches.items():
        _add(graph, name, branch)
        graph.add_edge(name, place.name)
    if isinstance(node, BranchesNode) and place.stage.map:
        _lead(graph, place.name, _sends(node), [*branches, *ways])
    elif goes_on:
        _lead(graph, place.name, _goes_on, [*branches, *ways])


def _node_of(facts: FlowFacts, place: Place, world: World) -> Node:
    if place.stage.branches:
        return BranchesNode(facts, place, world)
    if place.stage.ask:
        return AskNode(facts, place, place.stage.ask, world)
    return StageNode(facts, place, world)


def _branches(facts: FlowFacts, place: Place, world: World) -> dict[str, Node]:
    """Return the nodes of those that a stage asks at once."""
    nodes: dict[str, Node] = {
        at_branch(place.name, name): BranchNode(facts, place, name, branch, world)
        for name, branch in place.stage.parallel.items()
    }
    if place.stage.map:
        nodes[at_branch(place.name, ITEM_NODE)] = ItemNode(facts, place, place.stage.map, world)
    return nodes


def _enter(graph: _Builder, routes: Routes) -> None:
    """Add the ways from the start: to wherever the call is."""
    stages = [place.name for place in routes.places.values()]
    answering = [*stages, FALLBACK] if routes.flow.fallback else stages
    entries = [*answering, CLASSIFIER] if routes.stages_of else answering
    entries = [*entries, BEGIN, FINISH] if routes.flow.is_dag else entries
    _lead(graph, START, _router(routes), entries)
    if routes.stages_of:
        _lead(graph, CLASSIFIER, _router(routes), answering)


async def _goes_on(state: CallState) -> list[Any]:
    """Return the nodes that a node says come next."""
    return list(state.get("goes_to") or [END])


def _sends(node: BranchesNode) -> _Way:
    async def sends(state: CallState) -> list[Any]:
        return node.sends(state) or await _goes_on(state)

    return sends


def _ways(flow: Flow) -> dict[str, tuple[str, ...]]:
    """Name where a run may go from each stage; where the flow waits for the caller, this is only drawn."""
    paths = Paths(flow)
    return {name: _targets(flow, paths, name) for name in flow.stages}


def _targets(flow: Flow, paths: Paths, name: str) -> tuple[str, ...]:
    stage = flow.stages[name]
    lets_others_begin = flow.is_dag and any(other.branches for other in flow.stages.values())
    again = [name] if stage.repeat or stage.ask or lets_others_begin else []
    if flow.is_dag:
        return tuple(
            dict.fromkeys([*(step.target for step in paths.steps[name] if step.target != LEAVE), *again, FINISH, END])
        )
    anywhere = set(flow.anywhere.values())
    targets = [step.target for step in paths.steps[name] if step.completes or step.target not in anywhere]
    for target in targets:  # it grows: past a stage that may be skipped lie others
        if target != LEAVE and flow.stages[target].when is not None:
            targets += [step.target for step in paths.steps[target] if step.target not in (*targets, *anywhere)]
    return tuple(dict.fromkeys([*(END if target == LEAVE else target for target in targets), *again, END]))


def _router(routes: Routes) -> _Way:
    async def route(state: CallState) -> str | list[str]:
        return decide(routes, state, wanted(state))

    return route


def _reaching(caller: AgentCaller | None) -> AgentCaller:
    """Return who reaches the agents, ready to."""
    reaching = caller or Caller()
    if isinstance(reaching, Caller):
        import_module("a2a.client.card_resolver")  # reads cards; half a second that the first call shall not take
    return reaching


def _in_memory() -> BaseCheckpointSaver[Any]:
    from langgraph.checkpoint.memory import InMemorySaver

    return InMemorySaver()
