"""HTTP+JSON for one flow: the sdk's own routes, behind the same limits and words as JSON-RPC."""

import asyncio

import orjson
import structlog
from a2a.server.request_handlers import RequestHandler
from a2a.server.routes import create_rest_routes
from a2a.types.a2a_pb2 import (
    GetTaskRequest,
    ListTaskPushNotificationConfigsRequest,
    ListTasksRequest,
    SendMessageRequest,
    TaskPushNotificationConfig,
)
from a2a.utils.constants import A2A_JSON_MEDIA_TYPE
from a2a.utils.error_handlers import build_rest_error_payload
from a2a.utils.errors import (
    A2AError,
    ContentTypeNotSupportedError,
    InvalidRequestError,
    JSONParseError,
    VersionNotSupportedError,
)
from google.protobuf.message import Message
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from server.a2a.context import Contexts, bounded
from server.a2a.discovery import Endpoint
from server.a2a.envelope import (
    only_texts,
    parse,
    read_body,
    read_query,
    require_json,
    said_version,
    version_of,
)
from server.a2a.streams import tidy
from server.event_stream import ending

log = structlog.get_logger()

_BODIES = {
    ("POST", "/message:send"): SendMessageRequest,
    ("POST", "/message:stream"): SendMessageRequest,
    ("POST", "/tasks/{id}/pushNotificationConfigs"): TaskPushNotificationConfig,
}
_QUERIES = {
    ("GET", "/tasks"): ListTasksRequest,
    ("GET", "/tasks/{id}"): GetTaskRequest,
    ("GET", "/tasks/{id}/pushNotificationConfigs"): ListTaskPushNotificationConfigsRequest,
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
    """Return the route with what is asked read in our words before the sdk reads it in its own."""
    methods = [method for method in route.methods or () if method != "HEAD"]
    place = methods[0], route.path.removeprefix(prefix)
    answer: Endpoint = route.endpoint

    async def endpoint(request: Request) -> Response:
        limited = bounded(request, max_body_bytes)
        try:
            await limited.body()
        except InvalidRequestError as error:
            return _refusal(error, 413)
        try:
            _check_version(limited)
            tenant = getattr(await _read(limited, place), "tenant", "") or limited.query_params.get("tenant", "")
        except A2AError as error:
            return _refusal(error)
        if tenant:
            limited.path_params["tenant"] = tenant  # where the sdk looks for it
        answered = _ours(await answer(limited))
        return ending(answered, stopping) if route.path.endswith(":subscribe") else answered

    return Route(route.path, endpoint, methods=methods)


def _check_version(request: Request) -> None:
    if version_of(said_version(request)) != "1.0":
        raise VersionNotSupportedError("HTTP+JSON is spoken in version 1.0 only; send A2A-Version: 1.0")


async def _read(request: Request, place: tuple[str, str]) -> Message | None:
    """Return what is asked for; None where the path says it all. Raises the errors of reading it."""
    if place in _BODIES:
        require_json(request.headers.get("content-type", ""))
        return read_body(parse(await request.body()), _BODIES[place])
    return read_query(request.query_params, _QUERIES[place]) if place in _QUERIES else None


def _ours(answer: Response) -> Response:
    """Return an answer of the sdk as we write it."""
    answered = tidy(answer)
    if answered.status_code >= 400:
        payload = orjson.loads(answered.body)
        payload["error"]["details"] = only_texts(payload["error"].get("details", ()))
        return Response(orjson.dumps(payload), answered.status_code, media_type="application/json")
    if answered.media_type == A2A_JSON_MEDIA_TYPE:
        answered.headers["content-type"] = "application/json"  # A2A 1.0, 11.1
    return answered


def _refusal(error: A2AError, status: int | None = None) -> Response:
    if isinstance(error, JSONParseError):  # the sdk has no HTTP status for it
        error = InvalidRequestError(str(error))
    payload = build_rest_error_payload(error)
    told = payload["error"]
    if isinstance(error, ContentTypeNotSupportedError):  # A2A 1.0, 5.4; the sdk says 400
        status = 415
    told |= {"code": status or told["code"], "details": only_texts(told["details"])}
    log.warning("a2a request refused", code=told["code"], reason=told["message"])
    return Response(orjson.dumps(payload), told["code"], media_type="application/json")
