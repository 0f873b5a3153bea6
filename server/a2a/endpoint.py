"""The routes by which A2A clients call one flow: JSON-RPC of both versions at one address, HTTP+JSON if wanted.

`a2a-sdk` reads and writes the messages of the protocol; what it makes of wrong requests is done here instead, in
words for the client. What a request means is the request handler's.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
import structlog
from a2a.compat.v0_3 import types as types_v03
from a2a.compat.v0_3.conversions import (
    to_compat_stream_response,
    to_core_message,
    to_core_send_message_request,
    to_core_subscribe_to_task_request,
)
from a2a.compat.v0_3.jsonrpc_adapter import JSONRPC03Adapter
from a2a.server.context import ServerCallContext
from a2a.server.events import Event
from a2a.server.request_handlers import RequestHandler
from a2a.server.routes.jsonrpc_dispatcher import JsonRpcDispatcher
from a2a.types.a2a_pb2 import SendMessageRequest
from a2a.utils.errors import (
    A2AError,
    InternalError,
    InvalidParamsError,
    MethodNotFoundError,
    VersionNotSupportedError,
)
from a2a.utils.proto_utils import to_stream_response
from google.protobuf.json_format import MessageToDict
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from server.a2a.answering import answering
from server.a2a.cards import Cards, Version
from server.a2a.context import Contexts, bounded
from server.a2a.discovery import OLD_BASE, card_routes
from server.a2a.envelope import (
    RequestId,
    check_message,
    error_document,
    id_of,
    method_of,
    parse,
    read_model,
    read_params,
    require_json,
    said_version,
    version_of,
)
from server.a2a.rest import rest_routes
from server.a2a.sending import plainly_sent, plainly_sent_03, sent_of
from server.a2a.streams import streamed, tidy
from server.a2a.wording import Json, whole
from server.a2a.wording_03 import answer_03
from server.event_stream import ending

log = structlog.get_logger()

Send = Callable[[Json, ServerCallContext], Awaitable[Json]]
"""Answers a `SendMessageRequest` with a `SendMessageResponse`, each as A2A 1.0 writes it in JSON."""

_FOLLOWING = frozenset({"SubscribeToTask", "tasks/resubscribe"})
_STREAMING = _FOLLOWING | {"SendStreamingMessage", "message/stream"}
_FORGETTING = "tasks/pushNotificationConfig/delete"
_WAITING = (types_v03.TaskState.input_required, types_v03.TaskState.auth_required)
_SENDING = (types_v03.SendMessageRequest, types_v03.SendStreamingMessageRequest)
_TALK, _TALK_03 = "SendMessage", "message/send"


def routes(
    handler: RequestHandler,
    cards: Cards,
    *,
    path: str,
    max_body_bytes: int,
    stopping: asyncio.Event | None = None,
    send: Send | None = None,
) -> list[Route]:
    """Return every route of the flow below `path`.

    Args:
        handler: answers the requests; the extended card is answered here. In the context it gets, `state` holds
            the `headers` (`A2A-Version` among them is the version agreed on, `1.0` or `0.3`) and the `base_url`.
        cards: of the flow.
        path: `/a2a/<flow>`, or empty for the flow that is called at the root.
        max_body_bytes: how long a request may be; no more of it is read.
        stopping: once set, streams end; their clients subscribe again elsewhere.
        send: answers what is sent without a stream, past the sdk; None leaves that to the handler.
    """
    asked = answering(handler, cards)
    contexts = Contexts(cards.public_url)
    dispatcher = Dispatcher(asked, contexts, max_body_bytes, stopping, send)
    rpc = [
        Route(at, dispatcher.handle_requests, methods=["POST"])
        for at in sorted({path or "/", f"{path}/", path + OLD_BASE})
    ]
    rest = rest_routes(asked, contexts, f"{path}/rest", max_body_bytes, stopping) if cards.rest else []
    return [*card_routes(cards, path), *rpc, *rest]


class Dispatcher(JsonRpcDispatcher):
    """Answers JSON-RPC requests of both versions."""

    def __init__(
        self,
        handler: RequestHandler,
        contexts: Contexts,
        max_body_bytes: int,
        stopping: asyncio.Event | None = None,
        send: Send | None = None,
    ) -> None:
        super().__init__(handler, contexts)
        self._old = _Adapter03(handler, contexts, send)
        self._send = send
        self._max_body_bytes = max_body_bytes
        self._stopping = stopping

    async def handle_requests(self, request: Request) -> Response:
        """Answer a request; whatever is wrong with it is a JSON-RPC error."""
        said = said_version(request)
        request_id: RequestId = None
        try:
            document = await self._read(request)
            request_id = id_of(document)
            method = method_of(document)
            answer = await self._dispatch(request, version_of(said), request_id, method, document)
        except A2AError as error:
            return _refusal(request_id, error, said)
        except ClientDisconnect:
            raise
        except Exception:
            log.exception("a2a request failed", id=request_id)
            return _refusal(request_id, InternalError(), said)
        # A stream that sends ends with its turn, which a stopping service lets finish; one that follows may not end.
        return ending(answer, self._stopping) if method in _FOLLOWING else answer

    async def _read(self, request: Request) -> Any:
        require_json(request.headers.get("content-type", ""))
        return parse(await bounded(request, self._max_body_bytes).body())

    async def _dispatch(
        self, request: Request, version: Version, request_id: RequestId, method: str, document: dict[str, Any]
    ) -> Response:
        if version == "0.3" and self._old.supports_method(method):
            return await self._old.answer(request, request_id, method, document)
        kind = self.METHOD_TO_MODEL.get(method)
        if kind and version == "0.3":
            raise VersionNotSupportedError(f"{method} is a method of A2A 1.0; send it with A2A-Version: 1.0")
        if kind is None:
            hint = "; it is one of A2A 0.3, and A2A-Version says 1.0" if self._old.supports_method(method) else ""
            raise MethodNotFoundError(f"Method not found{hint}")
        if method == _TALK and self._send:
            sent = plainly_sent(document) or sent_of(read_params(document, SendMessageRequest))
            context = self._context(request, method, request_id, sent.get("tenant", ""))
            return _result(request_id, await self._send(sent, context))
        params = read_params(document, kind)
        context = self._context(request, method, request_id, getattr(params, "tenant", ""))
        if method in _STREAMING:
            return await self._streamed(request_id, params, context)
        return _result(request_id, whole(await self._process_non_streaming_request(params, context)))

    def _context(self, request: Request, method: str, request_id: RequestId, tenant: str) -> ServerCallContext:
        context = self._context_builder.build(request)
        context.tenant = tenant
        context.state.update(method=method, request_id=request_id)
        return context

    async def _streamed(self, request_id: RequestId, params: Any, context: ServerCallContext) -> Response:
        follows = context.state["method"] in _FOLLOWING
        handle = self.request_handler.on_subscribe_to_task if follows else self.request_handler.on_message_send_stream
        return await streamed(
            handle(params, context),
            lambda event: {"jsonrpc": "2.0", "id": request_id, "result": MessageToDict(to_stream_response(event))},
            lambda error: error_document(request_id, error, "1.0"),
            version="1.0",
        )


class _Adapter03(JSONRPC03Adapter):
    """Answers the requests of version 0.3."""

    def __init__(self, handler: RequestHandler, contexts: Contexts, send: Send | None) -> None:
        super().__init__(handler, contexts)
        self._send = send

    async def answer(
        self, request: Request, request_id: RequestId, method: str, document: dict[str, Any]
    ) -> Response:
        plain = plainly_sent_03(document) if method == _TALK_03 and self._send else None
        params: Any = None if plain else read_model(document, self.METHOD_TO_MODEL[method])
        if isinstance(params, _SENDING):
            _check_parts(params.params.message)
        context = self._context_builder.build(request)
        context.state.update(method=method, request_id=request_id)
        if method in _STREAMING:
            return await self._streamed(request_id, params, context)
        if method == _TALK_03 and self._send:
            sent = plain or sent_of(to_core_send_message_request(params))
            return _result(request_id, answer_03(await self._send(sent, context)))
        answered = await self._process_non_streaming_request(request_id, params, context)
        return _result(request_id, None) if method == _FORGETTING else tidy(answered)

    async def _streamed(self, request_id: RequestId, request: Any, context: ServerCallContext) -> Response:
        handler = self.handler.request_handler
        if context.state["method"] in _FOLLOWING:
            stream = handler.on_subscribe_to_task(to_core_subscribe_to_task_request(request), context)
        else:
            stream = handler.on_message_send_stream(to_core_send_message_request(request), context)
        return await streamed(
            stream,
            lambda event: _written_03(event, request.id),
            lambda error: error_document(request_id, error, "0.3"),
            version="0.3",
        )


def _written_03(event: Event, request_id: RequestId) -> Any:
    """Return an event as 0.3 writes it, and say which update is the last: clients read up to that.

    The sdk marks the states in which a task has ended; those in which it waits for the caller end a stream too.
    """
    told = to_compat_stream_response(to_stream_response(event), request_id)
    update = told.result
    if isinstance(update, types_v03.TaskStatusUpdateEvent) and update.status.state in _WAITING:
        update.final = True
    return told.model_dump(mode="json", by_alias=True, exclude_none=True)


def _refusal(request_id: RequestId, error: A2AError, said: str) -> Response:
    try:
        version = version_of(said)
    except VersionNotSupportedError:
        version = None
    document = error_document(request_id, error, version)
    log.warning("a2a request refused", code=document["error"]["code"], reason=document["error"]["message"])
    # 200 for every error: JSON-RPC clients look for the reason in the body, and some only below 300.
    return _json(document)


def _result(request_id: RequestId, result: Any) -> Response:
    return _json({"jsonrpc": "2.0", "id": request_id, "result": result})


def _json(document: Any) -> Response:
    return Response(orjson.dumps(document), media_type="application/json")


def _check_parts(message: types_v03.Message) -> None:
    """Raise `InvalidParamsError` for what the sdk's models let pass: a part that does not say its kind is no text."""
    for at, part in enumerate(message.parts):
        if "kind" not in part.root.model_fields_set:
            raise InvalidParamsError(f"params.message.parts.{at}.kind: it is missing")
    try:
        core = to_core_message(message)
    except Exception as error:
        raise InvalidParamsError("params.message.parts: a part is not what its kind says") from error
    check_message(core, [getattr(getattr(part.root, "file", None), "bytes", None) for part in message.parts])
