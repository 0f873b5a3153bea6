"""Following a call: its events in order, from any position, and a sign whenever there is reason to look at the call.

A reader holds one page of events at most, however slow it is, and a turn never waits for one.
"""

from collections.abc import AsyncGenerator

from graph.store.events import Events, Published
from server.turn import Started

LOOK_SECONDS = 5.0
"""How long a follower waits before it looks whether the process that ran the turn is still alive."""
_PAGE = 64


async def follow(
    events: Events, thread: str, after: str, *, wait: float = LOOK_SECONDS
) -> AsyncGenerator[Published | None, None]:
    """Yield what is published in the call after a position; None when woken without news, or after a wait in vain.

    Raises:
        StoreError: if the store fails.
    """
    async with events.watch(thread) as watch:
        woken = True
        while True:
            page = await events.read(thread, after, limit=_PAGE)
            for published in page:
                after = published.position
                yield published
            if woken and not page:
                yield None
            if len(page) < _PAGE:
                await watch.changed(wait)
            woken = len(page) < _PAGE


async def follow_turn(events: Events, started: Started) -> AsyncGenerator[Published, None]:
    """Yield what happens in a turn that was started here, up to its end, or until it is over and there is no more.

    Raises:
        StoreError: if the store fails.
    """
    over = False
    async for published in follow(events, started.turn.thread, started.turn.after):
        if published is None:
            if over:
                return
            over = started.taking.done()  # it may have published its last events after we looked
        elif published.event.get("turn") == started.turn.token:
            yield published
            if published.event["event"] in ("turn", "error"):
                return
