"""A JSON-RPC request as it comes in and an error as it goes out, in our own words; pure.

The words of the libraries behind us stay inside: they name our parts, repeat what was sent, and change.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import orjson
from a2a.types.a2a_pb2 import Message as A2AMessage
from a2a.types.a2a_pb2 import SendMessageRequest
from a2a.utils.error_handlers import build_error_details
from a2a.utils.errors import (
    A2A_ERROR_REASONS,
    JSON_RPC_ERROR_CODE_MAP,
    A2AError,
    ContentTypeNotSupportedError,
    InternalError,
    InvalidParamsError,
    InvalidRequestError,
    JSONParseError,
    VersionNotSupportedError,
)
from a2a.utils.proto_utils import parse_params, validate_proto_required_fields
from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.message import Message
from pydantic import BaseModel, ValidationError
from starlette.datastructures import QueryParams
from starlette.requests import Request

from server.a2a.cards import Version
from server.a2a.enums import check_enums
from server.a2a.wording import check_base64
from server.json_text import is_json

RequestId = str | int | None

MAX_DEPTH = 36
"""How deep JSON may be nested: what protobuf can copy (100 messages, three for each object in a data part)."""

_VERSION = re.compile(r"(\d{1,3})\.(\d{1,3})(\.\d{1,9})?")
_BAD_FIELD = re.compile(r"Failed to parse ([A-Za-z_]+) field")
_UNDERSCORED = re.compile(r"_([a-z])")
_ODD = "it is not of the kind that the specification says"


def said_version(request: Request) -> str:
    """Return the version that a request says it speaks: its header, else its query; empty if neither says."""
    if in_header := request.headers.get("a2a-version", "").strip():
        return in_header
    return next((said for name, said in request.query_params.items() if name.lower() == "a2a-version"), "").strip()


def version_of(said: str) -> Version:
    """Return the version to answer in; nothing said means 0.3 (A2A 1.0, 3.6.2), and patch numbers do not count.

    Raises `VersionNotSupportedError`.
    """
    match = _VERSION.fullmatch(said or "0.3")
    short = f"{int(match[1])}.{int(match[2])}" if match else ""
    if short == "1.0":
        return "1.0"
    if short == "0.3":
        return "0.3"
    raise VersionNotSupportedError("this version of A2A is not spoken here; send A2A-Version: 1.0 or 0.3")


def require_json(content_type: str) -> None:
    """Raise `ContentTypeNotSupportedError` unless the body is said to be JSON.

    No page in a browser can send that to another site unasked; `server.doors.hosts` is about those that make
    themselves out to be of this one.
    """
    if not is_json(content_type):
        raise ContentTypeNotSupportedError("send the request with content-type: application/json")


def parse(body: bytes) -> Any:
    """Return what the JSON says; raises `JSONParseError`, or `InvalidRequestError` if it is nested too deeply."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise JSONParseError(f"Invalid JSON payload: it breaks off or goes wrong at {place}") from error
    if body.count(b"{") + body.count(b"[") > MAX_DEPTH and _depth(document) > MAX_DEPTH:
        raise InvalidRequestError(f"the JSON is nested more than {MAX_DEPTH} levels deep")
    return document


def id_of(document: Any) -> RequestId:
    """Return the id to answer under: as it was sent, or None if it is not one."""
    sent = document.get("id") if isinstance(document, dict) else None
    return sent if isinstance(sent, str | int) and not isinstance(sent, bool) else None


def method_of(document: Any) -> str:
    """Return the method that is called; raises `InvalidRequestError` if this is no JSON-RPC request."""
    if isinstance(document, list):
        raise InvalidRequestError("batches are not part of A2A; send one request at a time")
    if not isinstance(document, dict):
        raise InvalidRequestError("the request is not a JSON object")
    if document.get("jsonrpc") != "2.0":
        raise InvalidRequestError("'jsonrpc' has to be \"2.0\"")
    if document.get("id") is not None and id_of(document) is None:
        raise InvalidRequestError("'id' has to be a string or a whole number")
    method = document.get("method")
    if not isinstance(method, str) or not method:
        raise InvalidRequestError("'method' has to name a method")
    return method


def read_params(document: Mapping[str, Any], kind: type[Message]) -> Message:
    """Return the parameters of a 1.0 request; unknown fields are ignored. Raises `InvalidParamsError`."""
    params = document.get("params")
    if params is not None and not isinstance(params, dict):
        raise InvalidParamsError("params: it is not an object")
    return _read(params or {}, kind, "params")


def read_body(document: Any, kind: type[Message]) -> Message:
    """Return the body of an HTTP+JSON request; unknown fields are ignored. Raises `InvalidParamsError`."""
    if not isinstance(document, dict):
        raise InvalidParamsError("the body is not a JSON object")
    return _read(document, kind)


def read_query(query: QueryParams, kind: type[Message]) -> Message:
    """Return what the query of an HTTP+JSON request asks; unknown names are ignored. Raises `InvalidParamsError`."""
    typed, sent = kind(), dict(query)
    for field in kind.DESCRIPTOR.fields:
        if field.type == field.TYPE_BOOL and sent.get(field.json_name, "true").lower() not in ("true", "false"):
            raise InvalidParamsError(f"{field.json_name}: it is neither true nor false")
    with _in_our_words():
        parse_params(query, typed)
    check_enums(sent, kind.DESCRIPTOR)
    return typed


def read_model(document: Mapping[str, Any], kind: type[BaseModel]) -> Any:
    """Return a 0.3 request. Raises `InvalidParamsError`, or `InvalidRequestError` if only its id is wrong."""
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        raise _explained(error) from error


def error_document(request_id: RequestId, error: A2AError, version: Version | None) -> dict[str, Any]:
    """Return the JSON-RPC answer that tells of an error.

    Args:
        request_id: of the request.
        error: what went wrong, in words for the client.
        version: what the client speaks; None if that is unknown. 0.3 knows no details of an error.
    """
    code = JSON_RPC_ERROR_CODE_MAP.get(type(error), JSON_RPC_ERROR_CODE_MAP[InternalError])
    told: dict[str, Any] = {"code": code, "message": str(error)}
    if version == "0.3" and not isinstance(error, VersionNotSupportedError):
        told |= {"data": error.data} if error.data else {}
    elif type(error) in A2A_ERROR_REASONS:
        told["data"] = only_texts(build_error_details(error))
    return {"jsonrpc": "2.0", "id": request_id, "error": told}


def only_texts(details: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return an error's details with `google.rpc.ErrorInfo` as it is meant: it maps strings to strings.

    The sdk puts its list of wrong fields there as well, which the details have in a place of their own.
    """
    return [{**info, **_texts(info)} for info in details]


def _texts(info: Mapping[str, Any]) -> dict[str, Any]:
    if "metadata" not in info:
        return {}
    return {"metadata": {name: value for name, value in info["metadata"].items() if isinstance(value, str)}}


def _read(sent: dict[str, Any], kind: type[Message], *where: str) -> Message:
    message = sent.get("message", {})
    if kind is SendMessageRequest and not isinstance(message, dict):
        raise InvalidParamsError(f"{'.'.join((*where, 'message'))}: {_ODD}")  # ParseDict reads any text as empty
    typed = kind()
    with _in_our_words(*where):
        ParseDict(sent, typed, ignore_unknown_fields=True)
    check_enums(sent, kind.DESCRIPTOR, *where)
    if isinstance(typed, SendMessageRequest):
        check_message(typed.message, [part.get("raw") for part in message.get("parts") or ()])
    return typed


@contextmanager
def _in_our_words(*where: str) -> Iterator[None]:
    """Name the field that protobuf cannot read."""
    try:
        yield
    except (ParseError, TypeError, ValueError, AttributeError) as error:
        path = ".".join((*where, *_BAD_FIELD.findall(str(error))))
        raise InvalidParamsError(f"{path or 'the body'}: {_ODD}") from error


def check_message(message: A2AMessage, written: Sequence[str | None]) -> None:
    """Raise `InvalidParamsError` for a message that lacks what it needs, or whose bytes are not what was written.

    Args:
        message: as it was read.
        written: of each part, the base64 that it was read from: what is none would be read as other bytes.
    """
    try:
        validate_proto_required_fields(message)
    except InvalidParamsError as error:
        missing = [{**each, "field": f"message.{each['field']}"} for each in (error.data or {})["errors"]]
        names = ", ".join(_json_name(each["field"]) for each in missing)
        raise InvalidParamsError(f"{names}: missing or empty", data={"errors": missing}) from error
    for at, (text, part) in enumerate(zip(written, message.parts, strict=True)):
        try:
            check_base64(text or "", part.raw)
        except ValueError as error:
            raise InvalidParamsError(f"message.parts.{at}: its bytes are not base64") from error


def _json_name(field: str) -> str:
    return _UNDERSCORED.sub(lambda match: match[1].upper(), field)


def _explained(error: ValidationError) -> A2AError:
    details = error.errors(include_url=False, include_input=False)
    outside_id = [detail for detail in details if detail["loc"][:1] != ("id",)]
    if not outside_id:
        return InvalidRequestError("'id' has to be a string or a whole number")
    first = outside_id[0]
    # Behind the name of a model, which begins with a capital, stand its guesses of what a part may have been.
    guess = next((at for at, name in enumerate(first["loc"]) if str(name)[:1].isupper()), None)
    path = ".".join(str(name) for name in first["loc"][:guess])
    missing = first["type"] == "missing" and guess is None
    words = f"it is not {first['ctx']['expected']}" if first["type"] == "enum" and guess is None else _ODD
    return InvalidParamsError(f"{path}: {'it is missing' if missing else words}")


def _depth(document: Any) -> int:
    """Return how deep the document is nested, stopping soon after it is too deep."""
    level, depth = [document], 0
    while level and depth <= MAX_DEPTH:
        within = [value for value in level if isinstance(value, dict | list)]
        depth += bool(within)
        level = [child for value in within for child in (value.values() if isinstance(value, dict) else value)]
    return depth
