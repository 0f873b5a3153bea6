"""Puts demo agents on the network: the app of one agent, and all of them served from one event loop."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager

from a2a.server.request_handlers import DefaultRequestHandler
from a2a.server.routes.jsonrpc_dispatcher import JsonRpcDispatcher
from a2a.utils.constants import AGENT_CARD_WELL_KNOWN_PATH
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from uvicorn import Config, Server

from server.demo_agents.agents import AGENTS, DemoAgent
from server.demo_agents.cards import card_of, served_form
from server.demo_agents.desks import RefundDesk
from server.demo_agents.executor import BehaviourExecutor
from server.demo_agents.tasks import ContextOfTask, RecentTasks

# A parked task costs the sdk about 50 kB until it is released; a later message brings it back from the store.
_PARKED_SECONDS = 30.0
_SHUTDOWN_SECONDS = 2


class DemoAgentError(Exception):
    """Something that keeps the demo agents from being served."""


class UnknownAgent(DemoAgentError):  # noqa: N818
    """There is no demo agent of that name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"there is no demo agent {name!r}; there are: {', '.join(AGENTS)}")
        self.name = name


class PortInUse(DemoAgentError):  # noqa: N818
    """The port an agent should listen on is taken; nothing was started."""

    def __init__(self, name: str, port: int) -> None:
        super().__init__(
            f"port {port} of the {name!r} agent is in use; stop what listens there or choose another port"
        )
        self.name = name
        self.port = port


def build_app(name: str, url: str) -> Starlette:
    """The app of the agent `name`, whose card says it lives at `url`. Raises `UnknownAgent`."""
    row = _row(name)
    behaviour = row.agent()
    card = card_of(name, row, url)
    tasks = RecentTasks()
    handler = DefaultRequestHandler(
        BehaviourExecutor(behaviour),
        tasks,
        card,
        request_context_builder=ContextOfTask(tasks),
        interrupted_task_timeout=_PARKED_SECONDS,
    )
    routes = [_rpc_route(handler, row), _card_route(json.dumps(served_form(card, row)))]
    if isinstance(behaviour, RefundDesk):
        routes.append(_ledger_route(behaviour.ledger))
    return Starlette(routes=routes, lifespan=_closing(handler))


@asynccontextmanager
async def serve(
    host: str = "127.0.0.1", ports: Mapping[str, int] | None = None
) -> AsyncIterator[dict[str, str]]:
    """Serves the agents named in `ports` (default: all, at their own ports) and yields their URLs by name.

    Port 0 takes a free one. Signals are left to the caller. Raises `PortInUse` or `UnknownAgent` before
    anything is started. Sets the levels of the `uvicorn` and `a2a` loggers, which are the process's own.
    """
    if ports is None:
        ports = {name: row.port for name, row in AGENTS.items()}
    logging.getLogger("a2a").setLevel(logging.ERROR)
    with ExitStack() as stack:
        listening = {name: stack.enter_context(_listen(name, host, port)) for name, port in ports.items()}
        urls = {name: _url(listener) for name, listener in listening.items()}
        apps = {name: build_app(name, url) for name, url in urls.items()}
        servers: list[Server] = []
        try:
            for name, app in apps.items():
                servers.append(await _start(app, listening[name]))
            yield urls
        finally:
            await asyncio.gather(*(server.shutdown() for server in servers))


def _row(name: str) -> DemoAgent:
    try:
        return AGENTS[name]
    except KeyError:
        raise UnknownAgent(name) from None


def _rpc_route(handler: DefaultRequestHandler, row: DemoAgent) -> Route:
    dispatcher = JsonRpcDispatcher(handler, enable_v0_3_compat=row.dialect == "0.3")
    if row.dialect == "0.3":
        # The sdk has a switch for 0.3 but none for 1.0: without its table it knows no 1.0 method.
        dispatcher.METHOD_TO_MODEL = {}
    return Route("/", dispatcher.handle_requests, methods=["POST"])


def _card_route(body: str) -> Route:
    async def card(request: Request) -> Response:
        return Response(body, media_type="application/json")

    return Route(AGENT_CARD_WELL_KNOWN_PATH, card)


def _ledger_route(entries: Callable[[], list[dict[str, str]]]) -> Route:
    async def ledger(request: Request) -> Response:
        return JSONResponse(entries())

    return Route("/ledger", ledger)


def _closing(handler: DefaultRequestHandler) -> Callable[[Starlette], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        await handler.aclose()

    return lifespan


def _listen(name: str, host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio sets TCP_NODELAY only where the protocol is named, which socket.create_server does not do;
    # without it every answer on a kept-alive connection but the first takes 40 ms (Nagle, delayed ACK).
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen()
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise PortInUse(name, port) from error
        raise
    return listener


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def _start(app: Starlette, listener: socket.socket) -> Server:
    """Starts without `Server.serve`, which takes over the signal handlers of the process."""
    config = Config(
        app,
        lifespan="on",
        log_config=None,
        log_level="warning",
        timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
    )
    config.load()
    server = Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup(sockets=[listener])
    return server
