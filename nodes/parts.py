"""The parts of an agent's answer, as we keep them and as it sent them. Pure.

    artifacts + message  -- fold -->  text, data, files + layout  -- unfold -->  artifacts + message

A step keeps the content once, as text, data and files; its layout only points there: at text by the characters from
start to end, at data and files by index. Without a layout everything is one message, a part for each of them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from nodes.ports import FilePart, Part

Json = dict[str, Any]

WRAPPED = "data_part_compat"
"""How a2a-sdk marks 0.3 data that is not an object, and hence had to be put into one as `value`."""
_FIELDS = ("filename", "mediaType")
_POINTERS = ("text", "data", "file")


class Unreadable(ValueError):
    """A document that is not what its version of A2A says it should be."""


@dataclass(frozen=True, slots=True)
class Folded:
    """An answer as a step keeps it."""

    text: str
    """Of the artifacts first, then of the message, each on a new line; empty ones are left out.

    A text that follows upon another in the same artifact goes on with it: agents stream a text piece by piece.
    """
    data: tuple[Any, ...]
    files: tuple[FilePart, ...]
    layout: Json | None
    """None if the answer is just what `unfold` makes without one, like one plain text."""


def fold(artifacts: Sequence[Any], message: Any) -> Folded:
    """Fold artifacts and a message (or None), as either version of A2A writes them.

    Raises:
        Unreadable: if a part, a list or an artifact is none.
    """
    folding = _Folding()
    read = [read_artifact(artifact, number) for number, artifact in enumerate(artifacts, 1)]
    laid = [_laid(artifact, folding, in_pieces=True) for artifact in read]
    said = None if message is None else read_said(message)
    layout: Json = {"artifacts": laid} if laid else {}
    if said is not None:
        layout["message"] = _laid(said, folding, in_pieces=False)
    text, data, files = "".join(folding.texts), tuple(folding.data), tuple(folding.files)
    plain = not laid and _message({"text": text, "data": data, "files": map(_fields, files)}) == said
    return Folded(text, data, files, None if plain else layout)


def unfold(response: Mapping[str, Any], layout: Mapping[str, Any] | None) -> tuple[list[Json], Json | None]:
    """Return the artifacts and the message (None if there was none) of a step's `response_data` and `layout`.

    They are as A2A 1.0 writes them in JSON: `artifactId`, `name`, `description`, `metadata`, `extensions` and `parts`
    of an artifact, `parts`, `metadata` and `extensions` of the message.
    """
    if layout is None:
        return [], _message(response)
    message = layout.get("message")
    artifacts = [_unlaid(artifact, response) for artifact in layout.get("artifacts", ())]
    return artifacts, None if message is None else _unlaid(message, response)


def read_artifact(artifact: Any, number: int = 1) -> Json:
    """Return the artifact as A2A 1.0 writes it; one without an id is called by its number.

    Raises:
        Unreadable: if it or a part of it is none.
    """
    fields = as_object(artifact, "an artifact")
    names = {name: fields[name] for name in ("name", "description") if isinstance(fields.get(name), str)}
    known = fields.get("artifactId")
    return {"artifactId": known if known and isinstance(known, str) else str(number), **names, **_holder(fields)}


def read_said(message: Any) -> Json:
    """Return what the message says, as A2A 1.0 writes it: `parts`, `metadata` and `extensions`.

    Raises:
        Unreadable: if it or a part of it is none.
    """
    return _holder(as_object(message, "a message"))


def read_part(part: Any) -> Part:
    """Return the part as A2A 1.0 writes it; one of a kind that neither version knows becomes data, and is kept whole.

    Raises:
        Unreadable: if it is none, or data that is nested too deeply to be kept.
    """
    fields = as_object(part, "a part")
    if isinstance(fields.get("text"), str):
        return {"text": fields["text"], **_extras(fields)}
    if "file" in fields:
        fields = _of_0_3(as_object(fields["file"], "a file part"), fields.get("metadata"))
    if content := {key: _text(fields[key]) for key in ("raw", "url") if fields.get(key) is not None}:
        named = {key: _text(fields[key]) for key in _FIELDS if fields.get(key) is not None}
        return {**content, **named, **_extras(fields)}
    if "data" not in fields:
        return {"data": _keepable(part)}
    if _is_wrapped(fields):
        metadata = {key: value for key, value in fields["metadata"].items() if key != WRAPPED}
        fields = {**fields, "data": fields["data"]["value"], "metadata": metadata or None}
    return {"data": _keepable(fields["data"]), **_extras(fields)}


def as_object(value: Any, what: str) -> Json:
    """Return the value if it is a JSON object.

    Raises:
        Unreadable: if not; `what` says what it should have been.
    """
    if not isinstance(value, dict):
        raise Unreadable(f"{what} is not an object")
    return value


def as_list(value: Any) -> list[Any]:
    """Return the value if it is a list, and an empty list for null.

    Raises:
        Unreadable: if it is anything else.
    """
    if value is None:
        return []
    if not isinstance(value, list):
        raise Unreadable("a list was expected")
    return value


class _Folding:
    """The content of all parts so far."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.data: list[Any] = []
        self.files: list[FilePart] = []
        self._end = 0

    def add(self, part: Part, *, goes_on: bool) -> Json:
        """Take the content out of the part, and return what points at it with all the rest."""
        if "text" in part:
            return {"text": self._add_text(part["text"], goes_on), **_rest(part, ("text",))}
        if "data" in part:
            self.data.append(part["data"])
            return {"data": len(self.data) - 1, **_rest(part, ("data",))}
        file = FilePart(
            part.get("filename") or None, part.get("mediaType") or None, part.get("raw"), part.get("url") or None
        )
        self.files.append(file)
        return {"file": len(self.files) - 1, **_rest(part, _of_file(_fields(file)))}

    def _add_text(self, text: str, goes_on: bool) -> list[int]:
        if not text:
            return [0, 0]
        between = "\n" if self.texts and not goes_on else ""
        self.texts += [between, text]
        start = self._end + len(between)
        self._end = start + len(text)
        return [start, self._end]


def _holder(fields: Json) -> Json:
    read: Json = {"parts": [read_part(part) for part in as_list(fields.get("parts"))], **_metadata(fields)}
    extensions = fields.get("extensions")
    if isinstance(extensions, list) and all(isinstance(extension, str) for extension in extensions):
        read["extensions"] = extensions
    return read


def _laid(holder: Json, folding: _Folding, *, in_pieces: bool) -> Json:
    parts, after_text = [], False
    for part in holder["parts"]:
        parts.append(folding.add(part, goes_on=in_pieces and after_text))
        after_text = "text" in part and (after_text or bool(part["text"]))
    return {**holder, "parts": parts}


def _unlaid(holder: Json, response: Mapping[str, Any]) -> Json:
    return {**holder, "parts": [_pointed_at(pointer, response) for pointer in holder["parts"]]}


def _pointed_at(pointer: Json, response: Mapping[str, Any]) -> Part:
    rest = _rest(pointer, _POINTERS)
    if "text" in pointer:
        start, end = pointer["text"]
        return {"text": response.get("text", "")[start:end], **rest}
    if "data" in pointer:
        return {"data": response["data"][pointer["data"]], **rest}
    return {**_of_file(response["files"][pointer["file"]]), **rest}


def _message(response: Mapping[str, Any]) -> Json | None:
    """Return the one message that a response is without a layout."""
    parts: list[Part] = [{"text": response["text"]}] if response.get("text") else []
    parts += [{"data": data} for data in response.get("data", ())]
    parts += [_of_file(file) for file in response.get("files", ())]
    return {"parts": parts} if parts else None


def _fields(file: FilePart) -> dict[str, str | None]:
    return {"name": file.name, "media_type": file.media_type, "bytes": file.bytes, "url": file.url}


def _of_file(file: Mapping[str, str | None]) -> Part:
    """Return the part of a file as a step keeps it."""
    named = {"raw": "bytes", "url": "url", "filename": "name", "mediaType": "media_type"}
    return {key: file[ours] for key, ours in named.items() if file.get(ours) is not None}


def _of_0_3(file: Json, metadata: Any) -> Json:
    named = {"raw": "bytes", "url": "uri", "filename": "name", "mediaType": "mimeType"}
    return {"metadata": metadata, **{key: file.get(theirs) for key, theirs in named.items()}}


def _is_wrapped(fields: Json) -> bool:
    data, metadata = fields["data"], fields.get("metadata")
    marked = fields.get("kind") == "data" and isinstance(metadata, dict) and metadata.get(WRAPPED) is True
    return marked and isinstance(data, dict) and "value" in data


def _extras(fields: Json) -> Json:
    return {key: fields[key] for key in _FIELDS if isinstance(fields.get(key), str)} | _metadata(fields)


def _metadata(fields: Json) -> Json:
    return {"metadata": _keepable(fields["metadata"])} if isinstance(fields.get("metadata"), dict) else {}


def _rest(fields: Mapping[str, Any], but: Iterable[str]) -> Json:
    return {key: value for key, value in fields.items() if key not in but}


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise Unreadable("a file part has a field that is not text")
    return value


def _keepable(data: Any) -> Any:
    """Return the data if it can be kept and passed on, some levels deeper than it came."""
    try:
        orjson.dumps([[[[[[[[[[[[[[[[data]]]]]]]]]]]]]]]])
    except TypeError as error:
        raise Unreadable("its data is nested too deeply") from error
    return data
