"""`/health` and `/ready`: whether the process lives, and whether it can serve."""

from typing import Any

from fastapi import APIRouter, Request

from server.problems import Stopping, responses
from server.runtime import Runtime

router = APIRouter(tags=["operation"])


@router.get("/health", summary="Alive")
async def health(request: Request) -> dict[str, Any]:
    """Say that the process lives, without asking anything else, and count the turns it refused."""
    runtime: Runtime = request.app.state.runtime
    return {"status": "ok", "refused_turns": dict(runtime.turns.refused)}


@router.get("/ready", summary="Able to serve", responses=responses(503))
async def ready(request: Request) -> dict[str, Any]:
    """Say that the store answers and the flow is checked; not ready from when the service is told to stop."""
    runtime: Runtime = request.app.state.runtime
    if runtime.draining.is_set():
        raise Stopping("it was told to stop; another replica takes calls")
    await runtime.store.calls.ping()
    return {"status": "ready", "checkpointer": runtime.store.kind, "flow": runtime.routes.flow.flow}
