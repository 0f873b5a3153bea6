"""A request handler as the endpoint asks it: it knows the extended card, and its errors name what they are about."""

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from typing import Any, cast

from a2a.server.context import ServerCallContext
from a2a.server.events import Event
from a2a.server.request_handlers import RequestHandler
from a2a.types import a2a_pb2 as pb
from a2a.utils.constants import VERSION_HEADER
from a2a.utils.errors import (
    ExtendedAgentCardNotConfiguredError,
    TaskNotCancelableError,
    TaskNotFoundError,
)

from server.a2a.cards import Cards

_LONGEST_NAME = 300


def answering(handler: RequestHandler, cards: Cards) -> RequestHandler:
    """Return the handler with the extended card answered for it, and its errors in words."""
    return cast(RequestHandler, _Answering(handler, cards))


class _Answering:
    def __init__(self, handler: RequestHandler, cards: Cards) -> None:
        self._handler = handler
        self._cards = cards

    def __getattr__(self, name: str) -> Any:
        return getattr(self._handler, name)

    async def on_get_extended_agent_card(
        self, params: pb.GetExtendedAgentCardRequest, context: ServerCallContext
    ) -> pb.AgentCard:
        if context.state["headers"][VERSION_HEADER] != "1.0":
            raise ExtendedAgentCardNotConfiguredError
        return self._cards.extended(context.state["base_url"])

    async def on_get_task(self, params: pb.GetTaskRequest, context: ServerCallContext) -> pb.Task | None:
        with _naming(params.id):
            return await self._handler.on_get_task(params, context)

    async def on_cancel_task(self, params: pb.CancelTaskRequest, context: ServerCallContext) -> pb.Task | None:
        with _naming(params.id):
            return await self._handler.on_cancel_task(params, context)

    async def on_subscribe_to_task(
        self, params: pb.SubscribeToTaskRequest, context: ServerCallContext
    ) -> AsyncGenerator[Event, None]:
        with _naming(params.id):
            async with aclosing(self._handler.on_subscribe_to_task(params, context)) as events:
                async for event in events:
                    yield event
                    del event  # it would be held until the next, and the first is a whole task

    async def on_create_task_push_notification_config(
        self, params: pb.TaskPushNotificationConfig, context: ServerCallContext
    ) -> pb.TaskPushNotificationConfig:
        with _naming(params.task_id):
            return await self._handler.on_create_task_push_notification_config(params, context)

    async def on_list_task_push_notification_configs(
        self, params: pb.ListTaskPushNotificationConfigsRequest, context: ServerCallContext
    ) -> pb.ListTaskPushNotificationConfigsResponse:
        with _naming(params.task_id):
            return await self._handler.on_list_task_push_notification_configs(params, context)

    async def on_delete_task_push_notification_config(
        self, params: pb.DeleteTaskPushNotificationConfigRequest, context: ServerCallContext
    ) -> None:
        with _naming(params.task_id):
            await self._handler.on_delete_task_push_notification_config(params, context)

    async def on_get_task_push_notification_config(
        self, params: pb.GetTaskPushNotificationConfigRequest, context: ServerCallContext
    ) -> pb.TaskPushNotificationConfig:
        """Return a configuration; what is not found may be it, or its task."""
        try:
            return await self._handler.on_get_task_push_notification_config(params, context)
        except TaskNotFoundError as error:
            if not _is_bare(error):
                raise
            await self.on_get_task(pb.GetTaskRequest(id=params.task_id, history_length=0), context)
            raise TaskNotFoundError(
                f"the task has no push notification configuration {_short(params.id)}; list those it has"
            ) from error


@contextmanager
def _naming(task_id: str) -> Iterator[None]:
    """Say of which task it is that there is none, or that it cannot be canceled, where that is not said yet."""
    try:
        yield
    except TaskNotFoundError as error:
        if not _is_bare(error):
            raise
        words = f"task not found: {_short(task_id)}; it never began, or its call was deleted or has expired"
        raise TaskNotFoundError(words) from error
    except TaskNotCancelableError as error:
        if not _is_bare(error):
            raise
        raise TaskNotCancelableError(f"the task {_short(task_id)} has ended and cannot be canceled") from error


def _is_bare(error: TaskNotFoundError | TaskNotCancelableError) -> bool:
    return error.message == type(error).message


def _short(name: str) -> str:
    return repr(name) if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]!r}…"
