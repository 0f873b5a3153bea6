"""Module-level graphs for LangGraph Studio and `langgraph dev`: each flow that we ship, by its name; langgraph.json
names them too.

They have no checkpointer: the platform brings its own, and `langgraph dev` does not start with a graph that has one.
"""

import os

from graph.builder import build_graph
from graph.classifier import choose_classifier
from graph.loader import shipped_flows
from graph.models import choose_model

_key, _name, _url = (os.environ.get(f"OPENAI_{what}") for what in ("API_KEY", "MODEL", "BASE_URL"))
_classifier = choose_classifier(_key, model=_name, base_url=_url)
_model = choose_model(_key, model=_name, base_url=_url)

# The platform looks into the module's `__dict__`, so a `__getattr__` that builds on first use would not do.
globals().update(
    {flow: build_graph(flow, checkpointer=None, classifier=_classifier, model=_model) for flow in shipped_flows()}
)
