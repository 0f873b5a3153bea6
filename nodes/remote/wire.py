"""One JSON-RPC request over HTTP: sent, bounded in bytes, checked, and every failure put into our error tree.

The caller of `send` bounds it in time; HTTP has no timeouts of its own here, so that there is one clock.
"""

import uuid
from collections.abc import Mapping
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpx
import orjson

from nodes.remote.dialect import VERSION_HEADER, Dialect
from nodes.remote.errors import (
    AgentError,
    BadReply,
    Disconnected,
    HttpFailed,
    ReplyTooLarge,
    RpcFailed,
    Unreachable,
)

_HEADERS = {"content-type": "application/json", "accept": "application/json", "accept-encoding": "identity"}
_REASON_LENGTH = 200


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
) -> Any:
    """Call `method` at `url` and return the JSON-RPC result.

    Raises:
        AgentError: for every way in which that can fail.
    """
    request_id = uuid.uuid4().hex
    headers = dict(_HEADERS)
    if dialect == "1.0":
        headers[VERSION_HEADER] = dialect
    if traceparent:
        headers["traceparent"] = traceparent
    body = orjson.dumps({"jsonrpc": "2.0", "id": request_id, "method": method, "params": params})
    status, content = await exchange(client, agent, "POST", url, headers, body, max_bytes)
    return _result(agent, request_id, status, content)


async def exchange(
    client: httpx.AsyncClient,
    agent: str,
    method: str,
    url: str,
    headers: Mapping[str, str],
    body: bytes | None,
    max_bytes: int,
) -> tuple[int, bytes]:
    """Make one HTTP request, following one redirect on the same host, and return status and body.

    Raises:
        AgentError: if the connection fails or the body is longer than `max_bytes`.
    """
    status, location, content = await _once(client, agent, method, url, headers, body, max_bytes)
    if status in (307, 308) and location and _same_origin(url, urljoin(url, location)):
        status, _, content = await _once(client, agent, method, urljoin(url, location), headers, body, max_bytes)
    return status, content


async def _once(
    client: httpx.AsyncClient,
    agent: str,
    method: str,
    url: str,
    headers: Mapping[str, str],
    body: bytes | None,
    max_bytes: int,
) -> tuple[int, str | None, bytes]:
    try:
        request = client.build_request(method, url, headers=dict(headers), content=body)
        response = await client.send(request, stream=True, follow_redirects=False)
        try:
            return (
                response.status_code,
                response.headers.get("location"),
                await _read(agent, response, max_bytes),
            )
        finally:
            await response.aclose()
    except httpx.HTTPError as error:
        raise _translated(agent, error) from error


async def _read(agent: str, response: httpx.Response, max_bytes: int) -> bytes:
    if int(response.headers.get("content-length") or 0) > max_bytes:
        raise ReplyTooLarge(agent, max_bytes)
    chunks: list[bytes] = []
    size = 0
    async for chunk in response.aiter_bytes():
        size += len(chunk)
        if size > max_bytes:
            raise ReplyTooLarge(agent, max_bytes)
        chunks.append(chunk)
    return b"".join(chunks)


def _translated(agent: str, error: httpx.HTTPError) -> AgentError:
    if isinstance(error, httpx.ConnectError | httpx.UnsupportedProtocol):
        return Unreachable(agent, f"agent {agent!r} cannot be reached; check that it runs and its address is right")
    if isinstance(error, httpx.DecodingError):
        return BadReply(agent, "its body cannot be decoded")
    return Disconnected(agent, f"the connection to agent {agent!r} broke before its answer was complete")


def _result(agent: str, request_id: str, status: int, content: bytes) -> Any:
    try:
        envelope = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        if status != 200:
            raise HttpFailed(agent, status) from error
        raise BadReply(agent, "its body is not JSON") from error
    if not isinstance(envelope, dict) or envelope.get("jsonrpc") != "2.0":
        if status != 200:
            raise HttpFailed(agent, status)
        raise BadReply(agent, "its body is not a JSON-RPC response")
    if isinstance(envelope.get("error"), dict):
        raise _rpc_failed(agent, envelope["error"])
    if envelope.get("id") != request_id:
        raise BadReply(agent, "it answers another request's id")
    if status != 200:
        raise HttpFailed(agent, status)
    if "result" not in envelope:
        raise BadReply(agent, "it holds neither a result nor an error")
    return envelope["result"]


def _rpc_failed(agent: str, error: Mapping[str, Any]) -> RpcFailed:
    code = error.get("code")
    lines = str(error.get("message") or "").strip().splitlines()
    reason = lines[0][:_REASON_LENGTH] if lines else "no reason given"
    return RpcFailed(agent, code if isinstance(code, int) else 0, reason)


def _same_origin(one: str, other: str) -> bool:
    return urlsplit(one)[:2] == urlsplit(other)[:2]
