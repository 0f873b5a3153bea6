"""YAML to Flow: `${ENV:-default}` filled in, unknown keys refused, and every error with file, line and remedy."""

import difflib
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from graph.checks import problems_of
from graph.document import LARGEST, TOO_LARGE, Document, Place, Unreadable, is_text, read_document
from graph.flow import Flow
from graph.keys import known_keys, place_of

_VARIABLE = re.compile(r"(\$?)\$\{(?:([A-Za-z_][A-Za-z0-9_]*)(?::-([^{}]*))?\})?")
"""`${NAME}` or `${NAME:-default}`; a second `$` before it keeps it as it is."""
_CREDENTIALS = re.compile(r"//[^/\s]*@")
_SHIPPED = resources.files("graph") / "flows"
_WANTED = {
    "int_type": "write a whole number of at most 15 digits",
    "int_from_float": "write a whole number",
    "float_type": "write a number",
    "bool_type": "write true or false",
    "string_type": "write text, in quotes if it looks like something else",
    "dict_type": "write `name: …` lines below it",
    "list_type": "write a list: [one, two]",
    "model_type": "write `key: …` lines below it",
    "string_pattern_mismatch": "use letters, digits, - and _, starting with a letter, at most 64",
    "too_short": "name at least one",
}
"""What to write, by the kind of pydantic's complaint, where its own words do not say so."""
_LIMITS = {
    "string_too_long": "has more than {max_length} characters; shorten it",
    "too_long": "has more than {max_length} entries; remove some, or make two flows of it",
}
_MOST_TOLD = 50
_LONGEST_TOLD = 1_000


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
        flow: a shipped flow's name (`"call"`), a path to a YAML file, or a flow loaded or made in Python.
        env: where `${NAME}` is looked up; the process's environment by default.

    Raises:
        FlowError: if there is no such flow or it does not check.
    """
    if isinstance(flow, Flow):
        return flow if flow.digest else _made_here(flow)
    name, text = read_text(flow)
    return parse_flow(text, name, os.environ if env is None else env)


def parse_flow(text: str, file: str, env: Mapping[str, str]) -> Flow:
    """Return the checked flow that `text` holds; `file` names it in errors.

    Raises:
        FlowError: with what is wrong, the first 50 of it.
    """
    try:
        document = read_document(text)
    except Unreadable as error:
        raise FlowError(_problems(file, error.found)) from error
    if not isinstance(document.value, dict):
        raise FlowError([Problem(file, 1, "a flow is a mapping; start with `flow: NAME`")])
    flow, found = _flow_of(document, env)
    if flow is None or found:
        raise FlowError(_problems(file, [(document.line(place), message) for place, message in found]))
    return flow.with_digest(_digest(document.value))


def _problems(file: str, found: Sequence[tuple[int, str]]) -> list[Problem]:
    """Return what was found in the order of the file, as much of it as a person reads."""
    problems = [Problem(file, line, _shortened(message)) for line, message in sorted(found, key=lambda one: one[0])]
    more = problems[_MOST_TOLD:]
    if more:
        problems[_MOST_TOLD:] = [Problem(file, more[0].line, f"and {len(more)} more; mend these first")]
    return problems


def _shortened(message: str) -> str:
    """Return a message with its middle left out if it is long: how it begins and the remedy remain."""
    left = _LONGEST_TOLD // 2
    return message if len(message) <= _LONGEST_TOLD else f"{message[:left]} … {message[-left:]}"


def _flow_of(document: Document, env: Mapping[str, str]) -> tuple[Flow | None, list[tuple[Place, str]]]:
    """Return the flow that the document describes, as far as it does, and all that is wrong with it."""
    filled, unset = _fill(document.value, env)
    try:
        flow = Flow.model_validate(filled, strict=True)
    except ValidationError as error:
        places = {place for place, _ in unset}
        return None, unset + [found for found in _translated(error) if found[0] not in places]
    return flow, unset or problems_of(flow)


def _made_here(flow: Flow) -> Flow:
    """Check a flow that comes from no file, and know it by what it says."""
    found = problems_of(flow)
    if found:
        raise FlowError([Problem(f"flow {flow.flow!r}", 1, message) for _, message in found])
    return flow.with_digest(_digest(flow.model_dump(mode="json")))


def _digest(value: Any) -> str:
    """Hash what the file says, in its order: the order of the stages is the way of a call."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


def read_text(flow: str | Path) -> tuple[str, str]:
    """Return the name by which errors call a flow's file, and its text; raises `FlowError` if it cannot be read."""
    shipped = _SHIPPED / f"{flow}.yaml"
    if isinstance(flow, str) and re.fullmatch(r"[A-Za-z0-9_-]+", flow) and shipped.is_file():
        return f"{flow}.yaml", shipped.read_text(encoding="utf-8")
    try:
        with Path(flow).open("rb") as file:
            content = file.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise FlowError([Problem(str(flow), 1, TOO_LARGE)])
        return str(flow), content.decode()
    except UnicodeDecodeError as error:
        raise FlowError([Problem(str(flow), 1, "cannot be read: it is not UTF-8; save it as UTF-8")]) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        remedy = f"name a YAML file or a shipped flow ({', '.join(shipped_flows())})"
        raise FlowError([Problem(str(flow), 1, f"cannot be read: {reason}; {remedy}")]) from error


def _fill(value: Any, env: Mapping[str, str], place: Place = ()) -> tuple[Any, list[tuple[Place, str]]]:
    """Put the environment into every text, and tell where that is not possible."""
    if isinstance(value, str):
        return _filled(value, env, place)
    if isinstance(value, dict):
        children = {key: _fill(child, env, (*place, key)) for key, child in value.items()}
        return {key: new for key, (new, _) in children.items()}, [
            one for _, found in children.values() for one in found
        ]
    if isinstance(value, list):
        items = [_fill(child, env, (*place, index)) for index, child in enumerate(value)]
        return [new for new, _ in items], [one for _, found in items for one in found]
    return value, []


def _filled(text: str, env: Mapping[str, str], place: Place) -> tuple[str, list[tuple[Place, str]]]:
    wrong: list[tuple[Place, str]] = []

    def variable(match: re.Match[str]) -> str:
        escape, name, default = match.groups()
        if escape:
            return match[0][1:]
        found = (env.get(name) or default) if name else None
        if found is None:
            wrong.append((place, _unset(name) if name else _NOT_A_VARIABLE))
        elif not is_text(found):
            wrong.append((place, f"{name} is not UTF-8; set it to text"))
        return found or ""

    return _VARIABLE.sub(variable, text), list(dict.fromkeys(wrong))


_NOT_A_VARIABLE = "`${` does not begin a variable; write ${NAME} or ${NAME:-default}, or $${ for the signs themselves"


def _unset(name: str) -> str:
    return f"{name} is not set; set it, or give a default: ${{{name}:-…}}"


def _translated(error: ValidationError) -> Iterator[tuple[Place, str]]:
    for detail in error.errors(include_url=False):
        place = place_of(detail["loc"])
        if not _of_another_form(place, detail):
            yield place, _CREDENTIALS.sub("//…@", _explained(place, detail))


def _of_another_form(place: Place, detail: Any) -> bool:
    """Tell whether pydantic complains that a list is no name, or a name no list, where both may stand."""
    tried = str(detail["loc"][-1])
    if tried == "[key]" or place[-1:] == detail["loc"][-1:]:
        return False
    return tried.startswith("list") != isinstance(detail["input"], list)


def _explained(place: Place, detail: Any) -> str:
    where = ".".join(map(str, place))
    if detail["type"] == "extra_forbidden":
        known = known_keys(place)
        close = difflib.get_close_matches(str(place[-1]), known, n=1)
        remedy = f"did you mean {close[0]!r}?" if close else f"known here: {', '.join(known)}"
        return f"unknown key {where!r}; {remedy}"
    if detail["type"] == "missing":
        return f"{where!r} is missing; add it"
    if "[key]" in detail["loc"]:
        return f"{place[-1]!r} is not a name; {_WANTED['string_pattern_mismatch']}"
    if detail["type"] in _WANTED:
        return f"{where!r} cannot be {_shown(detail['input'])}; {_WANTED[detail['type']]}"
    if detail["type"] in _LIMITS:
        return f"{where!r} {_LIMITS[detail['type']].format(**detail['ctx'])}"
    message = detail["msg"].removeprefix("Value error, ")
    remedy = "" if message.startswith("Input should") or ";" in message else "; correct it"
    return f"{where!r}: {message}{remedy}"


def _shown(value: Any) -> str:
    kinds = {dict: "a mapping" if value else "empty", list: "a list", type(None): "empty", bool: str(value).lower()}
    return kinds.get(type(value)) or repr(value if len(str(value)) <= 60 else f"{str(value)[:60]}…")
