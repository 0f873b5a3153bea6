"""Looking for a message that was sent before: which task of the agent holds it, and what became of that."""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from nodes.parts import Unreadable, as_object
from nodes.ports import AgentRequest, Reply
from nodes.remote.dialect import (
    AT_WORK,
    GET_TASK,
    LIST_TASKS,
    WAITS,
    Dialect,
    list_params,
    read_history,
    read_page,
    read_task,
    read_task_id,
    task_params,
)
from nodes.remote.work import Patience

Json = dict[str, Any]
Ask = Callable[[str, Json], Awaitable[object | None]]
"""Calls a method of the agent with parameters; None if the agent does not do that, or knows no such task."""

_WHOLE_HISTORY = 1000
_MOST_PAGES = 100
_AGENT = ("agent", "ROLE_AGENT")


class Sought:
    """The message, and what is known of the task that holds it.

    Args:
        request: the message as it was sent.

    Attributes:
        task_id: the agent's task that holds the message, once it is found: known even if the time runs out.
    """

    def __init__(self, request: AgentRequest) -> None:
        self.task_id: str | None = None
        self._request = request

    async def find(self, dialect: Dialect, ask: Ask) -> Reply | None:
        """Return what the agent answered to the message, as soon as it has; None if it knows nothing of it.

        Raises:
            AgentError: if asking fails.
            Unreadable: if the agent tells what is no task, or no list of them.
        """
        self.task_id = await self._holder(dialect, ask)
        if self.task_id is None:
            return None
        patience, asking = Patience(), partial(_whole, dialect, ask, self.task_id)
        task = await asking()
        while task is not None:
            if reply := self._answer_in(task):
                return reply
            task = await patience.ask(asking)
        return None

    async def _holder(self, dialect: Dialect, ask: Ask) -> str | None:
        """Return the id of the task that holds the message: the one it continued, or else one of the context."""
        if self._request.task_id is not None:
            return await self._first_holder([{"id": self._request.task_id}], dialect, ask)
        token = ""
        for _ in range(_MOST_PAGES if dialect == "1.0" else 0):
            listed = await ask(LIST_TASKS, list_params(self._request.context_id, _WHOLE_HISTORY, token))
            tasks, token = ([], "") if listed is None else read_page(listed, self._request.context_id)
            if holder := await self._first_holder(tasks, dialect, ask):
                return holder
            if not token:
                break
        return None

    async def _first_holder(self, tasks: Sequence[Json], dialect: Dialect, ask: Ask) -> str | None:
        for listed in tasks:
            task_id = read_task_id(listed.get("id"))
            # Some agents tell the history only when asked for the one task.
            task = listed if read_history(listed) else await _whole(dialect, ask, task_id)
            if task is not None and self._place_in(read_history(task)) is not None:
                return task_id
        return None

    def _answer_in(self, task: Json) -> Reply | None:
        reply = read_task(task)
        if reply.task_state in AT_WORK or (reply.task_state in WAITS and not self._is_answered_in(task)):
            return None
        return reply

    def _is_answered_in(self, task: Json) -> bool:
        """Whether a task that waits does so after the message, and not still for it.

        Agents save a message that continues a task before they act on it, while the task still says that it waits
        (a2a-js and a2a-go; a2a-python for a moment), some with the old question in its status.
        """
        history = read_history(task)
        place = self._place_in(history)
        if self._request.task_id is None and not place:
            return True  # the task began with the message
        return any(message.get("role") in _AGENT for message in history[(place or 0) + 1 :])

    def _place_in(self, history: Sequence[Json]) -> int | None:
        ids = [message.get("messageId") for message in history]
        return ids.index(self._request.message_id) if self._request.message_id in ids else None


async def _whole(dialect: Dialect, ask: Ask, task_id: str) -> Json | None:
    """Return the task with its history, if the agent tells one: some do only if its length is left to them."""
    task: Json | None = None
    for length in (_WHOLE_HISTORY, None):
        told = await ask(GET_TASK[dialect], task_params(task_id, length))
        if told is None:
            return task
        task = as_object(told, "the task")
        if task.get("id") != task_id:
            raise Unreadable("it tells of another task")
        if read_history(task):
            return task
    return task
