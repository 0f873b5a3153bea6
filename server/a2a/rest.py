"""HTTP+JSON for one flow: the sdk's own routes, behind the same limits and words as JSON-RPC."""

import asyncio

import orjson
import structlog
from a2a.server.request_handlers import RequestHandler
from a2a.server.routes import create_rest_routes
from a2a.types.a2a_pb2 import SendMessageRequest, TaskPushNotificationConfig
from a2a.utils.constants import A2A_JSON_MEDIA_TYPE
from a2a.utils.error_handlers import build_rest_error_payload
from a2a.utils.errors import A2AError, ContentTypeNotSupportedError, InvalidRequestError, JSONParseError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from server.a2a.context import Contexts, bounded
from server.a2a.discovery import Endpoint
from server.a2a.envelope import parse, read_body, require_json
from server.a2a.streams import ending, tidy

log = structlog.get_logger()

_BODIES = {
    ("POST", "/message:send"): SendMessageRequest,
    ("POST", "/message:stream"): SendMessageRequest,
    ("POST", "/tasks/{id}/pushNotificationConfigs"): TaskPushNotificationConfig,
}


def rest_routes(
    handler: RequestHandler,
    contexts: Contexts,
    prefix: str,
    max_body_bytes: int,
    stopping: asyncio.Event | None,
) -> list[Route]:
    """Return the routes of HTTP+JSON below `prefix`, for clients of version 1.0."""
    made = create_rest_routes(handler, contexts, path_prefix=prefix)
    # The sdk also mounts them below any first segment as a tenant, which would hide every route after them.
    plain = [route for route in made if isinstance(route, Route)]
    return [_checked_first(route, prefix, max_body_bytes, stopping) for route in plain]


def _checked_first(route: Route, prefix: str, max_body_bytes: int, stopping: asyncio.Event | None) -> Route:
    """Return the route with its body read in our words before the sdk reads it in its own."""
    methods = [method for method in route.methods or () if method != "HEAD"]
    kind = _BODIES.get((methods[0], route.path.removeprefix(prefix)))
    answer: Endpoint = route.endpoint

    async def endpoint(request: Request) -> Response:
        limited = bounded(request, max_body_bytes)
        try:
            if kind:
                require_json(request.headers.get("content-type", ""))
                read_body(parse(await limited.body()), kind)
        except A2AError as error:
            return _refusal(error)
        answered = tidy(await answer(limited))
        if answered.media_type == A2A_JSON_MEDIA_TYPE:
            answered.headers["content-type"] = "application/json"  # A2A 1.0, 11.1
        return ending(answered, stopping) if route.path.endswith(":subscribe") else answered

    return Route(route.path, endpoint, methods=methods)


def _refusal(error: A2AError) -> Response:
    if isinstance(error, JSONParseError):  # the sdk has no HTTP status for it
        error = InvalidRequestError(str(error))
    payload = build_rest_error_payload(error)
    if isinstance(error, ContentTypeNotSupportedError):  # A2A 1.0, 5.4; the sdk says 400
        payload["error"]["code"] = 415
    log.warning("a2a request refused", code=payload["error"]["code"], reason=payload["error"]["message"])
    return Response(orjson.dumps(payload), payload["error"]["code"], media_type="application/json")
