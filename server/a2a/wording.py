"""Our JSON-native parts, artifacts and messages as A2A 1.0 writes them: every door's answers are made of these.

Protobuf is the judge of what A2A can hold, and slow: what is plainly right is written without it.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from math import isfinite
from typing import Any, TypeVar

import orjson
from a2a.types import a2a_pb2 as pb
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.json_format import MessageToDict, ParseDict, ParseError
from google.protobuf.message import Error as ProtobufError
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.struct_pb2 import Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp

from nodes.ports import Part

Json = dict[str, Any]

Typed = TypeVar("Typed", bound=Message)

MOST_WHOLE = 2**53
"""From here on protobuf's one kind of number does not hold every whole one."""

_PLAIN = {"text"}
_DATA = {"data"}
_DEEP = {"data", "metadata"}
_SHALLOW = 8
_UNFIT = (ParseError, ProtobufError, ValueError, RecursionError)


def part_of(part: Part) -> Json:
    """Return the part; what protobuf cannot hold (bytes that are no base64, data without end) as its JSON text."""
    if part.keys() == _PLAIN:
        return {"text": part["text"]}
    if part.keys() == _DATA and is_plain(part["data"], _SHALLOW):
        return {"data": whole(part["data"])}
    try:
        parsed: pb.Part = ParseDict(part, pb.Part(), ignore_unknown_fields=True)
        if part.keys() & _DEEP:
            _copy(pb.Message(parts=[parsed]))
        if "raw" in part:
            check_base64(part["raw"], parsed.raw)
    except _UNFIT:
        return {"text": orjson.dumps(part).decode(), "mediaType": "application/json"}
    return _written(parsed)


def artifact_of(artifact: Mapping[str, Any]) -> Json:
    """Return the artifact with every part of it."""
    return {
        "artifactId": artifact["artifactId"],
        **({"name": artifact["name"]} if artifact.get("name") else {}),
        **({"description": artifact["description"]} if artifact.get("description") else {}),
        **({"parts": [part_of(part) for part in artifact["parts"]]} if artifact.get("parts") else {}),
        **({"metadata": metadata_of(artifact["metadata"])} if artifact.get("metadata") else {}),
        **({"extensions": list(artifact["extensions"])} if artifact.get("extensions") else {}),
    }


def message_of(
    role: str,
    message_id: str,
    parts: Iterable[Part],
    *,
    context_id: str,
    task_id: str,
    metadata: Mapping[str, Any] | None = None,
    extensions: Iterable[str] = (),
) -> Json:
    """Return a message of the call; there has to be a part in it."""
    message: Json = {
        "messageId": message_id,
        "contextId": context_id,
        "taskId": task_id,
        "role": role,
        "parts": [part_of(part) for part in parts],
    }
    if metadata:
        message["metadata"] = metadata_of(metadata)
    if extensions:
        message["extensions"] = list(extensions)
    return message


def metadata_of(metadata: Mapping[str, Any]) -> Json:
    """Return the metadata; what protobuf cannot hold as its JSON text, named `json`."""
    if is_plain(metadata, _SHALLOW):
        return {key: whole(value) for key, value in metadata.items()}
    struct = Struct()
    try:
        ParseDict(dict(metadata), struct)
        _copy(pb.Message(metadata=struct))
    except _UNFIT:
        return {"json": orjson.dumps(metadata).decode()}
    return _written(struct)


def timestamp_of(moment: datetime) -> str:
    """Return the moment, in whole milliseconds."""
    seconds, milliseconds = divmod(round(moment.timestamp() * 1000), 1000)
    said = datetime.fromtimestamp(seconds, UTC).isoformat()[:19]
    return f"{said}.{milliseconds:03}Z" if milliseconds else f"{said}Z"


def typed(document: Mapping[str, Any], kind: type[Typed]) -> Typed:
    """Return a document of ours as the message of `a2a-sdk` that it is, for what the sdk writes.

    Args:
        document: as the functions here make it: nothing in it is in doubt.
        kind: what message it is.
    """
    message: Typed = kind(**_fields_of(document, kind.DESCRIPTOR))
    return message


def _fields_of(document: Mapping[str, Any], kind: Descriptor) -> Json:
    known = _by_json_name(kind)
    return {known[name].name: _value_of(value, known[name]) for name, value in document.items()}


def _value_of(value: Any, field: FieldDescriptor) -> Any:
    within = field.message_type
    if within is Struct.DESCRIPTOR or (within is None and field.type != FieldDescriptor.TYPE_BYTES):
        return value
    if within is Timestamp.DESCRIPTOR:
        return datetime.fromisoformat(value)
    if within is None or within is Value.DESCRIPTOR:
        return getattr(ParseDict({field.name: value}, GetMessageClass(field.containing_type)()), field.name)
    return [_fields_of(each, within) for each in value] if isinstance(value, list) else _fields_of(value, within)


@lru_cache(maxsize=64)
def _by_json_name(kind: Descriptor) -> Mapping[str, FieldDescriptor]:
    return {field.json_name: field for field in kind.fields}


def is_plain(value: Any, levels: int) -> bool:
    """Tell whether protobuf would surely hold a JSON value, and write it as it is.

    Args:
        value: the value.
        levels: how deep it may be nested; what is deeper is for protobuf to say.
    """
    kind = type(value)
    if kind is str or kind is bool or value is None:
        return True
    if kind is int:
        return bool(-MOST_WHOLE < value < MOST_WHOLE)
    if kind is float:
        return isfinite(value)
    if kind is dict:
        return levels > 0 and all(type(key) is str and is_plain(item, levels - 1) for key, item in value.items())
    return kind is list and levels > 0 and all(is_plain(item, levels - 1) for item in value)


def whole(value: Any) -> Any:
    """Return the value with whole numbers as such: protobuf has one kind of number, and writes 1 as 1.0."""
    if isinstance(value, float) and value.is_integer() and abs(value) < MOST_WHOLE:
        return int(value)
    if isinstance(value, dict):
        return {key: whole(item) for key, item in value.items()}
    if isinstance(value, list):
        return [whole(item) for item in value]
    return value


def check_base64(written: str, read: bytes) -> None:
    """Raise `ValueError` if the bytes are not all that was written: protobuf leaves out what is no base64."""
    digits = len(written) - sum(map(written.count, "= \t\r\n"))
    if digits % 4 == 1 or len(read) != digits * 3 // 4:
        raise ValueError("no base64")


def _written(message: Message) -> Json:
    written: Json = whole(MessageToDict(message))
    return written


def _copy(message: pb.Message) -> None:
    """Copy the message as deep within an answer as there are any, as sending it will; protobuf copies 100 levels."""
    answer = pb.StreamResponse(task=pb.Task(status=pb.TaskStatus(message=message)))
    pb.StreamResponse.FromString(answer.SerializeToString())
