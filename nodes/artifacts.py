"""The artifacts of a task as they come: whole ones, others in their place, and pieces that continue them."""

from collections.abc import Iterable, Mapping
from typing import Any

from nodes.parts import Json


class Artifacts:
    """What has come so far, in the order in which it began; each as A2A 1.0 writes it."""

    def __init__(self) -> None:
        self._by_id: dict[str, Json] = {}

    def take(self, artifact: Mapping[str, Any], *, append: bool) -> bool:
        """Take in an artifact, or a piece of one; return whether it continues one that is here."""
        known = self._by_id.get(artifact["artifactId"]) if append else None
        if known is None:
            self._by_id[artifact["artifactId"]] = _own(artifact)
            return False
        known["parts"].extend(artifact["parts"])
        metadata = known.get("metadata", {}) | artifact.get("metadata", {})
        known |= {**artifact, "parts": known["parts"]} | ({"metadata": metadata} if metadata else {})
        return True

    def replace(self, artifacts: Iterable[Json]) -> list[Json]:
        """Take these in place of all; return those of them that are new or differ."""
        given = list(artifacts)
        news = [artifact for artifact in given if artifact != self._by_id.get(artifact["artifactId"])]
        self._by_id = {artifact["artifactId"]: _own(artifact) for artifact in given}
        return news

    def all(self) -> list[Json]:
        """Return every artifact."""
        return list(self._by_id.values())


def _own(artifact: Mapping[str, Any]) -> Json:
    """Return a copy to which parts may be added without changing what was told."""
    return {**artifact, "parts": list(artifact["parts"])}
