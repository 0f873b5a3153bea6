"""What notifications say, in the form of each version of A2A, and where they wait for their delivery, in bounds."""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import orjson
import structlog
from a2a.compat.v0_3.conversions import to_compat_task
from a2a.types.a2a_pb2 import StreamResponse, Task, TaskState
from a2a.utils.proto_utils import Event, to_stream_response
from google.protobuf.json_format import MessageToDict

from server.a2a.push import PushConfig, Version

Key = tuple[str, str]
"""The ids of a task and of a configuration of it."""

_UNDER_WAY = (TaskState.TASK_STATE_UNSPECIFIED, TaskState.TASK_STATE_SUBMITTED, TaskState.TASK_STATE_WORKING)

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Payload:
    """One notification."""

    body: bytes
    settles: bool
    """Whether it tells how a turn ended, rather than that it goes on."""


@dataclass(frozen=True, slots=True, eq=False)
class Delivery:
    """A notification on its way to one webhook."""

    push: PushConfig
    payload: Payload
    number: int

    @property
    def key(self) -> Key:
        """Whose order it keeps."""
        return self.push.config.task_id, self.push.config.id


class Waiting:
    """The notifications that wait: in order for each configuration, bounded over all of them.

    Args:
        limit: how many may wait; beyond it the oldest goes, the last word on a turn last of all.
        limit_bytes: how long they may be in all, bytes.
    """

    def __init__(self, limit: int, limit_bytes: int) -> None:
        self._limit = limit
        self._limit_bytes = limit_bytes
        self._queues: dict[Key, deque[Delivery]] = {}
        self._count = self._bytes = self._made = 0

    def __len__(self) -> int:
        return self._count

    def add(self, push: PushConfig, payload: Payload) -> Key:
        """Let it wait, and drop others while there are too many."""
        delivery = Delivery(push, payload, self._made)
        self._made += 1
        self._queues.setdefault(delivery.key, deque()).append(delivery)
        self._counted(delivery, 1)
        while self._count > self._limit or self._bytes > self._limit_bytes:
            self._drop(min(self._all(), key=lambda waiting: (waiting.payload.settles, waiting.number)))
        return delivery.key

    def take(self, key: Key) -> Delivery | None:
        """Return what waits longest for a configuration; None if nothing does."""
        queue = self._queues.get(key)
        if not queue:
            self._queues.pop(key, None)
            return None
        delivery = queue.popleft()
        self._counted(delivery, -1)
        return delivery

    def keep_last_word(self, key: Key) -> None:
        """Drop what waits for a configuration, but not how turns ended."""
        for delivery in [one for one in self._queues.get(key, ()) if not one.payload.settles]:
            self._drop(delivery)

    def _drop(self, delivery: Delivery) -> None:
        self._queues[delivery.key].remove(delivery)
        self._counted(delivery, -1)
        log.warning("push notification dropped", task=delivery.push.config.task_id, waiting=self._count)

    def _counted(self, delivery: Delivery, one: int) -> None:
        self._count += one
        self._bytes += one * len(delivery.payload.body)

    def _all(self) -> Iterator[Delivery]:
        return (delivery for queue in self._queues.values() for delivery in queue)


def payloads(version: Version, task: Task, events: Sequence[Event]) -> Iterator[Payload]:
    """Return what to send: in 1.0 each event, or the task where there are none; in 0.3 the task as it is now."""
    if version == "0.3":
        document = to_compat_task(task).model_dump(mode="json", by_alias=True, exclude_none=True)
        yield Payload(orjson.dumps(document), _settles(to_stream_response(task)))
        return
    for event in events or [task]:
        response = to_stream_response(event)
        yield Payload(orjson.dumps(MessageToDict(response)), _settles(response))


def _settles(response: StreamResponse) -> bool:
    match response.WhichOneof("payload"):
        case "task":
            return response.task.status.state not in _UNDER_WAY
        case "status_update":
            return response.status_update.status.state not in _UNDER_WAY
        case kind:
            return bool(kind == "message")
