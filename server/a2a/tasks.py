"""The tasks of all calls, through the interfaces that `a2a-sdk` has for several replicas: any of them answers for any
task, because what they read is the call itself and the events of its open turn."""

import asyncio
import heapq
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

from a2a.server.cluster import StoredTask, TaskEventStream, TaskVersion, VersionedEvent, VersionedTaskStore
from a2a.server.context import ServerCallContext
from a2a.server.events.event_queue import Event
from a2a.types import a2a_pb2 as pb
from a2a.utils.errors import InvalidParamsError, UnsupportedOperationError
from a2a.utils.task import ListTasksCursor, decode_list_tasks_cursor, encode_list_tasks_cursor

from graph.routing import Routes
from graph.store.calls import CallRecord, Calls, OpenedTurn
from graph.store.events import START, Events, Published
from graph.store.names import decode, thread_name
from server.a2a.runs import Run, TaskName, as_task, read_task_id, runs_of, status_of, updated_at
from server.a2a.telling import Teller
from server.following import follow

_PAGE = 50
_BATCH = 100
_TRIES = 5
_MOMENT = 0.25
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

    async def recorded(self, task_id: str) -> Run | None:
        """Return the run as one look at its call tells it: without what its agent streams in the open turn."""
        name = read_task_id(task_id)
        return await self._read(name) if name else None

    async def get(self, task_id: str, context: ServerCallContext) -> StoredTask | None:
        """Return the task with its version, or None if it does not exist."""
        found = None if _foreign(context, self._tenant) else await self._found(task_id)
        if found is None:
            return None
        run, position = found
        return StoredTask(as_task(run, self._routes), _version(position, len(run.steps), not run.works))

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
        run = await self._read(name) if name else None
        if name is None or run is None:
            return
        thread, position, turn = self.thread_of(name.call), _position(after), None
        teller = Teller(await self._as_it_was(run, after), restarts=self._restarts)
        async for published in follow(self._events, thread, position):
            updates: Iterable[Event] = ()
            if published is None or published.event.get("turn") != turn:
                run = await self._read(name)
                if run is None:  # the call has gone, and maybe another has its name
                    return
                if published is None and teller.is_behind(run) and await self._still_told(thread, position):
                    continue
                updates = teller.catch_up(run, before=published)
            if published is not None:
                position, turn = published.position, published.event.get("turn")
                updates = chain(updates, teller.hear(published))
            for update in updates:
                yield VersionedEvent(update, _version(position, teller.known, teller.settled))

    async def _still_told(self, thread: str, position: str) -> bool:
        """Tell whether more events come after a moment: a turn is committed before its last events are published."""
        await asyncio.sleep(_MOMENT)
        return await self._events.last(thread) != position

    async def _as_it_was(self, run: Run, version: TaskVersion) -> Run:
        """Return the run as a client knows it that read this version of it."""
        steps, settled = _progress(version)
        chunks = [event for event in await self._told(run.call, _position(version)) if _is_chunk(event)]
        opened = None if settled else OpenedTurn("", True, {})
        return replace(run, steps=run.steps[:steps], opened=opened, chunks=chunks)

    async def _read(self, name: TaskName) -> Run | None:
        record = await self._calls.read(self.thread_of(name.call))
        run = _numbered(runs_of(name.call, record, restarts=self._restarts), name.run) if record else None
        return run if run and name.fits(run.incarnation) else None

    async def _found(self, task_id: str) -> tuple[Run, str] | None:
        """Return the run as it is now, and the position of the last event that it takes into account."""
        name = read_task_id(task_id)
        if name is None:
            return None
        for _ in range(_TRIES - 1):  # until nothing happens between reading the call and its events
            found, certain = await self._look(name)
            if certain:
                return found
        return (await self._look(name))[0]

    async def _look(self, name: TaskName) -> tuple[tuple[Run, str] | None, bool]:
        """Return the run with the position of its last event, and whether the two surely belong together."""
        thread = self.thread_of(name.call)
        before = await self._events.last(thread)
        run = await self._read(name)
        if run is None:
            return None, True
        after = await self._events.last(thread)
        if not run.opened or not run.works:
            return (run, before), before == after
        told = [event for event in await self._told(run.call, after) if event["turn"] == run.opened.token]
        chunks = [event for event in told if _is_chunk(event) and _is_new(event, run)]
        return (replace(run, chunks=chunks), after), not any(event["event"] == "step" for event in told)

    async def _told(self, call: str, until: str) -> list[Mapping[str, Any]]:
        """Return the events of a call up to a position."""
        told: list[Published] = []
        last = START
        while _padded(last) < _padded(until) and (page := await self._events.read(self.thread_of(call), last)):
            told += page
            last = page[-1].position
        return [one.event for one in told if _padded(one.position) <= _padded(until)]

    async def _matching(self, params: pb.ListTasksRequest) -> AsyncGenerator[list[Run], None]:
        """Yield the runs that the filters let through, the calls by batches: all of them may be many."""
        calls = [params.context_id] if params.context_id else await self._recent()
        for start in range(0, len(calls), _BATCH):
            some = calls[start : start + _BATCH]
            records = await self._calls.trails([self.thread_of(call) for call in some])
            runs = [
                run
                for call, record in zip(some, records, strict=True)
                for run in (runs_of(call, record, restarts=self._restarts) if record else ())
            ]
            yield [run for run in runs if _matches(run, params)]

    async def _recent(self) -> list[str]:
        return [decode(thread.partition("__")[2]) for thread in await self._calls.recent(self._tenant)]

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
        size, last_told, total = params.page_size or _PAGE, _sort_key_in(params.page_token), 0
        page: list[Run] = []
        if _foreign(context, self._tenant):
            return pb.ListTasksResponse(page_size=size)
        async for runs in self._matching(params):
            total += len(runs)
            following = (run for run in runs if last_told is None or _sort_key(run) < last_told)
            page = heapq.nlargest(size + 1, [*page, *following], key=_sort_key)
        shown = [await self._whole(run, params.include_artifacts) for run in page[:size]]
        return pb.ListTasksResponse(
            tasks=[as_task(run, self._routes) for run in shown],
            next_page_token=encode_list_tasks_cursor(_cursor(page[size - 1])) if len(page) > size else "",
            page_size=size,
            total_size=total,
        )


def _foreign(context: ServerCallContext, tenant: str) -> bool:
    return bool(context.tenant and context.tenant != tenant)


def _numbered(runs: Sequence[Run], number: int) -> Run | None:
    return next((run for run in runs if run.number == number), None)


def _matches(run: Run, params: pb.ListTasksRequest) -> bool:
    if params.status and status_of(run).state != params.status:
        return False
    if params.HasField("status_timestamp_after"):
        return _nanoseconds(run) >= int(params.status_timestamp_after.ToNanoseconds())
    return True


def _is_chunk(event: Mapping[str, Any]) -> bool:
    return bool(event["event"] == "message_chunk")


def _is_new(event: Mapping[str, Any], run: Run) -> bool:
    """Tell whether an event is of a step that the run does not have yet."""
    return not run.steps or event["step"] > run.steps[-1]["number"]


def _version(position: str, steps: int, settled: bool) -> TaskVersion:
    """Name how far a task has come: its events, its steps, and then whether its turn is over."""
    return TaskVersion(f"{_padded(position)}/{steps:09d}/{int(settled)}")


def _padded(position: str) -> str:
    milliseconds, _, number = position.partition("-")
    return f"{milliseconds:0>15}-{number:0>10}"


def _position(version: TaskVersion) -> str:
    if version.is_missing:
        return START
    milliseconds, _, number = str(version._value).partition("/")[0].partition("-")
    return f"{int(milliseconds)}-{int(number)}"


def _progress(version: TaskVersion) -> tuple[int, bool]:
    if version.is_missing:
        return 0, False
    _, steps, settled = str(version._value).split("/")
    return int(steps), settled == "1"


def _cursor(run: Run) -> ListTasksCursor:
    return ListTasksCursor(timestamp_ns=_nanoseconds(run), task_id=run.task_id)


def _nanoseconds(run: Run) -> int:
    return round(updated_at(run).timestamp() * 1000) * 1_000_000


def _sort_key(run: Run) -> tuple[bool, int, str]:
    return _cursor(run).sort_key()


def _sort_key_in(page_token: str) -> tuple[bool, int, str] | None:
    """Return the sort key of the task that was told last; None for the first page."""
    if not page_token:
        return None
    try:
        cursor = decode_list_tasks_cursor(page_token)
    except RecursionError:
        cursor = None
    if cursor is None:
        raise InvalidParamsError("the page token is none of ours; send the nextPageToken of the page before")
    return cursor.sort_key()
