"""Language models behind an OpenAI-compatible API, and what their words are worth as an answer."""

import asyncio
import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import httpx
import orjson
from pydantic import SecretStr

from nodes.ports import ModelRequest, Reply
from nodes.remote.errors import AgentError, BadReply, Disconnected, TimedOut, Unreachable
from nodes.schemas import misfit
from nodes.spec import public_url

MODEL = "model"
OPENAI_URL = "https://api.openai.com/v1"

_OPENAI_HOSTS = ("api.openai.com", ".openai.azure.com")
_ANSWER = "answer"
_FENCE = re.compile(r"^\s*```[A-Za-z]*\s*\n?(.*?)\n?\s*```\s*$", re.DOTALL)
_SHARED = ("$defs", "definitions")
_REMEDIES = {
    400: "check the stage's model, schema, temperature and max_tokens",
    401: "it does not take the key; check OPENAI_API_KEY",
    403: "the key may not do this; check OPENAI_API_KEY and the model's name",
    404: "check OPENAI_BASE_URL and the model's name",
    429: "it was asked too often, or the credit is used up; ask again later",
}


class NoModel(AgentError):
    """No model is configured."""

    kind = "no_model"
    retryable = False
    acted = False

    def __init__(self) -> None:
        super().__init__(
            MODEL,
            "no model is configured; set OPENAI_API_KEY, and OPENAI_BASE_URL if the model is not OpenAI's "
            "(a server that wants no key takes any)",
        )


class ModelFailed(AgentError):
    """The model's API answered with an HTTP error. Its own words may quote the key or the prompt: not passed on."""

    kind = "http_error"
    acted = False

    def __init__(self, status: int) -> None:
        super().__init__(MODEL, f"the model's API answered HTTP {status}; {_REMEDIES.get(status, 'ask again later')}")
        self.status = status
        self.retryable = status >= 500 or status in (408, 429)


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
        # The import takes seconds: here, where a service starts, and not in the time of the first caller.
        from langchain_openai import ChatOpenAI

        self._base_url = base_url or OPENAI_URL
        self.url = public_url(self._base_url)
        self._api_key = SecretStr(api_key)
        self._model = model
        self._http = httpx.AsyncClient()
        self._chat_class = ChatOpenAI
        self._chats: dict[str, Any] = {}

    async def aclose(self) -> None:
        """Close the connections to the API."""
        await self._http.aclose()

    async def complete(self, request: ModelRequest) -> str:
        """Return what the model says; raises `AgentError`."""
        system = [("system", request.system)] if request.system else []
        try:
            async with asyncio.timeout(request.timeout):
                chat = self._chat(request.model or self._model)
                answer = await chat.ainvoke([*system, ("human", request.prompt)], **self._options(request))
        except Exception as error:
            raise _translated(error, request) from error
        if refusal := answer.additional_kwargs.get("refusal"):
            raise BadReply(MODEL, f"it refuses: {_sound(str(refusal))[:300]}")
        said = _sound(str(answer.text))
        if not said.strip():
            raise BadReply(MODEL, "it says nothing")
        return said if request.schema is None else _unwrapped(said, request.schema)

    def _chat(self, model: str) -> Any:
        if model not in self._chats:
            self._chats[model] = self._chat_class(
                model=model,
                api_key=self._api_key,
                base_url=self._base_url,
                max_retries=0,
                # Whoever follows is told of the answer when it is there: one way through the client, not two.
                disable_streaming=True,
                http_async_client=self._http,
            )
        return self._chats[model]

    def _options(self, request: ModelRequest) -> dict[str, Any]:
        options: dict[str, Any] = {}
        if request.temperature is not None:
            options["temperature"] = request.temperature
        if request.max_tokens is not None and _is_openai(self._base_url):
            options["max_completion_tokens"] = request.max_tokens
        elif request.max_tokens is not None:
            # The name that every other server knows. Past the client, which would rename it.
            options["extra_body"] = {"max_tokens": request.max_tokens}
        if request.schema is not None:
            wanted = {"name": _ANSWER, "schema": _as_object(request.schema)}
            options["response_format"] = {"type": "json_schema", "json_schema": wanted}
        return options


def answer_of(text: str, schema: Mapping[str, Any] | None) -> Reply:
    """Return a model's words as an answer: JSON where a schema asks for it; what is not JSON is kept as `raw`.

    Raises:
        BadReply: if it is JSON that does not fit the schema.
    """
    if schema is None:
        return Reply(text)
    try:
        value = _json(text)
    except ValueError:
        return Reply(text, data=({"raw": text},))
    wrong = misfit(value, schema)
    if wrong:
        raise BadReply(MODEL, f"it does not fit its schema: {wrong}")
    return Reply("", data=(value,))


def _json(text: str) -> Any:
    """Return the JSON in a text; raises `ValueError` if it is none, or none that can be kept and passed on."""
    fenced = _FENCE.match(text)
    value = orjson.loads(fenced[1] if fenced else text)
    try:
        orjson.dumps([[[[[[[[[[[[[[[[value]]]]]]]]]]]]]]]])
    except TypeError as error:
        raise ValueError("it is nested too deeply") from error
    return value


def _sound(text: str) -> str:
    """Return the text without halves of surrogate pairs, which an answer that was cut off may end with."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _is_openai(url: str) -> bool:
    """Tell whether an API is OpenAI's, which takes no `max_tokens` for its newer models."""
    host = urlsplit(url).hostname or ""
    return host.endswith(_OPENAI_HOSTS)


def _as_object(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema as the API is told it: within an object's if it is none, for OpenAI takes no other."""
    if schema.get("type") == "object":
        return dict(schema)
    shared = {key: schema[key] for key in _SHARED if key in schema}
    inner = {key: value for key, value in schema.items() if key not in _SHARED}
    outer = {"type": "object", "properties": {_ANSWER: inner}, "required": [_ANSWER], "additionalProperties": False}
    return {**outer, **shared}


def _unwrapped(text: str, schema: Mapping[str, Any]) -> str:
    """Undo `_as_object` in an answer; a server that does not know schemas may have answered without the object."""
    if schema.get("type") == "object":
        return text
    try:
        value = _json(text)
    except ValueError:
        return text
    return json.dumps(value[_ANSWER]) if isinstance(value, dict) and value.keys() == {_ANSWER} else text


def _translated(error: Exception, request: ModelRequest) -> AgentError:
    """Put what a model's client raises into our tree; not in its words, which may quote the key or the prompt."""
    import openai
    from langchain_core.exceptions import ContextOverflowError

    if isinstance(error, TimeoutError):
        return TimedOut(MODEL, f"the model did not answer within {request.timeout:.3g} s")
    if isinstance(error, ContextOverflowError):
        return BadReply(MODEL, "the prompt is too long for it")
    if isinstance(error, openai.APIStatusError):
        return ModelFailed(error.status_code)
    if isinstance(error, openai.APIConnectionError):
        return _not_connected(error)
    if isinstance(error, openai.LengthFinishReasonError):
        return BadReply(MODEL, "it was cut off; raise `max_tokens`, or ask for less")
    if isinstance(error, openai.ContentFilterFinishReasonError):
        return BadReply(MODEL, "the API's content filter withheld it")
    return BadReply(MODEL, f"not what an OpenAI-compatible API says ({type(error).__name__})")


def _not_connected(error: BaseException) -> AgentError:
    """Tell a connection that broke from one that was never made."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, httpx.ReadError | httpx.WriteError | httpx.RemoteProtocolError):
            return Disconnected(MODEL, "the connection to the model's API broke before its answer was complete")
        cause = cause.__cause__
    return Unreachable(MODEL, "the model's API cannot be reached; check OPENAI_BASE_URL")
