"""Module-level graphs for LangGraph Studio and `langgraph dev`; langgraph.json names them.

They have no checkpointer: the platform brings its own, and `langgraph dev` does not start with a graph that has one.
"""

import os

from graph.builder import build_graph
from graph.classifier import choose_classifier

call = build_graph(
    "call",
    checkpointer=None,
    classifier=choose_classifier(
        os.environ.get("OPENAI_API_KEY"),
        model=os.environ.get("OPENAI_MODEL"),
        base_url=os.environ.get("OPENAI_BASE_URL"),
    ),
)
relay = build_graph("relay", checkpointer=None)
