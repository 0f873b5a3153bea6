"""What is wrong with the files of an archive: every line's seal and chain, whose steps they are, whether the pieces
of a call's trail follow on one another, and the files themselves. Files are read twice, in bounded memory."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from graph.archive import MOST_BYTES, Line, days, fingerprint, is_of_a_day, lines, seal_of, written
from graph.audit import erasures, start_of, verify
from graph.store.names import thread_name


@dataclass(frozen=True, slots=True)
class Finding:
    """Something in a file that a reader has to know of."""

    file: Path
    line: int | None
    what: str
    call: str | None = None
    step: int | None = None
    is_fault: bool = True
    """Whether something is not as it was sealed; else it is what a crash, or the end of what is kept, leaves."""


@dataclass(slots=True)
class Proof:
    """A reading of files, oldest first, with what was read so far.

    Args:
        files: which; a call's trail may go on from one to the next.
        key: with which they were sealed.
    """

    files: Sequence[Path]
    key: bytes = b""
    segments: int = 0
    steps: int = 0
    erased: int = 0
    seal: str = ""
    """The last one: kept elsewhere, it tells whether the end of the archive is missing."""
    _ends: dict[bytes, tuple[int, str] | None] = field(default_factory=dict)
    """How far the trails were read that have more than one piece."""

    def findings(self) -> Iterator[Finding]:
        """Read the files and yield what is to be told of them.

        Raises:
            OSError: if one cannot be read.
        """
        self._ends = {name: None for file in self.files for name in _continued(file)}
        for file in self.files:
            yield from self._of_file(file)

    def _of_file(self, file: Path) -> Iterator[Finding]:
        before: str | None = None
        with file.open("rb") as opened:
            for line, is_last in _with_last(lines(opened)):
                if line.document is None:
                    yield _cut_off(file, line, is_last=is_last)
                else:
                    yield from self._of_line(file, line, line.document, before)
                    before = line.document["seal"] if isinstance(line.document.get("seal"), str) else before
        self.seal = before or self.seal
        yield from _of_later(file, before)

    def _of_line(self, file: Path, line: Line, document: dict[str, Any], before: str | None) -> Iterator[Finding]:
        if wrong := [name for name, kind in _FIELDS.items() if type(document.get(name)) is not kind]:
            yield Finding(file, line.number, f"is no line of an archive: look at its {wrong[0]!r}")
            return
        call = document["call_identify_id"]
        if before is None:
            yield from _of_earlier(file, document)
        for what in self._faults(file, line, document, before):
            yield Finding(file, line.number, what, call)
        self.segments, self.steps = self.segments + 1, self.steps + len(document["steps"])
        self.erased += sum(len(erasures(step)) for step in document["steps"] if isinstance(step, dict))
        if self._other_key(document):
            return
        first, count = document["first"], document["count"]
        for fault in verify(
            document["steps"], document["start"], head=document["head"], count=count, key=self.key, first=first
        ):
            yield Finding(file, line.number, fault.what, call, fault.step)
        yield from self._of_trail(file, line, document)

    def _faults(self, file: Path, line: Line, document: dict[str, Any], before: str | None) -> Iterator[str]:
        if not _is_as_written(line):
            yield "is not as we write lines: a name may be in it twice"
        if opening := _wrong_opening(file, document, first=before is None):
            yield opening
        if other := self._other_key(document):
            yield other
        elif not _is_sealed(document, before, self.key):
            yield "was changed, or lines before it are missing, new or in another place"

    def _other_key(self, document: dict[str, Any]) -> str:
        sealed, mine = document.get("key"), fingerprint(self.key) if self.key else None
        if sealed == mine:
            return ""
        return f"is sealed with {_named(sealed)}, and FLOWS_AUDIT_KEY is {_named(mine)}"

    def _of_trail(self, file: Path, line: Line, document: dict[str, Any]) -> Iterator[Finding]:
        """Yield what is wrong with the place of a piece in its call's trail."""
        call, first, name = document["call_identify_id"], document["first"], _name_of(document)
        if first == 1:
            if not _is_start(document):
                yield Finding(file, line.number, "begins as the trail of another call", call)
        elif (end := self._ends[name]) is None:
            what = f"the steps before step {first} are in none of these files"
            yield Finding(file, line.number, what, call, is_fault=False)
        elif first <= end[0]:
            pass  # a piece that was delivered twice: the chain in it, and where it ends, are checked
        elif end != (first - 1, document["start"]):
            yield Finding(file, line.number, f"does not go on from step {end[0]}, where the line before ended", call)
        if name in self._ends:
            self._ends[name] = max(self._ends[name] or (0, ""), (document["count"], document["head"]))


_FIELDS = {
    **dict.fromkeys(("call_identify_id", "tenant", "incarnation", "reason", "flow"), str),
    **dict.fromkeys(("first", "count"), int),
    **dict.fromkeys(("start", "head", "sealed_at", "seal"), str),
    "steps": list,
}


def _continued(file: Path) -> Iterator[bytes]:
    """Yield the names of the trails of which a file has a piece that is not the first."""
    with file.open("rb") as opened:
        for line in lines(opened):
            if line.document is not None and line.document.get("first") != 1:
                yield _name_of(line.document)


def _name_of(document: dict[str, Any]) -> bytes:
    name = [document.get(part) for part in ("tenant", "call_identify_id", "incarnation")]
    return hashlib.sha256(repr(name).encode(errors="backslashreplace")).digest()


def _with_last(read: Iterator[Line]) -> Iterator[tuple[Line, bool]]:
    """Yield lines, each with whether it is the last."""
    line = next(read, None)
    while line is not None:
        following = next(read, None)
        yield line, following is None
        line = following


def _cut_off(file: Path, line: Line, *, is_last: bool) -> Finding:
    """Return what is to be said of a line that is no document: only who writes the next one ends a line that a crash
    cut off, so that a last one has no end."""
    if len(line.raw) >= MOST_BYTES:
        return Finding(file, line.number, f"is longer than {MOST_BYTES:,} bytes: none of ours")
    if not line.raw.startswith(b"{") or (is_last and line.whole):
        return Finding(file, line.number, "is no line of an archive")
    what = "was cut off by a crash; what was in it is written again"
    return Finding(file, line.number, what, is_fault=False)


def _is_as_written(line: Line) -> bool:
    try:
        return written(line.document or {}).rstrip(b"\n") == line.raw.rstrip(b"\n")
    except (ValueError, TypeError, RecursionError, KeyError):
        return False


def _wrong_opening(file: Path, document: dict[str, Any], *, first: bool) -> str:
    """Return what is wrong with a line that is, or is not, the first of a file; empty if nothing is."""
    opens = document.get("opens")
    if not first:
        return "should be the first of a file" if "opens" in document else ""
    if not isinstance(opens, dict):
        return "should not be the first of a file: those before it are missing"
    elsewhere = is_of_a_day(file) and opens.get("day") != file.stem
    return f"belongs into the file of {opens.get('day')}" if elsewhere else ""


def _is_sealed(document: dict[str, Any], before: str | None, key: bytes) -> bool:
    try:
        return bool(seal_of(document, before, key) == document["seal"])
    except (ValueError, TypeError, RecursionError):
        return False


def _is_start(document: dict[str, Any]) -> bool:
    try:
        thread = thread_name(document["tenant"], document["call_identify_id"])
        return bool(start_of(thread, document["incarnation"]) == document["start"])
    except ValueError:
        return False


def _of_earlier(file: Path, document: dict[str, Any]) -> Iterator[Finding]:
    """Yield that the file before is gone: where older ones are kept, it was not its age that it went for."""
    after = _after(document)
    if after is None or not is_of_a_day(file) or file.with_name(f"{after.get('day')}.jsonl") in days(file.parent):
        return
    is_fault = any(path.stem < str(after.get("day")) for path in days(file.parent))
    yield Finding(file, None, f"the file before it, of {after.get('day')}, is not beside it", is_fault=is_fault)


def _of_later(file: Path, seal: str | None) -> Iterator[Finding]:
    """Yield that a file of a later day says that this one ended otherwise."""
    later = [path for path in days(file.parent) if path.stem > file.stem] if is_of_a_day(file) else []
    for path in later:
        with path.open("rb") as opened:
            first = next((line.document for line in lines(opened) if line.document is not None), None)
        after = _after(first or {})
        if after is not None and after.get("day") == file.stem and after.get("seal") != seal:
            yield Finding(file, None, f"its last lines are missing: {path.name} says that it went on")
        if first is not None:
            return


def _after(document: dict[str, Any]) -> dict[str, Any] | None:
    opens = document.get("opens")
    after = opens.get("after") if isinstance(opens, dict) else None
    return after if isinstance(after, dict) else None


def _named(key: str | None) -> str:
    return f"the key {key}" if key else "no key"
