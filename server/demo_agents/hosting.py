"""Puts demo agents on the network: the app of one agent, and all of them served from one event loop."""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager

from a2a.server.request_handlers import DefaultRequestHandler
from a2a.server.routes.jsonrpc_dispatcher import JsonRpcDispatcher
from a2a.utils.constants import AGENT_CARD_WELL_KNOWN_PATH
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from server.demo_agents.agents import AGENTS, DemoAgent
from server.demo_agents.cards import card_of, served_form
from server.demo_agents.desks import RefundDesk
from server.demo_agents.executor import BehaviourExecutor
from server.demo_agents.tasks import ContextOfTask, RecentTasks
from server.listening import listen, serving_all, url_of

# A parked task costs the sdk about 50 kB until it is released; a later message brings it back from the store.
_PARKED_SECONDS = 30.0
_SHUTDOWN_SECONDS = 2


class UnknownAgent(Exception):
    """There is no demo agent of that name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"there is no demo agent {name!r}; there are: {', '.join(AGENTS)}")
        self.name = name


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
async def serve(host: str = "127.0.0.1", ports: Mapping[str, int] | None = None) -> AsyncIterator[dict[str, str]]:
    """Serves the agents named in `ports` (default: all, at their own ports) and yields their URLs by name.

    Port 0 takes a free one. Signals are left to the caller. Raises `CannotListen` (`PortInUse`) or `UnknownAgent`
    before anything is started. Sets the level of the `a2a` logger, which is the process's own.
    """
    if ports is None:
        ports = {name: row.port for name, row in AGENTS.items()}
    logging.getLogger("a2a").setLevel(logging.ERROR)
    async with AsyncExitStack() as stack:
        listening = {name: stack.enter_context(_listen(name, host, port)) for name, port in ports.items()}
        urls = {name: url_of(listener) for name, listener in listening.items()}
        served = [(build_app(name, url), listening[name]) for name, url in urls.items()]
        await stack.enter_async_context(serving_all(served, grace=_SHUTDOWN_SECONDS))
        yield urls


def variables(urls: Mapping[str, str]) -> dict[str, str]:
    """The environment variables that send the shipped flow to the agents at these URLs."""
    return {f"{name.upper()}_AGENT_URL": url for name, url in urls.items()}


def _listen(name: str, host: str, port: int) -> socket.socket:
    return listen(f"agent {name!r}", host, port, host_setting="--host")


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
