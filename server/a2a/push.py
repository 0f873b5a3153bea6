"""Where clients want to be notified of their tasks: the configurations, kept with the call that a task is a run of.

`push_guard` says which addresses may be named, `push_delivery` sends the notifications.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from a2a.compat.v0_3.versions import is_legacy_version
from a2a.server.context import ServerCallContext
from a2a.server.tasks.push_notification_config_store import (
    PushNotificationConfigStore,
    normalize_push_notification_config,
)
from a2a.types.a2a_pb2 import TaskPushNotificationConfig
from a2a.utils.errors import InvalidParamsError, TaskNotFoundError
from google.protobuf.json_format import MessageToDict, ParseDict

from graph.store.calls import Calls
from server.a2a.push_guard import MAX_URL_CHARACTERS

MAX_PER_TASK = 10
MAX_PER_CALL = 20
"""Beyond it, configurations of the call's other tasks go: of the tasks of a call, only the newest can be open."""

_UNNAMED_03 = "default"
"""What clients of 0.3 call the one configuration of a task that they gave no id; in 1.0 it has the task's."""

Version = Literal["1.0", "0.3"]

_MAX_CHARACTERS = {"id": 500, "url": MAX_URL_CHARACTERS, "tenant": 500}
_MAX_HEADER_CHARACTERS = {"token": 1_000, "scheme": 100, "credentials": 4_000}


@dataclass(frozen=True, slots=True)
class PushConfig:
    """Where and how one client is notified of one task."""

    config: TaskPushNotificationConfig
    version: Version
    """The version of A2A in which the client asked; it decides what is sent."""


class CallPushConfigs(PushNotificationConfigStore):
    """Keeps configurations in the call, so that they live, are shared and end as it does.

    Args:
        calls: where the calls live.
        thread_of_task: names the call's thread; None for an id that is none of ours.
    """

    def __init__(self, calls: Calls, thread_of_task: Callable[[str], str | None]) -> None:
        self._calls = calls
        self._thread_of_task = thread_of_task

    async def set_info(
        self, task_id: str, notification_config: TaskPushNotificationConfig, context: ServerCallContext
    ) -> TaskPushNotificationConfig:
        """Keep a configuration, in place of one with the same id, and return it as it is kept.

        Raises:
            InvalidParamsError: if it is too long, or the task has too many.
            TaskNotFoundError: if the call does not exist; a first message's call exists once its turn has begun.
        """
        thread = self._thread_of_task(task_id)
        config = normalize_push_notification_config(task_id, notification_config)
        if not notification_config.id and version_of(context) == "0.3":
            config.id = _UNNAMED_03
        _check(config)
        kept = {"config": MessageToDict(config), "version": version_of(context)}
        if thread is None:
            raise TaskNotFoundError
        await self._calls.change_push(thread, lambda push: _with(push, config, kept))
        if _key(config) not in await self._calls.push_of(thread):
            raise TaskNotFoundError
        return config

    async def get_info(self, task_id: str, context: ServerCallContext) -> list[TaskPushNotificationConfig]:
        """Return the task's configurations."""
        return await self.get_info_for_dispatch(task_id)

    async def get_info_for_dispatch(self, task_id: str) -> list[TaskPushNotificationConfig]:
        """Return the task's configurations."""
        return [kept.config for kept in await self.of_task(task_id)]

    async def delete_info(self, task_id: str, context: ServerCallContext, config_id: str | None = None) -> None:
        """Forget one of the task's configurations, or all; one that is not there is forgotten already."""

        def without(push: Mapping[str, Any]) -> dict[str, Any]:
            gone = {_key(kept.config) for kept in configs_of(push, task_id) if config_id in (None, kept.config.id)}
            return {key: kept for key, kept in push.items() if key not in gone}

        thread = self._thread_of_task(task_id)
        if thread is not None:
            await self._calls.change_push(thread, without)

    async def of_task(self, task_id: str) -> list[PushConfig]:
        """Return the task's configurations, each with the version in which it was made."""
        thread = self._thread_of_task(task_id)
        return configs_of(await self._calls.push_of(thread), task_id) if thread else []

    async def current(self, push: PushConfig) -> PushConfig | None:
        """Return a configuration as it is kept now; None once it is deleted: then nothing more is sent (3.1.10)."""
        kept = await self.of_task(push.config.task_id)
        return next((one for one in kept if one.config.id == push.config.id), None)


def configs_of(push: Mapping[str, Any], task_id: str) -> list[PushConfig]:
    """Return a task's configurations from what the store keeps for its call (`OpenTurn.push`, `Calls.push_of`)."""
    return [
        PushConfig(ParseDict(kept["config"], TaskPushNotificationConfig()), kept["version"])
        for kept in push.values()
        if kept["config"]["taskId"] == task_id
    ]


def version_of(context: ServerCallContext) -> Version:
    """Return the version in which a request speaks: its method's name tells, else the header (A2A 3.6)."""
    method = context.state.get("method")
    if method:
        return "0.3" if "/" in method else "1.0"
    headers = context.state.get("headers", {})
    asked = headers.get("a2a-version") or headers.get("A2A-Version")
    return "0.3" if not asked or is_legacy_version(asked) else "1.0"


def _key(config: TaskPushNotificationConfig) -> str:
    # Two tasks of a call may have configurations of one id. A task id holds no slash, because a call id holds none.
    return f"{config.task_id}/{config.id}"


def _with(push: Mapping[str, Any], config: TaskPushNotificationConfig, kept: dict[str, Any]) -> dict[str, Any]:
    key = _key(config)
    own = {_key(known.config) for known in configs_of(push, config.task_id)} - {key}
    if len(own) >= MAX_PER_TASK:
        raise InvalidParamsError(
            message=f"a task has at most {MAX_PER_TASK} push notification configurations; delete one first"
        )
    others = [other for other in push if other not in own | {key}]
    spared = own.union(others[-(MAX_PER_CALL - len(own) - 1) :])
    return {other: known for other, known in push.items() if other in spared} | {key: kept}


def _check(config: TaskPushNotificationConfig) -> None:
    auth = config.authentication
    _check_lengths(_MAX_CHARACTERS, id=config.id, url=config.url, tenant=config.tenant)
    sent = {"token": config.token, "scheme": auth.scheme, "credentials": auth.credentials}
    _check_lengths(_MAX_HEADER_CHARACTERS, **sent)
    for name, text in sent.items():
        if not (text.isascii() and text.isprintable()):
            raise InvalidParamsError(message=f"{name} of a push notification configuration must be printable ASCII")


def _check_lengths(limits: Mapping[str, int], **texts: str) -> None:
    for name, text in texts.items():
        if len(text) > limits[name]:
            raise InvalidParamsError(
                message=f"{name} of a push notification configuration has at most {limits[name]} characters"
            )
