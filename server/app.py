"""`create_app`: every route, middleware and error mapping on one screen."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext

from fastapi import FastAPI
from starlette.responses import RedirectResponse

from server import problems
from server.doors import (
    a2a,
    agents,
    execute,
    executions,
    explain,
    flows,
    health,
    orchestrate,
    parked,
    runs,
    sessions,
    stream,
    tickets,
    websocket,
    workflows,
)
from server.doors.hosts import KnownHosts
from server.listening import is_loopback
from server.runtime import Runtime, open_runtime
from server.settings import Settings

_ABOUT = """Runs customer-service calls through five stages: greeting, authentication, intent capture, fulfillment and
closing. Each stage is answered by a remote agent over A2A. Errors are `application/problem+json`."""


def create_app(settings: Settings, runtime: Runtime | None = None) -> FastAPI:
    """Return the service.

    Args:
        settings: how it is configured.
        runtime: what its doors use; None lets the app's lifespan open one and close it again.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with nullcontext(runtime) if runtime else open_runtime(settings) as opened:
            app.state.runtime = opened
            # Asked first, as the other doors are many; but Studio, which opens none, has a door of its own there.
            at = 0 if runtime else len(app.router.routes)
            app.router.routes[at:at] = a2a.routes(opened)
            yield

    app = FastAPI(title="Orchestrator Flows", version="0.1.0", description=_ABOUT, lifespan=lifespan)
    problems.install(app)
    if is_loopback(settings.host):
        app.add_middleware(KnownHosts, public_url=settings.public_url)
    for door in (
        orchestrate,
        stream,
        websocket,
        sessions,
        explain,
        flows,
        agents,
        runs,
        execute,
        executions,
        workflows,
        tickets,
        parked,
        health,
    ):
        app.include_router(door.router)

    @app.get("/", include_in_schema=False)
    async def root() -> RedirectResponse:
        return RedirectResponse("/docs")

    return app
