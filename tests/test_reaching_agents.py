"""Reaching agents over real sockets: well-behaved ones in both versions of A2A, and every way to misbehave.

Each story is told with both HTTP clients: plain httpx, and httpx over aiohttp as the server uses it.
"""

import asyncio
import base64
import contextlib
import gzip
import json
import socket
import time
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import urlsplit

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from nodes.parts import Unreadable
from nodes.ports import AgentRequest, FilePart, Reply
from nodes.remote import AgentError, Caller, open_client
from nodes.remote.card import read_endpoint
from nodes.remote.dialect import Dialect, read_sent, read_task
from nodes.remote.errors import (
    BadReply,
    Disconnected,
    HeldUp,
    HttpFailed,
    ReplyTooLarge,
    RpcFailed,
    TimedOut,
    Unreachable,
    Unsendable,
)
from nodes.remote.work import Work
from tests.background import Background
from tests.polite_agents import PoliteAgent, polite_agent
from tests.rough_agents import (
    MEGABYTE,
    Answer,
    RoughAgent,
    Seen,
    answers,
    answers_rpc,
    card,
    card_document,
    hangs,
    http,
    in_turn,
    message,
    pours,
    rough_agent,
    says,
    sends,
)

OpenCaller = Callable[..., Caller]

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
_PATIENCE = 10.0
_GENEROUS = 3.0
_WHAT_SOCKETS_HOLD = 16 * MEGABYTE


def _plain(**options: Any) -> Caller:
    return Caller(**options)


def _aiohttp(**options: Any) -> Caller:
    return Caller(open_client(), **options)


@pytest.fixture(params=[_plain, _aiohttp], ids=["httpx", "aiohttp"])
def open_caller(request: pytest.FixtureRequest) -> OpenCaller:
    opener: OpenCaller = request.param
    return opener


@pytest.fixture(scope="module", params=["0.3", "1.0"])
def agent(request: pytest.FixtureRequest, background: Background) -> PoliteAgent:
    """A well-behaved agent that speaks one version of A2A."""
    return background.open(polite_agent(request.param))


def _request(url: str, text: str = "hello", **fields: Any) -> AgentRequest:
    facts = {"message_id": "m-1", "context_id": "c-1", "task_id": None, "timeout": _PATIENCE, **fields}
    return AgentRequest(agent="desk", url=url, text=text, **facts)


def _tell(open_caller: OpenCaller, agent: PoliteAgent, *texts: str, **fields: Any) -> list[Reply]:
    """Return the replies to some messages, each of which continues the task that the one before left waiting."""

    async def story() -> list[Reply]:
        replies: list[Reply] = []
        async with open_caller() as caller:
            for text in texts:
                task_id = replies[-1].task_id if replies else None
                replies.append(await caller.call(_request(agent.url, text, **{"task_id": task_id, **fields})))
        return replies

    return asyncio.run(story())


async def _roughly(
    open_caller: OpenCaller, answer: Answer, card: Answer | None = None, *, deaf: bool = False, **fields: Any
) -> tuple[Reply | AgentError, RoughAgent]:
    """Return what came of one message, and what the agent saw."""
    async with rough_agent(answer, card, deaf=deaf) as agent, open_caller(max_reply_bytes=MEGABYTE) as caller:
        try:
            return await caller.call(_request(agent.url, **fields)), agent
        except AgentError as error:
            return error, agent


def _meet(
    open_caller: OpenCaller, answer: Answer, card: Answer | None = None, **fields: Any
) -> tuple[Reply | AgentError, RoughAgent]:
    return asyncio.run(_roughly(open_caller, answer, card, **fields))


def _facts(error: Reply | AgentError) -> tuple[type[Any], str, bool]:
    assert isinstance(error, AgentError)
    return type(error), error.kind, error.retryable


# Well-behaved agents.

_PAPERS = (
    FilePart("bill.pdf", "application/pdf", bytes=base64.b64encode(b"PDF").decode()),
    FilePart("terms", "text/html", url="https://files.example/terms"),
)


def test_a_bare_message_is_read_whole(open_caller: OpenCaller, agent: PoliteAgent) -> None:
    [reply] = _tell(open_caller, agent, "speak")
    assert reply == Reply(
        "first line\nsecond line", ({"amount": "1.10"},), _PAPERS, context_id="c-1", layout=reply.layout
    )


def test_a_task_is_read_whole_with_every_artifact(open_caller: OpenCaller, agent: PoliteAgent) -> None:
    [reply] = _tell(open_caller, agent, "deliver")
    assert reply == Reply(
        "first line\nsecond line\na second artifact\nThat is all.",
        ({"amount": "1.10"},),
        _PAPERS,
        "completed",
        reply.task_id,
        "c-1",
        reply.layout,
    )


def test_a_task_that_still_works_is_waited_for(open_caller: OpenCaller, agent: PoliteAgent) -> None:
    [reply] = _tell(open_caller, agent, "work")
    assert (reply.text, reply.task_state) == ("worked out", "completed")


def test_a_task_that_waits_is_continued(open_caller: OpenCaller, agent: PoliteAgent) -> None:
    asked, done = _tell(open_caller, agent, "ask", "42")
    assert (asked.text, asked.task_state) == ("I ask", "input-required")
    assert (done.text, done.task_state, done.task_id) == ("thank you", "completed", asked.task_id)


@pytest.mark.parametrize(
    ("script", "state"),
    [("fail", "failed"), ("reject", "rejected"), ("cancel", "canceled"), ("sign in", "auth-required")],
)
def test_a_task_that_does_not_complete_says_so(
    open_caller: OpenCaller, agent: PoliteAgent, script: str, state: str
) -> None:
    [reply] = _tell(open_caller, agent, script)
    assert (reply.text, reply.task_state) == (f"I {script}", state)


def test_a_message_to_an_unknown_task_is_refused(open_caller: OpenCaller, agent: PoliteAgent) -> None:
    with pytest.raises(RpcFailed) as caught:
        _tell(open_caller, agent, "ask", task_id="no-such-task")
    assert _facts(caught.value) == (RpcFailed, "rpc_error", False)


def test_metadata_reaches_the_agent(open_caller: OpenCaller, agent: PoliteAgent) -> None:
    metadata = {"account_id": "ACC-1", "flow_id": 3, "flow_label": "INTENT_CAPTURE", "more": {"è": [True, None]}}
    _tell(open_caller, agent, "speak", metadata=metadata)
    assert agent.heard[-1] == metadata


def test_every_demo_agent_is_reached_in_its_own_dialect(open_caller: OpenCaller, agents: dict[str, str]) -> None:
    async def story() -> dict[str, Reply]:
        async with open_caller() as caller:
            return {name: await caller.call(_request(url)) for name, url in agents.items()}

    assert all(reply.text for reply in asyncio.run(story()).values())


def test_a_caller_with_its_own_client_outlives_an_event_loop(agents: dict[str, str]) -> None:
    caller = Caller()
    first = asyncio.run(caller.call(_request(agents["greeting"])))
    assert asyncio.run(caller.call(_request(agents["greeting"]))) == first


# What a message looks like on the wire.


@pytest.mark.parametrize(("version", "method"), [("0.3.0", "message/send"), ("1.0", "SendMessage")])
def test_the_card_decides_the_dialect(open_caller: OpenCaller, version: str, method: str) -> None:
    _, agent = _meet(open_caller, says("hi"), card(version=version))
    [sent] = agent.messages
    assert (sent.rpc["method"], sent.headers.get("a2a-version")) == (method, "1.0" if version == "1.0" else None)


def test_the_trace_goes_along(open_caller: OpenCaller) -> None:
    _, agent = _meet(open_caller, says("hi"), traceparent=TRACE)
    assert agent.messages[0].headers["traceparent"] == TRACE


def test_ids_go_along(open_caller: OpenCaller) -> None:
    _, agent = _meet(open_caller, says("hi"), task_id="t-1")
    sent = agent.messages[0].rpc["params"]["message"]
    assert (sent["messageId"], sent["contextId"], sent["taskId"]) == ("m-1", "c-1", "t-1")


def test_any_unicode_arrives_unchanged(open_caller: OpenCaller) -> None:
    words = "žluťoučký 👩‍👩‍👧 \u202e\u0000 退款"
    _, agent = _meet(open_caller, says("hi"), text=words)
    assert agent.messages[0].rpc["params"]["message"]["parts"] == [{"kind": "text", "text": words}]


@pytest.mark.parametrize(
    "fields", [{"text": "half a \ud83d pair"}, {"metadata": {"big": 2**70}}], ids=["text", "number"]
)
def test_what_json_cannot_hold_is_not_sent(open_caller: OpenCaller, fields: dict[str, Any]) -> None:
    error, agent = _meet(open_caller, says("hi"), **fields)
    assert _facts(error) == (Unsendable, "unsendable", False)
    assert agent.messages == []


def test_a_message_whose_time_to_leave_is_over_is_not_sent(open_caller: OpenCaller) -> None:
    error, agent = _meet(open_caller, says("hi"), leave_by=time.monotonic() - 0.001)
    assert _facts(error) == (HeldUp, "held_up", True)
    assert agent.messages == []


def test_cookies_do_not_travel_from_one_call_to_the_next(open_caller: OpenCaller) -> None:
    async def baked(seen: Seen) -> AsyncIterator[bytes]:
        body = json.dumps({"jsonrpc": "2.0", "id": seen.rpc["id"], "result": message("hi", seen)})
        yield http(body, set_cookie="session=of-one-caller; Path=/")

    async def story() -> list[Seen]:
        async with rough_agent(baked) as agent, open_caller() as caller:
            # By name: some cookie jars forget what an address without one gave them.
            url = agent.url.replace("127.0.0.1", "localhost")
            await caller.call(_request(url))
            await caller.call(_request(url))
            return agent.messages

    assert ["cookie" in sent.headers for sent in asyncio.run(story())] == [False, False]


# Answers that are none.

_WORKING = {"id": "t-1", "contextId": "c-1", "kind": "task", "status": {"state": "working"}}
_BAD = (BadReply, "bad_reply", False)
_BROKEN = (Disconnected, "disconnected", True)
_HALF = http(b"{" + b" " * 100)[:-50]

FAILURES: dict[str, tuple[Answer, tuple[type[AgentError], str, bool]]] = {
    "HTML with status 200": (answers("<html>Welcome</html>", kind="text/html"), _BAD),
    "HTML with status 500": (answers("<html>Oops</html>", 500, "text/html"), (HttpFailed, "http_error", True)),
    "JSON with status 500": (answers('{"detail": "oops"}', 500), (HttpFailed, "http_error", True)),
    "a result with status 500": (answers_rpc(result={}, status=500), (HttpFailed, "http_error", True)),
    "too many requests": (answers("", 429), (HttpFailed, "http_error", True)),
    "no such page": (answers("", 404), (HttpFailed, "http_error", False)),
    "no content": (sends(b"HTTP/1.1 204 No Content\r\n\r\n"), (HttpFailed, "http_error", False)),
    "an empty body": (answers(""), _BAD),
    "an array": (answers("[]"), _BAD),
    "JSON that is not JSON-RPC": (answers('{"text": "hello"}'), _BAD),
    "JSON nested too deep": (answers("[" * 100_000), _BAD),
    "text in another encoding": (answers('{"jsonrpc": "2.0", "result": "\xe9"}'.encode("latin-1")), _BAD),
    "another request's id": (answers_rpc(id="somebody else's", result={}), _BAD),
    "an error for another request": (answers_rpc(id="other", error={"code": -32001, "message": "no"}), _BAD),
    "neither result nor error": (answers_rpc(), _BAD),
    "a result that is text": (answers_rpc(result="hello"), _BAD),
    "neither task nor message": (answers_rpc(result={"hello": "world"}), _BAD),
    "a task without an id": (answers_rpc(result={"kind": "task", "status": {"state": "completed"}}), _BAD),
    "a task without a state": (answers_rpc(result={"kind": "task", "id": "t"}), _BAD),
    "a state nobody knows": (answers_rpc(result={"kind": "task", "id": "t", "status": {"state": "resting"}}), _BAD),
    "parts that are text": (answers_rpc(result={"kind": "message", "parts": "hello"}), _BAD),
    "a JSON-RPC error": (
        answers_rpc(error={"code": -32001, "message": "Task not found"}),
        (RpcFailed, "rpc_error", False),
    ),
    "an error without an id": (
        answers_rpc(id=None, error={"code": -32700, "message": "Parse error"}),
        (RpcFailed, "rpc_error", False),
    ),
    "an error that says nothing": (answers_rpc(error={}), (RpcFailed, "rpc_error", False)),
    "nothing at all": (sends(), _BROKEN),
    "half a head": (sends(b"HTTP/1.1 200 OK\r\ncontent-"), _BROKEN),
    "half a body": (sends(_HALF), _BROKEN),
    "half a chunk": (sends(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nff\r\n{"), _BROKEN),
    "no HTTP": (sends(b"SSH-2.0-OpenSSH_9.6\r\n"), _BROKEN),
    "a head without end": (sends(b"HTTP/1.1 200 OK\r\nx: ", b"x" * MEGABYTE), _BROKEN),
    "a length that is no number": (sends(b"HTTP/1.1 200 OK\r\ncontent-length: many\r\n\r\n{}"), _BROKEN),
    "a redirect to nowhere": (answers("", 307, location="http://[nowhere"), (HttpFailed, "http_error", False)),
    "a redirect without a location": (answers("", 307), (HttpFailed, "http_error", False)),
    "a body that is not the gzip it claims": (answers("{}", content_encoding="gzip"), _BAD),
    "an encoding we did not ask for": (answers("{}", content_encoding="rot13"), _BAD),
}


@pytest.mark.parametrize("name", FAILURES)
def test_an_answer_that_is_none_is_one_error(open_caller: OpenCaller, name: str) -> None:
    answer, expected = FAILURES[name]
    error, _ = _meet(open_caller, answer)
    assert _facts(error) == expected


@pytest.mark.parametrize("name", FAILURES)
def test_a_failed_message_was_sent_once(open_caller: OpenCaller, name: str) -> None:
    _, agent = _meet(open_caller, FAILURES[name][0])
    assert len(agent.messages) == 1


@pytest.mark.parametrize("name", FAILURES)
def test_errors_do_not_tell_the_credentials_in_an_address(open_caller: OpenCaller, name: str) -> None:
    async def story() -> str:
        async with rough_agent(FAILURES[name][0]) as agent, open_caller() as caller:
            with pytest.raises(AgentError) as caught:
                await caller.call(_request(agent.url.replace("http://", "http://user:hunter2@")))
            return str(caught.value)

    assert "hunter2" not in asyncio.run(story())


def test_a_refused_connection_is_unreachable(open_caller: OpenCaller) -> None:
    async def story() -> Reply:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
        async with open_caller() as caller:
            return await caller.call(_request(f"http://user:hunter2@127.0.0.1:{port}"))

    with pytest.raises(Unreachable) as caught:
        asyncio.run(story())
    assert _facts(caught.value) == (Unreachable, "unreachable", True)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["http://no.such.host.invalid", "http://a b/", "ftp://127.0.0.1", "grpc://[::1]:1", "http://a..b/"]
)
def test_an_address_that_leads_nowhere_is_unreachable(open_caller: OpenCaller, url: str) -> None:
    async def story() -> Reply:
        async with open_caller() as caller:
            return await caller.call(_request(url))

    with pytest.raises(Unreachable) as caught:
        asyncio.run(story())
    assert caught.value.acted is False


@pytest.mark.parametrize(("code", "told"), [(-32603, "internal error of the agent"), (-32000, "an error of its own")])
def test_an_agents_own_words_in_an_error_are_not_passed_on(open_caller: OpenCaller, code: int, told: str) -> None:
    error, _ = _meet(open_caller, answers_rpc(error={"code": code, "message": "password=hunter2\nTraceback ..."}))
    assert str(error) == f"agent 'desk' refused the message: {told} (JSON-RPC error {code})"


# Time.


async def _timed_out(open_caller: OpenCaller, answer: Answer, **fields: Any) -> tuple[AgentError, float]:
    started = time.monotonic()
    error, _ = await _roughly(open_caller, answer, timeout=0.15, **fields)
    assert isinstance(error, AgentError)
    return error, time.monotonic() - started


async def _trickles(seen: Seen) -> AsyncIterator[bytes]:
    yield b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    while True:
        yield b"1\r\n \r\n"
        await asyncio.sleep(0.01)


async def _starts_then_hangs(seen: Seen) -> AsyncIterator[bytes]:
    yield http("{}", content_length="100")
    await asyncio.Event().wait()


@pytest.mark.parametrize(
    "answer",
    [hangs, _starts_then_hangs, _trickles, answers_rpc(result=_WORKING)],
    ids=["no answer", "half an answer", "a trickle", "a task that never ends"],
)
def test_the_deadline_holds(open_caller: OpenCaller, answer: Answer) -> None:
    error, took = asyncio.run(_timed_out(open_caller, answer))
    assert _facts(error) == (TimedOut, "timeout", True)
    assert took < _GENEROUS


def test_the_deadline_holds_while_a_card_hangs(open_caller: OpenCaller) -> None:
    error, took = asyncio.run(_timed_out(open_caller, says("hi"), card=hangs))
    assert isinstance(error, TimedOut)
    assert took < _GENEROUS


@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")
@pytest.mark.parametrize("answer", [hangs, _starts_then_hangs], ids=["no answer", "half an answer"])
def test_the_deadline_holds_while_the_agent_does_not_listen(open_caller: OpenCaller, answer: Answer) -> None:
    error, took = asyncio.run(_timed_out(open_caller, answer, text="x" * 30 * MEGABYTE, deaf=True))
    assert isinstance(error, TimedOut)
    assert took < _GENEROUS


def test_an_answer_that_comes_too_late_is_not_taken_for_the_next_one(open_caller: OpenCaller) -> None:
    """Whoever gives up, in whichever way, leaves no connection behind on which an answer is still to come."""

    async def story() -> tuple[list[str], int]:
        async with _slow_agent() as agent, open_caller() as caller:
            await caller.call(_request(agent.url, "at once"))
            with pytest.raises(TimedOut):
                await caller.call(_request(agent.url, "late", timeout=0.1))
            given_up = asyncio.create_task(caller.call(_request(agent.url, "late")))
            await agent.heard("late", 2)
            given_up.cancel()
            await asyncio.wait([given_up])
            agent.let_go.set()
            texts = [f"at once {number}" for number in range(3)]
            return [(await caller.call(_request(agent.url, text))).text for text in texts], len(agent.texts)

    assert asyncio.run(story()) == (["at once 0", "at once 1", "at once 2"], 6)


class _SlowAgent:
    """Keeps its connections, and echoes; what is `late` not before it is let go."""

    def __init__(self) -> None:
        self.url = ""
        self.texts: list[str] = []
        self.let_go = asyncio.Event()
        self._news = asyncio.Condition()

    async def heard(self, text: str, times: int) -> None:
        async with self._news:
            await self._news.wait_for(lambda: self.texts.count(text) == times)

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                length = int(head.partition("content-length: ")[2].partition("\r")[0] or 0)
                said = json.loads(await reader.readexactly(length) or "null")
                writer.write(await self._answer(said) if said else b"HTTP/1.1 404 So\r\ncontent-length: 0\r\n\r\n")
                await writer.drain()
        writer.close()

    async def _answer(self, said: dict[str, Any]) -> bytes:
        text = said["params"]["message"]["parts"][0]["text"]
        async with self._news:
            self.texts.append(text)
            self._news.notify_all()
        if text == "late":
            await self.let_go.wait()
        result = {"kind": "message", "messageId": "m", "role": "agent", "parts": [{"kind": "text", "text": text}]}
        body = json.dumps({"jsonrpc": "2.0", "id": said["id"], "result": result}).encode()
        return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


@contextlib.asynccontextmanager
async def _slow_agent() -> AsyncIterator[_SlowAgent]:
    agent = _SlowAgent()
    talks: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talks.add(asyncio.create_task(agent.converse(reader, writer)))

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    agent.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield agent
    finally:
        server.close()
        await asyncio.wait(talks, timeout=_GENEROUS)


def test_a_poll_that_is_refused_is_an_error(open_caller: OpenCaller) -> None:
    answer = in_turn(answers_rpc(result=_WORKING), answers_rpc(error={"code": -32001, "message": "Task not found"}))
    error, agent = _meet(open_caller, answer)
    assert isinstance(error, RpcFailed)
    assert [sent.rpc["method"] for sent in agent.messages] == ["message/send", "tasks/get"]


# Size.


@pytest.mark.parametrize(
    "answer",
    [
        pours(50 * MEGABYTE, declared=True),
        pours(50 * MEGABYTE, chunked=True),
        pours(50 * MEGABYTE),
    ],
    ids=["length declared", "chunked", "until closed"],
)
def test_a_reply_too_large_is_not_read_to_its_end(open_caller: OpenCaller, answer: Answer) -> None:
    error, agent = _meet(open_caller, answer)
    assert _facts(error) == (ReplyTooLarge, "reply_too_large", False)
    assert agent.written < _WHAT_SOCKETS_HOLD


def _bomb(encoding: str) -> bytes:
    squeezers: dict[str, Callable[[bytes], bytes]] = {
        "gzip": gzip.compress,
        "deflate": zlib.compress,
        "zstd": zstandard.compress,
    }
    bomb = bytes(100 * MEGABYTE)
    for name in encoding.split(", "):
        bomb = squeezers[name](bomb)
    return bomb


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "zstd", "gzip, gzip"])
def test_a_bomb_does_not_go_off(open_caller: OpenCaller, encoding: str) -> None:
    bomb = _bomb(encoding)

    async def story() -> tuple[Reply | AgentError, int]:
        agency = rough_agent(answers(bomb, content_encoding=encoding))
        async with agency as agent, open_caller(max_reply_bytes=MEGABYTE) as caller:
            tracemalloc.start()
            try:
                return await caller.call(_request(agent.url)), 0
            except AgentError as error:
                return error, tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()

    error, peak = asyncio.run(story())
    assert isinstance(error, ReplyTooLarge if encoding in ("gzip", "deflate") else BadReply)
    assert peak < 10 * MEGABYTE


def test_an_honest_gzip_reply_is_read(open_caller: OpenCaller) -> None:
    async def squeezed(seen: Seen) -> AsyncIterator[bytes]:
        body = json.dumps({"jsonrpc": "2.0", "id": seen.rpc["id"], "result": message("hi", seen)})
        yield http(gzip.compress(body.encode()), content_encoding="gzip")

    reply, _ = _meet(open_caller, squeezed)
    assert isinstance(reply, Reply)
    assert reply.text == "hi"


# Redirects and addresses.


def test_a_redirect_to_another_host_is_not_followed(open_caller: OpenCaller) -> None:
    async def story() -> tuple[Reply | AgentError, RoughAgent]:
        async with rough_agent(says("it is me")) as other:
            error, _ = await _roughly(open_caller, answers("", 307, location=other.url + "/"))
            return error, other

    error, other = asyncio.run(story())
    assert _facts(error) == (HttpFailed, "http_error", False)
    assert other.seen == []


def _moved_to(location: str) -> Answer:
    async def answer(seen: Seen) -> AsyncIterator[bytes]:
        yield http("", 307, location=location.replace("{host}", seen.headers["host"]))

    return answer


@pytest.mark.parametrize("location", ["/moved?x=1", "http://{host}/moved?x=1"])
def test_a_redirect_on_the_same_host_is_followed(open_caller: OpenCaller, location: str) -> None:
    reply, agent = _meet(open_caller, in_turn(_moved_to(location), says("here I am")))
    assert isinstance(reply, Reply)
    assert [sent.target for sent in agent.messages] == ["/", "/moved?x=1"]
    assert agent.messages[0].body == agent.messages[1].body


def test_a_redirect_need_not_be_ascii(open_caller: OpenCaller) -> None:
    reply, agent = _meet(open_caller, in_turn(_moved_to("/mäh"), says("here I am")))
    assert isinstance(reply, Reply)
    assert [sent.target for sent in agent.messages] == ["/", "/m%C3%A4h"]


def test_a_second_redirect_is_not_followed(open_caller: OpenCaller) -> None:
    error, agent = _meet(open_caller, _moved_to("/again"))
    assert isinstance(error, HttpFailed)
    assert len(agent.messages) == 2


@pytest.mark.parametrize(
    ("answer", "offered"),
    [(says("hi"), None), (says("hi"), card()), (in_turn(_moved_to("http://{host}/moved"), says("hi")), None)],
    ids=["no card", "a card that does not know them", "a redirect that does not know them"],
)
def test_credentials_in_the_address_go_to_the_agent(
    open_caller: OpenCaller, answer: Answer, offered: Answer | None
) -> None:
    async def story() -> list[Seen]:
        async with rough_agent(answer, offered) as agent, open_caller() as caller:
            await caller.call(_request(agent.url.replace("http://", "http://user:hunter2@")))
            return agent.seen

    expected = "Basic " + base64.b64encode(b"user:hunter2").decode()
    assert {seen.headers.get("authorization") for seen in asyncio.run(story())} == {expected}


# Cards.


@pytest.mark.parametrize(
    "elsewhere", ["http://evil.example/rpc", "http://127.0.0.1:9/rpc", "https://127.0.0.1/rpc", "/rpc"]
)
def test_a_card_decides_the_path_but_never_the_host(open_caller: OpenCaller, elsewhere: str) -> None:
    reply, agent = _meet(open_caller, says("hi"), card(elsewhere))
    assert isinstance(reply, Reply)
    assert [(sent.target, sent.rpc["method"]) for sent in agent.messages] == [("/rpc", "SendMessage")]


NO_CARDS: dict[str, Answer] = {
    "missing": answers("", 404),
    "HTML": answers("<html>", kind="text/html"),
    "an array": answers("[]"),
    "text": answers('"card"'),
    "without interfaces": answers("{}"),
    "an address that is none": card("http://[nowhere"),
    "no JSON-RPC": card(binding="GRPC"),
    "too large": pours(10 * MEGABYTE, chunked=True),
    "broken off": sends(_HALF),
    "a server error": answers("", 500),
    "badly encoded": answers("{}", content_encoding="gzip"),
    "redirected": answers("", 307, location="http://127.0.0.1:9/card"),
}


@pytest.mark.parametrize("name", NO_CARDS)
def test_an_agent_without_a_usable_card_is_spoken_to_in_0_3(open_caller: OpenCaller, name: str) -> None:
    reply, agent = _meet(open_caller, says("hi"), NO_CARDS[name])
    assert isinstance(reply, Reply)
    assert [(sent.target, sent.rpc["method"]) for sent in agent.messages] == [("/", "message/send")]


def test_a_card_that_hangs_is_given_up(open_caller: OpenCaller) -> None:
    async def story() -> tuple[Reply, RoughAgent]:
        async with rough_agent(says("hi"), hangs) as agent, open_caller(card_timeout=0.1) as caller:
            return await caller.call(_request(agent.url)), agent

    reply, agent = asyncio.run(story())
    assert reply.text == "hi"
    assert [sent.rpc["method"] for sent in agent.messages] == ["message/send"]


def test_a_card_is_fetched_once_for_many_calls(open_caller: OpenCaller) -> None:
    async def story() -> RoughAgent:
        async with rough_agent(says("hi"), card()) as agent, open_caller() as caller:
            await asyncio.gather(*(caller.call(_request(agent.url)) for _ in range(50)))
            await caller.call(_request(agent.url))
            return agent

    agent = asyncio.run(story())
    assert (len(agent.cards), len(agent.messages)) == (1, 51)


def test_an_impatient_call_does_not_take_the_card_from_the_others(open_caller: OpenCaller) -> None:
    let_go = asyncio.Event()

    async def late(seen: Seen) -> AsyncIterator[bytes]:
        await let_go.wait()
        yield http(json.dumps(card_document("http://h/")))

    async def story() -> tuple[list[Any], RoughAgent]:
        async with rough_agent(says("hi"), late) as agent, open_caller() as caller:
            calls = [asyncio.create_task(caller.call(_request(agent.url, timeout=wait))) for wait in (0.1, _PATIENCE)]
            await asyncio.wait(calls[:1])
            let_go.set()
            return await asyncio.gather(*calls, return_exceptions=True), agent

    (impatient, patient), agent = asyncio.run(story())
    assert isinstance(impatient, TimedOut)
    assert isinstance(patient, Reply)
    assert len(agent.cards) == 1


def test_an_agent_that_changed_its_version_is_spoken_to_as_its_new_card_says(open_caller: OpenCaller) -> None:
    async def story() -> tuple[Reply, list[str]]:
        unknown = answers_rpc(error={"code": -32601, "message": "Method not found"})
        cards = in_turn(card(version="0.3.0"), card(version="1.0"))
        async with rough_agent(in_turn(unknown, says("hi")), cards) as agent, open_caller() as caller:
            reply = await caller.call(_request(agent.url))
            return reply, [sent.rpc["method"] for sent in agent.messages]

    reply, methods = asyncio.run(story())
    assert (reply.text, methods) == ("hi", ["message/send", "SendMessage"])


def test_an_agent_that_knows_no_method_is_not_asked_twice(open_caller: OpenCaller) -> None:
    async def story() -> int:
        unknown = answers_rpc(error={"code": -32601, "message": "Method not found"})
        async with rough_agent(unknown, card(version="1.0")) as agent, open_caller() as caller:
            with pytest.raises(RpcFailed):
                await caller.call(_request(agent.url))
            return len(agent.messages)

    assert asyncio.run(story()) == 1


# Whatever the JSON.

_scalars = st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.sampled_from(["http://[x", "JSONRPC"])
_names = st.text(max_size=4) | st.sampled_from(
    [
        *("url", "protocolVersion", "preferredTransport", "additionalInterfaces", "supportedInterfaces"),
        *("protocolBinding", "transport", "skills", "security", "securitySchemes", "capabilities", "task"),
        *("message", "status", "state", "id", "kind", "parts", "artifacts", "contextId", "text", "data"),
        *("file", "raw", "bytes", "uri", "mimeType", "metadata", "extensions"),
        *("statusUpdate", "artifactUpdate", "artifact", "taskId", "append", "artifactId"),
    ]
)
_documents: st.SearchStrategy[Any] = st.recursive(
    _scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_names, inner, max_size=6), max_leaves=20
)
_dialects: st.SearchStrategy[Dialect] = st.sampled_from(["0.3", "1.0"])
_cards: st.SearchStrategy[dict[str, Any]] = st.dictionaries(_names, _documents)


@given(document=_documents, dialect=_dialects)
def test_any_result_is_read_or_refused(document: Any, dialect: Dialect) -> None:
    with contextlib.suppress(Unreadable):
        assert isinstance(read_sent(document, dialect), Reply)
    with contextlib.suppress(Unreadable):
        assert isinstance(read_task(document), Reply)
    with contextlib.suppress(Unreadable):
        assert isinstance(Work(_request(""), None).hear(document, dialect), Reply | None)


@given(document=_cards)
def test_any_card_leads_to_the_configured_host_or_nowhere(document: dict[str, Any]) -> None:
    endpoint = read_endpoint(document, "http://agent.example:8001")
    assert endpoint is None or urlsplit(endpoint.url)[:2] == ("http", "agent.example:8001")
