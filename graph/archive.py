"""Where sealed trails outlive their calls: files of JSON lines, one for each day (UTC), written by any number of
processes and read line by line.

    DIRECTORY/2026-02-27.jsonl
    DIRECTORY/2026-02-28.jsonl    {"opens": {"day", "after"}, "call_identify_id", …, "first", "count", "start",
                                  "head", "steps", "sealed_at", "seal"}    one line for each piece of a trail
    DIRECTORY/.lock               held by who writes

Every line has a seal over the one before and over whose steps it has, not over what they say: erasing words breaks
no seal. The first line of a file has the last seal of the file before. A line that was cut off by a crash is left as
it is; what was to be in it is written again.
"""

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Literal

from graph.audit import hash_over

Reason = Literal["ended", "expired", "deleted"]

MOST_BYTES = 256 * 2**20
"""Of a line; a longer one is none of ours, and is not read into memory."""

_DAY = re.compile(r"\d{4}-\d\d-\d\d\.jsonl")
_FIRST = "flows archive 1"
"""What stands for the seal before a file's first one."""
_CHUNK = 2**16


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of a call's audit trail."""

    call_identify_id: str
    tenant: str
    incarnation: str
    reason: Reason
    """Why it is archived now."""
    flow: str
    first: int
    """The number of its first step."""
    count: int
    """The number of its last step."""
    start: str
    """The chain before its first step."""
    head: str
    """The hash of its last step, as it was kept beside the trail."""
    steps: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a file, as it was read."""

    number: int
    raw: bytes
    document: dict[str, Any] | None
    """None if it is none."""
    whole: bool
    """Whether it ends with a line end."""


class Archive:
    """A folder of sealed trails.

    Args:
        directory: made when it is needed.
        key: makes the seals ones that only who has the key can make.
    """

    def __init__(self, directory: Path, *, key: bytes = b"") -> None:
        self._directory = directory
        self._key = key

    def append(self, segments: Sequence[Segment]) -> str:
        """Write segments down and return the last seal; once this returns they are on the disk. Blocks.

        Raises:
            OSError: if they cannot be written; then none of them is.
        """
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with locked(self._directory):
            last, now = _last_seal(self._directory), datetime.now(UTC)
            # Never behind a later file, which has the seals of this one already: clocks differ.
            day = max([now.date().isoformat(), *(path.stem for path in days(self._directory)[-1:])])
            seal = last.seal if last and last.day == day else None
            text = b""
            for segment in segments:
                opens = (
                    {} if seal else {"opens": {"day": day, "after": last and {"day": last.day, "seal": last.seal}}}
                )
                line, seal = self._sealed({**opens, **_told(segment)}, seal, now)
                text += line
            _append(self._directory / f"{day}.jsonl", text)
        return seal or ""

    def _sealed(self, document: dict[str, Any], before: str | None, now: datetime) -> tuple[bytes, str]:
        if self._key:
            document["key"] = fingerprint(self._key)
        document["sealed_at"] = now.isoformat(timespec="milliseconds")
        seal = seal_of(document, before, self._key)
        return written({**document, "seal": seal}), seal


def seal_of(document: Mapping[str, Any], before: str | None, key: bytes) -> str:
    """Return the seal of a line after another one, None for the first of a file.

    Raises:
        ValueError, TypeError, RecursionError: if it is a document that cannot be one of ours.
    """
    sealed = {name: value for name, value in document.items() if name not in ("steps", "seal")}
    return hash_over(before or _FIRST, sealed, key)


def fingerprint(key: bytes) -> str:
    """Return what tells a key from others and does not betray it."""
    return hashlib.sha256(b"flows audit key\n" + key).hexdigest()[:12]


def written(document: Mapping[str, Any]) -> bytes:
    """Return a document as a line; a step that no JSON can hold is told of in its place."""
    try:
        return _json(document)
    except (ValueError, TypeError, RecursionError):
        return _json({**document, "steps": [_readable(step) for step in document["steps"]]})


def lines(file: BinaryIO) -> Iterator[Line]:
    """Read a file line by line, as far as it reached when that began."""
    number, left = 0, os.fstat(file.fileno()).st_size
    while left > 0 and (raw := file.readline(min(left, MOST_BYTES))):
        number, left = number + 1, left - len(raw)
        whole = raw.endswith(b"\n")
        yield Line(number, raw, _document(raw), whole)
        while not whole and left > 0 and (rest := file.readline(min(left, _CHUNK))):  # of a line that is too long
            left, whole = left - len(rest), rest.endswith(b"\n")


def days(directory: Path) -> list[Path]:
    """Return the files of an archive, the oldest first."""
    return sorted(path for path in directory.glob("*.jsonl") if is_of_a_day(path))


def is_of_a_day(file: Path) -> bool:
    """Tell whether a file has the name of a day; a copy may have any."""
    return _DAY.fullmatch(file.name) is not None


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the folder: the lock is not on a day's file, which is replaced when words are erased. Blocks."""
    handle = opened(directory / ".lock", os.O_RDWR)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def opened(path: Path, flags: int) -> int:
    """Open a file that only its owner may read, made if there is none."""
    return os.open(path, flags | os.O_CREAT | os.O_CLOEXEC, 0o600)


def sync(directory: Path) -> None:
    """Bring the names of a folder's files to the disk."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@dataclass(frozen=True, slots=True)
class _Last:
    day: str
    seal: str


def _last_seal(directory: Path) -> _Last | None:
    """Return the last seal of the archive, and the day of the file that it is in."""
    for path in reversed(days(directory)):
        with path.open("rb") as file:
            for raw in _backwards(file):
                document = _document(raw)
                if document is not None and isinstance(document.get("seal"), str):
                    return _Last(path.stem, document["seal"])
    return None


def _backwards(file: BinaryIO) -> Iterator[bytes]:
    """Read a file's lines from its end, in pieces."""
    place, tail = file.seek(0, os.SEEK_END), b""
    while place:
        size = min(place, max(_CHUNK, len(tail)))  # doubling, for lines may be long
        place = file.seek(place - size)
        tail, *rest = (file.read(size) + tail).split(b"\n")
        yield from (line for line in reversed(rest) if line)
    if tail:
        yield tail


def _append(path: Path, text: bytes) -> None:
    """Append to a file and bring it to the disk; where that fails, the file is as it was."""
    handle = opened(path, os.O_RDWR | os.O_APPEND)
    try:
        size = os.fstat(handle).st_size
        if size and os.pread(handle, 1, size - 1) != b"\n":  # a line that a crash cut off stays one of its own
            text = b"\n" + text
        try:
            while text:
                text = text[os.write(handle, text) :]
            os.fsync(handle)
        except OSError:
            os.ftruncate(handle, size)
            raise
    finally:
        os.close(handle)
    sync(path.parent)


def _told(segment: Segment) -> dict[str, Any]:
    return {each.name: getattr(segment, each.name) for each in fields(segment)}


def _document(raw: bytes) -> dict[str, Any] | None:
    try:
        document = json.loads(raw)
    except ValueError:
        return None
    except RecursionError:
        return {}  # nothing that a crash leaves
    return document if isinstance(document, dict) else None


def _json(document: Mapping[str, Any]) -> bytes:
    return _encode(document).encode() + b"\n"


_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode


def _readable(step: Any) -> Any:
    try:
        _json({"": step})
    except (ValueError, TypeError, RecursionError):
        number = step.get("number") if isinstance(step, dict) else None
        return {"number": number if type(number) is int else None, "unreadable": True}
    return step
