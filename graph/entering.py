"""How a turn enters the graph: at the node that is to answer it. The router's choice is made before the run, so that
LangGraph need not make a super-step of it; a run of Studio or a notebook, which begins at START, makes it there."""

from collections.abc import Container, Mapping
from typing import Any

from langgraph.types import Command

from graph.routing import Routes, decide
from nodes.state import CallInput, wanted


def entering(routes: Routes, state: Mapping[str, Any], brought: CallInput, channels: Container[str]) -> Command[Any]:
    """Return what has the graph answer a message.

    Args:
        routes: of the flow.
        state: of the call, before the message.
        brought: by the message.
        channels: of the graph; what it has no use for is left out, as START would.

    Raises:
        graph.routing.Refused: if the message is not legal now.
    """
    news = {name: value for name, value in brought.items() if name in channels}
    return Command(update=news, goto=decide(routes, state, wanted(brought)))
