"""Conditions and expressions of a flow: CEL, compiled once, worked out over what a run knows.

https://github.com/google/cel-spec has the language. Nothing in one can call Python, loop without end or reach outside
the values it is given.
"""

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated, Any

import cel
from pydantic import AfterValidator, Field

from nodes.costs import LONGEST, check_cost, check_size, check_work, shape_of

_TRUE_OR_FALSE = {
    *("_==_", "_!=_", "_<_", "_<=_", "_>_", "_>=_", "_&&_", "_||_", "!_", "@in", "@not_strictly_false"),
    *("contains", "startsWith", "endsWith", "matches", "bool"),
}
_ANYTHING = {"_?_:_", "_[_]"}
_OTHERS = {
    *("_+_", "_-_", "_*_", "_/_", "_%_", "-_"),
    *("size", "int", "uint", "double", "string", "bytes", "duration", "timestamp", "type", "dyn"),
    *("getFullYear", "getMonth", "getDate", "getDayOfMonth", "getDayOfWeek", "getDayOfYear"),
    *("getHours", "getMinutes", "getSeconds", "getMilliseconds"),
}
_FOR_AUTHORS = ("size", "contains", "startsWith", "endsWith", "matches", "int", "double", "string", "all", "exists")
_FUNCTIONS = _TRUE_OR_FALSE | _ANYTHING | _OTHERS
_NOT_THERE = object()
_PATH = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*")
_HOLE = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)
_PLACE = re.compile(r"<input>:1:(\d+): (?:Syntax error: )?(.*)")
_UNDEFINED = re.compile(r"Undefined variable or function: '(.*?)'")


class ExpressionFailed(ValueError):
    """An expression that could not be worked out, or a condition that was neither true nor false; in words for the
    flow's author. Such a condition never counts as false."""


def check_condition(text: str) -> str:
    """Return the text if it is a condition.

    Raises:
        ValueError: if it does not compile, or can never be true or false.
    """
    check_expression(text)
    program = _compiled(text)
    functions = set(program.functions())
    if functions and not functions & (_TRUE_OR_FALSE | _ANYTHING):
        raise ValueError(f"{text!r} cannot be true or false; compare it with something")
    if not program.variables():
        holds(text, {})
    return text


def check_expression(text: str) -> str:
    """Return the text if it is an expression; raises `ValueError` if it does not compile, or may cost too much."""
    check_size(text)
    unknown = sorted(set(_compiled(text).functions()) - _FUNCTIONS)
    if unknown:
        raise ValueError(f"{text!r} calls {unknown[0]!r}, which CEL does not have; it has {', '.join(_FOR_AUTHORS)}")
    check_cost(text)
    _check_patterns(text)
    return text


def names_in(text: str) -> frozenset[str]:
    """Return the names that an expression reads, those that its own macros bind aside."""
    bound = re.findall(r"\.(?:all|exists|exists_one|map|filter)\(\s*([A-Za-z_]\w*)\s*,", text)
    return frozenset(_compiled(text).variables()) - frozenset(bound)


def holds(text: str, known: Mapping[str, Any]) -> bool:
    """Tell whether a condition is true of what is known; raises `ExpressionFailed`."""
    value = value_of(text, known)
    if not isinstance(value, bool):
        raise ExpressionFailed(f"{text!r} is {type(value).__name__}, not true or false; compare it with something")
    return value


def value_of(text: str, known: Mapping[str, Any]) -> Any:
    """Return what an expression is worth, JSON-native; raises `ExpressionFailed`."""
    if _PATH.fullmatch(text):
        found = _at(text, known)  # as it lies there: CEL's library loses the order of keys
        if found is not _NOT_THERE:
            return found
    try:
        check_work(text, known)
        return _compiled(text).execute(dict(known))
    except (RuntimeError, TypeError, ValueError, LookupError, ArithmeticError) as error:
        raise ExpressionFailed(f"{text!r} cannot be worked out: {_why(error)}") from error


def _at(path: str, known: Any) -> Any:
    """Return what a name, or a path of fields, stands for; `_NOT_THERE` where CEL is to say what is wrong."""
    for name in path.split("."):
        if not isinstance(known, Mapping) or name not in known:
            return _NOT_THERE
        known = known[name]
    return known


def check_template(text: str) -> str:
    """Return the text if every `{{ … }}` in it holds an expression; raises `ValueError` if one does not."""
    if "{{" in text.rpartition("}}")[2]:
        raise ValueError("a `{{` is not closed; close it with `}}`")
    for hole in holes_in(text):
        check_expression(hole)
    return text


def holes_in(text: str) -> list[str]:
    """Return the expressions in a template's `{{ … }}`."""
    return [hole.strip() for hole in _HOLE.findall(text)]


def filled(text: str, known: Mapping[str, Any]) -> str:
    """Return a template with its expressions worked out: texts as they are, null as nothing, the rest as JSON.

    Raises:
        ExpressionFailed: if one cannot be worked out.
    """
    return _HOLE.sub(lambda hole: _told(value_of(hole[1].strip(), known)), text)


def _told(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


Condition = Annotated[str, Field(max_length=LONGEST), AfterValidator(check_condition)]
"""A condition as a flow's file writes it."""
Expression = Annotated[str, Field(max_length=LONGEST), AfterValidator(check_expression)]
"""An expression as a flow's file writes it."""
Template = Annotated[str, Field(max_length=20_000), AfterValidator(check_template)]
"""A text with expressions in it, as a flow's file writes it."""


def _check_patterns(text: str) -> None:
    for pattern in shape_of(text).patterns:
        try:
            cel.compile(f"''.matches({pattern})").execute({})
        except RuntimeError as error:
            why = str(error).partition("\nerror: ")[2].partition(". Check ")[0] or "it is too large"
            raise ValueError(f"the pattern {pattern} in {text!r} cannot be read: {why}; correct it") from error


@lru_cache(maxsize=10_000)
def _compiled(text: str) -> cel.Program:
    try:
        return cel.compile(text)
    except ValueError as error:
        found = _PLACE.search(str(error))
        where = f" at character {found[1]}: {_plain(found[2])}" if found else ""
        raise ValueError(f"{text!r} is no CEL expression{where}") from error


def _plain(complaint: str) -> str:
    if "<EOF>' expecting" in complaint:
        return "it breaks off"
    if "Recursion limit" in complaint:
        return "it is nested too deep"
    return complaint.partition(" expecting ")[0]


def _why(error: Exception) -> str:
    missing = _UNDEFINED.search(str(error))
    if missing:
        return f"nothing is known of {missing[1]!r} yet"
    return str(error).partition(". CEL")[0].partition(": the operation")[0] or type(error).__name__
