"""Language models behind an OpenAI-compatible API, and what their words are worth as an answer."""

import asyncio
import json
import re
from collections.abc import Mapping
from typing import Any

import httpx
from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match
from pydantic import SecretStr
from referencing import Registry

from nodes.ports import ModelRequest, Reply
from nodes.remote.errors import AgentError, BadReply, HttpFailed, TimedOut, Unreachable
from nodes.spec import public_url

MODEL = "model"
OPENAI_URL = "https://api.openai.com/v1"
_FENCE = re.compile(r"^\s*```[A-Za-z]*\s*\n?(.*?)\n?\s*```\s*$", re.DOTALL)


class NoModel(AgentError):
    """No model is configured."""

    kind = "no_model"
    retryable = False
    acted = False

    def __init__(self) -> None:
        super().__init__(MODEL, "no model is configured; set OPENAI_API_KEY, and OPENAI_BASE_URL for one of your own")


class NoModels:
    """Stands where no model is configured: whoever asks is told how to mend that."""

    url = ""

    async def complete(self, request: ModelRequest) -> str:
        """Refuse."""
        raise NoModel


class OpenAIModel:
    """A chat model by way of langchain-openai.

    Args:
        api_key: the key to present.
        model: the model that is asked where a stage names none.
        base_url: the API's address; OpenAI's own if None.
    """

    def __init__(self, *, api_key: str, model: str, base_url: str | None = None) -> None:
        self.url = public_url(base_url or OPENAI_URL)
        self._api_key = SecretStr(api_key)
        self._model = model
        self._base_url = base_url
        self._http = httpx.AsyncClient()

    async def aclose(self) -> None:
        """Close the connections to the API."""
        await self._http.aclose()

    async def complete(self, request: ModelRequest) -> str:
        """Return what the model says; raises `AgentError`."""
        messages = [("system", request.system)] if request.system else []
        try:
            async with asyncio.timeout(request.timeout):
                answer = await self._chat(request).ainvoke([*messages, ("human", request.prompt)])
        except Exception as error:
            raise _translated(error, request) from error
        return str(answer.text)

    def _chat(self, request: ModelRequest) -> Any:
        # The import takes seconds, and only flows with a model need it.
        from langchain_openai import ChatOpenAI

        chat = ChatOpenAI(
            model=request.model or self._model,
            api_key=self._api_key,
            base_url=self._base_url,
            temperature=request.temperature,
            max_completion_tokens=request.max_tokens,
            max_retries=0,
            http_async_client=self._http,
        )
        if request.schema is None:
            return chat
        wanted = {"name": "answer", "schema": dict(request.schema)}
        return chat.bind(response_format={"type": "json_schema", "json_schema": wanted})


def answer_of(text: str, schema: Mapping[str, Any] | None) -> Reply:
    """Return a model's words as an answer: JSON where a schema asks for it; what is not JSON is kept as `raw`.

    Raises:
        BadReply: if it is JSON that does not fit the schema.
    """
    if schema is None:
        return Reply(text)
    try:
        value = json.loads(_without_fence(text))
    except (ValueError, RecursionError):
        return Reply(text, data=({"raw": text},))
    wrong = misfit(value, schema)
    if wrong:
        raise BadReply(MODEL, f"it does not fit its schema: {wrong}")
    return Reply("", data=(value,))


def misfit(value: Any, schema: Mapping[str, Any]) -> str | None:
    """Tell in what a value does not fit a JSON Schema; None if it fits."""
    # An empty registry: what a `$ref` names elsewhere is not fetched.
    error = best_match(Draft202012Validator(schema, registry=Registry()).iter_errors(value))
    if error is None:
        return None
    where = "".join(f"[{part!r}]" for part in error.absolute_path)
    return f"{where or 'the answer'}: {error.message[:300]}"


def _without_fence(text: str) -> str:
    fenced = _FENCE.match(text)
    return fenced[1] if fenced else text


def _translated(error: Exception, request: ModelRequest) -> AgentError:
    """Put what a model's client raises into our tree; not in its words, which may quote the key or the prompt."""
    if isinstance(error, TimeoutError):
        return TimedOut(MODEL, f"the model did not answer within {request.timeout:.3g} s")
    status = getattr(error, "status_code", None)
    if isinstance(status, int):
        return HttpFailed(MODEL, status)
    if type(error).__name__ in ("APIConnectionError", "APITimeoutError"):
        return Unreachable(MODEL, "the model's API cannot be reached; check OPENAI_BASE_URL")
    return BadReply(MODEL, type(error).__name__)
