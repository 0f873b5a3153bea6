"""What a picture shows: nodes and edges, independent of the flow they come from and of how they are painted."""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["start", "stage", "write", "aside", "end"]
"""`write` is a stage that moves money or changes records; `aside` stands beside the way and is reached from it."""


@dataclass(frozen=True, slots=True)
class Node:
    """A box."""

    key: str
    title: str
    kind: Kind = "stage"
    number: int | None = None
    about: str = ""
    rows: tuple[tuple[str, str], ...] = ()
    """What may come, and who answers it; the first is empty where only one can."""


@dataclass(frozen=True, slots=True)
class Edge:
    """A way from one node to another."""

    source: str
    target: str
    label: str = ""
    dashed: bool = False


@dataclass(frozen=True, slots=True)
class Drawing:
    """Nodes in reading order, and the edges between them: one that points back in that order is drawn upwards."""

    title: str
    about: str
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
