"""What a picture shows: nodes and edges, independent of the flow they come from and of how they are painted."""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["start", "stage", "write", "model", "person", "aside", "end"]
"""`write` is a stage that moves money or changes records; at `model` and `person` these answer in place of an agent;
`aside` stands beside the way and is reached from it."""

BADGES: dict[Kind, str] = {"write": "effect: write", "model": "model", "person": "person"}
"""What kinds of stages are told by besides their colour."""


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
    notes: tuple[str, ...] = ()
    """What else is to be known of it, a line each."""
    stacked: bool = False
    """Whether it stands for many of its kind."""
    inner: "tuple[Node, ...]" = ()
    """The branches that are asked at once, and joined."""


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
