"""Calls in Redis or Valkey, over core commands only. On `core` the checkpoint is part of the commit; a stock saver
writes its own beforehand, and the commit then makes it the call's head: what no commit named was never answered."""

import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import orjson
from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple
from redis.asyncio import Redis
from redis.exceptions import RedisError

from graph.store import scripts
from graph.store.calls import CallRecord, Moment, OpenTurn
from graph.store.codec import Codec
from graph.store.errors import Busy, StoreUnavailable, TurnLost
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
        self._begin = client.register_script(scripts.BEGIN)
        self._commit = client.register_script(scripts.COMMIT)
        self._abandon = client.register_script(scripts.ABANDON)
        self._renew = client.register_script(scripts.RENEW)
        self._read = client.register_script(scripts.READ)
        self._delete = client.register_script(scripts.DELETE)

    async def begin(self, thread: str) -> OpenTurn:
        """Take the lease and load the call."""
        token = secrets.token_hex(8)
        opened = orjson.dumps({"at": datetime.now(UTC).isoformat(timespec="milliseconds")})
        args: list[str | bytes | int] = [token, self._lease_ms, opened, secrets.token_hex(16)]
        async with answering():
            began = await self._begin(keys=keys_of(thread), args=args)
            if not began[0]:
                raise Busy("another turn of this call is in flight")
            turn = OpenTurn(thread, token, began[1].decode(), None)
            if began[2]:
                turn.head = began[2].decode()
                turn.loaded = await self._loaded(thread, turn.head, began[3], began[4])
        return turn

    async def finish(self, turn: OpenTurn, steps: Sequence[Step], *, complete: bool) -> None:
        """Make the checkpoint that a stock saver wrote the call's head; on `core` the saver already has."""
        if turn.closed:
            return
        if turn.saved is None:
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
        async with answering():
            committed = await self._commit(keys=keys_of(turn.thread), args=args)
        if not committed[0]:
            raise TurnLost("another turn of this call has begun; nothing of this one was saved")
        turn.trail = [orjson.loads(step) for step in committed[1]]
        turn.head, turn.closed = head, release

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
        """Remove every key of the call."""
        async with answering():
            deleted = await self._delete(keys=keys_of(thread))
            if deleted < 0:
                raise Busy("a turn of this call is in flight")
            if deleted and self._codec is None:
                await self._saver.adelete_thread(thread)
        return bool(deleted)

    async def ping(self) -> None:
        """Ask the store for an answer."""
        async with answering():
            await self._client.ping()

    async def _loaded(
        self, thread: str, head: str, blob: bytes | None, writes: list[bytes]
    ) -> CheckpointTuple | None:
        if self._codec is not None:
            return self._codec.decode(thread, "", head, blob, writes)
        ids = {"thread_id": thread, "checkpoint_ns": "", "checkpoint_id": head}
        return await self._saver.aget_tuple({"configurable": ids})
