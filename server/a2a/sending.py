"""What a client sends, as `SendMessageRequest` of A2A 1.0 in JSON, whichever version it speaks. Pure.

Most requests say nothing that could be in doubt, and are that already, or nearly. All others are for `a2a-sdk` to
read, and to refuse: what is None here is not wrong, but not plain.
"""

from typing import Any

from a2a.types import a2a_pb2 as pb
from a2a.utils.proto_utils import validate_proto_required_fields
from google.protobuf.json_format import MessageToDict

from server.a2a.envelope import MAX_DEPTH
from server.a2a.wording import Json, is_plain

_REQUEST = frozenset({"message", "metadata", "configuration"})
_MESSAGE = frozenset({"messageId", "contextId", "taskId", "role", "parts", "metadata"})
_MESSAGE_03 = _MESSAGE | {"kind"}
_CONFIGURATION = frozenset({"acceptedOutputModes", "historyLength", "returnImmediately"})
_CONFIGURATION_03 = frozenset({"acceptedOutputModes", "historyLength", "blocking"})
_MOST_HISTORY = 2**31


def sent_of(params: pb.SendMessageRequest) -> Json:
    """Return what the sdk has read; raises `InvalidParamsError` if something that has to be said is missing."""
    validate_proto_required_fields(params)
    return dict(MessageToDict(params))


def plainly_sent(document: Json) -> Json | None:
    """Return the parameters of a 1.0 request if they are plain, else None."""
    params: Any = document.get("params")
    if not _is_request(params, _MESSAGE, "ROLE_USER") or not all(map(_is_text, params["message"]["parts"])):
        return None
    configuration = params.get("configuration", {})
    if not _is_configuration(configuration, _CONFIGURATION, "returnImmediately"):
        return None
    plain: Json = params
    return plain


def plainly_sent_03(document: Json) -> Json | None:
    """Return the parameters of a 0.3 request, as 1.0 writes them, if they are plain, else None."""
    params: Any = document.get("params")
    if document.get("id") is None:  # 0.3 has no requests without one
        return None
    if not _is_request(params, _MESSAGE_03, "user") or not all(map(_is_text_03, params["message"]["parts"])):
        return None
    message, configuration = params["message"], params.get("configuration", {})
    if message.get("kind", "message") != "message":
        return None
    if not _is_configuration(configuration, _CONFIGURATION_03, "blocking"):
        return None
    kept = {name: value for name, value in message.items() if name != "kind"}
    parts = [{"text": part["text"]} for part in message["parts"]]
    at_once = {"returnImmediately": True} if configuration.get("blocking") is False else {}
    # 0.3 takes no history for all of it
    history = {"historyLength": length} if (length := configuration.get("historyLength")) else {}
    return {
        **params,
        "message": {**kept, "role": "ROLE_USER", "parts": parts},
        "configuration": {**at_once, **history},
    }


def _is_request(params: Any, known: frozenset[str], role: str) -> bool:
    if type(params) is not dict or not params.keys() <= _REQUEST:
        return False
    message = params.get("message")
    if type(message) is not dict or not message.keys() <= known or message.get("role") != role:
        return False
    names = message.get("messageId"), message.get("contextId", ""), message.get("taskId", "")
    if not all(type(name) is str for name in names) or not names[0]:
        return False
    metadata = params.get("metadata", {}), message.get("metadata", {})
    if not all(type(said) is dict and is_plain(said, MAX_DEPTH) for said in metadata):
        return False
    return type(message.get("parts")) is list and bool(message["parts"])


def _is_text(part: Any) -> bool:
    return type(part) is dict and len(part) == 1 and type(part.get("text")) is str


def _is_text_03(part: Any) -> bool:
    if type(part) is not dict or len(part) != 2:
        return False
    return part.get("kind") == "text" and type(part.get("text")) is str


def _is_configuration(said: Any, known: frozenset[str], flag: str) -> bool:
    if type(said) is not dict or not said.keys() <= known:
        return False
    modes, history = said.get("acceptedOutputModes", []), said.get("historyLength", 0)
    if type(modes) is not list or not all(type(mode) is str for mode in modes):
        return False
    return type(history) is int and -_MOST_HISTORY <= history < _MOST_HISTORY and type(said.get(flag, True)) is bool
