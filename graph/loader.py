"""YAML to Flow: `${ENV:-default}` filled in, unknown keys refused, and every error with file, line and remedy."""

import difflib
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from graph.checks import problems_of
from graph.flow import Flow
from nodes.spec import Agent, Stage

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")
_SHIPPED = resources.files("graph") / "flows"

Place = tuple[str | int, ...]
"""Where in the document something stands: keys and indices from the top."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a flow."""

    file: str
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.message}"


class FlowError(Exception):
    """A flow that cannot be run.

    Attributes:
        problems: everything found wrong, in the order of the file.
    """

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


def shipped_flows() -> list[str]:
    """Return the names of the flows that come with the package."""
    return sorted(entry.name.removesuffix(".yaml") for entry in _SHIPPED.iterdir() if entry.name.endswith(".yaml"))


def load_flow(flow: str | Path | Flow, env: Mapping[str, str] | None = None) -> Flow:
    """Return a checked flow.

    Args:
        flow: a shipped flow's name (`"call"`), a path to a YAML file, or a flow already loaded.
        env: where `${NAME}` is looked up; the process's environment by default.

    Raises:
        FlowError: if there is no such flow or it does not check.
    """
    if isinstance(flow, Flow):
        return flow
    name, text = _read(flow)
    return parse_flow(text, name, os.environ if env is None else env)


def parse_flow(text: str, file: str, env: Mapping[str, str]) -> Flow:
    """Return the checked flow that `text` holds; `file` names it in errors.

    Raises:
        FlowError: with every problem found.
    """
    root = _compose(text, file)
    lines = dict(_lines(root, ()))
    document = _plain(root)
    if not isinstance(document, dict):
        raise FlowError([Problem(file, 1, "a flow is a mapping; start with `flow: NAME`")])
    digest = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:16]
    filled, missing = _fill(document, env)
    if missing:
        raise FlowError([Problem(file, _line(lines, place), message) for place, message in missing])
    try:
        flow = Flow.model_validate(filled).with_digest(digest)
    except ValidationError as error:
        raise FlowError(list(_translated(error, file, lines))) from error
    found = [Problem(file, _line(lines, place), message) for place, message in problems_of(flow)]
    if found:
        raise FlowError(sorted(found, key=lambda problem: problem.line))
    return flow


def _read(flow: str | Path) -> tuple[str, str]:
    shipped = _SHIPPED / f"{flow}.yaml"
    if isinstance(flow, str) and re.fullmatch(r"[A-Za-z0-9_-]+", flow) and shipped.is_file():
        return f"{flow}.yaml", shipped.read_text(encoding="utf-8")
    try:
        return str(flow), Path(flow).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        remedy = f"name a YAML file or a shipped flow ({', '.join(shipped_flows())})"
        raise FlowError([Problem(str(flow), 1, f"cannot be read: {reason}; {remedy}")]) from error


class _Loader(yaml.SafeLoader):
    """YAML 1.2's plain words: `on`, `yes` and `12:30` are text, as a reader expects."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag.endswith((":null", ":merge"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|false)$"), list("tf"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^-?(?:0|[1-9][0-9]*)$"), list("-0123456789"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"^-?[0-9]+\.[0-9]+$"), list("-0123456789"))


def _compose(text: str, file: str) -> yaml.Node:
    try:
        root = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise FlowError([Problem(file, line, f"not YAML: {error.problem}; check indentation and quotes")]) from error
    except yaml.YAMLError as error:
        raise FlowError([Problem(file, 1, f"not YAML: {error}")]) from error
    if root is None:
        raise FlowError([Problem(file, 1, "the file is empty; start with `flow: NAME`")])
    duplicates = [Problem(file, line, message) for line, message in _duplicates(root)]
    if duplicates:
        raise FlowError(duplicates)
    return root


def _plain(root: yaml.Node) -> Any:
    loader = _Loader("")
    try:
        return loader.construct_document(root)
    finally:
        loader.dispose()


def _duplicates(node: yaml.Node) -> Iterator[tuple[int, str]]:
    """Find keys written twice: YAML would silently keep the last."""
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if key.value in seen:
                yield line, f"{key.value!r} is written twice (first on line {seen[key.value]}); remove one"
            seen.setdefault(key.value, line)
            yield from _duplicates(value)
    elif isinstance(node, yaml.SequenceNode):
        for child in node.value:
            yield from _duplicates(child)


def _lines(node: yaml.Node, place: Place) -> Iterator[tuple[Place, int]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield (*place, key.value), key.start_mark.line + 1
            yield from _lines(value, (*place, key.value))
    elif isinstance(node, yaml.SequenceNode):
        for index, child in enumerate(node.value):
            yield (*place, index), child.start_mark.line + 1
            yield from _lines(child, (*place, index))


def _line(lines: Mapping[Place, int], place: Place) -> int:
    """Return the line of `place`, or of the nearest thing around it."""
    while place and place not in lines:
        place = place[:-1]
    return lines.get(place, 1)


def _fill(value: Any, env: Mapping[str, str], place: Place = ()) -> tuple[Any, list[tuple[Place, str]]]:
    """Put the environment into every text, and tell which variables are missing."""
    missing: list[tuple[Place, str]] = []

    def variable(match: re.Match[str]) -> str:
        found = env.get(match[1]) or match[2]
        if found is None:
            missing.append((place, f"{match[1]} is not set; set it, or give a default: ${{{match[1]}:-…}}"))
        return found or ""

    if isinstance(value, str):
        return _VARIABLE.sub(variable, value), missing
    if isinstance(value, dict):
        filled = {key: _fill(child, env, (*place, key)) for key, child in value.items()}
        return {key: new for key, (new, _) in filled.items()}, [m for _, found in filled.values() for m in found]
    if isinstance(value, list):
        items = [_fill(child, env, (*place, index)) for index, child in enumerate(value)]
        return [new for new, _ in items], [m for _, found in items for m in found]
    return value, missing


def _translated(error: ValidationError, file: str, lines: Mapping[Place, int]) -> Iterator[Problem]:
    for detail in sorted(error.errors(), key=lambda detail: _line(lines, detail["loc"])):
        place: Place = tuple(part for part in detail["loc"] if part != "[key]")
        yield Problem(file, _line(lines, place), _explained(place, detail))


def _explained(place: Place, detail: Any) -> str:
    where = ".".join(map(str, place))
    if detail["type"] == "extra_forbidden":
        known = _known_keys(place)
        close = difflib.get_close_matches(str(place[-1]), known, n=1)
        remedy = f"did you mean {close[0]!r}?" if close else f"known here: {', '.join(known)}"
        return f"unknown key {where!r}; {remedy}"
    if detail["type"] == "missing":
        return f"{where!r} is missing; add it"
    if "[key]" in detail["loc"]:
        return f"{place[-1]!r} is not a name; use letters, digits, - and _, starting with a letter"
    return f"{where!r}: {detail['msg'].removeprefix('Value error, ')}"


def _known_keys(place: Place) -> list[str]:
    model: type[BaseModel] = Flow
    if len(place) > 2:
        inner: dict[str, type[BaseModel]] = {"agents": Agent, "stages": Stage}
        model = inner.get(str(place[0]), Flow)
    return list(model.model_fields)
