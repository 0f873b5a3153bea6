"""Listening on a port, and serving an app there, so that a taken port is a clear message and signals stay ours."""

import asyncio
import contextlib
import errno
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from uvicorn import Config, Server

_GRACE_SECONDS = 25
_POLL_SECONDS = 0.005


class PortInUse(Exception):
    """The port that `name` should listen on is taken."""

    def __init__(self, name: str, port: int, remedy: str) -> None:
        super().__init__(f"port {port} of {name} is in use; {remedy}")
        self.name = name
        self.port = port


def listen(
    name: str, host: str, port: int, *, remedy: str = "stop what listens there or choose another port"
) -> socket.socket:
    """Return a listening socket; port 0 takes a free one.

    Raises:
        PortInUse: if the port is taken.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio sets TCP_NODELAY only where the protocol is named, which socket.create_server does not do;
    # without it every answer on a kept-alive connection but the first takes 40 ms (Nagle, delayed ACK).
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise PortInUse(name, port, remedy) from error
        raise
    return listener


def url_of(listener: socket.socket) -> str:
    """Return the address at which a client on this machine reaches the socket."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class _Server(Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the process's signals alone: whoever opened us closes us."""
        yield


@asynccontextmanager
async def serving(app: Any, listener: socket.socket, *, grace: int = _GRACE_SECONDS) -> AsyncIterator[None]:
    """Serve `app` on the socket while the context is open; on leaving, stop accepting and let requests finish.

    Args:
        app: an ASGI app whose lifespan is run as well.
        listener: where to serve.
        grace: seconds that requests under way are given.
    """
    config = Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=grace)
    server = _Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        while not server.started and not task.done():  # noqa: ASYNC110  (uvicorn offers nothing to wait for)
            await asyncio.sleep(_POLL_SECONDS)
        if task.done():
            await task
            raise RuntimeError("the app did not start; see the log")
        yield
    finally:
        server.should_exit = True
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.shield(task)
