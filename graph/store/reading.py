"""What readers see of calls in Redis: records, trails and histories, and who wants to be notified of a call."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import orjson
from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple
from redis.asyncio import Redis

from graph.store import scripts
from graph.store.asking import Asked, answering, together
from graph.store.calls import CallRecord, Moment, OpenedTurn
from graph.store.cluster import bulk_server_of, server_of
from graph.store.codec import Codec
from graph.store.effects import read as read_effect
from graph.store.events import START
from graph.store.index import Index
from graph.store.names import keys_of
from graph.store.packing import STEPS

_AT_ONCE, _MANY_AT_ONCE = 100, 1_000
NO_STEPS = 2**31
"""After so many steps there are none: who asks so wants none."""
_LONGEST_WAIT = 0.02


class Reading:
    """Calls in Redis, as far as they are read.

    Args:
        client: a client that returns bytes.
        saver: the saver that holds the checkpoints.
        index: which calls a tenant has.
        codec: how `core` writes a checkpoint down; None if a stock saver keeps the checkpoints itself.
    """

    def __init__(
        self, client: Redis, saver: BaseCheckpointSaver[Any], *, index: Index, codec: Codec | None = None
    ) -> None:
        self._client = client
        self._server = server_of(client)
        self._bulk = bulk_server_of(client)
        self._saver = saver
        self._index = index
        self._codec = codec
        self._record = client.register_script(scripts.RECORD)
        self._change_push = client.register_script(scripts.CHANGE_PUSH)

    async def read(self, thread: str) -> CallRecord | None:
        """Return what was committed, the trail, and the open turn."""
        async with answering():
            found = await self._record(keys=keys_of(thread), args=[1, 0])
            if not found or found[0] is None:
                return _record(found)
            loaded = await self._loaded(thread, found[0].decode(), found[11], found[12])
        return _record(found, loaded.checkpoint["channel_values"]) if loaded else None

    async def look(self, thread: str, after: int) -> CallRecord | None:
        """Return the open turn and the steps after one."""
        async with answering():
            return _record(await self._record(keys=keys_of(thread), args=[0, after]))

    async def trails(self, threads: Sequence[str]) -> list[CallRecord | None]:
        """Return the calls without their state, a hundred in one round trip."""
        return await self._records(threads, 0)

    async def dead(self, tenant: str) -> dict[str, CallRecord]:
        """Return the calls whose open turn has lost its lease, among those that are marked as having one."""
        threads = await self._index.opened(tenant)
        records = await self._records(threads, NO_STEPS)
        found = zip(threads, records, strict=True)
        return {thread: record for thread, record in found if record and record.opened and not record.opened.live}

    async def on_versions(self, tenant: str) -> Counter[str]:
        """Walk the index, a thousand calls in one round trip."""
        named, old = await self._index.recent(tenant)
        counted: Counter[str] = Counter()
        for start in range(0, len(threads := named + old), _MANY_AT_ONCE):
            async with answering(), self._client.pipeline(transaction=False) as pipe:
                for thread in threads[start : start + _MANY_AT_ONCE]:
                    pipe.hget(keys_of(thread)[0], "version")
                counted.update(version.decode() for version in await pipe.execute() if version)
        return counted

    async def _records(self, threads: Sequence[str], after: int) -> list[CallRecord | None]:
        asked = [Asked(self._record, keys_of(thread), [0, after]) for thread in threads]
        records: list[CallRecord | None] = []
        for start in range(0, len(asked), _AT_ONCE):
            async with answering():
                for found in await together(self._bulk, asked[start : start + _AT_ONCE]):
                    if isinstance(found, Exception):
                        raise found
                    records.append(_record(found))
        return records

    async def recent(self, tenant: str) -> list[str]:
        """Return the tenant's calls, the one that took a turn last first."""
        named, old = await self._index.recent(tenant)
        return named + await self._living(old)

    async def _living(self, threads: Sequence[str]) -> list[str]:
        """Return those whose call exists, and have the index forget the others."""
        living: list[str] = []
        for start in range(0, len(threads), _AT_ONCE):
            some = threads[start : start + _AT_ONCE]
            async with answering(), self._client.pipeline(transaction=False) as pipe:
                for thread in some:
                    pipe.exists(keys_of(thread)[0])
                exist = await pipe.execute()
            living += [thread for thread, exists in zip(some, exist, strict=True) if exists]
        for thread in set(threads).difference(living):
            await self._index.drop(thread)
        return living

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

    async def push_of(self, thread: str) -> dict[str, Any]:
        """Return where the call's clients want to be notified."""
        return push_in(await self._pushed(thread))

    async def change_push(self, thread: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        """Compare and set until nobody came in between: one of those who try at once always wins."""
        while True:
            old = await self._pushed(thread)
            changed = change(push_in(old))
            new = orjson.dumps(changed) if changed else b""
            async with answering():
                if await self._change_push(keys=keys_of(thread)[:1], args=[old, new]):
                    return
            await asyncio.sleep(random.uniform(0, _LONGEST_WAIT))

    async def ping(self) -> None:
        """Ask the store for an answer."""
        async with answering():
            await self._client.ping()

    async def _pushed(self, thread: str) -> bytes:
        async with answering():
            found = await self._client.hget(keys_of(thread)[0], "push")
        return found if isinstance(found, bytes) else b""

    async def _loaded(
        self, thread: str, head: str, blob: bytes | None, writes: list[bytes]
    ) -> CheckpointTuple | None:
        if self._codec is not None:
            return self._codec.decode(thread, "", head, blob, writes)
        ids = {"thread_id": thread, "checkpoint_ns": "", "checkpoint_id": head}
        return await self._saver.aget_tuple({"configurable": ids})


def push_in(kept: bytes | None) -> dict[str, Any]:
    """Read the notification configurations as they are kept."""
    return orjson.loads(kept) if kept else {}


def step_in(kept: bytes) -> Any:
    """Read a step as it is kept.

    Raises:
        ValueError: if somebody wrote into the store.
    """
    return orjson.loads(STEPS.unpack(kept))


def died_in(told: list[Any]) -> tuple[OpenedTurn, str]:
    """Read what a turn took over from: the turn whose process died, and the flow version that the call was on."""
    token, opened, after, committed, version = told
    died = OpenedTurn(token.decode(), False, orjson.loads(opened), after.decode() or START, bool(committed))
    return died, version.decode()


def _record(found: list[Any], state: dict[str, Any] | None = None) -> CallRecord | None:
    if not found:
        return None
    _, incarnation, token, live, opened, after, steps, version, committed, effects, chain = found[:11]
    position = after.decode() if after else START
    turn = token and OpenedTurn(token.decode(), bool(live), orjson.loads(opened), position, bool(committed))
    trail = [step_in(step) for step in steps]
    return CallRecord(
        state or {},
        trail,
        (incarnation or b"").decode(),
        turn or None,
        (version or b"").decode(),
        tuple(map(read_effect, effects)),
        (chain or b"").decode(),
    )
