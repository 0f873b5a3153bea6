"""The tasks of all calls, through the interfaces that `a2a-sdk` has for several replicas: any of them answers for any
task, because what they read is the call itself and the events of its open turn."""

from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import replace
from typing import Any

from a2a.server.cluster import StoredTask, TaskEventStream, TaskVersion, VersionedEvent, VersionedTaskStore
from a2a.server.context import ServerCallContext
from a2a.server.events.event_queue import Event
from a2a.types import a2a_pb2 as pb
from a2a.utils.errors import InvalidParamsError, UnsupportedOperationError
from a2a.utils.task import ListTasksCursor, decode_list_tasks_cursor, encode_list_tasks_cursor

from graph.routing import Routes
from graph.store.calls import CallRecord, Calls
from graph.store.events import START, Events, Published
from graph.store.names import decode, thread_name
from server.a2a.runs import Run, as_task, read_task_id, runs_of, updated_at
from server.a2a.telling import Teller
from server.following import follow

_PAGE = 50
_BATCH = 100
_TRIES = 5
_WRITTEN_BY_TURNS = "tasks are read from calls, which only turns write"


class CallTasks(VersionedTaskStore, TaskEventStream):
    """Reads tasks, and follows them.

    A task's version says how far its events and its steps had come when it was read.

    Args:
        calls: where the calls live.
        events: where the events of followed turns are.
        routes: the flow.
        tenant: whose tasks these are.
    """

    def __init__(self, calls: Calls, events: Events, routes: Routes, tenant: str) -> None:
        self._calls = calls
        self._events = events
        self._routes = routes
        self._tenant = tenant
        self._restarts = routes.flow.restarts

    @property
    def events(self) -> Events:
        """The events of followed turns."""
        return self._events

    def thread_of(self, call: str) -> str:
        """Return the thread of a call."""
        return thread_name(self._tenant, call)

    def thread_of_task(self, task_id: str) -> str | None:
        """Return the thread of the call that a task is a run of; None for an id that is none of ours."""
        name = read_task_id(task_id)
        return self.thread_of(name.call) if name else None

    async def run(self, task_id: str) -> Run | None:
        """Return the run that a task id names, as it is now; None if there is none such."""
        found = await self._found(task_id)
        return found[0] if found else None

    async def runs(self, call: str) -> list[Run]:
        """Return the runs of a call, oldest first."""
        record = await self._calls.read(self.thread_of(call))
        return runs_of(call, record, restarts=self._restarts) if record else []

    async def get(self, task_id: str, context: ServerCallContext) -> StoredTask | None:
        """Return the task with its version, or None if it does not exist."""
        found = None if _foreign(context, self._tenant) else await self._found(task_id)
        if found is None:
            return None
        run, position = found
        return StoredTask(as_task(run, self._routes), _version(position, len(run.steps)))

    async def save(
        self,
        task: pb.Task,
        *,
        event: Event | None,
        prev: pb.Task | None,
        prev_version: TaskVersion,
        context: ServerCallContext,
    ) -> TaskVersion:
        """Refuse: a task is written by the turns of its call, under their lease."""
        raise UnsupportedOperationError(_WRITTEN_BY_TURNS)

    async def delete(self, task_id: str, context: ServerCallContext) -> None:
        """Refuse: a task lives as long as its call."""
        raise UnsupportedOperationError(_WRITTEN_BY_TURNS)

    async def publish(self, task_id: str, event: VersionedEvent) -> None:
        """Refuse: a turn publishes what happens in it."""
        raise UnsupportedOperationError(_WRITTEN_BY_TURNS)

    async def destroy(self, task_id: str) -> None:
        """Do nothing: events run out by themselves."""

    async def subscribe(self, task_id: str, *, after: TaskVersion) -> AsyncGenerator[VersionedEvent, None]:
        """Yield what happens in the task after a version, whoever runs it, for as long as it is listened to."""
        name = read_task_id(task_id)
        if name is None:
            return
        thread, position = self.thread_of(name.call), _position(after)
        record = await self._calls.read(thread)
        run = _numbered(runs_of(name.call, record, restarts=self._restarts), name.run) if record else None
        if run is None:
            return
        known = replace(
            run, opened=None, steps=run.steps[: _steps(after)], chunks=await self._chunks(thread, position)
        )
        teller = Teller(known, restarts=self._restarts)
        async for published in follow(self._events, thread, position):
            if published is not None:
                position = published.position
            for update in teller.hear(published) if published else await self._caught_up(task_id, teller):
                yield VersionedEvent(update, _version(position, teller.known))

    async def _caught_up(self, task_id: str, teller: Teller) -> Iterator[Event]:
        run = await self.run(task_id)
        return teller.catch_up(run) if run else iter(())

    async def _found(self, task_id: str) -> tuple[Run, str] | None:
        """Return the run as it is now, and the position of the last event that it takes into account."""
        name = read_task_id(task_id)
        if name is None:
            return None
        thread = self.thread_of(name.call)
        found: tuple[Run, str] | None = None
        for _ in range(_TRIES):  # until nothing happens between reading the call and its events
            before = await self._events.last(thread)
            record = await self._calls.read(thread)
            runs = runs_of(name.call, record, restarts=self._restarts) if record else []
            run = _numbered(runs, name.run)
            if run is None or not name.fits(run.incarnation):
                return None
            if run.opened is not None and run.works:
                told = await self._told(thread)
                mine = [told_one.event for told_one in told if told_one.event.get("turn") == run.opened.token]
                chunks = [event for event in mine if event["event"] == "message_chunk"]
                found = replace(run, chunks=chunks), told[-1].position if told else before
                if not any(event["event"] == "step" for event in mine):
                    break
                continue
            found = run, before
            if await self._events.last(thread) == before:
                break
        return found

    async def _told(self, thread: str) -> list[Published]:
        told: list[Published] = []
        while page := await self._events.read(thread, told[-1].position if told else START):
            told += page
        return told

    async def _chunks(self, thread: str, until: str) -> list[dict[str, Any]]:
        """Return the chunks told up to a position: what a follower who comes now has in its task already."""
        if until == START:
            return []
        told = await self._told(thread)
        heard = [event for event in told if _padded(event.position) <= _padded(until)]
        return [dict(event.event) for event in heard if event.event["event"] == "message_chunk"]

    async def _matching(self, params: pb.ListTasksRequest) -> Sequence[Run]:
        calls = [params.context_id] if params.context_id else await self._recent()
        found: list[Run] = []
        for start in range(0, len(calls), _BATCH):
            some = calls[start : start + _BATCH]
            records = await self._calls.trails([self.thread_of(call) for call in some])
            for call, record in zip(some, records, strict=True):
                runs = runs_of(call, record, restarts=self._restarts) if record else []
                found += [run for run in runs if self._matches(run, params)]
        return found

    async def _recent(self) -> list[str]:
        return [decode(thread.partition("__")[2]) for thread in await self._calls.recent(self._tenant)]

    def _matches(self, run: Run, params: pb.ListTasksRequest) -> bool:
        if params.status and as_task(run, self._routes).status.state != params.status:
            return False
        if params.HasField("status_timestamp_after"):
            return _nanoseconds(run) >= int(params.status_timestamp_after.ToNanoseconds())
        return True

    async def _whole(self, run: Run, artifacts: bool) -> Run:
        """Return the run with its summary, which only the call's state has."""
        record: CallRecord | None = await self._calls.read(self.thread_of(run.call)) if artifacts else None
        same = _numbered(runs_of(run.call, record, restarts=self._restarts), run.number) if record else None
        return same or run

    async def list(self, params: pb.ListTasksRequest, context: ServerCallContext) -> pb.ListTasksResponse:
        """Return a page of tasks, the one updated last first.

        Raises:
            InvalidParamsError: if the page token is none of ours.
        """
        if _foreign(context, self._tenant):
            return pb.ListTasksResponse(page_size=params.page_size or _PAGE)
        newest_first = sorted(await self._matching(params), key=_sort_key, reverse=True)
        size = params.page_size or _PAGE
        page = [run for run in newest_first if _is_after(run, params.page_token)]
        shown = [await self._whole(run, params.include_artifacts) for run in page[:size]]
        token = encode_list_tasks_cursor(_cursor(page[size - 1])) if len(page) > size else ""
        return pb.ListTasksResponse(
            tasks=[as_task(run, self._routes) for run in shown],
            next_page_token=token,
            page_size=size,
            total_size=len(newest_first),
        )


def _foreign(context: ServerCallContext, tenant: str) -> bool:
    return bool(context.tenant and context.tenant != tenant)


def _numbered(runs: Sequence[Run], number: int) -> Run | None:
    return next((run for run in runs if run.number == number), None)


def _version(position: str, steps: int) -> TaskVersion:
    return TaskVersion(f"{_padded(position)}/{steps:09d}")


def _padded(position: str) -> str:
    milliseconds, _, number = position.partition("-")
    return f"{milliseconds:0>15}-{number:0>10}"


def _position(version: TaskVersion) -> str:
    if version.is_missing:
        return START
    milliseconds, _, number = str(version._value).partition("/")[0].partition("-")
    return f"{int(milliseconds)}-{int(number)}"


def _steps(version: TaskVersion) -> int:
    return 0 if version.is_missing else int(str(version._value).partition("/")[2])


def _cursor(run: Run) -> ListTasksCursor:
    return ListTasksCursor(timestamp_ns=_nanoseconds(run), task_id=run.task_id)


def _nanoseconds(run: Run) -> int:
    return round(updated_at(run).timestamp() * 1000) * 1_000_000


def _sort_key(run: Run) -> tuple[bool, int, str]:
    return _cursor(run).sort_key()


def _is_after(run: Run, page_token: str) -> bool:
    if not page_token:
        return True
    cursor = decode_list_tasks_cursor(page_token)
    if cursor is None:
        raise InvalidParamsError("the page token is none of ours; send the nextPageToken of the page before")
    return _sort_key(run) < cursor.sort_key()
