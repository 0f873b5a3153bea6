"""LangGraph's own savers made safe for turns: they read what `begin` loaded, and keep nothing of a run that answered
nothing. What they save becomes the call's state only when the commit names it."""

from collections.abc import Sequence
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
)
from langgraph.checkpoint.memory import InMemorySaver

from graph.store.calls import new_steps, turn_of


class Turnwise(BaseCheckpointSaver[Any]):
    """What a stock saver must know of turns."""

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """Return what the turn was begun with, or ask the saver."""
        turn = turn_of(config)
        if turn is not None and not _named(config):
            return turn.loaded
        return await super().aget_tuple(config)

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Save a checkpoint, unless it is that of a turn which answered nothing."""
        turn = turn_of(config)
        if turn is None:
            return await super().aput(config, checkpoint, metadata, new_versions)
        saved = {"thread_id": turn.thread, "checkpoint_ns": "", "checkpoint_id": checkpoint["id"]}
        if not turn.one_save or new_steps(turn, checkpoint["channel_values"]):
            await super().aput(_without_turn(config), checkpoint, metadata, new_versions)
            turn.saved = checkpoint["id"]
        return {"configurable": saved}

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Keep what a task wrote, unless its turn answered nothing."""
        turn = turn_of(config)
        if turn is None or turn.saved:
            await super().aput_writes(_without_turn(config), writes, task_id, task_path)


class TurnwiseMemorySaver(Turnwise, InMemorySaver):
    """LangGraph's in-memory saver."""


def _named(config: RunnableConfig) -> bool:
    configurable = config["configurable"]
    return bool(configurable.get("checkpoint_id") or configurable.get("checkpoint_ns"))


def _without_turn(config: RunnableConfig) -> RunnableConfig:
    """Leave only what identifies the checkpoint: the stock savers copy the rest into the metadata they index."""
    known = ("thread_id", "checkpoint_ns", "checkpoint_id")
    configurable = {key: value for key, value in config["configurable"].items() if key in known}
    return {"configurable": configurable}
