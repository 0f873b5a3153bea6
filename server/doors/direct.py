"""Routes whose handler takes the request, the whole request and nothing but the request."""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response


class Direct(APIRoute):
    """A route without FastAPI's search for what else its handler may want: that costs as much as reading the body."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler as it was written."""
        handler: Callable[[Request], Coroutine[Any, Any, Response]] = self.endpoint
        return handler
