"""Audit trails on their way to the archive: what a call leaves behind stays in Redis until it is archived.

A trail is due when its call has ended, has expired or is deleted. Any replica may archive it; who does so claims it
for a while, and marks it afterwards, so that what a killed process left undone is done by another. A trail may hence
be archived twice, and never not at all.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from redis.asyncio import Redis

from graph.archive import Archive, Reason, Segment
from graph.audit import start_of
from graph.store import trail_scripts
from graph.store.asking import Asked, Server, answering, together
from graph.store.errors import NotArchived
from graph.store.index import Index
from graph.store.names import decode, keys_of
from graph.store.reading import step_in

KEPT_SECONDS = 7 * 24 * 3600
"""How long a trail waits for its archive after its call has expired."""

_AT_ONCE = 50
_MOST_STEPS, _MOST_BYTES = 500, 1_000_000
"""Of a piece: as much of a trail as is read and written at once."""
_CLAIM_SECONDS = 60
_OPEN_SECONDS = 300
"""When to look again at a call that has no end for now."""

log = structlog.get_logger()


async def write(archive: Archive, segments: Sequence[Segment]) -> None:
    """Archive pieces of trails.

    Raises:
        NotArchived: if the archive cannot be written.
    """
    try:
        seal = await asyncio.to_thread(archive.append, segments)
    except OSError as error:
        raise NotArchived(f"audit trails cannot be archived ({error.strerror}); check FLOWS_ARCHIVE") from error
    log.info("trails archived", trails=len(segments), seal=seal)


def segment(
    thread: str,
    incarnation: str,
    reason: Reason,
    steps: Sequence[Mapping[str, Any]],
    *,
    after: int,
    count: int,
    at: str,
    head: str,
) -> Segment:
    """Return a piece of a call's trail: the steps after one, up to `count`, with the chain at either end."""
    tenant, _, call = thread.partition("__")
    flow = next((str(step["flow"]) for step in reversed(steps) if isinstance(step, dict) and step.get("flow")), "")
    start = at or start_of(thread, incarnation)
    return Segment(decode(call), decode(tenant), incarnation, reason, flow, after + 1, count, start, head, steps)


class Trails:
    """The trails that wait in Redis for their archive.

    Args:
        client: a client that returns bytes.
        server: what runs scripts together there.
        index: which of them are due.
        archive: where they go.
    """

    def __init__(self, client: Redis, server: Server, index: Index, archive: Archive) -> None:
        self._server = server
        self._index = index
        self._archive = archive
        self._read = client.register_script(trail_scripts.TRAIL)
        self._mark = client.register_script(trail_scripts.ARCHIVED)

    async def archive_due(self, tenant: str) -> int:
        """Archive the tenant's trails that are due; return how many pieces that were.

        Raises:
            StoreUnavailable: if the store fails; NotArchived if the archive cannot be written.
        """
        count = 0
        while True:
            score, threads = await self._index.claim_trails(tenant, _AT_ONCE, seconds=_CLAIM_SECONDS)
            pieces = await self._pieces(threads)
            due = {thread: piece for thread, piece in pieces.items() if piece.is_due}
            if segments := [
                piece.segment("ended" if piece.lives else "expired") for piece in due.values() if piece.waits
            ]:
                await write(self._archive, segments)
            await self._marked(due)
            again = {thread: pieces[thread].again if thread in pieces else None for thread in threads}
            await self._index.return_trails(tenant, score, again)
            count += len(segments)
            if len(threads) < _AT_ONCE:
                return count

    async def archive(self, thread: str, reason: Reason) -> None:
        """Archive what is left of a trail now, because it is to go.

        Raises:
            StoreUnavailable: if the store fails; NotArchived if the archive cannot be written.
        """
        while (pieces := await self._pieces([thread])) and (piece := pieces[thread]).waits:
            await write(self._archive, [piece.segment(reason if piece.lives else "expired")])
            await self._marked(pieces)

    async def _pieces(self, threads: Sequence[str]) -> dict[str, "_Piece"]:
        """Return what is next of trails; nothing of those that are gone."""
        asked = [Asked(self._read, keys_of(thread), [_MOST_STEPS, _MOST_BYTES]) for thread in threads]
        async with answering():
            found = await together(self._server, asked)
            for one in found:
                if isinstance(one, Exception):
                    raise one
        pieces: dict[str, _Piece] = {}
        for thread, one in zip(threads, found, strict=True):
            try:
                pieces |= {thread: _piece(thread, one)} if one else {}
            except ValueError:  # somebody wrote into the store; the others are archived
                log.warning("audit trail not archived, for what is kept of it is none", thread=thread)
        return pieces

    async def _marked(self, pieces: Mapping[str, "_Piece"]) -> None:
        """Note what was archived; what is left of a call that is gone, goes with the last of it."""
        asked = [
            Asked(self._mark, keys_of(thread), [piece.incarnation, piece.after, piece.upto, piece.end])
            for thread, piece in pieces.items()
        ]
        async with answering():
            for answer in await together(self._server, asked):
                if isinstance(answer, Exception):
                    raise answer


@dataclass(frozen=True, slots=True)
class _Piece:
    """The next piece of a trail, and what is known of its call."""

    thread: str
    incarnation: str
    head: str
    count: int
    """How many steps the trail should have."""
    ended: bool
    """Whether the call's run has ended."""
    after: int
    """How many steps are archived already."""
    at: str
    """The hash of the last of them."""
    lives: bool
    """Whether the call is there."""
    left: int
    """Milliseconds until it expires; negative if it does not for now."""
    steps: Sequence[Any]
    is_last: bool

    @property
    def waits(self) -> bool:
        """Whether something of the trail is not archived."""
        return self.after < self.count

    @property
    def is_due(self) -> bool:
        return self.ended or not self.lives

    @property
    def upto(self) -> int:
        return max(self.count, self.after) if self.is_last else self.after + len(self.steps)

    @property
    def end(self) -> str:
        """Return the chain after it; in the middle of a trail that is what the last step says."""
        audit = self.steps[-1].get("audit") if self.steps and isinstance(self.steps[-1], dict) else None
        told = audit.get("hash") if isinstance(audit, dict) and not self.is_last else None
        return told if isinstance(told, str) else self.head

    @property
    def again(self) -> int | None:
        """Return in how many milliseconds to look again; None for never."""
        if self.is_due:
            return None if self.is_last else 0
        return _OPEN_SECONDS * 1000 if self.left < 0 else self.left + 1000

    def segment(self, reason: Reason) -> Segment:
        return segment(
            *(self.thread, self.incarnation, reason, self.steps),
            after=self.after,
            count=self.upto,
            at=self.at,
            head=self.end,
        )


def _piece(thread: str, found: Sequence[Any]) -> _Piece:
    incarnation, head, count, ended, after, at, lives, left, is_last, steps = found
    return _Piece(
        thread,
        incarnation.decode(),
        (head or b"").decode(),
        int(count or 0),
        ended == b"1",
        int(after or 0),
        (at or b"").decode(),
        bool(lives),
        left,
        [_step(step) for step in steps],
        bool(is_last),
    )


def _step(kept: bytes) -> Any:
    try:
        return step_in(kept)
    except ValueError:  # somebody wrote into the store; the archive shows it
        return {"unreadable": kept.decode(errors="replace")}
