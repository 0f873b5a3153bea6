"""YAML text to plain values and the line of each: nothing guessed, nothing written twice, nothing without bound.

What the values mean is `graph.loader`'s work.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

Place = tuple[str | int, ...]
"""Where in the document something stands: keys and indices from the top."""

LARGEST = 250_000
"""Characters, and bytes, that a text may have."""
TOO_LARGE = f"more than {LARGEST:,} characters; make the flow smaller, or several flows of it"

_DEEPEST = 40
_MOST_VALUES = 20_000
"""Counted with what aliases repeat: nine lines of YAML can otherwise fill all memory."""

_TEXT, _MERGE = "tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"
_REMEDIES = {
    "'\\t'": "indent with spaces",
    "alias": "name it with & first, or put text that begins with * in quotes",
    "another document": "keep one flow in a file",
    "but got '?'": "put the text with the ? in quotes",
    "for merging": "<<: takes a mapping, or a list of mappings",
    "duplicate anchor": "choose another name after &",
    "the character": "remove it, or save the file as UTF-8",
}


class Unreadable(Exception):
    """Text that is no document of ours.

    Attributes:
        found: what is wrong, each with its line, in the order of the text.
    """

    def __init__(self, *found: tuple[int, str]) -> None:
        super().__init__("; ".join(message for _, message in found))
        self.found = found


@dataclass(frozen=True, slots=True)
class Document:
    """What a text says, and where."""

    value: Any
    lines: Mapping[Place, int]

    def line(self, place: Place) -> int:
        """Return the line of `place`, or of the nearest thing around it."""
        while place and place not in self.lines:
            place = place[:-1]
        return self.lines.get(place, 1)


def read_document(text: str) -> Document:
    """Read the one document that `text` holds.

    Raises:
        Unreadable: if it is not YAML, is empty, holds a key twice, or needs what the flow language leaves out:
            tags, keys that are no text, boundless nesting and length.
    """
    if len(text) > LARGEST:
        raise Unreadable((1, TOO_LARGE))
    try:
        loader = _Loader(text)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise Unreadable((line, _not_yaml(f"the character {chr(error.character)!r} is not allowed"))) from error
    try:
        return _read(loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        told = ", ".join(part for part in (error.context, error.problem) if part)
        raise Unreadable((mark.line + 1 if mark else 1, _not_yaml(told))) from error
    except (ValueError, OverflowError) as error:  # from PyYAML, for "\UFFFFFFFF"
        raise Unreadable((loader.line + 1, _not_yaml("an escape names no character"))) from error
    finally:
        loader.dispose()


def is_text(text: str) -> bool:
    """Tell whether `text` can be written as UTF-8: a lone surrogate, from an escape or the environment, cannot."""
    return not any("\ud800" <= sign <= "\udfff" for sign in text)


def _read(loader: "_Loader") -> Document:
    root = loader.get_single_node()
    if root is None:
        raise Unreadable((1, "the file is empty; start with `flow: NAME`"))
    twice = list(_written_twice(root))
    if twice:
        raise Unreadable(*twice)
    value = loader.construct_document(root)  # puts merged keys in their places, so the lines come after it
    return Document(value, dict(_lines(root, ())))


class _Loader(yaml.SafeLoader):
    """YAML 1.2's plain words: `on`, `yes` and `12:30` are text, as a reader expects; so is every key."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._values = 0
        self._open_anchors = 0
        self._sizes: dict[str, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Compose a value or (where a mapping has no index yet) a key, within bounds."""
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            self._repeat(event)
            node = super().compose_node(parent, index)
        else:
            node = self._compose_within(event, parent, index)
        if isinstance(parent, yaml.MappingNode) and index is None:
            return _key(node, event)
        return _as_text(node) if node and node.tag == _MERGE else node

    def _repeat(self, alias: Any) -> None:
        """Count what an alias repeats. It may not stand inside an anchor: such nesting can be endless."""
        if self._open_anchors:
            raise _refused(alias, f"*{alias.anchor} stands inside a value that has a name (&) itself; write it out")
        self._count(alias, self._sizes.get(alias.anchor, 1))

    def _compose_within(self, event: Any, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if event.tag is not None:
            raise _refused(event, f"the tag {event.tag!r} is not part of the flow language; remove it")
        if isinstance(event, yaml.ScalarEvent) and not is_text(event.value):
            raise _refused(event, "half a character (\\uD800 to \\uDFFF); write the whole one")
        before = self._values
        self._count(event, 1)
        self._depth += 1
        self._open_anchors += bool(event.anchor)
        if self._depth > _DEEPEST:
            raise _refused(event, f"nested more than {_DEEPEST} levels deep; flatten it")
        node = super().compose_node(parent, index)
        self._depth -= 1
        self._open_anchors -= bool(event.anchor)
        if event.anchor:
            self._sizes[event.anchor] = self._values - before
        return node

    def _count(self, event: Any, values: int) -> None:
        self._values += values
        if self._values > _MOST_VALUES:
            raise _refused(event, f"more than {_MOST_VALUES} values, repeated ones included; make the flow smaller")


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag.endswith((":null", ":merge"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|false)$"), list("tf"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^-?(?:0|[1-9][0-9]{0,14})$"), list("-0123456789"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^-?[0-9]{1,15}\.[0-9]{1,15}$"), list("-0123456789")
)


def _refused(event: Any, told: str) -> Unreadable:
    return Unreadable((event.start_mark.line + 1, told))


def _key(node: yaml.Node | None, event: Any) -> yaml.Node:
    if not isinstance(node, yaml.ScalarNode):
        raise _refused(event, "a key must be plain text, not a list or a mapping; put it in quotes")
    return node if node.tag == _MERGE else _as_text(node)


def _as_text(node: yaml.Node) -> yaml.ScalarNode:
    return yaml.ScalarNode(_TEXT, node.value, node.start_mark, node.end_mark)


def _not_yaml(told: str) -> str:
    remedy = next((remedy for sign, remedy in _REMEDIES.items() if sign in told), "check indentation and quotes")
    return f"not YAML: {told}; {remedy}"


def _written_twice(node: yaml.Node) -> Iterator[tuple[int, str]]:
    """Find keys written twice: YAML would silently keep the last."""
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if key.value in seen:
                yield line, f"{key.value!r} is written twice (first on line {seen[key.value]}); remove one"
            seen.setdefault(key.value, line)
            yield from _written_twice(value)
    elif isinstance(node, yaml.SequenceNode):
        for child in node.value:
            yield from _written_twice(child)


def _lines(node: yaml.Node, place: Place) -> Iterator[tuple[Place, int]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield (*place, key.value), key.start_mark.line + 1
            yield from _lines(value, (*place, key.value))
    elif isinstance(node, yaml.SequenceNode):
        for index, child in enumerate(node.value):
            yield (*place, index), child.start_mark.line + 1
            yield from _lines(child, (*place, index))
