"""Our JSON-native parts, artifacts and messages as the protobuf messages of `a2a-sdk`, which writes both versions."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import orjson
from a2a.types import a2a_pb2 as pb
from google.protobuf.json_format import MessageToDict, ParseDict, ParseError
from google.protobuf.message import Error as ProtobufError
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

from nodes.ports import Part

_PLAIN = {"text"}
_DEEP = {"data", "metadata"}
_UNFIT = (ParseError, ProtobufError, ValueError, RecursionError)


def part_of(part: Part) -> pb.Part:
    """Return the part; what protobuf cannot hold (bytes that are no base64, data without end) as its JSON text."""
    if part.keys() == _PLAIN:
        return pb.Part(text=part["text"])
    try:
        parsed: pb.Part = ParseDict(part, pb.Part(), ignore_unknown_fields=True)
        if part.keys() & _DEEP:
            _copy(pb.Message(parts=[parsed]))
        if "raw" in part:
            check_base64(part["raw"], parsed.raw)
    except _UNFIT:
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
    """Return the metadata, None if there is none; what protobuf cannot hold as its JSON text, named `json`."""
    if not metadata:
        return None
    struct = Struct()
    try:
        ParseDict(dict(metadata), struct)
        _copy(pb.Message(metadata=struct))
    except _UNFIT:
        return struct_of({"json": orjson.dumps(metadata).decode()})
    return struct


def timestamp_of(moment: datetime) -> Timestamp:
    """Return the moment, in whole milliseconds."""
    stamp = Timestamp()
    stamp.FromMilliseconds(round(moment.timestamp() * 1000))
    return stamp


def plain_parts(parts: Iterable[pb.Part]) -> list[Part]:
    """Return parts that came in as JSON-native values."""
    return [whole(MessageToDict(part)) for part in parts]


def plain(struct: Struct) -> dict[str, Any]:
    """Return metadata that came in as JSON-native values."""
    return {key: whole(value) for key, value in MessageToDict(struct).items()}


def whole(value: Any) -> Any:
    """Return the value with whole numbers as such: protobuf has one kind of number, and writes 1 as 1.0."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
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


def _copy(message: pb.Message) -> None:
    """Copy the message as deep within an answer as there are any, as sending it will; protobuf copies 100 levels."""
    answer = pb.StreamResponse(task=pb.Task(status=pb.TaskStatus(message=message)))
    pb.StreamResponse.FromString(answer.SerializeToString())
