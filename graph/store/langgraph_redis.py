"""LangGraph's `AsyncRedisSaver`, which needs a Redis with JSON and Search (Redis 8, Redis Stack).

Turnwise ─► Answering ─► AsyncRedisSaver: what concerns turns, then what its libraries raise, then the saver itself.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import ChannelVersions, Checkpoint, CheckpointMetadata, CheckpointTuple
from langgraph.checkpoint.redis.aio import AsyncRedisSaver
from redisvl.exceptions import RedisSearchError, RedisVLError  # type: ignore[import-untyped]

from graph.store.asking import answering
from graph.store.errors import StoreUnavailable
from graph.store.stock import Turnwise


@asynccontextmanager
async def _answering() -> AsyncIterator[None]:
    try:
        async with answering():
            yield
    except RedisVLError as error:
        raise StoreUnavailable(f"the store does not answer ({type(error).__name__})") from error


class _Answering(AsyncRedisSaver):
    """The stock saver, with failures of the store translated."""

    async def asetup(self) -> None:
        async with _answering():
            for _ in range(2):  # it makes two indexes, and another process may make the same at this moment
                with suppress(RedisSearchError):
                    return await super().asetup()
            return await super().asetup()

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        async with _answering():
            return await super().aget_tuple(config)

    async def alist(self, config: RunnableConfig | None, **options: Any) -> AsyncIterator[CheckpointTuple]:
        async with _answering():
            async for found in super().alist(config, **options):
                yield found

    async def aput(  # type: ignore[override]  # the stock one takes one more, which nobody passes
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        async with _answering():
            return await super().aput(config, checkpoint, metadata, new_versions)

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        async with _answering():
            await super().aput_writes(config, writes, task_id, task_path)

    async def adelete_thread(self, thread_id: str) -> None:
        async with _answering():
            await super().adelete_thread(thread_id)


class TurnwiseRedisSaver(Turnwise, _Answering):  # type: ignore[misc]  # the stock aput takes one more
    """The stock Redis saver, made safe for turns."""

    def key_of(self, thread: str, checkpoint_id: str) -> str:
        """Return the key under which a checkpoint of a call lies."""
        return self._make_redis_checkpoint_key(thread, "", checkpoint_id)
