"""What an expression may cost: told by its text when the flow is read, and by what it reads when it is worked out.

CEL ends always, but macros within macros multiply, `map` copies its result with every item, and a counted repetition
in a pattern is written out: without bounds a short text takes all time, or all memory, and nothing can interrupt it.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any

LONGEST = 2_000
"""Characters that an expression may have. A sum of some ten thousand overflows the stack of CEL's library, which
ends the process."""

_DEEPEST = 50
_MOST_MACROS = 3
_LONGEST_PATTERN = 200
_MOST_REPETITIONS = 100
_MOST_WORK = 20_000_000
"""Values looked at or copied: about two seconds."""
_MOST_BYTES = 50_000_000
_FEW_SUMS = 20

_TOKEN = re.compile(
    r"""(?P<text> [bB]?[rR][bB]?(?:\"{3}.*?\"{3}|'{3}.*?'{3}|"[^"]*"|'[^']*')
             | [bB]?(?:\"{3}(?:\\.|.)*?\"{3}|'{3}(?:\\.|.)*?'{3}|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'))
      | (?P<comment> //[^\n]*)
      | (?P<name> [A-Za-z_]\w*)
      | (?P<sign> \S)""",
    re.VERBOSE | re.DOTALL,
)
_MACROS = {"all", "exists", "exists_one", "existsOne", "map", "filter"}
_BUILDING = {"map", "filter"}
_REPETITION = re.compile(r"\{\s*(\d+)?\s*(?:,\s*(\d+)?\s*)?\}")

Token = tuple[str, str]
"""Its kind, and what it says."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What the text of an expression tells of its cost."""

    macros: tuple[str, ...]
    nested: int
    """How many macros stand within one another at most."""
    depth: int
    """How many brackets do."""
    sums: int
    joins: int
    """The sums that join texts: a text literal stands beside the plus."""
    items: int
    """How long a list is at most that the expression writes out."""
    names: frozenset[str]
    patterns: tuple[str | None, ...]
    """What `matches` is given, as written; None where that is no literal."""


def check_cost(text: str) -> None:
    """Raise `ValueError` if the expression may cost more than any may; its text compiles."""
    shape = shape_of(text)
    if len(shape.macros) > _MOST_MACROS:
        told = f"uses {len(shape.macros)} of all, exists, map and filter; at most {_MOST_MACROS} in one expression"
        raise ValueError(f"{text!r} {told}, let a stage's `output` keep what lies between")
    for pattern in shape.patterns:
        _check_pattern(text, pattern)


def check_size(text: str) -> None:
    """Raise `ValueError` if the expression is too long, or nested too deep, to be compiled."""
    if len(text) > LONGEST:
        raise ValueError(f"an expression has {len(text)} characters, at most {LONGEST} are read; shorten it")
    if shape_of(text).depth > _DEEPEST:
        raise ValueError(f"{text!r} is nested more than {_DEEPEST} brackets deep; flatten it")


def check_work(text: str, known: Mapping[str, Any]) -> None:
    """Raise `ValueError` if the expression would cost too much over what it reads of all that is known.

    Each sum may double what a macro goes over, or what it makes.
    """
    shape = shape_of(text)
    if not shape.macros and shape.sums <= _FEW_SUMS:
        return
    longest, count, size = _measured(known[name] for name in shape.names & known.keys())
    longest, count, size = max(longest, shape.items), count + shape.items, size + len(text)
    macros = max(len(shape.macros), 1)
    grown = ((shape.sums - shape.joins) / macros + 1) ** macros
    each = count * grown if _BUILDING & set(shape.macros) else 10.0
    too_large = size * (shape.sums / macros + 1) ** macros > _MOST_BYTES
    if too_large or (longest * grown) ** shape.nested * each > _MOST_WORK:
        raise ValueError(f"it goes over {longest} items, too many for it; use a `map` stage, or ask for fewer")


@lru_cache(maxsize=10_000)
def shape_of(text: str) -> Shape:
    """Return what the text tells."""
    tokens = [(str(found.lastgroup), found[0]) for found in _TOKEN.finditer(text) if found.lastgroup != "comment"]
    opened = list(_opened(tokens))
    sums = [place for place, (_, said) in enumerate(tokens) if said == "+"]
    joins = [at for at in sums if "text" in (tokens[at - 1][0], tokens[min(at + 1, len(tokens) - 1)][0])]
    return Shape(
        macros=tuple(name for name, _, _ in opened if name in _MACROS),
        nested=max((macros for _, macros, _ in opened), default=0),
        depth=max((depth for _, _, depth in opened), default=0),
        sums=len(sums),
        joins=len(joins),
        items=1 + sum(said == "," for _, said in tokens),
        names=frozenset(said for kind, said in tokens if kind == "name"),
        patterns=tuple(_patterns(tokens)),
    )


def _opened(tokens: list[Token]) -> Iterator[tuple[str, int, int]]:
    """Yield for each opened bracket: the function it belongs to, and the macros and brackets open at it."""
    stack: list[str] = []
    for place, (kind, said) in enumerate(tokens):
        if kind == "sign" and said in "([{":
            called = place >= 2 and said == "(" and tokens[place - 2][1] == "."
            stack.append(tokens[place - 1][1] if called else "")
            yield stack[-1], sum(name in _MACROS for name in stack), len(stack)
        elif kind == "sign" and said in ")]}" and stack:
            stack.pop()


def _patterns(tokens: list[Token]) -> Iterator[str | None]:
    for place, (kind, said) in enumerate(tokens):
        if (kind, said) == ("name", "matches") and tokens[place + 1 : place + 2] == [("sign", "(")]:
            given = tokens[place + 2 : place + 4]
            literal = len(given) == 2 and given[0][0] == "text" and given[1] == ("sign", ")")
            yield given[0][1] if literal else None


def _check_pattern(text: str, pattern: str | None) -> None:
    if pattern is None:
        raise ValueError(f"{text!r} works out its pattern; write x.matches('pattern') with the pattern itself")
    counts = [int(most or least or 1) for least, most in _REPETITION.findall(pattern)]
    if len(pattern) > _LONGEST_PATTERN or prod(counts) > _MOST_REPETITIONS:
        told = f"at most {_LONGEST_PATTERN} characters and {_MOST_REPETITIONS} counted repetitions"
        raise ValueError(f"{text!r} has a pattern that may take too long; {told} are read, write a simpler one")


def _measured(values: Iterable[Any]) -> tuple[int, int, int]:
    """Return how long the longest list or mapping in the values is, how many values there are, and their size."""
    longest = count = size = 0
    waiting = list(values)
    while waiting:
        value = waiting.pop()
        count += 1
        size += len(value) if isinstance(value, str) else 8
        if isinstance(value, dict | list):
            longest = max(longest, len(value))
            waiting += value.values() if isinstance(value, dict) else value
    return longest, count, size
