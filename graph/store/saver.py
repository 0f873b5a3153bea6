"""LangGraph's view of the store on `core`: a checkpoint saver over the same keys as the calls.

A run that belongs to a turn reads what `begin` loaded, and its one `aput` is the turn's commit: a refusal fails the
run. A run without a turn (Studio, a notebook, a conformance test) reads and writes plainly.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any, NoReturn

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    get_checkpoint_metadata,
)
from redis.asyncio import Redis

from graph.archive import Archive
from graph.store import scripts
from graph.store.asking import answering
from graph.store.calls import OpenTurn, is_worth_saving, new_steps, turn_of
from graph.store.codec import Codec
from graph.store.names import PREFIX, keys_of, thread_of
from graph.store.redis_calls import LEASE_SECONDS, RedisCalls
from nodes.runs import has_ended

_ASYNC_ONLY = "this saver is asynchronous; call {name} instead (ainvoke, astream, aget_state …)"


class CoreSaver(BaseCheckpointSaver[int]):
    """Checkpoints over core commands of Redis 6.2 or newer, or Valkey.

    Args:
        client: a client that returns bytes.
        ttl: seconds a thread lives after its last checkpoint; 0 for ever.
        lease: seconds a turn may hold a call without renewing.
        audit_key: the secret that the hashes of the audit trail are made with; empty for none.
        archive: where audit trails go before they are gone; None for nowhere.
    """

    def __init__(
        self,
        client: Redis,
        *,
        ttl: int = 0,
        lease: float = LEASE_SECONDS,
        audit_key: bytes = b"",
        archive: Archive | None = None,
    ) -> None:
        super().__init__()
        self._client = client
        self._ttl = ttl
        self._put = client.register_script(scripts.PUT)
        self._read = client.register_script(scripts.READ)
        self.calls = RedisCalls(
            client, self, ttl=ttl, codec=self._codec, lease=lease, audit_key=audit_key, archive=archive
        )
        """The calls whose commit is this saver's `aput`."""

    @property
    def _codec(self) -> Codec:
        return Codec(self.serde)  # not kept: LangGraph may give a copy of this saver another serializer

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """Return the checkpoint that `config` names, or the thread's last."""
        turn = turn_of(config)
        thread_id, namespace, checkpoint_id = _ids(config)
        if turn is not None and not namespace and not checkpoint_id:
            return turn.basis(self)
        async with answering():
            found = await self._read(keys=keys_of(thread_id), args=[namespace, checkpoint_id or ""])
        if not found:
            return None
        return self._codec.decode(thread_id, namespace, found[0].decode(), found[1], found[2])

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002  (LangGraph's name)
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """Yield checkpoints, newest first."""
        threads = [_ids(config)[0]] if config else [thread async for thread in self._threads()]
        newest_first = sorted(
            [found for thread in threads for found in await self._of_thread(thread)],
            key=lambda found: found.checkpoint["id"],
            reverse=True,
        )
        wanted = (found for found in newest_first if _matches(found, config, filter, before))
        for count, found in enumerate(wanted):
            if limit is not None and count >= limit:
                return
            yield found

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Save a checkpoint; for a run that belongs to a turn this is the commit.

        Raises:
            TurnLost: if another turn has begun meanwhile.
        """
        thread_id, namespace, parent = _ids(config)
        saved: RunnableConfig = {
            "configurable": {"thread_id": thread_id, "checkpoint_ns": namespace, "checkpoint_id": checkpoint["id"]}
        }
        turn = turn_of(config)
        if turn is not None and not namespace:
            with turn.committing():
                await self._commit(turn, checkpoint, metadata)
            return saved
        described = get_checkpoint_metadata(config, metadata)
        blob = self._codec.encode(checkpoint, described, parent, steps=True)
        async with answering():
            await self._put(keys=keys_of(thread_id), args=[namespace, checkpoint["id"], blob, self._ttl])
        return saved

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Keep what a task wrote before its super-step ended."""
        if turn_of(config) is not None:
            return  # of a turn, only commits are kept
        thread_id, namespace, checkpoint_id = _ids(config)
        key = keys_of(thread_id)[3]
        async with answering(), self._client.pipeline(transaction=True) as pipe:
            for index, (channel, value) in enumerate(writes):
                number = WRITES_IDX_MAP.get(channel, index)
                field = f"{namespace}|{checkpoint_id}|{task_id}|{number}"
                blob = self._codec.encode_write(channel, value, task_path)
                pipe.hset(key, field, blob) if number < 0 else pipe.hsetnx(key, field, blob)
            if self._ttl:
                pipe.expire(key, self._ttl)
            await pipe.execute()

    async def adelete_thread(self, thread_id: str) -> None:
        """Remove everything of a thread."""
        async with answering():
            await self._client.delete(*keys_of(thread_id))

    async def _commit(self, turn: OpenTurn, checkpoint: Checkpoint, metadata: CheckpointMetadata) -> None:
        values = checkpoint["channel_values"]
        if turn.replaced or not is_worth_saving(turn, values):
            return  # LangGraph saves a failed run as well; a turn that answered nothing has nothing to commit
        steps = new_steps(turn, values)
        turn.saving, turn.ended = asyncio.current_task(), has_ended(values)
        blob = self._codec.encode(checkpoint, metadata, turn.head, steps=False)
        complete = bool(values.get("is_complete"))
        await self.calls.commit(turn, checkpoint["id"], blob, steps, complete=complete, release=turn.one_save)

    async def _of_thread(self, thread_id: str) -> list[CheckpointTuple]:
        keys = keys_of(thread_id)
        async with answering(), self._client.pipeline(transaction=True) as pipe:
            pipe.hgetall(keys[1])
            pipe.hgetall(keys[3])
            saved, writes = await pipe.execute()
        flat = [part for pair in writes.items() for part in pair]
        decoded = []
        for field, blob in saved.items():
            namespace, _, checkpoint_id = field.decode().rpartition("|")
            decoded.append(self._codec.decode(thread_id, namespace, checkpoint_id, blob, flat))
        return [found for found in decoded if found is not None]

    async def _threads(self) -> AsyncIterator[str]:
        async with answering():
            async for key in self._client.scan_iter(match=f"{PREFIX}{{*}}:checkpoints", count=1000):
                yield thread_of(key.decode().split("{", 1)[1].rsplit("}", 1)[0])

    def get_tuple(self, config: RunnableConfig) -> NoReturn:
        """Refuse: there is no event loop to wait on."""
        raise NotImplementedError(_ASYNC_ONLY.format(name="aget_tuple"))

    def list(self, config: RunnableConfig | None, **options: Any) -> Iterator[CheckpointTuple]:
        """Refuse: there is no event loop to wait on."""
        raise NotImplementedError(_ASYNC_ONLY.format(name="alist"))

    def put(self, *arguments: Any) -> NoReturn:
        """Refuse: there is no event loop to wait on."""
        raise NotImplementedError(_ASYNC_ONLY.format(name="aput"))

    def put_writes(self, *arguments: Any) -> NoReturn:
        """Refuse: there is no event loop to wait on."""
        raise NotImplementedError(_ASYNC_ONLY.format(name="aput_writes"))

    def delete_thread(self, thread_id: str) -> NoReturn:
        """Refuse: there is no event loop to wait on."""
        raise NotImplementedError(_ASYNC_ONLY.format(name="adelete_thread"))


def _ids(config: RunnableConfig) -> tuple[str, str, str | None]:
    configurable = config["configurable"]
    return str(configurable["thread_id"]), configurable.get("checkpoint_ns", ""), configurable.get("checkpoint_id")


def _matches(
    found: CheckpointTuple,
    config: RunnableConfig | None,
    wanted: Mapping[str, Any] | None,
    before: RunnableConfig | None,
) -> bool:
    if config is not None:
        configurable = config["configurable"]
        if found.config["configurable"]["checkpoint_ns"] != configurable.get(
            "checkpoint_ns", found.config["configurable"]["checkpoint_ns"]
        ):
            return False
        if configurable.get("checkpoint_id") not in (None, found.checkpoint["id"]):
            return False
    if before is not None and found.checkpoint["id"] >= before["configurable"]["checkpoint_id"]:
        return False
    return all(found.metadata.get(key) == value for key, value in (wanted or {}).items())
