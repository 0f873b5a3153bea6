"""`/a2a/{flow}`, and `/` for the flow that is served: the flow as an A2A agent, with its cards."""

from importlib.metadata import version
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Route
from starlette.types import Scope

from server.a2a.cards import Cards
from server.a2a.discovery import card_routes
from server.a2a.endpoint import routes as endpoint_routes
from server.a2a.handler import FlowHandler
from server.runtime import Runtime

_NO_ADDRESS = "http://localhost"
"""Stands for the service's address where only a card's capabilities are asked after."""


def routes(runtime: Runtime) -> list[BaseRoute]:
    """Return the routes of the flow that the runtime serves; its name is known only once it is loaded."""
    settings, flow = runtime.settings, runtime.routes.flow
    cards = Cards(
        flow,
        version("orchestrator-flows"),
        public_url=settings.public_url,
        default_version=settings.a2a_card,
        rest=True,
    )
    handler = FlowHandler(
        runtime.turns,
        runtime.tasks,
        runtime.routes,
        tenant=settings.tenant,
        card=cards.card(_NO_ADDRESS),
        push_configs=runtime.push_configs,
        guard=runtime.push_guard,
    )
    served = [
        route
        for path in (f"/a2a/{flow.flow}", "")
        for route in endpoint_routes(
            handler, cards, path=path, max_body_bytes=settings.max_body_bytes, stopping=runtime.stopping
        )
    ]
    # Clients that take the flow's address for a page, not a folder, look for the card beside it.
    beside = card_routes(cards, "/a2a")
    return [*served, *beside, *(_OtherFlows(at, flow.flow) for at in ("/a2a/{flow}", "/a2a/{flow}/{below:path}"))]


class _OtherFlows(Route):
    """Says which flow is served to those who ask for another."""

    def __init__(self, path: str, flow: str) -> None:
        super().__init__(path, self._refuse)
        self.methods = None
        self._flow = flow

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        match, found = super().matches(scope)
        asked: dict[str, Any] = found.get("path_params", {})
        return (Match.NONE, {}) if asked.get("flow") == self._flow else (match, found)

    async def _refuse(self, request: Request) -> Response:
        raise HTTPException(404, f"the flow served here is {self._flow!r}, at /a2a/{self._flow}")
