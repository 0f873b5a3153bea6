"""Conditions of workflow documents, in CEL: `content_sentiment == positive and (score > 0.5 or not vip)`.

A word that is no name of the workflow is text, unless it stands where only a name makes sense: alone, or to the left
of what it is compared with. Nothing here is ever run as Python.

    text  -- parse -->  Node  -- names_read -->  the names it reads  -- to_cel -->  CEL
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NoReturn, TypeAlias

_DEEPEST = 30
_LARGEST = 2**63
_TOKEN = re.compile(
    r"""\s*(?:
      (?P<number>-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?(?![\w.]))
    | (?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
    | (?P<word>[^\W\d][\w-]*(?:\.[\w-]+)*)
    | (?P<sign>==|!=|<=|>=|&&|\|\||[<>!()\[\],])
    | (?P<end>$)
    )""",
    re.VERBOSE,
)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r"}
_MEANT = {"&&": "and", "||": "or", "!": "not"}
_COMPARISONS = ("==", "!=", "<", "<=", ">", ">=")
_KEYWORDS = ("and", "or", "not", "in")
_CONSTANTS = {"true": "true", "false": "false", "null": "null", "none": "null"}
_REMEDIES = {
    "=": "write == to compare",
    "{": "write names without braces",
    "$": "write names without signs around them",
    "'": "close the quotation",
    '"': "close the quotation",
    "+": "conditions compare, they do not calculate",
    "*": "conditions compare, they do not calculate",
    "/": "conditions compare, they do not calculate",
    "&": "write `and`, or &&",
    "|": "write `or`, or ||",
}


class NoCondition(ValueError):
    """A text that is no condition; says at which character, counted from 1."""


@dataclass(frozen=True, slots=True)
class Word:
    """A name, or text; which of the two depends on the workflow."""

    text: str


@dataclass(frozen=True, slots=True)
class Literal:
    """Something that stands for itself, in CEL."""

    cel: str


@dataclass(frozen=True, slots=True)
class Several:
    """A list."""

    items: "tuple[Node, ...]"


@dataclass(frozen=True, slots=True)
class Not:
    """The opposite."""

    of: "Node"


@dataclass(frozen=True, slots=True)
class Joined:
    """Conditions joined by `and` or `or`."""

    sign: str
    parts: "tuple[Node, ...]"


@dataclass(frozen=True, slots=True)
class Compared:
    """Two things compared."""

    sign: str
    left: "Node"
    right: "Node"


Node: TypeAlias = Word | Literal | Several | Not | Joined | Compared


def parse(text: str) -> Node:
    """Read a condition; raises `NoCondition`."""
    reader = _Reader(text)
    node = reader.either()
    reader.expect("end", "write `and` or `or` between two conditions")
    if isinstance(node, Literal | Several) and node != Literal("true") and node != Literal("false"):
        raise NoCondition(f"{text!r} cannot be true or false; compare it with something")
    return node


def names_read(node: Node, known: Callable[[str], bool]) -> Iterator[str]:
    """Yield the words of a condition that are names: those known to be, and those where text makes no sense."""
    match node:
        case Word(text):
            yield text
        case Not(of):
            yield from names_read(of, known)
        case Joined(_, parts):
            for part in parts:
                yield from names_read(part, known)
        case Several(items):
            for item in items:
                yield from _if_known(item, known)
        case Compared(sign, left, right):
            yield from _compared(sign, left, right, known)


def _compared(sign: str, left: Node, right: Node, known: Callable[[str], bool]) -> Iterator[str]:
    """Of two words one at least is a name: the one that is known, else the left one, or the one that is a list."""
    names_right = sign == "in" or not isinstance(left, Word)
    names_left = not isinstance(right, Word) or not (sign == "in" or known(right.text))
    yield from names_read(left, known) if names_left else _if_known(left, known)
    yield from names_read(right, known) if names_right else _if_known(right, known)


def _if_known(node: Node, known: Callable[[str], bool]) -> Iterator[str]:
    if not isinstance(node, Word) or known(node.text):
        yield from names_read(node, known)


def to_cel(node: Node, name: Callable[[str], str | None]) -> str:
    """Return a condition in CEL.

    Args:
        node: the condition.
        name: what a word reads, in CEL; None if it is text.
    """
    match node:
        case Word(text):
            return name(text) or quoted(text)
        case Literal(cel):
            return cel
        case Several(items):
            return f"[{', '.join(to_cel(item, name) for item in items)}]"
        case Not(of):
            return f"!{_in_parentheses(of, name)}"
        case Joined(sign, parts):
            return f" {sign} ".join(_in_parentheses(part, name) for part in parts)
        case Compared(sign, left, right):
            return f"{_in_parentheses(left, name)} {sign} {_in_parentheses(right, name)}"


def quoted(text: str) -> str:
    """Return a text as CEL writes it."""
    return json.dumps(text, ensure_ascii=False)


def _in_parentheses(node: Node, name: Callable[[str], str | None]) -> str:
    cel = to_cel(node, name)
    return cel if isinstance(node, Word | Literal | Several) else f"({cel})"


class _Reader:
    """Reads a condition from left to right, one token ahead."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._end = 0
        self._depth = 0
        self._next()

    def either(self) -> Node:
        return self._joined("or", "||", self._both)

    def expect(self, kind: str, remedy: str) -> None:
        if kind not in (self._kind, self._said if self._kind == "sign" else None):
            self._fail(remedy)
        self._next()

    def _both(self) -> Node:
        return self._joined("and", "&&", self._maybe_not)

    def _joined(self, word: str, sign: str, read: Callable[[], Node]) -> Node:
        parts = [read()]
        while self._is(word):
            self._next()
            parts.append(read())
        return parts[0] if len(parts) == 1 else Joined(sign, tuple(parts))

    def _maybe_not(self) -> Node:
        opposite = False
        while self._is("not"):
            opposite = not opposite
            self._next()
        node = self._comparison()
        return Not(node) if opposite else node

    def _comparison(self) -> Node:
        left = self._operand()
        sign, opposite = self._comparing()
        if sign is None:
            return left
        node = Compared(sign, left, self._operand())
        if self._is("in") or self._said in _COMPARISONS:
            self._fail("compare two at a time, and join them by `and`")
        return Not(node) if opposite else node

    def _comparing(self) -> tuple[str | None, bool]:
        """Return the comparison that comes next, if one does, and whether its opposite is meant."""
        if self._kind == "sign" and self._said in _COMPARISONS:
            return self._taken(), False
        if self._is("in"):
            return self._taken(), False
        if self._kind == "word" and self._is("not"):
            self._next()
            if not self._is("in"):
                self._fail("`not` stands before a condition, or before `in`")
            return self._taken(), True
        return None, False

    def _operand(self) -> Node:
        kind, said = self._kind, self._said
        if kind == "number":
            return Literal(self._number(said))
        if kind == "text":
            self._next()
            return Literal(quoted(_ESCAPE.sub(lambda match: _ESCAPES.get(match[1], match[1]), said[1:-1])))
        if kind == "word" and said.lower() not in _KEYWORDS:
            self._next()
            if self._kind == "sign" and self._said == "(":
                self._fail("a condition calls no functions; compare what the steps put out")
            return Literal(_CONSTANTS[said.lower()]) if said.lower() in _CONSTANTS else Word(said)
        if kind == "sign" and said in ("(", "["):
            return self._enclosed(said)
        return self._fail("write a name, a number or a text there" if kind != "end" else "it breaks off there")

    def _enclosed(self, said: str) -> Node:
        self._depth += 1
        if self._depth > _DEEPEST:
            self._fail(f"it is nested too deeply; {_DEEPEST} levels at most")
        self._next()
        node = self._list() if said == "[" else self.either()
        self.expect("]" if said == "[" else ")", f"close the {said} before it")
        self._depth -= 1
        return node

    def _list(self) -> Node:
        items: list[Node] = []
        while not (self._kind == "sign" and self._said == "]"):
            items.append(self._operand())
            if not (self._kind == "sign" and self._said == ","):
                break
            self._next()
        return Several(tuple(items))

    def _number(self, said: str) -> str:
        if said.lstrip("-").isdigit() and not -_LARGEST <= int(said) < _LARGEST:
            self._fail("whole numbers have 18 digits at most")
        self._next()
        return said

    def _is(self, word: str) -> bool:
        return self._kind in ("word", "sign") and _MEANT.get(self._said, self._said.lower()) == word

    def _taken(self) -> str:
        said = self._said.lower()
        self._next()
        return said

    def _next(self) -> None:
        self._at = self._end
        match = _TOKEN.match(self._text, self._end)
        if match is None:
            self._at += len(self._text[self._at :]) - len(self._text[self._at :].lstrip())
            sign = self._text[self._at]
            self._fail(_REMEDIES.get(sign, "put text in quotes"))
        self._kind = str(match.lastgroup)
        self._said = match[self._kind]
        self._at, self._end = match.start(self._kind), match.end()

    def _fail(self, remedy: str) -> NoReturn:
        shown = self._text if len(self._text) <= 200 else f"{self._text[:200]}…"
        raise NoCondition(f"{shown!r} is no condition, see character {self._at + 1}: {remedy}")
