"""Which model answers at the `llm` stages of a flow: the same for the service and for LangGraph Studio."""

from graph.classifier import MODEL
from nodes.models import OpenAIModel


def choose_model(api_key: str | None, *, model: str | None = None, base_url: str | None = None) -> OpenAIModel | None:
    """Return the model if there is a key; with None, `llm` stages fail and say that there is none.

    Args:
        api_key: the key of an OpenAI-compatible API; None or empty if there is none.
        model: the model that is asked where a stage names none; `graph.classifier.MODEL` if None or empty.
        base_url: the API's address; OpenAI's own if None or empty.
    """
    if not api_key:
        return None
    return OpenAIModel(api_key=api_key, model=model or MODEL, base_url=base_url or None)
