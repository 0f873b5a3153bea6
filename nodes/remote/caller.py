"""Reaching an agent: its card, one message, and waiting until its task is done, all within one deadline.

A message is sent once. Whoever follows the turn is told what the agent does: of an agent that streams, as it streams.
"""

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from functools import partial
from types import TracebackType
from typing import Any, Self, TypedDict, TypeVar

import httpx

from nodes.parts import Unreadable
from nodes.ports import AgentRequest, Reply, TaskState, Tell
from nodes.remote import wire
from nodes.remote.card import Cards, Endpoint
from nodes.remote.dialect import (
    AT_WORK,
    CANCEL_TASK,
    GET_TASK,
    LIST_TASKS,
    SEND,
    STREAM,
    Dialect,
    list_params,
    read_open_tasks,
    read_sent,
    read_task,
    send_params,
    task_params,
)
from nodes.remote.errors import AgentError, BadReply, Disconnected, RpcFailed, TimedOut
from nodes.remote.exchange import Http
from nodes.remote.plain import Plain
from nodes.remote.sought import Sought
from nodes.remote.work import Patience, Work

MAX_REPLY_BYTES = 8_000_000
CARD_TIMEOUT = 5.0
_UNKNOWN_TASK, _NOT_CANCELABLE, _UNSUPPORTED, _NO_METHOD, _NO_VERSION = -32001, -32002, -32004, -32601, -32009
_OTHER_VERSION = (_NO_METHOD, _NO_VERSION)
"""The agent speaks another version than its card said."""
_DOES_NOT_STREAM = (_NO_METHOD, _UNSUPPORTED)
_WILL_NOT = (_UNKNOWN_TASK, _NOT_CANCELABLE, _UNSUPPORTED, _NO_METHOD)
_SENDING = frozenset((*SEND.values(), *STREAM.values()))

Read = TypeVar("Read")


def open_client(*, connections: int = 1024, resolver: Callable[[], Any] | None = None) -> Http:
    """Open the client that the service shares among its calls: aiohttp, which holds its speed at any concurrency.

    Args:
        connections: how many may be open at a time.
        resolver: makes who looks up hosts (an `aiohttp.abc.AbstractResolver`); aiohttp's own if None.
    """
    from nodes.remote.transport import AgentTransport

    return AgentTransport(connections=connections, resolver=resolver)


class Caller:
    """Reaches agents over A2A JSON-RPC, in whichever version their card offers.

    Args:
        client: the HTTP client to use, closed with the caller: one of `open_client`, or any of httpx; by default a
            plain one of httpx, which works in any number of event loops.
        max_reply_bytes: how long a reply may be, bytes.
        card_timeout: seconds after which an agent that sends no card is taken to have none.
    """

    def __init__(
        self,
        client: httpx.AsyncClient | Http | None = None,
        *,
        max_reply_bytes: int = MAX_REPLY_BYTES,
        card_timeout: float = CARD_TIMEOUT,
    ) -> None:
        self._http = Plain(client) if client is None or isinstance(client, httpx.AsyncClient) else client
        self._max_reply_bytes = max_reply_bytes
        self._cards = Cards(self._http, card_timeout)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the HTTP client."""
        await self._cards.aclose()
        await self._http.aclose()

    async def call(self, request: AgentRequest, tell: Tell | None = None) -> Reply:
        """Send the message and return the agent's final answer, waiting for a task that still works.

        Raises:
            AgentError: for everything that can go wrong on the way.
        """
        work = Work(request, tell)
        try:
            async with asyncio.timeout(request.timeout):
                return await self._call(request, work)
        except TimeoutError as error:
            raise _timed_out(request, work.task_id) from error
        except AgentError as error:
            if work.task_id is not None:
                error.acted = None  # whatever it refuses now, it has begun to act
            raise

    async def cancel(self, request: AgentRequest) -> TaskState | None:
        """Cancel the task that `request` names, or else all that the agent has open in the request's context.

        Only agents that speak 1.0 can be asked what they have open. Returns the state in which the agent left its
        task; None if there was none to cancel, or the agent does not do that.

        Raises:
            AgentError: for everything else that can go wrong on the way.
        """
        try:
            async with asyncio.timeout(request.timeout):
                endpoint = await self._cards.endpoint(request.agent, request.url)
                tasks = [request.task_id] if request.task_id else await self._open_tasks(request, endpoint)
                states = [await self._canceled(request, endpoint, task_id) for task_id in tasks]
        except TimeoutError as error:
            raise _timed_out(request) from error
        return next((state for state in states if state is not None), None)

    async def find(self, request: AgentRequest) -> Reply | None:
        """Ask the agent what became of a message that was sent before, and wait for its task if that is at work.

        The message is recognised by its `message_id` alone, in the history of the task that it continued, or else of
        those in the request's context; only agents that speak 1.0 can be asked for these. Nothing is sent but
        questions. None if the agent remembers no such message, or cannot be asked.

        Raises:
            AgentError: for everything else that can go wrong on the way; `acted` is None, for it tells only of the
                asking. `TimedOut` names the task if the agent has not answered the message when the time is up.
        """
        sought = Sought(request)
        try:
            async with asyncio.timeout(request.timeout):
                # With the card as it is now: the agent may have been replaced since, and then speak another version.
                endpoint = await self._cards.endpoint_again(request.agent, request.url)
                return await sought.find(endpoint.dialect, partial(self._unless_refused, request, endpoint))
        except TimeoutError as error:
            raise _timed_out(request, sought.task_id) from error
        except Unreadable as error:
            raise BadReply(request.agent, str(error)) from error
        except AgentError as error:
            raise error.unknown() from error  # calls that wait for the same card have the other one

    async def probe(self, url: str) -> str | None:
        """Ask the agent at `url` for its card; return why that shows that it is not well, None if it does not."""
        return await self._cards.probe(url)

    async def _call(self, request: AgentRequest, work: Work) -> Reply:
        endpoint = await self._cards.endpoint(request.agent, request.url)
        if work.task_id is not None:
            return await self._settled(request, endpoint, work)
        try:
            return await self._answered(request, endpoint, work)
        except RpcFailed as error:
            if error.code not in _OTHER_VERSION or work.task_id is not None:
                raise
            known, endpoint = endpoint, await self._cards.endpoint_again(request.agent, request.url)
            if endpoint == known:
                raise
            return await self._answered(request, endpoint, work)  # it was replaced, and the first message not read

    async def _answered(self, request: AgentRequest, endpoint: Endpoint, work: Work) -> Reply:
        reply = None
        if request.streams and endpoint.streams:
            try:
                reply = await self._streamed(request, endpoint, work)
            except RpcFailed as error:
                if error.code not in _DOES_NOT_STREAM or work.task_id is not None:
                    raise
        if reply is None and work.task_id is None:
            reply = await self._sent(request, endpoint, work)
        return reply or await self._settled(request, endpoint, work)

    async def _streamed(self, request: AgentRequest, endpoint: Endpoint, work: Work) -> Reply | None:
        """Follow what the agent streams; None if that ends while its task is at work."""
        method, params = STREAM[endpoint.dialect], send_params(request, endpoint.dialect)
        try:
            async with aclosing(wire.stream(self._http, **self._to(request, endpoint, method, params))) as events:
                async for event in events:
                    if reply := _read(request, work.hear, event, endpoint.dialect):
                        return reply
        except Disconnected:
            if work.task_id is None:
                raise
        if work.task_id is None:
            raise BadReply(request.agent, "its stream ended without an answer")
        return None

    async def _sent(self, request: AgentRequest, endpoint: Endpoint, work: Work) -> Reply | None:
        """Send the message; None if the agent's task is at work.

        A turn that may be canceled needs to know the task early, unless it continues one: an agent that does not
        wait might answer with that task as it was before.
        """
        waits = not request.streams or request.task_id is not None
        params = send_params(request, endpoint.dialect, waits=waits)
        result = await self._rpc(request, endpoint, SEND[endpoint.dialect], params)
        reply = _read(request, read_sent, result, endpoint.dialect)
        return _read(request, work.hear, result, endpoint.dialect) if reply.task_state in AT_WORK else reply

    async def _settled(self, request: AgentRequest, endpoint: Endpoint, work: Work) -> Reply:
        """Ask after the task until it is no longer at work."""
        patience, params = Patience(), task_params(work.task_id or "")
        while True:
            result = await patience.ask(partial(self._rpc, request, endpoint, GET_TASK[endpoint.dialect], params))
            if reply := _read(request, work.hear_task, result):
                return reply

    async def _open_tasks(self, request: AgentRequest, endpoint: Endpoint) -> list[str]:
        if endpoint.dialect != "1.0":
            return []
        listed = await self._unless_refused(request, endpoint, LIST_TASKS, list_params(request.context_id))
        return _read(request, read_open_tasks, listed, request.context_id) if listed is not None else []

    async def _canceled(self, request: AgentRequest, endpoint: Endpoint, task_id: str) -> TaskState | None:
        task = await self._unless_refused(request, endpoint, CANCEL_TASK[endpoint.dialect], {"id": task_id})
        return _read(request, read_task, task).task_state if task is not None else None

    async def _unless_refused(
        self, request: AgentRequest, endpoint: Endpoint, method: str, params: dict[str, Any]
    ) -> object | None:
        try:
            return await self._rpc(request, endpoint, method, params)
        except RpcFailed as error:
            if error.code not in _WILL_NOT:
                raise
            return None

    async def _rpc(self, request: AgentRequest, endpoint: Endpoint, method: str, params: dict[str, Any]) -> object:
        return await wire.send(self._http, **self._to(request, endpoint, method, params))

    def _to(self, request: AgentRequest, endpoint: Endpoint, method: str, params: dict[str, Any]) -> "_Addressed":
        return {
            "agent": request.agent,
            "url": endpoint.url,
            "dialect": endpoint.dialect,
            "method": method,
            "params": params,
            "max_bytes": self._max_reply_bytes,
            "traceparent": request.traceparent,
            "leave_by": request.leave_by if method in _SENDING else None,
        }


class _Addressed(TypedDict):
    """What `wire` needs to know of one request."""

    agent: str
    url: str
    dialect: Dialect
    method: str
    params: dict[str, Any]
    max_bytes: int
    traceparent: str | None
    leave_by: float | None


def _timed_out(request: AgentRequest, task_id: str | None = None) -> TimedOut:
    message = f"agent {request.agent!r} did not answer within {request.timeout:.3g} s"
    return TimedOut(request.agent, message, task_id)


def _read(request: AgentRequest, read: Callable[..., Read], *document: object) -> Read:
    try:
        return read(*document)
    except Unreadable as error:
        raise BadReply(request.agent, str(error)) from error
