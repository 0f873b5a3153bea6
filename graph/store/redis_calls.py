"""Calls in Redis or Valkey, over core commands only. On `core` the checkpoint is part of the commit; a stock saver
writes its own beforehand, and the commit then makes it the call's head: what no commit named was never answered."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Any

import orjson
from langgraph.checkpoint.base import BaseCheckpointSaver
from redis.asyncio import Redis

from graph.store import scripts
from graph.store.asking import Argument, Asked, answering, together
from graph.store.calls import OpenTurn
from graph.store.codec import Codec
from graph.store.errors import Busy, SaveUnknown, StoreUnavailable, TurnLost
from graph.store.index import Index, warn
from graph.store.names import keys_of
from graph.store.reading import Reading, push_in
from nodes.state import Step

LEASE_SECONDS = 30.0

_ANSWERED = 2  # by BEGIN: an earlier step answered this very message
_GONE = 2  # by ABANDON: the call was new


class RedisCalls(Reading):
    """Calls in Redis.

    Args:
        client: a client that returns bytes.
        saver: the saver that holds the checkpoints.
        ttl: seconds a call lives after its last turn; 0 for ever.
        codec: how the saver's `aput` commits (`core`); None if a stock saver keeps the checkpoints itself.
        lease: seconds a turn may hold a call without renewing.
    """

    def __init__(
        self,
        client: Redis,
        saver: BaseCheckpointSaver[Any],
        *,
        ttl: int,
        codec: Codec | None = None,
        lease: float = LEASE_SECONDS,
    ) -> None:
        super().__init__(client, saver, index=Index(client, ttl=ttl), codec=codec)
        self._ttl = ttl
        self._lease_ms = int(lease * 1000)
        # A call's first turn may take longer than a call is kept; renewing its lease keeps it for that long again.
        self._first_ttl = ttl and max(ttl, int(2 * lease) + 1)
        self._begin = client.register_script(scripts.BEGIN)
        self._commit = client.register_script(scripts.COMMIT)
        self._abandon = client.register_script(scripts.ABANDON)
        self._renew = client.register_script(scripts.RENEW)
        self._delete = client.register_script(scripts.DELETE)

    async def begin(self, thread: str, *, said: Mapping[str, Any] | None = None, key: str | None = None) -> OpenTurn:
        """Take the lease and load the call.

        A call whose checkpoint was evicted, or ran out while a crashed turn held the rest, is as good as expired.
        """
        turn, blob, writes = await self._take(thread, said, key)
        if turn.head is None:
            return turn
        async with self._giving_back(turn), answering():
            turn.loaded = await self._loaded(thread, turn.head, blob, writes)
        if turn.loaded is None:
            await self._forget(turn)
            return await self.begin(thread, said=said, key=key)
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
        args: list[Argument] = [turn.token, turn.head or "", head, blob, self._ttl, int(release)]
        args.append(int(complete or turn.wants_trail))
        args += _answer(turn, steps) if release or complete else ("", 0)
        args += map(orjson.dumps, steps)
        committed = await self._committed(turn.thread, args)
        if not committed[0]:
            if committed[1]:
                await self._index.drop(turn.thread)
            raise TurnLost("another turn of this call has begun; nothing of this one was saved")
        turn.push = push_in(committed[1])
        turn.trail = [orjson.loads(step) for step in committed[2]]
        turn.head, turn.closed = head, release

    async def _committed(self, thread: str, args: list[Argument]) -> Any:
        """Run the commit, and once more if its answer was lost: what was committed already stays as it is."""
        asked = Asked(self._commit, keys_of(thread), args)
        try:
            return await self._with_index(asked, self._index.committed(thread))
        except StoreUnavailable:
            try:
                return await self._with_index(asked, self._index.committed(thread))
            except StoreUnavailable as error:
                raise SaveUnknown("the store did not confirm that the turn was saved") from error

    async def abandon(self, turn: OpenTurn) -> None:
        """Give the lease back."""
        await self._release(turn, ())

    async def _release(self, turn: OpenTurn, steps: Sequence[Step]) -> None:
        if turn.answered is not None:
            return
        turn.closed = True
        args: list[Argument] = [turn.token, self._ttl, *_answer(turn, steps)]
        async with answering():
            gone = await self._abandon(keys=keys_of(turn.thread), args=args) == _GONE
        if gone:
            await self._index.drop(turn.thread)

    async def renew(self, turn: OpenTurn) -> None:
        """Hold the lease for its full time again."""
        async with answering():
            await self._renew(keys=keys_of(turn.thread)[:1], args=[turn.token, self._lease_ms])

    async def delete(self, thread: str) -> bool:
        """Remove every key of the call, those of a stock saver under a lease: a new call must not lose its own."""
        if self._codec is not None:
            return await self._drop(thread, "")
        turn, _, _ = await self._take(thread)
        return await self._forget(turn)

    async def _take(
        self, thread: str, said: Mapping[str, Any] | None = None, key: str | None = None
    ) -> tuple[OpenTurn, bytes | None, list[bytes]]:
        """Take the lease; return the turn, with the checkpoint and pending writes that `core` has for it."""
        turn = OpenTurn(thread, secrets.token_hex(8), "", None, calls=self, key=key)
        opened = orjson.dumps({**(said or {}), "at": datetime.now(UTC).isoformat(timespec="milliseconds")})
        args: list[Argument] = [turn.token, self._lease_ms, opened, secrets.token_hex(16), self._first_ttl, key or ""]
        async with self._giving_back(turn):
            began = await self._with_index(Asked(self._begin, keys_of(thread), args), self._index.begun(thread))
        if not began[0]:
            raise Busy("another turn of this call is in flight")
        turn.incarnation, turn.push = (began[1] or b"").decode(), push_in(began[2])
        if began[0] == _ANSWERED:
            turn.answered, turn.closed = int(began[3]), True
            return turn, None, []
        turn.head = began[3].decode() if began[3] else None
        return turn, began[4], began[5]

    async def _with_index(self, asked: Asked, touched: Asked) -> Any:
        """Run a script of the call, and that of the index beside it, in one round trip; return the call's answer."""
        async with answering():
            answer, indexed = await together(self._client, [asked, touched])
            if isinstance(answer, Exception):
                raise answer
        warn(indexed)
        return answer

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


def _answer(turn: OpenTurn, steps: Sequence[Step]) -> tuple[str, int]:
    """Return what to remember of a message that has its answer: its key, and the step that answered it."""
    return (turn.key, steps[-1]["number"]) if turn.key and steps else ("", 0)
