"""The files of the flows that a service is to serve: which they are, what they say, and which do not check."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from graph.document import is_text
from graph.flow import Flow
from graph.loader import FlowError, Problem, parse_flow, read_text, shipped_flows

_ENDINGS = (".yaml", ".yml")
_NAMED = re.compile(r"^[ \t]*['\"]?flow['\"]?[ \t]*:", re.MULTILINE)

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class FlowFile:
    """A file, and the flow that it holds."""

    flow: Flow
    text: str
    file: str


@dataclass(slots=True)
class FlowFiles:
    """What was found."""

    flows: dict[str, FlowFile] = field(default_factory=dict)
    """By the flow's name."""
    refused: dict[str, FlowError] = field(default_factory=dict)
    """What is wrong with the files that do not check, by file."""
    default: str = ""
    """The name of the default flow; empty if its file does not check."""


@dataclass(frozen=True, slots=True)
class _Entry:
    flow: str
    named: bool
    """Whether the user asked for it; else it comes along because it is shipped."""


def read_flows(default: str, further: Iterable[str] | None, env: Mapping[str, str]) -> FlowFiles:
    """Read the flows that are to be served. A file that was not asked for and does not check is left out.

    Args:
        default: a shipped flow's name or a file.
        further: shipped flows, files and folders of files; None for every shipped flow.
        env: where `${NAME}` is looked up.
    """
    found = FlowFiles()
    for place, entry in enumerate(_entries(default, further)):
        try:
            _check_spelling(entry.flow)
            file, text = read_text(entry.flow)
            flow = parse_flow(text, file, env)
            _check_name(found, flow, text, file)
        except FlowError as error:
            _refuse(found, entry, error)
            continue
        found.flows[flow.flow] = FlowFile(flow, text, file)
        if place == 0:
            found.default = flow.flow
    return found


def must_check(files: Callable[[], FlowFiles]) -> FlowFiles:
    """Return the files.

    Raises:
        FlowError: with all that is wrong, if one that was asked for does not check.
    """
    found = files()
    if found.refused:
        raise FlowError([problem for error in found.refused.values() for problem in error.problems])
    return found


def _entries(default: str, further: Iterable[str] | None) -> Iterator[_Entry]:
    named = [default, *(file for entry in further or () for file in _files_of(entry))]
    unnamed = shipped_flows() if further is None else []
    seen: set[object] = set()
    for at, flow in enumerate([*named, *unnamed]):
        this = flow if flow in shipped_flows() else Path(flow).resolve()
        if this not in seen:
            seen.add(this)
            yield _Entry(flow, at < len(named))


def _files_of(entry: str) -> list[str]:
    if entry in shipped_flows() or not Path(entry).is_dir():
        return [entry]
    return sorted(str(file) for file in Path(entry).iterdir() if file.suffix in _ENDINGS)


def _check_spelling(file: str) -> None:
    """Raise `FlowError` if a file has a name that nothing can be kept, logged or answered with."""
    if not is_text(file):
        shown = file.encode("utf-8", "replace").decode()
        raise FlowError([Problem(shown, 1, "the file's name is not UTF-8; rename it")])


def _check_name(found: FlowFiles, flow: Flow, text: str, file: str) -> None:
    """Raise `FlowError` if another file has a flow of that name."""
    other = found.flows.get(flow.flow)
    if other is not None:
        match = _NAMED.search(text)
        line = text.count("\n", 0, match.start()) + 1 if match else 1
        message = f"a flow named {flow.flow!r} is in {other.file} already; rename one of them, or leave one out"
        raise FlowError([Problem(file, line, message)])


def _refuse(found: FlowFiles, entry: _Entry, error: FlowError) -> None:
    if entry.named:
        found.refused[error.problems[0].file] = error
    else:
        log.warning("shipped flow left out", flow=entry.flow, reason=str(error))
