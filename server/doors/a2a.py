"""`/a2a/{flow}` for every flow, and `/` for the default one: a flow as an A2A agent, with its cards."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Route, Router
from starlette.types import Receive, Scope, Send

from graph.flow import Flow
from server.a2a.cards import Cards
from server.a2a.discovery import card_routes
from server.a2a.endpoint import routes as endpoint_routes
from server.a2a.handler import FlowHandler
from server.a2a.tasks import CallTasks
from server.runtime import Runtime

_NO_ADDRESS = "http://localhost"
"""Stands for the service's address where only a card's capabilities are asked after."""
_INNER = "flow.route"
"""Where a request's scope says which of the default flow's routes it goes to."""
_TASKS = "/rest/tasks/"
"""Where paths with names in them begin; all others at the root are looked up as they are."""
_NAMED = "/a2a/"
"""Where the paths of flows that are called by name begin."""
_MOST_KEPT = 200


def routes(runtime: Runtime) -> list[BaseRoute]:
    """Return the routes of every flow that the runtime serves, now and later."""
    endpoints = _Endpoints(runtime)
    return [_Default(endpoints), *(_Named(at, endpoints) for at in ("/a2a/{flow}", "/a2a/{flow}/{below:path}"))]


@dataclass(frozen=True, slots=True)
class _Endpoint:
    """What answers for one version of a flow."""

    flow: Flow
    named: Router
    at_root: Mapping[str, Sequence[Route]]
    """The routes at the root, by their path; those of tasks, whose paths have names in them, by `_TASKS`."""


class _Endpoints:
    """The endpoints of the flows, made when they are first asked for, and again when the flow has changed."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._made: dict[str, _Endpoint] = {}

    def default(self) -> _Endpoint:
        """Return the endpoint of the default flow."""
        return self._of(self._runtime.flows.current().flow)

    async def named(self, flow: str) -> _Endpoint:
        """Return the endpoint of a flow; raises `FlowNotFound`."""
        return self._of((await self._runtime.flows.find(flow)).flow)

    def _of(self, flow: Flow) -> _Endpoint:
        made = self._made.get(flow.flow)
        if made is None or (made.flow is not flow and made.flow.digest != flow.digest):
            if len(self._made) >= _MOST_KEPT:
                self._made.clear()
            made = self._made[flow.flow] = self._make(flow)
        return made

    def _make(self, flow: Flow) -> _Endpoint:
        runtime, settings = self._runtime, self._runtime.settings
        cards = Cards(
            flow,
            version("orchestrator-flows"),
            public_url=settings.public_url,
            default_version=settings.a2a_card,
            rest=True,
        )
        handler = FlowHandler(
            runtime.turns,
            CallTasks(runtime.store.calls, runtime.store.events, runtime.flows, flow, settings.tenant),
            flow,
            tenant=settings.tenant,
            card=cards.card(_NO_ADDRESS),
            push_configs=runtime.push_configs,
            guard=runtime.push_guard,
        )

        def below(path: str) -> list[Route]:
            return endpoint_routes(
                handler,
                cards,
                path=path,
                max_body_bytes=settings.max_body_bytes,
                stopping=runtime.stopping,
                send=handler.send,
            )

        # Clients that take the flow's address for a page, not a folder, look for the card beside it.
        at_root = _by_path([*below(""), *card_routes(cards, "/a2a")])
        return _Endpoint(flow, Router(below(f"/a2a/{flow.flow}"), redirect_slashes=False), at_root)


def _by_path(routes: Sequence[Route]) -> Mapping[str, Sequence[Route]]:
    found: dict[str, list[Route]] = {}
    for route in routes:
        found.setdefault(_TASKS if route.path.startswith(_TASKS) else route.path, []).append(route)
    return found


def _path_of(scope: Scope) -> str:
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


class _Default(BaseRoute):
    """The default flow at the root, whichever version of it is current."""

    def __init__(self, endpoints: _Endpoints) -> None:
        self._endpoints = endpoints

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if scope["type"] != "http":
            return Match.NONE, {}
        partial: tuple[Match, Scope] = Match.NONE, {}
        path = _path_of(scope)
        for route in self._endpoints.default().at_root.get(_TASKS if path.startswith(_TASKS) else path, ()):
            match, found = route.matches(scope)
            if match == Match.FULL:
                return match, {**found, _INNER: route}
            if match == Match.PARTIAL and partial[0] == Match.NONE:
                partial = match, {**found, _INNER: route}
        return partial

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        await scope[_INNER].handle(scope, receive, send)


class _Named(Route):
    """A flow at its own path."""

    def __init__(self, path: str, endpoints: _Endpoints) -> None:
        super().__init__(path, _unreachable)
        self.methods = None
        self._endpoints = endpoints

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if scope["type"] != "http" or not _path_of(scope).startswith(_NAMED):
            return Match.NONE, {}
        return super().matches(scope)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the flow's routes answer; raises `FlowNotFound` if there is no flow of that name."""
        endpoint = await self._endpoints.named(scope["path_params"]["flow"])
        await endpoint.named(scope, receive, send)


async def _unreachable(request: Request) -> Response:
    raise HTTPException(404)
