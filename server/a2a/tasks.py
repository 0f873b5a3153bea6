"""The tasks of all calls, through the interfaces that `a2a-sdk` has for several replicas: any of them answers for any
task, because what they read is the call itself and the events of its open turn."""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from a2a.server.cluster import StoredTask, TaskEventStream, TaskVersion, VersionedEvent, VersionedTaskStore
from a2a.server.context import ServerCallContext
from a2a.server.events.event_queue import Event
from a2a.types import a2a_pb2 as pb
from a2a.utils.errors import UnsupportedOperationError

from graph.flow import Flow
from graph.routing import Routes
from graph.store.calls import Calls
from graph.store.events import START, Events, Published
from graph.store.names import thread_name
from server.a2a.listing import PAGE, TaskPages
from server.a2a.runs import Run, TaskName, as_task, flow_of, read_task_id, run_since, runs_of
from server.a2a.telling import Teller
from server.flows import Flows
from server.following import follow

_TRIES = 5
_MOMENT = 0.25
_WRITTEN_BY_TURNS = "tasks are read from calls, which only turns write"


class CallTasks(VersionedTaskStore, TaskEventStream):
    """Reads tasks, and follows them.

    A task's version says how far its events and its steps had come when it was read. A call of another flow has no
    task here.

    Args:
        calls: where the calls live.
        events: where the events of followed turns are.
        flows: the flows that are served.
        flow: the flow whose tasks these are, by name.
        tenant: whose tasks these are.
    """

    def __init__(self, calls: Calls, events: Events, flows: Flows, flow: Flow, tenant: str) -> None:
        self._calls = calls
        self._events = events
        self._flows = flows
        self._flow, self._restarts = flow.flow, flow.restarts
        self._tenant = tenant
        self._pages = TaskPages(calls, self.routes_of, flow, tenant)

    @property
    def events(self) -> Events:
        """The events of followed turns."""
        return self._events

    def thread_of(self, call: str) -> str:
        """Return the thread of a call."""
        return thread_name(self._tenant, call)

    def thread_of_task(self, task_id: str) -> str | None:
        """Return the thread of the call that a task is a run of; None for an id that is none of ours."""
        return thread_of_task(self._tenant, task_id)

    async def routes_of(self, run: Run) -> Routes:
        """Return the flow as the router sees it, in the version that a run is on."""
        return await self._flows.routes_at(run.version, self._flow)

    async def run(self, task_id: str) -> Run | None:
        """Return the run that a task id names, as it is now; None if there is none such."""
        found = await self._found(task_id)
        return found[0] if found else None

    async def answering(self, call: str, key: str | None) -> str | None:
        """Return the task whose open turn answers the message of a key; None if none does."""
        record = await self._calls.look(self.thread_of(call), 0) if key else None
        if record is None or record.opened is None or not record.opened.live or record.opened.said.get("key") != key:
            return None
        return next((run.task_id for run in runs_of(call, record, restarts=self._restarts) if run.works), None)

    async def recorded(self, task_id: str) -> Run | None:
        """Return the run as one look at its call tells it: without what its agent streams in the open turn."""
        name = read_task_id(task_id)
        return await self._read(name) if name else None

    async def get(self, task_id: str, context: ServerCallContext) -> StoredTask | None:
        """Return the task with its version, or None if it does not exist."""
        return None if _foreign(context, self._tenant) else await self.find(task_id)

    async def find(self, task_id: str) -> StoredTask | None:
        """Return the task with its version, or None if it does not exist."""
        found = await self._found(task_id)
        if found is None:
            return None
        run, position = found
        task = as_task(run, await self.routes_of(run))
        return StoredTask(task, _version(position, run.last, not run.works))

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
        teller = await self._teller(name, after) if name else None
        if name is None or teller is None:
            return
        thread, position = self.thread_of(name.call), _position(after)
        async for published in follow(self._events, thread, position):
            if published is not None and teller.follows(published.event) and teller.can_end(published.event):
                missed: Sequence[Event] | None = ()
            else:
                missed = await self._missed(name, teller, position, before=published)
            if missed is None:  # the call has gone, and maybe another has its name
                return
            for update in missed:
                yield VersionedEvent(update, _version(position, teller.last, teller.settled))
            if published is not None:
                position = published.position
                for update in teller.hear(published):
                    yield VersionedEvent(update, _version(position, teller.last, teller.settled))

    async def _teller(self, name: TaskName, version: TaskVersion) -> Teller | None:
        """Return one that knows what a client knows who read this version; None if there is no such run."""
        last, settled = _progress(version)
        run = await self._since(name, last)
        if run is None:
            return None
        teller = Teller(run, await self.routes_of(run), last=last, settled=settled)
        if run.opened and run.works:
            for event in await self._told(name.call, run.opened.after, _position(version)):
                teller.skip(event)
        return teller

    async def _missed(
        self, name: TaskName, teller: Teller, position: str, *, before: Published | None
    ) -> Sequence[Event] | None:
        """Return what the call knows of a run and was not told, up to an event; None if the call has gone."""
        run = await self._since(name, teller.last)
        if run is None:
            return None
        if before is not None and before.event["event"] != "turn":
            return [*teller.catch_up(run, before=before)]
        if not teller.is_behind(run) or (before is None and await self._still_told(name.call, position)):
            return ()
        whole = await self._read(name)
        return [*teller.catch_up(whole)] if whole else None

    async def _still_told(self, call: str, position: str) -> bool:
        """Tell whether more events come after a moment: a turn is committed before its last events are published."""
        await asyncio.sleep(_MOMENT)
        return await self._events.last(self.thread_of(call)) != position

    async def _since(self, name: TaskName, last: int) -> Run | None:
        """Return a run that has not ended, with its steps after one, which may be the last it has."""
        record = await self._calls.look(self.thread_of(name.call), last)
        return run_since(name, record) if record and name.fits(record.incarnation) else None

    async def _read(self, name: TaskName) -> Run | None:
        record = await self._calls.read(self.thread_of(name.call))
        if record is None or not name.fits(record.incarnation) or flow_of(record) not in (None, self._flow):
            return None
        runs = runs_of(name.call, record, restarts=self._restarts)
        return next((run for run in runs if run.number == name.run), None)

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
        told = await self._told(run.call, run.opened.after, after)
        told = [event for event in told if event["turn"] == run.opened.token]
        chunks = [event for event in told if _is_chunk(event) and _is_new(event, run)]
        return (replace(run, chunks=chunks), after), not any(event["event"] == "step" for event in told)

    async def _told(self, call: str, after: str, until: str) -> list[Mapping[str, Any]]:
        """Return the events of a call after a position, up to another."""
        told: list[Published] = []
        last = after
        while _padded(last) < _padded(until) and (page := await self._events.read(self.thread_of(call), last)):
            told += page
            last = page[-1].position
        return [one.event for one in told if _padded(one.position) <= _padded(until)]

    async def list(self, params: pb.ListTasksRequest, context: ServerCallContext) -> pb.ListTasksResponse:
        """Return a page of tasks, the one updated last first.

        Raises:
            InvalidParamsError: if the page token is none of ours.
        """
        if _foreign(context, self._tenant):
            return pb.ListTasksResponse(page_size=params.page_size or PAGE)
        return await self._pages.page(params)


def thread_of_task(tenant: str, task_id: str) -> str | None:
    """Return the thread of the call that a task is a run of; None for an id that is none of ours."""
    name = read_task_id(task_id)
    return thread_name(tenant, name.call) if name else None


def _foreign(context: ServerCallContext, tenant: str) -> bool:
    return bool(context.tenant and context.tenant != tenant)


def _is_chunk(event: Mapping[str, Any]) -> bool:
    return bool(event["event"] == "message_chunk")


def _is_new(event: Mapping[str, Any], run: Run) -> bool:
    """Tell whether an event is of a step that the run does not have yet."""
    return bool(event["step"] > run.last)


def _version(position: str, last: int, settled: bool) -> TaskVersion:
    """Name how far a task has come: its events, its last step, and then whether its turn is over."""
    return TaskVersion(f"{_padded(position)}/{last:09d}/{int(settled)}")


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
    _, last, settled = str(version._value).split("/")
    return int(last), settled == "1"
