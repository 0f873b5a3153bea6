"""Workflow documents for stories: the seed's two scenarios, word by word, and a few words to write others."""

from typing import Any

CONTENT: dict[str, Any] = {
    "name": "Content Analysis Workflow",
    "steps": [
        {
            "name": "sentiment_analysis",
            "agent_type": "text_processor",
            "input_mapping": {"text": "input_text"},
            "output_mapping": {"sentiment": "content_sentiment"},
        },
        {
            "name": "text_summary",
            "agent_type": "text_processor",
            "input_mapping": {"text": "input_text"},
            "output_mapping": {"summary": "content_summary"},
            "depends_on": ["sentiment_analysis"],
            "condition": "content_sentiment == positive",
        },
    ],
}

DATA: dict[str, Any] = {
    "name": "Data Processing Workflow",
    "steps": [
        {
            "name": "data_validation",
            "agent_type": "data_analyzer",
            "input_mapping": {"data": "raw_data"},
            "output_mapping": {"clean_data": "validated_data"},
        },
        {
            "name": "statistical_analysis",
            "agent_type": "data_analyzer",
            "input_mapping": {"data": "validated_data"},
            "output_mapping": {"stats": "analysis_results"},
            "depends_on": ["data_validation"],
        },
    ],
}


def step(name: str, agent_type: str = "text_processor", **more: Any) -> dict[str, Any]:
    """A step that does next to nothing, unless told more."""
    return {"name": name, "agent_type": agent_type, **more}


def workflow(*steps: dict[str, Any]) -> dict[str, Any]:
    """A workflow of these steps."""
    return {"name": "A story", "steps": list(steps)}
