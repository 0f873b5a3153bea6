"""The tasks of all calls, page by page: filtered, the one updated last first."""

import heapq
from collections.abc import AsyncGenerator, Awaitable, Callable

from a2a.types import a2a_pb2 as pb
from a2a.utils.errors import InvalidParamsError
from a2a.utils.task import ListTasksCursor, decode_list_tasks_cursor, encode_list_tasks_cursor

from graph.flow import Flow
from graph.routing import Routes
from graph.store.calls import Calls
from graph.store.names import decode, thread_name
from server.a2a.runs import Run, as_task, flow_of, runs_of, status_of, updated_at

PAGE = 50
"""How many tasks a page has unless it is asked for."""

_BATCH = 100


class TaskPages:
    """Lists the tasks of a flow.

    Args:
        calls: where the calls live, those of other flows too.
        routes_of: returns the flow as the router sees it, in the version that a run is on.
        flow: the flow.
        tenant: whose tasks these are.
    """

    def __init__(self, calls: Calls, routes_of: Callable[[Run], Awaitable[Routes]], flow: Flow, tenant: str) -> None:
        self._calls = calls
        self._routes_of = routes_of
        self._flow = flow
        self._tenant = tenant

    async def page(self, params: pb.ListTasksRequest) -> pb.ListTasksResponse:
        """Return a page.

        Raises:
            InvalidParamsError: if the page token is none of ours.
        """
        size, last_told, total = params.page_size or PAGE, _sort_key_in(params.page_token), 0
        page: list[Run] = []
        async for runs in self._matching(params):
            total += len(runs)
            following = (run for run in runs if last_told is None or _sort_key(run) < last_told)
            page = heapq.nlargest(size + 1, [*page, *following], key=_sort_key)
        shown = [await self._whole(run, params.include_artifacts) for run in page[:size]]
        return pb.ListTasksResponse(
            tasks=[as_task(run, await self._routes_of(run)) for run in shown],
            next_page_token=encode_list_tasks_cursor(_cursor(page[size - 1])) if len(page) > size else "",
            page_size=size,
            total_size=total,
        )

    async def _matching(self, params: pb.ListTasksRequest) -> AsyncGenerator[list[Run], None]:
        """Yield the runs that the filters let through, the calls by batches: all of them may be many."""
        calls = [params.context_id] if params.context_id else await self._recent()
        for start in range(0, len(calls), _BATCH):
            some = calls[start : start + _BATCH]
            records = await self._calls.trails([self._thread(call) for call in some])
            runs = [
                run
                for call, record in zip(some, records, strict=True)
                if record and flow_of(record) in (None, self._flow.flow)
                for run in runs_of(call, record, restarts=self._flow.restarts)
            ]
            yield [run for run in runs if _matches(run, params)]

    async def _recent(self) -> list[str]:
        return [decode(thread.partition("__")[2]) for thread in await self._calls.recent(self._tenant)]

    async def _whole(self, run: Run, artifacts: bool) -> Run:
        """Return the run with its summary, which only the call's state has."""
        record = await self._calls.read(self._thread(run.call)) if artifacts else None
        runs = runs_of(run.call, record, restarts=self._flow.restarts) if record else ()
        return next((same for same in runs if same.number == run.number), run)

    def _thread(self, call: str) -> str:
        return thread_name(self._tenant, call)


def _matches(run: Run, params: pb.ListTasksRequest) -> bool:
    if params.status and pb.TaskState.Value(status_of(run)["state"]) != params.status:
        return False
    if params.HasField("status_timestamp_after"):
        return _nanoseconds(run) >= int(params.status_timestamp_after.ToNanoseconds())
    return True


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
