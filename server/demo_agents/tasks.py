"""Where an agent keeps its tasks, and how a message finds the context of the task it continues."""

from __future__ import annotations

from a2a.server.agent_execution import RequestContext, SimpleRequestContextBuilder
from a2a.server.context import ServerCallContext
from a2a.server.tasks import InMemoryTaskStore
from a2a.types import SendMessageRequest, Task


class RecentTasks(InMemoryTaskStore):
    """Keeps the newest `limit` tasks: the store of the sdk keeps every task for ever."""

    def __init__(self, limit: int = 10_000) -> None:
        super().__init__()
        self._limit = limit
        self._ids: dict[str, None] = {}

    async def save(self, task: Task, context: ServerCallContext) -> None:
        await super().save(task, context)
        self._ids[task.id] = None
        if len(self._ids) > self._limit:
            oldest = next(iter(self._ids))
            del self._ids[oldest]
            # Nobody signs in to a demo agent, so every task has the same owner and any context may delete it.
            await self.delete(oldest, context)


class ContextOfTask(SimpleRequestContextBuilder):
    """Restores the context id that a follow-up left out; the sdk would invent another (a2a-python#1206)."""

    def __init__(self, tasks: RecentTasks) -> None:
        super().__init__()
        self._tasks = tasks

    async def build(
        self,
        context: ServerCallContext,
        params: SendMessageRequest | None = None,
        task_id: str | None = None,
        context_id: str | None = None,
        task: Task | None = None,
    ) -> RequestContext:
        if task_id and not context_id:
            stored = await self._tasks.get(task_id, context)
            context_id = stored.context_id if stored else None
        return await super().build(context, params, task_id, context_id, task)
