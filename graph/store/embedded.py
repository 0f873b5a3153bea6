"""The default store: a private Valkey server for one data directory, shared by every process that opens it.

Three locks in the directory keep it single, and the kernel drops each when its holder dies:

    store.lock     exclusive, while somebody opens, closes or mends the store
    store.users    shared, one per user; whoever can make it exclusive is the last and stops the server
    store.server   exclusive, held by the server as its standard input: held means it lives

Every user sees the server die, and the first to get `store.lock` starts it again on the same socket.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import BinaryIO

import structlog

from graph.store.embedded_place import EmbeddedStoreError, Place, open_file, prepare, try_lock, until
from graph.store.embedded_server import EmbeddedStore, Fsync, flush, lost, serve, stop
from graph.store.ending import ended

__all__ = ["EmbeddedStore", "EmbeddedStoreError", "Fsync", "embedded_store"]

_FLUSH_SECONDS = 1.0
_SOON = 1.0
"""A server that lived for fewer seconds died soon: the next one waits, each time twice as long."""
_FIRST_WAIT, _LONGEST_WAIT = 0.05, 5.0

log = structlog.get_logger()


@asynccontextmanager
async def embedded_store(
    data_dir: Path, *, fsync: Fsync = "everysec", start_timeout: float = 10.0
) -> AsyncIterator[EmbeddedStore]:
    """Use the store of `data_dir`: adopt its server or start one, also when it dies; the last user stops it.

    Args:
        data_dir: the directory; it is made if there is none.
        fsync: when what is answered is safe from a power failure. Of several users the strictest has its way.
        start_timeout: seconds the server may stay silent (one that loads its data is not silent); the lock on
            opening and closing is waited for twice as long.

    Raises:
        EmbeddedStoreError: if it cannot be opened or closed.
    """
    place = await asyncio.to_thread(prepare, data_dir)
    with open_file(place.directory / "store.users") as users:
        async with _locked(place, 2 * start_timeout):
            store = await serve(place, fsync, start_timeout, alone=try_lock(users))
            try_lock(users, exclusive=False)
        try:
            async with _kept_up(place, fsync, start_timeout):
                yield store
        finally:
            async with _locked(place, 2 * start_timeout):
                await _leave(place, users)


@asynccontextmanager
async def _kept_up(place: Place, fsync: Fsync, timeout: float) -> AsyncIterator[None]:
    """Have the server started again, and what it appends flushed, while the context is open."""
    tasks = {asyncio.create_task(_start_again(place, fsync, timeout))}
    if fsync == "everysec":
        tasks.add(asyncio.create_task(_flush_each_second(place)))
    try:
        yield
    finally:
        await ended(*tasks)


async def _start_again(place: Place, fsync: Fsync, timeout: float) -> None:
    """Serve whenever the server is gone: at once, but later and later if it does not last."""
    wait = 0.0
    while True:
        since = time.monotonic()
        await lost(place.socket)
        died_soon = time.monotonic() - since < _SOON
        wait = min(max(2 * wait, _FIRST_WAIT), _LONGEST_WAIT) if died_soon else 0.0
        await asyncio.sleep(wait * random.uniform(0.5, 1))
        try:
            async with _locked(place, 2 * timeout):
                store = await serve(place, fsync, timeout, alone=False)
        except (EmbeddedStoreError, OSError) as error:
            log.error("store server not started again", directory=str(place.directory), reason=str(error))
        else:
            started_by = "another" if store.adopted else "us"
            log.warning("store server died and serves again", pid=store.pid, started_by=started_by)


async def _flush_each_second(place: Place) -> None:
    flushed: dict[Path, int] = {}
    while True:
        await asyncio.sleep(_FLUSH_SECONDS)
        try:
            await asyncio.to_thread(flush, place, flushed)
        except OSError as error:
            log.error("store not flushed to disk", directory=str(place.directory), reason=str(error))


async def _leave(place: Place, users: BinaryIO) -> None:
    with users:  # closed under the lock: whoever opens next must not meet our exclusive hold
        if try_lock(users):
            await stop(place)


@asynccontextmanager
async def _locked(place: Place, timeout: float) -> AsyncIterator[None]:
    with open_file(place.directory / "store.lock") as lock:
        if not await until(lambda: try_lock(lock), timeout):
            raise EmbeddedStoreError(
                f"another process has been opening or closing the store in {str(place.directory)!r} "
                f"for {timeout:g} s; wait for it or stop it (find it with: fuser {lock.name}) and try again"
            )
        yield
