"""What the request handler learns of the HTTP request behind an A2A request, and how much of it is read."""

from a2a.server.context import ServerCallContext
from a2a.server.routes import DefaultServerCallContextBuilder
from a2a.utils.constants import VERSION_HEADER
from a2a.utils.errors import InvalidRequestError
from starlette.requests import Request
from starlette.types import Message, Receive

from server.a2a.discovery import base_url
from server.a2a.envelope import said_version, version_of


class Contexts(DefaultServerCallContextBuilder):
    """Says in the context which version was agreed on, wherever the client said it, and where the client is."""

    def __init__(self, public_url: str | None) -> None:
        self._public_url = public_url

    def build(self, request: Request) -> ServerCallContext:
        context = super().build(request)
        context.state["headers"][VERSION_HEADER] = version_of(said_version(request))
        context.state["base_url"] = base_url(request, self._public_url)
        return context


def bounded(request: Request, max_bytes: int) -> Request:
    """Return the request with a body that raises `InvalidRequestError` when it is longer; no more of it is kept."""
    size = 0
    receive: Receive = request.receive

    async def counted() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > max_bytes:
            raise InvalidRequestError(f"the request is longer than {max_bytes:,} bytes; send less")
        return message

    return Request(request.scope, counted)
