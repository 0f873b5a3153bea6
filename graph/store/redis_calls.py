"""Calls in Redis or Valkey, over core commands only. On `core` the checkpoint is part of the commit; a stock saver
writes its own beforehand, and the commit then makes it the call's head: what no commit named was never answered."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import orjson
from langgraph.checkpoint.base import BaseCheckpointSaver
from redis.asyncio import Redis

from graph.store import scripts
from graph.store.asking import Argument, Asked, answering, together
from graph.store.calls import OpenTurn, steps_before_run
from graph.store.codec import Codec
from graph.store.errors import Busy, SaveUnknown, StoreUnavailable, TurnLost
from graph.store.index import Index, warn
from graph.store.names import keys_of
from graph.store.reading import Reading, died_in, push_in
from nodes.state import Step

LEASE_SECONDS = 30.0

_ANSWERED = 2  # by BEGIN: an earlier step answered this very message
_ANOTHER, _GONE = 0, 2  # by ABANDON, and by a COMMIT that is refused: another turn holds the call; it is gone
_LONGER = 60
"""Seconds by which a stock saver's checkpoints outlive the call's own keys: a head is never lost."""


class RedisCalls(Reading):
    """Calls in Redis.

    Args:
        client: a client that returns bytes.
        saver: the saver that holds the checkpoints.
        ttl: seconds a call lives after its last turn; 0 for ever.
        codec: how the saver's `aput` commits (`core`); None if a stock saver keeps the checkpoints itself.
        checkpoint_key: where a stock saver keeps a checkpoint, by thread and checkpoint id; needed if they expire.
        lease: seconds a turn may hold a call without renewing.
    """

    def __init__(
        self,
        client: Redis,
        saver: BaseCheckpointSaver[Any],
        *,
        ttl: int,
        codec: Codec | None = None,
        checkpoint_key: Callable[[str, str], str] | None = None,
        lease: float = LEASE_SECONDS,
    ) -> None:
        super().__init__(client, saver, index=Index(client, ttl=ttl), codec=codec)
        self._ttl = ttl
        self._checkpoint_key = checkpoint_key
        self._lease_ms = int(lease * 1000)
        # A call's first turn may take longer than a call is kept; renewing its lease keeps it for that long again.
        self._first_least = int(2 * lease) + 1
        self._begin = client.register_script(scripts.BEGIN)
        self._commit = client.register_script(scripts.COMMIT)
        self._abandon = client.register_script(scripts.ABANDON)
        self._let_go = client.register_script(scripts.LET_GO)
        self._live = client.register_script(scripts.LIVE)
        self._renew = client.register_script(scripts.RENEW)
        self._delete = client.register_script(scripts.DELETE)

    async def begin(
        self,
        thread: str,
        *,
        said: Mapping[str, Any] | None = None,
        key: str | None = None,
        version: str = "",
        ttl: int | None = None,
        resumes: bool = False,
        died: str | None = None,
    ) -> OpenTurn:
        """Take the lease and load the call.

        A call whose checkpoint was evicted, or ran out while a crashed turn held the rest, is as good as expired.
        """
        new = _New(said or {}, key, version, ttl, resumes, died)
        turn, blob, writes = await self._take(thread, new)
        if turn.head is None:
            return turn
        async with self._giving_back(turn), answering():
            await together(self._client, self._lives(thread, turn.head, 0))
            turn.loaded = await self._loaded(thread, turn.head, blob, writes)
        if turn.loaded is None:
            await self._forget(turn)
            if died is not None:
                raise Busy("nothing is left of the run that was to be gone on with")
            return await self.begin(thread, said=said, key=key, version=version, ttl=ttl, resumes=resumes)
        return turn

    async def keep(self, turn: OpenTurn, steps: Sequence[Step], *, complete: bool) -> None:
        """Make the checkpoint that a stock saver wrote the call's head, and go on."""
        if turn.saved is not None:
            await self.commit(turn, turn.saved, b"", steps, complete=complete, release=False)

    async def finish(self, turn: OpenTurn, steps: Sequence[Step], *, complete: bool) -> None:
        """Make the checkpoint that a stock saver wrote the call's head; on `core` the saver already has."""
        if turn.closed:
            return
        if turn.saved is None or turn.saved == turn.head:
            await self._release(turn, steps)
        else:
            await self.commit(turn, turn.saved, b"", steps, complete=complete)

    async def commit(
        self,
        turn: OpenTurn,
        head: str,
        blob: bytes,
        steps: Sequence[Step],
        *,
        complete: bool,
        release: bool = True,
    ) -> None:
        """Save one checkpoint and its steps, if the turn still holds the fence; a repeated commit is one commit.

        The message counts as answered with the last of its commits: whoever repeats it until then goes on with it.
        """
        ttl = self._ttl_of(turn)
        args: list[Argument] = [turn.token, turn.head or "", head, blob, ttl, int(release)]
        args += int(complete or turn.wants_trail), steps_before_run(turn, steps)
        args += _answer(turn, steps) if release or complete else ("", 0)
        args += "" if turn.ended else turn.version, "" if turn.ttl is None else turn.ttl
        args += map(orjson.dumps, steps)
        asked = [Asked(self._commit, keys_of(turn.thread), args)]
        asked.append(self._index.committed(turn.thread, release=release, ttl=turn.ttl))
        asked += self._lives(turn.thread, turn.head, ttl)  # it is history now
        asked += self._lives(turn.thread, head, ttl if release else 0)
        committed = await self._committed(asked)
        if not committed[0]:
            await self._undo(turn, head, committed[1])
            raise TurnLost("another turn of this call has begun; nothing of this one was saved")
        turn.push = push_in(committed[1])
        turn.trail = [orjson.loads(step) for step in committed[2]]
        turn.steps += steps
        turn.head, turn.closed = head, release

    async def _committed(self, asked: Sequence[Asked]) -> Any:
        """Run the commit, and once more if its answer was lost: what was committed already stays as it is."""
        try:
            return (await self._with_index(*asked))[0]
        except StoreUnavailable:
            try:
                return (await self._with_index(*asked))[0]
            except StoreUnavailable as error:
                raise SaveUnknown("the store did not confirm that the turn was saved") from error

    async def abandon(self, turn: OpenTurn) -> None:
        """Give the lease back."""
        await self._release(turn, ())

    async def let_go(self, turn: OpenTurn, *, as_it_was: bool = False) -> None:
        """Let the lease run out now."""
        turn.closed = True
        args: list[Argument] = [turn.token, "", "", 0, ""]
        if as_it_was and turn.died is not None:
            args[1:] = orjson.dumps(turn.died.said), turn.died.after, int(turn.died.committed), turn.died_on
        async with answering():
            await self._let_go(keys=keys_of(turn.thread)[:1], args=args)

    async def _release(self, turn: OpenTurn, steps: Sequence[Step]) -> None:
        if turn.answered is not None:
            return
        turn.closed = True
        args: list[Argument] = [turn.token, self._ttl_of(turn), *_answer(turn, steps)]
        asked = Asked(self._abandon, keys_of(turn.thread), args)
        lives = self._lives(turn.thread, turn.head, self._ttl_of(turn))
        left, _ = await self._with_index(asked, self._index.abandoned(turn.thread, ttl=turn.ttl), *lives)
        await self._undo(turn, None, left)

    def _ttl_of(self, turn: OpenTurn) -> int:
        return self._ttl if turn.ttl is None else turn.ttl

    async def _undo(self, turn: OpenTurn, saved: str | None, left: int) -> None:
        """Put right what was written beside a call whose own script then found that there is no such turn."""
        thread = turn.thread
        if left == _ANOTHER:
            await self._index.mark(thread)
        elif left == _GONE:
            await self._index.drop(thread)
        if self._checkpoint_key is not None:
            async with answering():
                head = await self._client.hget(keys_of(thread)[0], "head") if left == _ANOTHER else None
                lives = self._lives(thread, head.decode() if isinstance(head, bytes) else None, 0)
                await together(self._client, self._lives(thread, saved, self._ttl_of(turn)) + lives)

    def _lives(self, thread: str, head: str | None, seconds: int) -> list[Asked]:
        """Return what gives a stock saver's checkpoint as long to live as its call; 0 for ever."""
        if self._checkpoint_key is None or head is None or not (self._ttl or seconds):
            return []
        return [Asked(self._live, [self._checkpoint_key(thread, head)], [seconds and seconds + _LONGER])]

    async def renew(self, turn: OpenTurn) -> None:
        """Hold the lease for its full time again."""
        async with answering():
            await self._renew(keys=keys_of(turn.thread)[:1], args=[turn.token, self._lease_ms])

    async def delete(self, thread: str) -> bool:
        """Remove every key of the call, those of a stock saver under a lease: a new call must not lose its own."""
        if self._codec is not None:
            return await self._drop(thread, "")
        turn, _, _ = await self._take(thread, _New())
        return await self._forget(turn)

    async def _take(self, thread: str, new: "_New") -> tuple[OpenTurn, bytes | None, list[bytes]]:
        """Take the lease; return the turn, with the checkpoint and pending writes that `core` has for it."""
        turn = OpenTurn(thread, secrets.token_hex(8), "", None, calls=self, key=new.key, ttl=new.ttl)
        opened = orjson.dumps({**new.said, "at": datetime.now(UTC).isoformat(timespec="milliseconds")})
        ttl = self._ttl_of(turn)
        args: list[Argument] = [turn.token, self._lease_ms, opened, secrets.token_hex(16)]
        args += ttl and max(ttl, self._first_least), new.key or "", new.version, "" if new.ttl is None else new.ttl
        args.append(new.died or "")
        async with self._giving_back(turn):
            asked = Asked(self._begin, keys_of(thread), args)
            began, marked = await self._with_index(asked, self._index.begun(thread, ttl=new.ttl, resumes=new.resumes))
        if not began[0]:
            raise Busy("another turn of this call is in flight")
        turn.incarnation, turn.push = (began[1] or b"").decode(), push_in(began[2])
        if began[0] == _ANSWERED:
            turn.answered, turn.closed = int(began[3]), True
        if marked == 1 and (turn.closed or (began[5] is None and not new.resumes)):  # it may expire
            async with self._giving_back(turn):
                await self._index.unmark(thread)
        if turn.closed:
            return turn, None, []
        turn.after, turn.followed = began[3].decode(), began[4] > 0
        turn.head = began[5].decode() if began[5] else None
        turn.version, turn.ttl = (began[8] or b"").decode(), int(began[9]) if began[9] else None
        if began[10]:
            turn.died, turn.died_on = died_in(began[10])
        return turn, began[6], began[7]

    async def _with_index(self, asked: Asked, touched: Asked, *more: Asked) -> tuple[Any, Any]:
        """Run a script of the call, and that of the index beside it, in one round trip; return both answers."""
        async with answering():
            answer, indexed, *_ = await together(self._client, [asked, touched, *more])
            if isinstance(answer, Exception):
                raise answer
        warn(indexed)
        return answer, indexed

    @asynccontextmanager
    async def _giving_back(self, turn: OpenTurn) -> AsyncIterator[None]:
        """Give back the lease of a turn that its owner never got; it runs out where the store does not answer."""
        try:
            yield
        except StoreUnavailable:
            raise
        except BaseException:
            with suppress(StoreUnavailable):
                await asyncio.shield(asyncio.ensure_future(self.abandon(turn)))
            raise

    async def _forget(self, turn: OpenTurn) -> bool:
        async with self._giving_back(turn):
            if self._codec is None:
                async with answering():
                    await self._saver.adelete_thread(turn.thread)
            return await self._drop(turn.thread, turn.token)

    async def _drop(self, thread: str, token: str) -> bool:
        async with answering():
            dropped = int(await self._delete(keys=keys_of(thread), args=[token]))
        if dropped < 0:
            raise Busy("a turn of this call is in flight")
        await self._index.drop(thread)
        return bool(dropped)


@dataclass(frozen=True, slots=True)
class _New:
    """What `begin` is asked."""

    said: Mapping[str, Any] = field(default_factory=dict)
    key: str | None = None
    version: str = ""
    ttl: int | None = None
    resumes: bool = False
    died: str | None = None


def _answer(turn: OpenTurn, steps: Sequence[Step]) -> tuple[str, int]:
    """Return what to remember of a message that has its answer: its key, and the step that answered it."""
    return (turn.key, steps[-1]["number"]) if turn.key and steps else ("", 0)
