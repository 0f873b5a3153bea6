"""One JSON-RPC request over HTTP: sent, bounded in bytes, checked, and every failure put into our error tree.

Whoever calls `send` or `stream` bounds it in time; HTTP has no timeouts of its own here, so that there is one clock.
"""

import base64
import time
import uuid
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
import orjson

from nodes.remote import sse
from nodes.remote.dialect import VERSION_HEADER, Dialect
from nodes.remote.errors import (
    AgentError,
    BadReply,
    Disconnected,
    HeldUp,
    HttpFailed,
    ReplyTooLarge,
    RpcFailed,
    Unreachable,
    Unsendable,
)

_HEADERS = {"content-type": "application/json", "accept": "application/json", "accept-encoding": "identity"}
_EVENTS = "text/event-stream"
_GZIP_OR_ZLIB = zlib.MAX_WBITS | 32
_COMPRESSED = ("gzip", "x-gzip", "deflate")
_LONGEST_NUMBER = 9


async def send(
    client: httpx.AsyncClient,
    *,
    agent: str,
    url: str,
    dialect: Dialect,
    method: str,
    params: Mapping[str, Any],
    max_bytes: int,
    traceparent: str | None = None,
    leave_by: float | None = None,
) -> Any:
    """Call `method` at `url` and return the JSON-RPC result; not after `leave_by`, on the monotonic clock.

    Raises:
        AgentError: for every way in which that can fail.
    """
    request_id, headers, body = _written(agent, dialect, method, params, traceparent)
    async with _answer(client, agent, "POST", url, headers, body, leave_by) as response:
        return _result(agent, request_id, response, await _read(agent, response, max_bytes))


async def stream(
    client: httpx.AsyncClient,
    *,
    agent: str,
    url: str,
    dialect: Dialect,
    method: str,
    params: Mapping[str, Any],
    max_bytes: int,
    traceparent: str | None = None,
    leave_by: float | None = None,
) -> AsyncGenerator[Any, None]:
    """Call `method` at `url` and yield each JSON-RPC result of the stream as it comes, or the one of a plain answer.

    Close it, or the connection stays open. A stream that just ends is not an error here. Nothing is sent after
    `leave_by`, on the monotonic clock.

    Raises:
        AgentError: for every way in which that can fail; all events together may have `max_bytes`.
    """
    request_id, headers, body = _written(agent, dialect, method, params, traceparent)
    headers["accept"] = _EVENTS
    async with _answer(client, agent, "POST", url, headers, body, leave_by) as response:
        if response.status_code == 200 and _kind(response) == _EVENTS:
            events = sse.Events()
            async for piece in _pieces(agent, response, max_bytes):
                for data in events.feed(piece):
                    yield _result(agent, request_id, response, data)
        else:
            yield _result(agent, request_id, response, await _read(agent, response, max_bytes))


async def exchange(
    client: httpx.AsyncClient,
    agent: str,
    method: str,
    url: str,
    headers: Mapping[str, str],
    body: bytes | None,
    max_bytes: int,
    leave_by: float | None = None,
) -> tuple[int, bytes]:
    """Make one HTTP request, following one redirect on the same host, and return status and body.

    Raises:
        AgentError: if the connection fails or the body is longer than `max_bytes`.
    """
    async with _answer(client, agent, method, url, headers, body, leave_by) as response:
        return response.status_code, await _read(agent, response, max_bytes)


@asynccontextmanager
async def _answer(
    client: httpx.AsyncClient,
    agent: str,
    method: str,
    url: str,
    headers: Mapping[str, str],
    body: bytes | None,
    leave_by: float | None,
) -> AsyncIterator[httpx.Response]:
    """Open the response to one HTTP request, following one redirect on the same host; its body is not read."""
    try:
        response = await _once(client, agent, method, url, headers, body, leave_by)
        try:
            location = response.headers.get("location")
            if response.status_code in (307, 308) and location and (moved := _same_host(url, location)):
                await response.aclose()
                response = await _once(client, agent, method, moved, headers, body, leave_by)
            yield response
        finally:
            await response.aclose()
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise _translated(agent, error) from error


async def _once(
    client: httpx.AsyncClient,
    agent: str,
    method: str,
    url: str,
    headers: Mapping[str, str],
    body: bytes | None,
    leave_by: float | None,
) -> httpx.Response:
    address, fields = _addressed(url, headers)
    request = _built(client, agent, method, address, fields, body)
    if leave_by is not None and time.monotonic() > leave_by:
        raise HeldUp(agent)
    return await client.send(request, stream=True, follow_redirects=False)


def _written(
    agent: str, dialect: Dialect, method: str, params: Mapping[str, Any], traceparent: str | None
) -> tuple[str, dict[str, str], bytes]:
    """Return the id, the headers and the body of a JSON-RPC request."""
    request_id = uuid.uuid4().hex
    headers = dict(_HEADERS)
    if dialect == "1.0":
        headers[VERSION_HEADER] = dialect
    if traceparent:
        headers["traceparent"] = traceparent
    try:
        body = orjson.dumps({"jsonrpc": "2.0", "id": request_id, "method": method, "params": params})
    except TypeError as error:
        raise Unsendable(agent, str(error)) from error
    return request_id, headers, body


def _addressed(url: str, headers: Mapping[str, str]) -> tuple[httpx.URL, dict[str, str]]:
    """Return address and headers, with credentials moved from the one to the others.

    httpx writes addresses to its log, and aiohttp refuses credentials that come in both.
    """
    address = httpx.URL(url)
    if not address.userinfo:
        return address, dict(headers)
    credentials = base64.b64encode(f"{address.username}:{address.password}".encode()).decode()
    bare = address.copy_with(username="", password="")
    return bare, {**headers, "authorization": f"Basic {credentials}"}


async def _read(agent: str, response: httpx.Response, max_bytes: int) -> bytes:
    declared = response.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > max_bytes:
        raise ReplyTooLarge(agent, max_bytes)
    chunks: list[bytes] = []
    size = 0
    async for chunk in response.aiter_raw():
        size += len(chunk)
        if size > max_bytes:
            raise ReplyTooLarge(agent, max_bytes)
        chunks.append(chunk)
    return _decoded(agent, response.headers.get("content-encoding", ""), b"".join(chunks), max_bytes)


def _decoded(agent: str, encoding: str, content: bytes, max_bytes: int) -> bytes:
    """Decompress what came compressed though we asked for plain bytes; anything else is left as it is.

    httpx would do it without a bound: 64 kB of zstd can hold gigabytes.
    """
    if encoding.lower() not in _COMPRESSED:
        return content
    try:
        plain = zlib.decompressobj(_GZIP_OR_ZLIB).decompress(content, max_bytes + 1)
    except zlib.error:
        return content
    if len(plain) > max_bytes:
        raise ReplyTooLarge(agent, max_bytes)
    return plain


async def _pieces(agent: str, response: httpx.Response, max_bytes: int) -> AsyncGenerator[bytes, None]:
    """Yield the body as it comes, decompressed like a whole one."""
    encoding = response.headers.get("content-encoding", "").lower()
    inflater = zlib.decompressobj(_GZIP_OR_ZLIB) if encoding in _COMPRESSED else None
    left = max_bytes
    async for chunk in response.aiter_raw():
        try:
            plain = inflater.decompress(chunk, left + 1) if inflater else chunk
        except zlib.error as error:
            raise BadReply(agent, "its stream cannot be decompressed") from error
        left -= len(plain)
        if left < 0:
            raise ReplyTooLarge(agent, max_bytes)
        yield plain


def _kind(response: httpx.Response) -> str:
    return str(response.headers.get("content-type", "")).partition(";")[0].strip().lower()


def _translated(agent: str, error: Exception) -> AgentError:
    if isinstance(error, httpx.ConnectError | httpx.UnsupportedProtocol | httpx.InvalidURL):
        return Unreachable(agent, f"agent {agent!r} cannot be reached; check that it runs and its address is right")
    return Disconnected(agent, f"the connection to agent {agent!r} broke before its answer was complete")


def _result(agent: str, request_id: str, response: httpx.Response, content: bytes) -> Any:
    failed_http = None if response.status_code == 200 else _http_failed(agent, response)
    try:
        envelope = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise failed_http or BadReply(agent, "its body is not JSON") from error
    if not isinstance(envelope, dict) or envelope.get("jsonrpc") != "2.0":
        if failed_http:
            raise failed_http
        raise BadReply(agent, "its body is not a JSON-RPC response")
    failed = isinstance(envelope.get("error"), dict)
    # An agent that could not read the request does not know its id (JSON-RPC 2.0, section 5).
    if envelope.get("id") != request_id and not (failed and envelope.get("id") is None):
        raise BadReply(agent, "it answers another request's id")
    if failed:
        raise _rpc_failed(agent, envelope["error"])
    if failed_http:
        raise failed_http
    if "result" not in envelope:
        raise BadReply(agent, "it holds neither a result nor an error")
    return envelope["result"]


def _http_failed(agent: str, response: httpx.Response) -> HttpFailed:
    busy = response.status_code in (429, 503)  # with another status it is not about the endpoint as a whole
    return HttpFailed(
        agent, response.status_code, _seconds(response.headers.get("retry-after", "")) if busy else None
    )


def _seconds(retry_after: str) -> float | None:
    """Read a `Retry-After`, which is a number of seconds or a date; None for anything else."""
    if retry_after.strip().isdecimal():
        return float(retry_after.strip()[:_LONGEST_NUMBER])
    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def _built(
    client: httpx.AsyncClient,
    agent: str,
    method: str,
    url: httpx.URL | str,
    headers: Mapping[str, str],
    body: bytes | None,
) -> httpx.Request:
    try:
        return client.build_request(method, url, headers=dict(headers), content=body)
    except ValueError as error:  # a header that is not ASCII
        raise Unsendable(agent, "a header holds what HTTP cannot carry") from error


def _rpc_failed(agent: str, error: Mapping[str, Any]) -> RpcFailed:
    code = error.get("code")
    return RpcFailed(agent, code if isinstance(code, int) else 0)


def _same_host(url: str, location: str) -> str | None:
    """Return where a redirect leads, with our own credentials; None if that is another scheme, host or port."""
    here = httpx.URL(url)
    try:
        there = here.join(location)
    except httpx.InvalidURL:
        return None
    if (there.scheme, there.host, there.port) != (here.scheme, here.host, here.port):
        return None
    return str(here.copy_with(raw_path=there.raw_path))
