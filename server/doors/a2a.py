"""`/a2a/{flow}`, and `/` for the flow that is served: the flow as an A2A agent, with its cards."""

from importlib.metadata import version

from starlette.routing import BaseRoute

from server.a2a.cards import Cards
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
    return [
        route
        for path in (f"/a2a/{flow.flow}", "")
        for route in endpoint_routes(
            handler, cards, path=path, max_body_bytes=settings.max_body_bytes, stopping=runtime.stopping
        )
    ]
