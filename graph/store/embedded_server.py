"""The server of the embedded store: how it is started, adopted, flushed and stopped."""

import asyncio
import os
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal
from urllib.parse import quote

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from graph.store.embedded_place import (
    REMEDY,
    EmbeddedStoreError,
    Place,
    check_socket_directory,
    open_file,
    remove_socket,
    try_lock,
    until,
)

Fsync = Literal["everysec", "always"]
"""When what was written is safe from a power failure: within a second, or before it is answered."""

# Not the server's own `everysec`: while that flushes, up to two seconds on a busy disk, it answers but holds back
# what it should append, and a kill loses it. With `no` it appends before it answers, and `flush` runs each second.
_APPENDFSYNC: dict[Fsync, str] = {"everysec": "no", "always": "always"}

_STOP_TIMEOUT = 10.0
_REAP_TIMEOUT = 0.5  # a courtesy: the lock has proved the exit, and some inits reap late
_POLL = 0.01


@dataclass(frozen=True)
class EmbeddedStore:
    """A running server: `url` for `redis.asyncio.from_url`; `adopted` if it ran before we came."""

    url: str
    socket: Path
    pid: int
    adopted: bool


async def serve(place: Place, fsync: Fsync, timeout: float, *, alone: bool) -> EmbeddedStore:
    """Adopt the server of the directory, or start it; only who has locked the directory's users out may do so.

    Args:
        place: where the store lies.
        fsync: how its server is to keep what it answers.
        timeout: seconds it may stay silent; one that loads its data is not silent.
        alone: whether nobody else uses the store, so that a server which is adopted need not be as strict as it was.

    Raises:
        EmbeddedStoreError: if there is no server afterwards.
    """
    await asyncio.to_thread(check_socket_directory, place)
    with open_file(place.directory / "store.server") as claim:
        if try_lock(claim):
            return await _start(place, claim, fsync, timeout)
        pid = await _answer(place.socket, timeout, gone=lambda: try_lock(claim))
        if pid is not None:
            if alone or fsync == "always":
                await _keep_to(place.socket, fsync, timeout)
            return _store(place, pid, adopted=True)
        if try_lock(claim):
            return await _start(place, claim, fsync, timeout)
        raise EmbeddedStoreError(
            f"a store server holds {claim.name!r} but did not answer on {str(place.socket)!r} "
            f"for {timeout:g} s; stop it (find it with: fuser {claim.name}) and start again"
        )


async def _start(place: Place, claim: BinaryIO, fsync: Fsync, timeout: float) -> EmbeddedStore:
    process = await _spawn(place, claim, fsync)
    try:
        pid = await _answer(place.socket, timeout, gone=lambda: process.poll() is not None)
        if pid is None:
            raise EmbeddedStoreError(_start_failure(place, process.returncode, timeout))
    except BaseException:
        _kill(process)
        raise
    # Whoever stops the server may be another process, but only we, its parent, can reap it.
    threading.Thread(target=process.wait, name="flows-store-reaper", daemon=True).start()
    return _store(place, pid, adopted=False)


async def _spawn(place: Place, claim: BinaryIO, fsync: Fsync) -> subprocess.Popen[bytes]:
    # Neither a task nor unshielded: a cancelled start must still learn which process to end.
    launching = asyncio.get_running_loop().run_in_executor(None, _launch, place, claim, fsync)
    try:
        return await asyncio.shield(launching)
    except asyncio.CancelledError:
        _kill(await launching)
        raise


async def _keep_to(socket: Path, fsync: Fsync, timeout: float) -> None:
    try:
        async with _client(socket, timeout) as client:
            await client.config_set("appendfsync", _APPENDFSYNC[fsync])
    except RedisError as error:
        raise EmbeddedStoreError(f"the store server does not take FLOWS_FSYNC={fsync}: {error}") from error


async def stop(place: Place) -> None:
    """Stop the server and wait for its end; only who has locked the directory and is its last user may do so.

    Raises:
        EmbeddedStoreError: if it does not end.
    """
    pid, trouble = await _ask_to_stop(place.socket)
    with open_file(place.directory / "store.server") as claim:
        if not await until(lambda: try_lock(claim), _STOP_TIMEOUT):
            raise EmbeddedStoreError(
                f"the store server did not stop ({trouble}); see {str(place.directory / 'store.log')!r} "
                f"and stop it yourself (find it with: fuser {claim.name})"
            )
    if pid is not None:
        await until(lambda: not _exists(pid), _REAP_TIMEOUT)
    await asyncio.to_thread(remove_socket, place)


async def _ask_to_stop(socket: Path) -> tuple[int | None, str]:
    pid = None  # asked for, not remembered: another user may have replaced a server that crashed
    try:
        async with _client(socket, _STOP_TIMEOUT) as client:
            pid = int((await client.info("server"))["process_id"])
            await client.shutdown()
    except RedisError as error:
        return pid, str(error)
    return pid, "it agreed to, but lives"


async def _answer(socket: Path, timeout: float, *, gone: Callable[[], bool]) -> int | None:
    """The server's process id once it serves; None if it is gone or stays silent for `timeout` seconds."""
    deadline = time.monotonic() + timeout
    async with _client(socket, timeout) as client:
        while time.monotonic() < deadline and not gone():
            with suppress(RedisError):
                info = await client.info()
                if not info["loading"]:
                    return int(info["process_id"])
                deadline = time.monotonic() + timeout
            await asyncio.sleep(_POLL)
    return None


async def lost(socket: Path) -> None:
    """Wait until there is no server at the socket: an idle connection ends the moment it dies, and costs nothing."""
    with suppress(OSError):
        reader, writer = await asyncio.open_unix_connection(socket)
        try:
            await reader.read()
        finally:
            writer.close()


def flush(place: Place, flushed: dict[Path, int]) -> None:
    """Have the disk keep what the server has appended.

    Args:
        place: where the store lies.
        flushed: how many bytes of each file were flushed before; updated.
    """
    for log in place.directory.glob("appendonlydir/*.incr.aof"):
        with suppress(FileNotFoundError), log.open("rb") as file:  # the server removes what it has rewritten
            size = os.fstat(file.fileno()).st_size
            if flushed.get(log) != size:
                os.fsync(file.fileno())
                flushed[log] = size


@asynccontextmanager
async def _client(socket: Path, timeout: float) -> AsyncIterator[Redis]:
    """Talk to the server; whoever is cancelled just when they are done still closes the connection."""
    client = Redis(unix_socket_path=str(socket), socket_timeout=timeout, retry=Retry(NoBackoff(), 0))
    try:
        yield client
    finally:
        closing = asyncio.ensure_future(client.aclose())
        try:
            await asyncio.shield(closing)
        except asyncio.CancelledError:
            await closing
            raise


def _store(place: Place, pid: int, *, adopted: bool) -> EmbeddedStore:
    return EmbeddedStore(f"unix://{quote(str(place.socket))}", place.socket, pid, adopted)


def _launch(place: Place, claim: BinaryIO, fsync: Fsync) -> subprocess.Popen[bytes]:
    try:
        with open_file(place.directory / "store.log") as log:
            return subprocess.Popen(  # noqa: S603
                _command(place, fsync),
                cwd=place.directory,
                stdin=claim,
                stdout=log,
                stderr=log,
                umask=0o077,
                start_new_session=True,
            )
    except OSError as error:
        raise EmbeddedStoreError(f"cannot run {str(place.binary)!r}: {error}; set REDIS_URL") from error


def _command(place: Place, fsync: Fsync) -> list[str]:
    return [
        str(place.binary),
        *("--port", "0"),
        *("--unixsocket", str(place.socket)),
        *("--unixsocketperm", "700"),
        *("--appendonly", "yes"),
        *("--appendfsync", _APPENDFSYNC[fsync]),
        *("--save", ""),
    ]


def _start_failure(place: Place, returncode: int | None, timeout: float) -> str:
    what = f"did not answer for {timeout:g} s" if returncode is None else f"exited with {returncode}"
    log = place.directory / "store.log"
    lines = log.read_text(errors="replace").splitlines()[-10:]
    return "\n".join([f"the store server {what}; {REMEDY}. The last lines of {str(log)!r}:", *lines])


def _kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:  # gone, or its number already belongs to another user's process
        return False
    return True
