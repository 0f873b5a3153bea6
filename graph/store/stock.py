"""LangGraph's own savers made safe for turns: they read what `begin` loaded, and keep nothing of a run that answered
nothing. What they save becomes the call's state only when the commit names it."""

import asyncio
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

from graph.store.calls import OpenTurn, is_worth_saving, new_steps, turn_of
from nodes.runs import has_ended


class Turnwise(BaseCheckpointSaver[Any]):
    """What a stock saver must know of turns."""

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """Return what the turn was begun with, or ask the saver."""
        turn = turn_of(config)
        if turn is not None and not _named(config):
            return turn.basis(self)
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
        values = checkpoint["channel_values"]
        if not turn.replaced and is_worth_saving(turn, values):
            turn.saving, turn.ended = asyncio.current_task(), has_ended(values)
            with turn.committing():
                await self._saved(turn, checkpoint, metadata)
                if turn.calls is not None and not turn.one_save:
                    await turn.calls.keep(turn, new_steps(turn, values), complete=bool(values.get("is_complete")))
        return _at(turn, checkpoint["id"])

    async def _saved(self, turn: OpenTurn, checkpoint: Checkpoint, metadata: CheckpointMetadata) -> None:
        """Have the saver keep a checkpoint, after the turn's head."""
        # All versions, because savers keep what changed since a save, and one may have been left out here.
        versions = checkpoint["channel_versions"]
        with turn.timing.of("store"):
            if turn.calls is not None:
                await turn.calls.renew(turn)  # refused if the lease moved on, before anything is written
            await super().aput(_at(turn, turn.head), _without_steps(checkpoint), metadata, versions)
        turn.saved = checkpoint["id"]

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Keep what a task wrote, unless it belongs to a turn, of which only commits are kept."""
        if turn_of(config) is None:
            await super().aput_writes(config, writes, task_id, task_path)


class TurnwiseMemorySaver(Turnwise, InMemorySaver):
    """LangGraph's in-memory saver."""


def _named(config: RunnableConfig) -> bool:
    configurable = config["configurable"]
    return bool(configurable.get("checkpoint_id") or configurable.get("checkpoint_ns"))


def _at(turn: OpenTurn, checkpoint_id: str | None) -> RunnableConfig:
    """Name a checkpoint and nothing else: the stock savers copy the rest into the metadata they index."""
    named = {"checkpoint_id": checkpoint_id} if checkpoint_id else {}
    return {"configurable": {"thread_id": turn.thread, "checkpoint_ns": "", **named}}


def _without_steps(checkpoint: Checkpoint) -> Checkpoint:
    """Leave the turn's steps to the audit trail, as `core` does."""
    values = {key: value for key, value in checkpoint["channel_values"].items() if key != "steps"}
    return {**checkpoint, "channel_values": values}
