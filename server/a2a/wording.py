"""Our JSON-native parts, artifacts and messages as the protobuf messages of `a2a-sdk`, which writes both versions."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import orjson
from a2a.types import a2a_pb2 as pb
from google.protobuf.json_format import MessageToDict, ParseDict, ParseError
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

from nodes.ports import Part

_PLAIN = {"text"}


def part_of(part: Part) -> pb.Part:
    """Return the part; what protobuf cannot hold (bytes that are no base64, data without end) as its JSON text."""
    if part.keys() == _PLAIN:
        return pb.Part(text=part["text"])
    try:
        parsed: pb.Part = ParseDict(part, pb.Part(), ignore_unknown_fields=True)
        parsed.SerializeToString()  # data nested too deeply parses, but cannot be written
    except (ParseError, ValueError, RecursionError):
        return pb.Part(text=orjson.dumps(part).decode(), media_type="application/json")
    return parsed


def artifact_of(artifact: Mapping[str, Any]) -> pb.Artifact:
    """Return the artifact with every part of it."""
    return pb.Artifact(
        artifact_id=artifact["artifactId"],
        name=artifact.get("name") or "",
        description=artifact.get("description") or "",
        parts=[part_of(part) for part in artifact.get("parts") or []],
        metadata=struct_of(artifact.get("metadata")),
        extensions=artifact.get("extensions") or [],
    )


def message_of(
    role: pb.Role,
    message_id: str,
    parts: Iterable[Part],
    *,
    context_id: str,
    task_id: str = "",
    metadata: Mapping[str, Any] | None = None,
    extensions: Iterable[str] = (),
) -> pb.Message:
    """Return a message of the call."""
    return pb.Message(
        role=role,
        message_id=message_id,
        parts=[part_of(part) for part in parts],
        context_id=context_id,
        task_id=task_id,
        metadata=struct_of(metadata),
        extensions=list(extensions),
    )


def struct_of(metadata: Mapping[str, Any] | None) -> Struct | None:
    """Return the metadata; None if there is none, or none that protobuf can hold."""
    if not metadata:
        return None
    struct = Struct()
    try:
        ParseDict(dict(metadata), struct)
    except (ParseError, ValueError, RecursionError):
        return None
    return struct


def timestamp_of(moment: datetime) -> Timestamp:
    """Return the moment, in whole milliseconds."""
    stamp = Timestamp()
    stamp.FromMilliseconds(round(moment.timestamp() * 1000))
    return stamp


def plain_parts(parts: Iterable[pb.Part]) -> list[Part]:
    """Return parts that came in as JSON-native values."""
    return [MessageToDict(part) for part in parts]


def plain(struct: Struct) -> dict[str, Any]:
    """Return metadata that came in as JSON-native values; protobuf has one kind of number, we keep whole ones."""
    return {key: _whole(value) for key, value in MessageToDict(struct).items()}


def _whole(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    if isinstance(value, dict):
        return {key: _whole(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_whole(item) for item in value]
    return value
