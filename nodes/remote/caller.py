"""Reaching an agent: its card, one message, and waiting until its task is done, all within one deadline."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from http.cookiejar import CookieJar, DefaultCookiePolicy
from types import TracebackType
from typing import Self

import httpx

from nodes.ports import AgentRequest, Reply
from nodes.remote import wire
from nodes.remote.card import Cards, Endpoint
from nodes.remote.dialect import GET_TASK, SEND, Unreadable, read_sent, read_task, send_params, task_params
from nodes.remote.errors import BadReply, Disconnected, HttpFailed, RpcFailed, TimedOut, Unreachable

MAX_REPLY_BYTES = 8_000_000
CARD_TIMEOUT = 5.0
_OTHER_VERSION = (-32601, -32009)
"""Method not found, version not supported: the agent speaks another version than its card said."""
_AT_WORK = ("submitted", "working")
_POLL_FIRST, _POLL_LONGEST = 0.05, 1.0


def open_client(*, connections: int = 1024) -> httpx.AsyncClient:
    """Open the shared HTTP client: httpx over aiohttp, which holds its speed above 8 concurrent calls."""
    from nodes.remote.transport import AgentTransport

    return _client(AgentTransport(connections=connections))


def _client(transport: httpx.AsyncBaseTransport | None = None) -> httpx.AsyncClient:
    """Make a client without timeouts (`Caller.call` has the one clock) and without cookies (calls share it).

    Without a transport it also keeps no connections: those belong to an event loop, and a script may run several.
    """
    cookies = CookieJar(DefaultCookiePolicy(allowed_domains=()))
    limits = httpx.Limits(max_keepalive_connections=0)
    return httpx.AsyncClient(transport=transport, limits=limits, cookies=cookies, trust_env=False, timeout=None)  # noqa: S113


class Caller:
    """Reaches agents over A2A JSON-RPC, in whichever version their card offers.

    Args:
        client: the HTTP client to use, closed with the caller; by default a plain one.
        max_reply_bytes: how long a reply may be, bytes.
        card_timeout: seconds after which an agent that sends no card is taken to have none.
    """

    def __init__(
        self,
        client: httpx.AsyncClient | None = None,
        *,
        max_reply_bytes: int = MAX_REPLY_BYTES,
        card_timeout: float = CARD_TIMEOUT,
    ) -> None:
        self._client = client or _client()
        self._max_reply_bytes = max_reply_bytes
        self._cards = Cards(self._client, card_timeout)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the HTTP client."""
        await self._cards.aclose()
        await self._client.aclose()

    async def call(self, request: AgentRequest) -> Reply:
        """Send the message and return the agent's final answer, waiting for a task that still works.

        Raises:
            AgentError: for everything that can go wrong on the way.
        """
        work = _Work(request.task_id if request.task_works else None)
        try:
            async with asyncio.timeout(request.timeout):
                return await self._call(request, work)
        except TimeoutError as error:
            message = f"agent {request.agent!r} did not answer within {request.timeout:.3g} s"
            raise TimedOut(request.agent, message, work.task_id) from error

    async def _call(self, request: AgentRequest, work: "_Work") -> Reply:
        endpoint = await self._cards.endpoint(request.agent, request.url)
        if work.task_id is not None:
            return await self._settled(request, endpoint, work)
        try:
            reply = await self._send(request, endpoint)
        except RpcFailed as error:
            if error.code not in _OTHER_VERSION:
                raise
            known, endpoint = endpoint, await self._cards.endpoint_again(request.agent, request.url)
            if endpoint == known:
                raise
            reply = await self._send(request, endpoint)  # the agent was replaced, and the first message not read
        if reply.task_state not in _AT_WORK:
            return reply
        work.task_id = reply.task_id
        return await self._settled(request, endpoint, work)

    async def _send(self, request: AgentRequest, endpoint: Endpoint) -> Reply:
        result = await self._rpc(request, endpoint, SEND[endpoint.dialect], send_params(request, endpoint.dialect))
        return _read(request, read_sent, result, endpoint.dialect)

    async def _settled(self, request: AgentRequest, endpoint: Endpoint, work: "_Work") -> Reply:
        """Ask after the task until it is no longer at work."""
        pause = _POLL_FIRST
        while True:
            await asyncio.sleep(pause)
            pause = min(pause * 2, _POLL_LONGEST)
            params = task_params(work.task_id or "")
            try:
                result = await self._rpc(request, endpoint, GET_TASK[endpoint.dialect], params)
            except (Unreachable, Disconnected, HttpFailed) as error:
                if not error.retryable:
                    raise
                continue  # asking changes nothing, so it may be asked again until the time is up
            reply = _read(request, read_task, result)
            if reply.task_id != work.task_id:
                raise BadReply(request.agent, "it tells of another task than the one asked after")
            if reply.task_state not in _AT_WORK:
                return reply

    async def _rpc(self, request: AgentRequest, endpoint: Endpoint, method: str, params: dict[str, object]) -> object:
        return await wire.send(
            self._client,
            agent=request.agent,
            url=endpoint.url,
            dialect=endpoint.dialect,
            method=method,
            params=params,
            max_bytes=self._max_reply_bytes,
            traceparent=request.traceparent,
        )


@dataclass(slots=True)
class _Work:
    """The agent's task while it is at work, known even if the time runs out."""

    task_id: str | None


def _read(request: AgentRequest, read: Callable[..., Reply], *document: object) -> Reply:
    try:
        return read(*document)
    except Unreadable as error:
        raise BadReply(request.agent, str(error)) from error
