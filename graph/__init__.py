"""How stages connect, and where a call lives. `build_graph` is the way in, with or without the server."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graph.builder import CallGraph, build_graph
    from graph.flow import Flow
    from graph.loader import FlowError, load_flow, shipped_flows
    from graph.routing import Refused
    from graph.trail import answer, steps_of
    from nodes.ports import TurnContext
    from nodes.state import CallState, Step

_HOME = {
    "CallGraph": "graph.builder",
    "CallState": "nodes.state",
    "Flow": "graph.flow",
    "FlowError": "graph.loader",
    "Refused": "graph.routing",
    "Step": "nodes.state",
    "TurnContext": "nodes.ports",
    "answer": "graph.trail",
    "build_graph": "graph.builder",
    "load_flow": "graph.loader",
    "shipped_flows": "graph.loader",
    "steps_of": "graph.trail",
}

__all__ = [
    "CallGraph",
    "CallState",
    "Flow",
    "FlowError",
    "Refused",
    "Step",
    "TurnContext",
    "answer",
    "build_graph",
    "load_flow",
    "shipped_flows",
    "steps_of",
]


def __getattr__(name: str) -> Any:
    """Load on first use: reading a flow must not cost the two seconds that LangGraph takes to import."""
    if name in _HOME:
        from importlib import import_module

        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
