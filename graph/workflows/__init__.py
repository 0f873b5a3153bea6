"""Workflow documents (`steps`, `agent_type`, `input_mapping` …) and what they are in the language of our flows."""

from graph.workflows.agents import DEFAULT_AGENTS, Family, marks_of, writers_in
from graph.workflows.document import Workflow
from graph.workflows.names import outer_name, slug
from graph.workflows.translation import Untranslatable, translate, written

__all__ = [
    "DEFAULT_AGENTS",
    "Family",
    "Untranslatable",
    "Workflow",
    "marks_of",
    "outer_name",
    "slug",
    "translate",
    "writers_in",
    "written",
]
