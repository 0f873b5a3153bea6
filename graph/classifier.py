"""Which classifier fills in missing intents: a model's where there is a key, the flow's trigger words elsewhere.

The service and LangGraph Studio both choose here, so that a call goes the same way in either.
"""

from nodes.classify import ModelClassifier

MODEL = "gpt-4o-mini"


def choose_classifier(
    api_key: str | None, *, model: str | None = None, base_url: str | None = None
) -> ModelClassifier | None:
    """Return the model's classifier if there is a key; None leaves the flow's trigger words.

    Args:
        api_key: the key of an OpenAI-compatible API; None or empty if there is none.
        model: the model's name; `MODEL` if None or empty.
        base_url: the API's address; OpenAI's own if None or empty.
    """
    if not api_key:
        return None
    return ModelClassifier(model=model or MODEL, api_key=api_key, base_url=base_url or None)
