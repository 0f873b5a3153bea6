"""Calls in Redis or Valkey, over core commands only. On `core` the checkpoint is part of the commit; a stock saver
writes its own beforehand, and the commit then makes it the call's head: what no commit named was never answered."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Any

import orjson
from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from graph.store import scripts
from graph.store.calls import CallRecord, Moment, OpenTurn
from graph.store.codec import Codec
from graph.store.errors import Busy, SaveUnknown, StoreUnavailable, TurnLost
from graph.store.names import tag_of
from nodes.state import Step

PREFIX = "flows:"
LEASE_SECONDS = 30.0


def keys_of(thread_id: str) -> list[str]:
    """Return the keys of a call, in the order in which the scripts name them."""
    stem = f"{PREFIX}{{{tag_of(thread_id)}}}"
    return [f"{stem}:{part}" for part in ("call", "checkpoints", "steps", "writes")]


@asynccontextmanager
async def answering() -> AsyncIterator[None]:
    """Translate what the Redis client raises.

    Raises:
        StoreUnavailable: for any failure of the store.
    """
    try:
        yield
    except ResponseError as error:
        raise StoreUnavailable(f"the store refuses what it is asked ({type(error).__name__})") from error
    except (RedisError, OSError, TimeoutError) as error:
        raise StoreUnavailable(f"the store does not answer ({type(error).__name__})") from error


class RedisCalls:
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
        self._client = client
        self._saver = saver
        self._ttl = ttl
        self._codec = codec
        self._lease_ms = int(lease * 1000)
        # A call's first turn may take longer than a call is kept; renewing its lease keeps it for that long again.
        self._first_ttl = ttl and max(ttl, int(2 * lease) + 1)
        self._begin = client.register_script(scripts.BEGIN)
        self._commit = client.register_script(scripts.COMMIT)
        self._abandon = client.register_script(scripts.ABANDON)
        self._renew = client.register_script(scripts.RENEW)
        self._read = client.register_script(scripts.READ)
        self._delete = client.register_script(scripts.DELETE)

    async def begin(self, thread: str) -> OpenTurn:
        """Take the lease and load the call.

        A call whose checkpoint was evicted, or ran out while a crashed turn held the rest, is as good as expired.
        """
        turn, blob, writes = await self._take(thread)
        if turn.head is None:
            return turn
        async with self._giving_back(turn), answering():
            turn.loaded = await self._loaded(thread, turn.head, blob, writes)
        if turn.loaded is None:
            await self._forget(turn)
            return await self.begin(thread)
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
            await self.abandon(turn)
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
        """Save one checkpoint and its steps, if the turn still holds the fence; a repeated commit is one commit."""
        args: list[str | bytes | int] = [
            turn.token,
            turn.head or "",
            head,
            blob,
            self._ttl,
            int(release),
            int(complete),
        ]
        args += map(orjson.dumps, steps)
        committed = await self._committed(keys_of(turn.thread), args)
        if not committed[0]:
            raise TurnLost("another turn of this call has begun; nothing of this one was saved")
        turn.trail = [orjson.loads(step) for step in committed[1]]
        turn.head, turn.closed = head, release

    async def _committed(self, keys: list[str], args: list[str | bytes | int]) -> Any:
        """Run the commit, and once more if its answer was lost: what was committed already stays as it is."""
        try:
            async with answering():
                return await self._commit(keys=keys, args=args)
        except StoreUnavailable:
            try:
                async with answering():
                    return await self._commit(keys=keys, args=args)
            except StoreUnavailable as error:
                raise SaveUnknown("the store did not confirm that the turn was saved") from error

    async def abandon(self, turn: OpenTurn) -> None:
        """Give the lease back."""
        turn.closed = True
        async with answering():
            await self._abandon(keys=keys_of(turn.thread), args=[turn.token, self._ttl])

    async def renew(self, turn: OpenTurn) -> None:
        """Hold the lease for its full time again."""
        async with answering():
            await self._renew(keys=keys_of(turn.thread)[:1], args=[turn.token, self._lease_ms])

    async def read(self, thread: str) -> CallRecord | None:
        """Return what was committed, and the trail."""
        async with answering():
            found = await self._read(keys=keys_of(thread), args=["", "", 1])
            if not found:
                return None
            loaded = await self._loaded(thread, found[0].decode(), found[1], found[2])
        if loaded is None:
            return None
        steps = [orjson.loads(step) for step in found[3]]
        return CallRecord(loaded.checkpoint["channel_values"], steps)

    async def history(self, thread: str) -> list[Moment]:
        """Return the committed checkpoints, oldest first: the way back from the head along the parents."""
        async with answering():
            head = await self._client.hget(keys_of(thread)[0], "head")
            saved = {
                tuple_.checkpoint["id"]: tuple_
                async for tuple_ in self._saver.alist({"configurable": {"thread_id": thread, "checkpoint_ns": ""}})
            }
        moments: list[Moment] = []
        found = saved.get(head.decode()) if isinstance(head, bytes) else None
        while found is not None:
            checkpoint = found.checkpoint
            moments.append(Moment(checkpoint["id"], checkpoint["ts"], checkpoint["channel_values"]))
            parent = (found.parent_config or {}).get("configurable", {}).get("checkpoint_id", "")
            found = saved.get(parent)
        return moments[::-1]

    async def delete(self, thread: str) -> bool:
        """Remove every key of the call, those of a stock saver under a lease: a new call must not lose its own."""
        if self._codec is not None:
            return await self._drop(thread, "")
        turn, _, _ = await self._take(thread)
        return await self._forget(turn)

    async def ping(self) -> None:
        """Ask the store for an answer."""
        async with answering():
            await self._client.ping()

    async def _take(self, thread: str) -> tuple[OpenTurn, bytes | None, list[bytes]]:
        """Take the lease; return the turn, with the checkpoint and pending writes that `core` has for it."""
        turn = OpenTurn(thread, secrets.token_hex(8), "", None, calls=self)
        opened = orjson.dumps({"at": datetime.now(UTC).isoformat(timespec="milliseconds")})
        args: list[str | bytes | int] = [turn.token, self._lease_ms, opened, secrets.token_hex(16), self._first_ttl]
        async with self._giving_back(turn), answering():
            began = await self._begin(keys=keys_of(thread), args=args)
        if not began[0]:
            raise Busy("another turn of this call is in flight")
        turn.incarnation = began[1].decode()
        turn.head = began[2].decode() if began[2] else None
        return turn, began[3], began[4]

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
        return bool(dropped)

    async def _loaded(
        self, thread: str, head: str, blob: bytes | None, writes: list[bytes]
    ) -> CheckpointTuple | None:
        if self._codec is not None:
            return self._codec.decode(thread, "", head, blob, writes)
        ids = {"thread_id": thread, "checkpoint_ns": "", "checkpoint_id": head}
        return await self._saver.aget_tuple({"configurable": ids})
