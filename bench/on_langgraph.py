"""The peer with one change: its agent is asked by the only node of a LangGraph graph, which shows what LangGraph
takes of a turn. Run by `python -m bench.on_langgraph`.

The graph has two channels and a saver that keeps nothing; its run enters at the node, as the service's do.
"""

import os
from collections.abc import Sequence
from typing import Any

import uvicorn
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    empty_checkpoint,
)
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command
from typing_extensions import TypedDict

from bench import handwritten
from bench.handwritten import AgentClient, OrchestrateRequest, Status

NODE = "agent"


class State(TypedDict, total=False):
    """What is asked, and what comes of it."""

    asked: tuple[str, OrchestrateRequest, int]
    answered: tuple[Status, dict[str, Any]]


class Nowhere(BaseCheckpointSaver[int]):
    """Keeps nothing, and always goes on from the same."""

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple:
        checkpoint: Checkpoint = {**empty_checkpoint(), "channel_versions": {START: 1}}
        return CheckpointTuple(config, checkpoint, {"step": -2}, None, [])

    async def aput(
        self, config: RunnableConfig, checkpoint: Checkpoint, metadata: CheckpointMetadata, news: ChannelVersions
    ) -> RunnableConfig:
        return config

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        return None


class OnLangGraph(AgentClient):
    """Asks from within a graph."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        graph = StateGraph(State)
        graph.add_node(NODE, self._node)
        graph.add_edge(START, NODE)
        graph.add_edge(NODE, END)
        self._graph = graph.compile(checkpointer=Nowhere())

    async def send(self, url: str, turn: OrchestrateRequest, stage: int) -> tuple[Status, dict[str, Any]]:
        brought: Any = Command(update={"asked": (url, turn, stage)}, goto=NODE)
        config: RunnableConfig = {"configurable": {"thread_id": turn.call_identify_id}}
        state = await self._graph.ainvoke(brought, config, durability="exit")
        answered: tuple[Status, dict[str, Any]] = state["answered"]
        return answered

    async def _node(self, state: State) -> State:
        return {"answered": await super().send(*state["asked"])}


if __name__ == "__main__":
    handwritten.AgentClient = OnLangGraph  # type: ignore[assignment, misc]  # the app's lifespan makes one of whatever is there
    uvicorn.run(
        handwritten.app, host="127.0.0.1", port=int(os.environ["PORT"]), log_level="warning", access_log=False
    )
