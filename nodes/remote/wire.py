"""One JSON-RPC request over HTTP: sent, bounded in bytes, checked, and every failure put into our error tree.

Whoever calls `send` or `stream` bounds it in time; HTTP has no timeouts of its own here, so that there is one clock.
"""

import base64
import random
import time
import zlib
from collections.abc import AsyncGenerator, Mapping
from email.utils import parsedate_to_datetime
from functools import lru_cache
from types import TracebackType
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
from nodes.remote.exchange import Answer, Broken, Http, NotConnected

_HEADERS = {"content-type": "application/json", "accept": "application/json", "accept-encoding": "identity"}
_EVENTS = "text/event-stream"
_random = random.Random()
_GZIP_OR_ZLIB = zlib.MAX_WBITS | 32
_COMPRESSED = ("gzip", "x-gzip", "deflate")
_LONGEST_NUMBER = 9
_ADDRESSES = 1_024


async def send(
    http: Http,
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
    async with _Asked(http, agent, "POST", url, headers, body, leave_by) as answer:
        return _result(agent, request_id, answer, await _read(agent, answer, max_bytes))


async def stream(
    http: Http,
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
    async with _Asked(http, agent, "POST", url, headers, body, leave_by) as answer:
        if answer.status == 200 and _kind(answer) == _EVENTS:
            events = sse.Events()
            async for piece in _pieces(agent, answer, max_bytes):
                for data in events.feed(piece):
                    yield _result(agent, request_id, answer, data)
        else:
            yield _result(agent, request_id, answer, await _read(agent, answer, max_bytes))


async def exchange(
    http: Http,
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
    async with _Asked(http, agent, method, url, headers, body, leave_by) as answer:
        return answer.status, await _read(agent, answer, max_bytes)


class _Asked:
    """One HTTP request, sent as the context is entered, and closed with it; after one redirect on the same host. The
    body of its answer is not read.

    Raises:
        AgentError: for what goes wrong with HTTP, also while the context is open.
    """

    def __init__(
        self,
        http: Http,
        agent: str,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | None,
        leave_by: float | None,
    ) -> None:
        self._http = http
        self._agent = agent
        self._method = method
        self._url = url
        self._headers = headers
        self._body = body
        self._leave_by = leave_by
        self._answer: Answer | None = None

    async def __aenter__(self) -> Answer:
        try:
            self._answer = answer = await self._sent_to(self._url)
            location = answer.header("location") if answer.status in (307, 308) else ""
            if location and (moved := _same_host(self._url, location)):
                await answer.aclose()
                self._answer = answer = await self._sent_to(moved)
            return answer
        except BaseException as error:
            if self._answer is not None:
                await self._answer.aclose()
            if isinstance(error, NotConnected | Broken | httpx.InvalidURL):
                raise _translated(self._agent, error) from error
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._answer is not None:
            await self._answer.aclose()
        if isinstance(error, Broken):
            raise _translated(self._agent, error) from error

    async def _sent_to(self, url: str) -> Answer:
        address, authorization = _addressed(url)
        headers = {**self._headers, "authorization": authorization} if authorization else self._headers
        if self._leave_by is not None and time.monotonic() > self._leave_by:
            raise HeldUp(self._agent)
        return await self._http.open(self._method, address, headers, self._body)


def _written(
    agent: str, dialect: Dialect, method: str, params: Mapping[str, Any], traceparent: str | None
) -> tuple[str, dict[str, str], bytes]:
    """Return the id, the headers and the body of a JSON-RPC request."""
    request_id = f"{_random.getrandbits(128):032x}"  # it only has to differ from that of any other request
    headers = dict(_HEADERS)
    if dialect == "1.0":
        headers[VERSION_HEADER] = dialect
    if traceparent:
        if not (traceparent.isascii() and traceparent.isprintable()):
            raise Unsendable(agent, "a header holds what HTTP cannot carry")
        headers["traceparent"] = traceparent
    try:
        body = orjson.dumps({"jsonrpc": "2.0", "id": request_id, "method": method, "params": params})
    except TypeError as error:
        raise Unsendable(agent, str(error)) from error
    return request_id, headers, body


@lru_cache(_ADDRESSES)
def _addressed(url: str) -> tuple[str, str | None]:
    """Return the address without credentials, and the header that carries them, if there are any.

    httpx writes addresses to its log, and aiohttp refuses credentials that come in both.
    """
    address = httpx.URL(url)
    if not address.userinfo:
        return str(address), None
    credentials = base64.b64encode(f"{address.username}:{address.password}".encode()).decode()
    return str(address.copy_with(username="", password="")), f"Basic {credentials}"


async def _read(agent: str, answer: Answer, max_bytes: int) -> bytes:
    declared = answer.header("content-length")
    if declared.isdecimal() and int(declared) > max_bytes:
        raise ReplyTooLarge(agent, max_bytes)
    chunks: list[bytes] = []
    size = 0
    while chunk := await answer.piece():
        size += len(chunk)
        if size > max_bytes:
            raise ReplyTooLarge(agent, max_bytes)
        chunks.append(chunk)
    return _decoded(agent, answer.header("content-encoding"), b"".join(chunks), max_bytes)


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


async def _pieces(agent: str, answer: Answer, max_bytes: int) -> AsyncGenerator[bytes, None]:
    """Yield the body as it comes, decompressed like a whole one."""
    encoding = answer.header("content-encoding").lower()
    inflater = zlib.decompressobj(_GZIP_OR_ZLIB) if encoding in _COMPRESSED else None
    left = max_bytes
    while chunk := await answer.piece():
        try:
            plain = inflater.decompress(chunk, left + 1) if inflater else chunk
        except zlib.error as error:
            raise BadReply(agent, "its stream cannot be decompressed") from error
        left -= len(plain)
        if left < 0:
            raise ReplyTooLarge(agent, max_bytes)
        yield plain


def _kind(answer: Answer) -> str:
    return answer.header("content-type").partition(";")[0].strip().lower()


def _translated(agent: str, error: Exception) -> AgentError:
    if isinstance(error, NotConnected | httpx.InvalidURL):
        return Unreachable(agent, f"agent {agent!r} cannot be reached; check that it runs and its address is right")
    return Disconnected(agent, f"the connection to agent {agent!r} broke before its answer was complete")


def _result(agent: str, request_id: str, answer: Answer, content: bytes) -> Any:
    failed_http = None if answer.status == 200 else _http_failed(agent, answer)
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


def _http_failed(agent: str, answer: Answer) -> HttpFailed:
    busy = answer.status in (429, 503)  # with another status it is not about the endpoint as a whole
    return HttpFailed(agent, answer.status, _seconds(answer.header("retry-after")) if busy else None)


def _seconds(retry_after: str) -> float | None:
    """Read a `Retry-After`, which is a number of seconds or a date; None for anything else."""
    if retry_after.strip().isdecimal():
        return float(retry_after.strip()[:_LONGEST_NUMBER])
    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


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
