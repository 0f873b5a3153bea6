"""What names a message of an HTTP client, so that it is answered once however often it is sent: the header
`Idempotency-Key`, beside a hash of what it says."""

import hashlib
import uuid
from dataclasses import dataclass
from typing import Annotated, Any

import orjson
from pydantic import BaseModel, Field, TypeAdapter, ValidationError
from starlette.requests import Request

from server.identifiers import IntentName
from server.problems import BadInput, bad_input

HEADER = "Idempotency-Key"
WITH_KEY: dict[str, Any] = {
    "parameters": [
        {
            "name": HEADER,
            "in": "header",
            "required": False,
            "description": "Names this very message: sent again under the same key it is answered as before, and not "
            "run again.",
            "schema": {"type": "string", "minLength": 1, "maxLength": 200},
        }
    ]
}
"""The header, for the OpenAPI document."""

Key = Annotated[IntentName, Field(description="Names this very message, as the header `Idempotency-Key` does.")]

_HOW = ("deadline_ms", "wait", "request_id", "idempotency_key")
"""What says how a client wants to be answered, and not what it wants: that may differ when it asks again."""
_KEY: TypeAdapter[str] = TypeAdapter(IntentName)
_KEY_LENGTH = 24


@dataclass(frozen=True, slots=True)
class Named:
    """A message that its client has named."""

    key: str
    body: str
    """A hash of what it says."""

    def call(self) -> str:
        """Return the name of the call that it begins, where the client names none."""
        return uuid.uuid5(uuid.NAMESPACE_URL, f"idempotency-key:{self.key}").hex


def named_by(request: Request, kind: str, sent: BaseModel, *where: str) -> Named | None:
    """Return what names a request; None if its client did not say.

    Args:
        request: the request.
        kind: the kind of door: the same key names something else at another.
        sent: the body.
        where: what the path says beside the call.

    Raises:
        BadInput: if the key cannot be one.
    """
    keys = request.headers.getlist(HEADER)
    if not keys:
        return None
    if len(keys) > 1:
        raise BadInput([{"field": HEADER, "message": "it is there more than once; send one"}])
    try:
        return named(_KEY.validate_python(_text_of(keys[0])), kind, sent, *where)
    except ValidationError as error:
        raise BadInput([{"field": HEADER, "message": one["message"]} for one in bad_input(error).errors]) from error


def named(key: str, kind: str, sent: BaseModel, *where: str) -> Named:
    """Return what a key of a client names."""
    said = [*where, {field: value for field, value in sent if field not in _HOW}]
    body = hashlib.sha256(orjson.dumps(said, option=orjson.OPT_SORT_KEYS)).hexdigest()[:_KEY_LENGTH]
    name = hashlib.sha256("\x1f".join(("http", kind, key)).encode()).hexdigest()[:_KEY_LENGTH]
    return Named(name, body)


def _text_of(header: str) -> str:
    """Return a header's text: UTF-8 where it is that, as clients write it, though HTTP reads it byte by byte."""
    try:
        return header.encode("latin-1").decode()
    except UnicodeDecodeError:
        return header
