"""Agents with bad manners, over raw sockets: each answers exactly the bytes a test wants and remembers what it saw.

An `Answer` yields the bytes of one HTTP response; the connection closes when it ends.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

CARD_PATH = "/.well-known/agent-card.json"
MEGABYTE = 1_000_000


@dataclass(frozen=True)
class Seen:
    """One HTTP request as it arrived."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def rpc(self) -> dict[str, Any]:
        return dict(json.loads(self.body))


Answer = Callable[[Seen], AsyncIterator[bytes]]


@dataclass
class RoughAgent:
    """What a rough agent saw and did."""

    url: str
    seen: list[Seen] = field(default_factory=list)
    written: int = 0
    """Bytes that found their way into the socket."""
    left: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a client hangs up before its answer is at its end."""

    @property
    def cards(self) -> list[Seen]:
        return [seen for seen in self.seen if seen.method == "GET"]

    @property
    def messages(self) -> list[Seen]:
        return [seen for seen in self.seen if seen.method == "POST"]


@asynccontextmanager
async def rough_agent(answer: Answer, card: Answer | None = None, *, deaf: bool = False) -> AsyncIterator[RoughAgent]:
    """Serve an agent on a free loopback port; without a `card` it answers 404 for it.

    A `deaf` one answers as soon as it knows that there is a request, and leaves its body unread.
    """
    connections: set[asyncio.Task[None]] = set()
    writers: list[asyncio.StreamWriter] = []

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(_converse(agent, answer, card or no_card, reader, writer, deaf))
        connections.add(task)
        writers.append(writer)
        task.add_done_callback(connections.discard)

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    agent = RoughAgent(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    try:
        yield agent
    finally:
        server.close()
        await asyncio.sleep(0.01)  # whoever is being let in just now is known then
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
        for writer in writers:
            writer.transport.abort()  # a client that does not read would keep it open
        await asyncio.gather(*(writer.wait_closed() for writer in writers), return_exceptions=True)


async def _converse(
    agent: RoughAgent,
    answer: Answer,
    card: Answer,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    deaf: bool,
) -> None:
    try:
        seen = await _read(reader, deaf)
        agent.seen.append(seen)
        async for chunk in (card if seen.method == "GET" else answer)(seen):
            writer.write(chunk)
            await writer.drain()
            agent.written += len(chunk)
    except (ConnectionError, asyncio.IncompleteReadError):
        agent.left.set()
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def _read(reader: asyncio.StreamReader, deaf: bool) -> Seen:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.strip().split("\r\n")
    method, target, _ = first.split(" ")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    length = 0 if deaf else int(headers.get("content-length", 0))
    return Seen(method, target, headers, await reader.readexactly(length))


def http(content: bytes | str, status: int = 200, kind: str = "application/json", **headers: str) -> bytes:
    """Return a whole response; underscores in header names become hyphens."""
    body = content.encode() if isinstance(content, str) else content
    fields = {"content-type": kind, "content-length": str(len(body)), "connection": "close"}
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = [f"HTTP/1.1 {status} So", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body


def answers(content: bytes | str, status: int = 200, kind: str = "application/json", **headers: str) -> Answer:
    """Answer every request alike."""
    return sends(http(content, status, kind, **headers))


def sends(*chunks: bytes) -> Answer:
    """Answer with these very bytes, HTTP or not, and hang up."""

    async def answer(seen: Seen) -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk

    return answer


def answers_rpc(*, status: int = 200, **members: Any) -> Answer:
    """Answer a JSON-RPC response with these members, under the request's own id unless they name another."""

    async def answer(seen: Seen) -> AsyncIterator[bytes]:
        yield http(json.dumps({"jsonrpc": "2.0", "id": seen.rpc["id"], **members}), status)

    return answer


def streams(*events: dict[str, Any] | bytes, head: bytes = b"") -> Answer:
    """Answer a stream: objects as JSON-RPC results under the request's own id, bytes as they are; then hang up."""

    async def answer(seen: Seen) -> AsyncIterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n" + head + b"\r\n"
        for event in events:
            yield event if isinstance(event, bytes) else streamed(seen, result=event)

    return answer


def streamed(seen: Seen, **members: Any) -> bytes:
    """Return the event that carries a JSON-RPC response with these members."""
    response = {"jsonrpc": "2.0", "id": seen.rpc["id"], **members}
    return b"data: " + json.dumps(response, ensure_ascii=False).encode() + b"\n\n"


def says(text: str) -> Answer:
    """Answer a bare message in the dialect of the request."""

    async def answer(seen: Seen) -> AsyncIterator[bytes]:
        yield http(json.dumps({"jsonrpc": "2.0", "id": seen.rpc["id"], "result": message(text, seen)}))

    return answer


def message(text: str, seen: Seen) -> dict[str, Any]:
    """Return the result that carries a bare message in the dialect of the request."""
    if seen.rpc["method"] == "SendMessage":
        return {"message": {"messageId": "m", "role": "ROLE_AGENT", "parts": [{"text": text}]}}
    return {"kind": "message", "messageId": "m", "role": "agent", "parts": [{"kind": "text", "text": text}]}


def in_turn(*following: Answer) -> Answer:
    """Answer the first request with the first answer, the next with the next, and the last for ever."""
    left = list(following)

    def answer(seen: Seen) -> AsyncIterator[bytes]:
        return (left.pop(0) if len(left) > 1 else left[0])(seen)

    return answer


async def hangs(seen: Seen) -> AsyncIterator[bytes]:
    """Never answer."""
    await asyncio.Event().wait()
    yield b""


no_card = answers("no such page", 404, "text/plain")


def card(
    url: str = "http://{host}/", version: str = "1.0", binding: str = "JSONRPC", *, streaming: bool = False
) -> Answer:
    """Answer a card with one interface; `{host}` is the host the request named."""

    async def answer(seen: Seen) -> AsyncIterator[bytes]:
        document = card_document(url.replace("{host}", seen.headers["host"]), version, binding)
        yield http(json.dumps({**document, "capabilities": {"streaming": streaming}}))

    return answer


def card_document(url: str, version: str = "1.0", binding: str = "JSONRPC") -> dict[str, Any]:
    """Return a card as the version writes it."""
    common = {"name": "rough", "description": "", "version": "1", "skills": [], "capabilities": {}}
    if version.startswith("0."):
        return {**common, "url": url, "protocolVersion": version, "preferredTransport": binding}
    interface = {"url": url, "protocolBinding": binding, "protocolVersion": version}
    return {**common, "supportedInterfaces": [interface]}


def pours(size: int, *, chunked: bool = False, declared: bool = False) -> Answer:
    """Answer a body of `size` bytes: with its length declared, in chunks, or until the connection closes."""
    head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n"
    head += f"content-length: {size}\r\n" if declared else "transfer-encoding: chunked\r\n" if chunked else ""

    async def answer(seen: Seen) -> AsyncIterator[bytes]:
        yield head.encode() + b"\r\n"
        for _ in range(0, size, 50_000):
            block = b" " * 50_000
            yield b"c350\r\n%b\r\n" % block if chunked else block

    return answer
