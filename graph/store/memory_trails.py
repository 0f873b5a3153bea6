"""Audit trails in this process's memory that wait for the archive."""

import asyncio
from collections.abc import Sequence

import orjson

from graph.archive import Archive, Reason, Segment
from graph.store.trails import segment, write
from nodes.state import Step


class MemoryTrails:
    """The trails that wait for their archive: they are lost with the process, as their calls are.

    Args:
        archive: where they go.
    """

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._waiting: list[Segment] = []
        self._writing = asyncio.Lock()

    def leave(
        self, thread: str, incarnation: str, reason: Reason, steps: Sequence[Step], *, after: int, at: str, head: str
    ) -> None:
        """Let a piece of a trail wait."""
        plain = orjson.loads(orjson.dumps(steps))
        count = after + len(steps)
        self._waiting.append(segment(thread, incarnation, reason, plain, after=after, count=count, at=at, head=head))

    async def write(self) -> int:
        """Archive what waits; return how many pieces that were.

        Raises:
            NotArchived: if the archive cannot be written; what waits goes on waiting.
        """
        async with self._writing:
            if not (waiting := list(self._waiting)):
                return 0
            await write(self._archive, waiting)
            del self._waiting[: len(waiting)]
            return len(waiting)
