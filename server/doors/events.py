"""What happens in a call, as clients are told over SSE and WebSocket: one vocabulary, and no gap after a break."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import structlog

from graph.store.errors import StoreError
from graph.store.events import Events, Published, numbers_of
from server.deadlines import each_in_time
from server.following import follow, follow_turn
from server.problems import INTERNAL, BadInput, OutOfTime, Row, document_of, row_of
from server.runtime import Runtime
from server.turn import Started, Taken

log = structlog.get_logger()

GONE = Row(404, "events-gone", "The events are not kept any more")

_LAST = ("turn", "error")
_LATEST = 2**63 - 1
_SILENCE_SECONDS = 2.0
_NOT_TOLD = "the turn has ended, and its answer was not told; GET /session/… says where the call stands"


ANOTHER_TURN = Row(409, "another-turn", "The event is not of this message's turn")


class EventsGone(Exception):
    """Nobody can say any more what was published after an event."""


@dataclass(frozen=True, slots=True)
class Told:
    """An event for a client."""

    event: Mapping[str, Any]
    id: str | None = None
    """Where to go on after it; None if it is kept nowhere."""


def shown(published: Published) -> Told:
    """Return what clients may see of an event: not the fence that the turn holds, nor its number in the turn."""
    event = published.event
    # A turn's answer and a problem are documents of their own, the same as without a stream.
    hidden = ("turn", "nth", "run") if is_last(published) else ("turn", "nth")
    return Told({key: value for key, value in event.items() if key not in hidden}, published.position)


def is_last(published: Published) -> bool:
    """Tell whether the event is the last of its turn."""
    return published.event["event"] in _LAST


def failure(error: Exception) -> Told:
    """Return the event that tells what went wrong; nothing internal is in it."""
    if isinstance(error, EventsGone):
        return Told({"event": "error", **problem(GONE, str(error))})
    if row_of(error) is INTERNAL:
        log.error("turn not told", exc_info=error)
    return Told({"event": "error", **document_of(error)})


def problem(row: Row, detail: str) -> dict[str, Any]:
    """Return a problem document."""
    return {"type": row.type, "title": row.title, "status": row.status, "detail": detail}


async def of_turn(events: Events, started: Started | Taken) -> AsyncGenerator[Told, None]:
    """Yield what happens in a turn up to its answer, or to what went wrong: the answer comes even if events are lost,
    and before the client's deadline passes the word that it does.

    The turn goes on if nobody listens any more.
    """
    try:
        async with aclosing(each_in_time(started.request, _of_turn(events, started))) as in_time:
            async for told in in_time:
                yield told
    except OutOfTime as error:
        yield failure(error)


async def _of_turn(events: Events, started: Started | Taken) -> AsyncGenerator[Told, None]:
    if isinstance(started, Started):
        try:
            async with aclosing(follow_turn(events, started)) as followed:
                async for published in followed:
                    yield shown(published)
                    if is_last(published):
                        return
        except StoreError as error:
            log.warning("events not followed", reason=str(error))
    yield await _outcome(started)


async def _outcome(started: Started | Taken) -> Told:
    if isinstance(started, Taken):
        return Told({"event": "turn", **started.answer()})
    await asyncio.wait({started.taking})  # not awaited itself: it would be cancelled with whoever listens
    if started.taking.cancelled():
        return failure(InterruptedError("the turn was cut off"))
    error = started.taking.exception()
    if isinstance(error, Exception):
        return failure(error)
    return Told({"event": "turn", **started.taking.result().answer()})


async def known_event(events: Events, thread: str, position: str) -> Published:
    """Return the event that a client saw last: while it is kept, everything after it is kept.

    Raises:
        BadInput: if no event can be named so.
        EventsGone: if it is not kept any more.
        StoreError: if the store failed.
    """
    try:
        found = await events.read(thread, _just_before(position), limit=1)
    except ValueError as error:
        remedy = "no event has such an id; send the id of the last event that came"
        raise BadInput([{"field": "Last-Event-ID", "message": remedy}]) from error
    if not found or found[0].position != position:
        raise EventsGone("what came after that event is not kept any more; GET /session/… says where the call stands")
    return found[0]


async def is_of_another_message(
    runtime: Runtime, thread: str, known: Published, message: str, intent: str | None
) -> bool:
    """Tell whether an event is of a turn that was asked for with other words, or for another intent.

    Of a turn that failed nobody can say any more; then it is not.
    """
    record = await runtime.store.calls.read(thread)
    if record is None:
        return False
    event = known.event
    if record.opened and record.opened.token == event.get("turn"):
        said, wanted = record.opened.said.get("input_message"), event.get("intent", intent)
    else:
        number = event["step"]["number"] if event["event"] == "step" else event.get("step")
        step = next((step for step in record.steps if step["number"] == number), None)
        if step is None:
            return False
        said, wanted = step["input_message"], step["intent"]
    return said != message or (intent is not None and intent != wanted)


def _just_before(position: str) -> str:
    milliseconds, number = numbers_of(position)
    if number:
        return f"{milliseconds}-{number - 1}"
    return f"{milliseconds - 1}-{_LATEST}"


async def rest_of_call(runtime: Runtime, thread: str, known: Published) -> AsyncGenerator[Published, None]:
    """Yield what was published after an event, until no turn is open and the last one has told its end.

    Raises:
        EventsGone: if a turn has ended and did not tell how.
        StoreError: if the store failed.
    """
    newest, silence = known, Silence()
    async with aclosing(follow(runtime.store.events, thread, known.position)) as following:
        async for published in following:
            if published is not None:
                newest, silence = published, Silence()
                yield published
            if is_last(newest) and await _nothing_follows(runtime, thread, newest):
                return
            if published is None and await turn_is_open(runtime, thread):
                silence = Silence()
            elif published is None and silence.is_final():
                raise EventsGone(_NOT_TOLD)


async def rest_of_turn(runtime: Runtime, thread: str, known: Published) -> AsyncGenerator[Published, None]:
    """Yield what was published after an event in the turn it belongs to, up to that turn's end; raises the same."""
    async with aclosing(rest_of_call(runtime, thread, known)) as following:
        async for published in following:
            if published.event.get("turn") == known.event.get("turn"):
                yield published
                if is_last(published):
                    return
    raise EventsGone(_NOT_TOLD)


async def turn_is_open(runtime: Runtime, thread: str) -> bool:
    """Tell whether a turn is at work in the call, wherever it runs."""
    record = await runtime.store.calls.read(thread)
    return bool(record and record.opened and record.opened.live)


class Silence:
    """A time in which no turn is open and nothing is published; a turn tells its end just after it ended."""

    def __init__(self) -> None:
        self._since: float | None = None

    def is_final(self) -> bool:
        """Tell whether it has lasted so long that nothing can come of a turn that has ended."""
        now = asyncio.get_running_loop().time()
        self._since = now if self._since is None else self._since
        return now - self._since >= _SILENCE_SECONDS


async def _nothing_follows(runtime: Runtime, thread: str, newest: Published) -> bool:
    is_open = await turn_is_open(runtime, thread)
    return not is_open and await runtime.store.events.last(thread) == newest.position
