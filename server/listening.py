"""Listening on a port, and serving apps there, so that a taken port is a clear message and signals stay ours."""

import asyncio
import errno
import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import lru_cache
from ipaddress import ip_address
from typing import Any

from uvicorn import Config, Server

MAX_FRAME_BYTES = 16 * 2**20
"""How long a message on a WebSocket may be, unless an app's owner says otherwise."""

_POLL_SECONDS = 0.005
_LAST_WORDS_SECONDS = 2.0


class CannotListen(Exception):
    """Nothing can listen at this address; the message says which setting to mend."""


class PortInUse(CannotListen):
    """The port that `name` should listen on is taken."""

    def __init__(self, name: str, port: int, remedy: str) -> None:
        super().__init__(f"port {port} of {name} is in use; {remedy}")
        self.name = name
        self.port = port


def listen(
    name: str, host: str, port: int, *, host_setting: str = "the host", port_setting: str | None = None
) -> socket.socket:
    """Return a listening socket.

    Args:
        name: what listens there, for messages.
        host: an address or a name of this machine.
        port: 0 takes a free one.
        host_setting: where the host can be changed, for messages.
        port_setting: where the port can be changed; None if it cannot.

    Raises:
        PortInUse: if the port is taken.
        CannotListen: if the address is not ours to listen at.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio sets TCP_NODELAY only where the protocol is named, which socket.create_server does not do;
    # without it every answer on a kept-alive connection but the first takes 40 ms (Nagle, delayed ACK).
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(2048)
    except (OSError, OverflowError, UnicodeError) as error:
        listener.close()
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            or_else = f", or set {port_setting} to another port" if port_setting else ""
            raise PortInUse(name, port, f"stop what listens there{or_else}") from error
        remedy = _remedy(error, host_setting, port_setting)
        reason = getattr(error, "strerror", None) or error
        raise CannotListen(f"{name} cannot listen at {host!r}, port {port}: {reason}; {remedy}") from error
    return listener


def url_of(listener: socket.socket) -> str:
    """Return the address at which a client on this machine reaches the socket."""
    host, port = listener.getsockname()[:2]
    return url_at(host, port)


def url_at(host: str, port: int) -> str:
    """Return the address at which a client on this machine reaches what listens at `host` and `port`."""
    if host and _is_address(host) and ip_address(host).is_unspecified:
        host = "::1" if ":" in host else "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@lru_cache(maxsize=256)
def is_loopback(host: str) -> bool:
    """Tell whether only this machine reaches the host."""
    return ip_address(host).is_loopback if _is_address(host) else host.casefold() == "localhost"


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _remedy(error: Exception, host_setting: str, port_setting: str | None) -> str:
    of_the_port = isinstance(error, OverflowError | PermissionError)
    if of_the_port and port_setting:
        return f"set {port_setting} to another port"
    return f"set {host_setting} to an address of this machine"


class _Server(Server):
    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        leaving = asyncio.create_task(self._leave_who_takes_nothing())
        try:
            await super().serve(sockets)
        finally:
            leaving.cancel()
            await asyncio.gather(leaving, return_exceptions=True)

    async def _leave_who_takes_nothing(self) -> None:
        """Cut connections that are to close, one and all once we stop, and whose clients take nothing of the rest.

        uvicorn would wait for those clients, when it stops as long as it waits for any request.
        """
        unsent: dict[Any, int] = {}
        while True:
            await asyncio.sleep(_LAST_WORDS_SECONDS)
            before, unsent = unsent, {}
            for connection in list(self.server_state.connections):
                transport = getattr(connection, "transport", None)
                if transport is None or not (self.should_exit or transport.is_closing()):
                    continue
                if self.should_exit and hasattr(connection, "cycle"):
                    connection.shutdown()  # one that was accepted in the moment of stopping takes no more requests
                unsent[connection] = left = transport.get_write_buffer_size()
                if left and left == before.get(connection):
                    transport.abort()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the process's signals alone: whoever opened us closes us."""
        yield


@asynccontextmanager
async def serving(
    app: Any, listener: socket.socket, *, grace: int, max_frame_bytes: int = MAX_FRAME_BYTES
) -> AsyncIterator[None]:
    """Serve `app` on the socket while the context is open; on leaving, stop accepting and let requests finish.

    Where an error ends the context, they get a second at most.

    Args:
        app: an ASGI app whose lifespan is run as well.
        listener: where to serve.
        grace: seconds that requests under way are given.
        max_frame_bytes: how long a message on a WebSocket may be; a longer one closes it.
    """
    async with serving_all([(app, listener)], grace=grace, max_frame_bytes=max_frame_bytes):
        yield


@asynccontextmanager
async def serving_all(
    served: Sequence[tuple[Any, socket.socket]], *, grace: int, max_frame_bytes: int = MAX_FRAME_BYTES
) -> AsyncIterator[None]:
    """Serve several apps, each on its own socket, as `serving` does; all of them close at the same time."""
    options: dict[str, Any] = {"log_config": None, "access_log": False, "ws_max_size": max_frame_bytes}
    configs = [Config(app, timeout_graceful_shutdown=grace, **options) for app, _ in served]
    servers = [_Server(config) for config in configs]
    tasks = [
        asyncio.create_task(server.serve(sockets=[listener]))
        for server, (_, listener) in zip(servers, served, strict=True)
    ]
    try:
        for server, task in zip(servers, tasks, strict=True):
            await _started(server, task)
        yield
    except BaseException:
        for config in configs:
            config.timeout_graceful_shutdown = min(grace, 1)
        raise
    finally:
        for server in servers:
            server.should_exit = True
        if tasks:
            await asyncio.wait(tasks)
        for task in tasks:
            task.result()


async def _started(server: Server, task: asyncio.Task[None]) -> None:
    while not server.started and not task.done():  # noqa: ASYNC110  (uvicorn offers nothing to wait for)
        await asyncio.sleep(_POLL_SECONDS)
    if task.done():
        task.result()
        raise RuntimeError("the app did not start; see the log")
