"""Agents that stream are followed while they work, and end in the same reply as those that answer at once.

Each story is told with both HTTP clients: plain httpx, and httpx over aiohttp as the server uses it.
"""

import asyncio
import base64
import gzip
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodes.parts import unfold
from nodes.ports import AgentRequest, Chunk, FilePart, Part, Progress, Reply
from nodes.remote import AgentError, Caller, open_client
from nodes.remote.dialect import Dialect
from nodes.remote.errors import BadReply, Disconnected, HttpFailed, ReplyTooLarge, RpcFailed, TimedOut
from nodes.remote.sse import Events
from tests.polite_agents import PoliteAgent, polite_agent
from tests.rough_agents import (
    MEGABYTE,
    Answer,
    RoughAgent,
    Seen,
    answers,
    answers_rpc,
    card,
    in_turn,
    rough_agent,
    says,
    sends,
    streamed,
    streams,
)

OpenCaller = Callable[[], Caller]
Told = list[Chunk | Progress]
Json = dict[str, Any]


@pytest.fixture(params=["httpx", "aiohttp"])
def open_caller(request: pytest.FixtureRequest) -> OpenCaller:
    return lambda: Caller(open_client() if request.param == "aiohttp" else None, max_reply_bytes=MEGABYTE)


@pytest.fixture(params=["0.3", "1.0"])
def dialect(request: pytest.FixtureRequest) -> Dialect:
    spoken: Dialect = request.param
    return spoken


def _request(url: str, text: str = "hello", **fields: Any) -> AgentRequest:
    facts = {"message_id": "m-1", "context_id": "c-1", "task_id": None, "timeout": 10.0, "streams": True, **fields}
    return AgentRequest(agent="desk", url=url, text=text, **facts)


def _politely(open_caller: OpenCaller, dialect: Dialect, text: str, **fields: Any) -> tuple[Reply, Told, PoliteAgent]:
    """Return what came of one message to a well-behaved agent, and what was told until then."""
    told: Told = []

    async def story() -> tuple[Reply, Told, PoliteAgent]:
        async with polite_agent(dialect) as agent, open_caller() as caller:
            return await caller.call(_request(agent.url, text, **fields), told.append), told, agent

    return asyncio.run(story())


def _roughly(
    open_caller: OpenCaller, *answers: Answer, streaming: bool = True, **fields: Any
) -> tuple[Reply | AgentError, Told, RoughAgent]:
    """Return what came of one message to an agent that gives these answers in turn."""
    told: Told = []

    async def story() -> tuple[Reply | AgentError, Told, RoughAgent]:
        offered = card(streaming=streaming)
        async with rough_agent(in_turn(*answers), offered) as agent, open_caller() as caller:
            try:
                return await caller.call(_request(agent.url, **fields), told.append), told, agent
            except AgentError as error:
                return error, told, agent

    return asyncio.run(story())


def _methods(agent: RoughAgent) -> list[str]:
    return [sent.rpc["method"] for sent in agent.messages]


def _chunks(told: Told) -> list[tuple[str, bool, bool]]:
    """Return the words of each chunk, whether it was appended and whether it was the last."""
    chunks = [piece for piece in told if isinstance(piece, Chunk)]
    words = ["".join(part.get("text", "?") for part in chunk.artifact["parts"]) for chunk in chunks]
    return [(said, chunk.append, chunk.last) for said, chunk in zip(words, chunks, strict=True)]


def _unfolded(reply: Reply) -> tuple[list[Json], Json | None]:
    kept = {"text": reply.text, "data": reply.data, "files": [asdict(file) for file in reply.files]}
    return unfold(kept, reply.layout)


# Well-behaved agents.


def test_pieces_are_told_as_they_are_streamed(open_caller: OpenCaller, dialect: Dialect) -> None:
    async def story() -> tuple[Reply, Told]:
        async with polite_agent(dialect) as agent, open_caller() as caller:
            told: Told = []

            def tell(piece: Chunk | Progress) -> None:
                told.append(piece)
                agent.go.release()  # the agent waits for this: nothing would ever come if anybody held a piece back

            return await caller.call(_request(agent.url, "stream"), tell), told

    reply, told = asyncio.run(story())
    assert told[0] == Progress(reply.task_id or "", "working", ({"text": "let me see"},))
    assert _chunks(told) == [("one", False, False), ("two", True, False), ("three", True, True)]
    assert (reply.text, reply.task_state) == ("onetwothree\ncounted", "completed")


_PAPERS: list[Part] = [
    {"text": "first line", "metadata": {"language": "en"}},
    {"data": {"amount": "1.10"}},
    {"raw": base64.b64encode(b"PDF").decode(), "filename": "bill.pdf", "mediaType": "application/pdf"},
    {"url": "https://files.example/terms", "filename": "terms", "mediaType": "text/html"},
    {"text": "second line"},
]
_ARTIFACT = {
    "artifactId": "p",
    "name": "the papers",
    "description": "What the agent has.",
    "metadata": {"from": "the archive"},
    "extensions": ["https://example.org/papers"],
    "parts": _PAPERS,
}


def _plain(parts: list[Part]) -> list[Part]:
    """Return the parts without the media type that a2a-sdk gives to text and data, and 0.3 does not know."""
    return [{key: value for key, value in part.items() if key != "mediaType" or _is_file(part)} for part in parts]


def _is_file(part: Part) -> bool:
    return "raw" in part or "url" in part


def test_every_part_reaches_us_unchanged(open_caller: OpenCaller, dialect: Dialect) -> None:
    reply, told, _ = _politely(open_caller, dialect, "show")

    [chunk] = [piece for piece in told if isinstance(piece, Chunk)]
    [artifact], message = _unfolded(reply)
    assert artifact == chunk.artifact
    assert {**artifact, "parts": _plain(artifact["parts"])} == _ARTIFACT
    assert message is not None
    assert _plain(message["parts"]) == [{"text": "That is all."}]


def test_a_streamed_answer_is_the_same_as_one_at_once(open_caller: OpenCaller, dialect: Dialect) -> None:
    streamed, _, _ = _politely(open_caller, dialect, "show")
    at_once, _, _ = _politely(open_caller, dialect, "show", streams=False)
    assert replace(streamed, task_id=None) == replace(at_once, task_id=None)


def test_every_part_of_the_message_reaches_the_agent(open_caller: OpenCaller, dialect: Dialect) -> None:
    parts: list[Part] = [{"text": "speak"}, *_PAPERS, {"data": ["a", "list"], "metadata": {"language": "en"}}]
    reply, _, agent = _politely(open_caller, dialect, "not this", parts=tuple(parts))
    assert agent.parts == [parts]
    assert (reply.text, reply.task_state) == ("first line\nsecond line", None)


def test_a_streamed_task_that_waits_is_continued(open_caller: OpenCaller, dialect: Dialect) -> None:
    async def story() -> tuple[Reply, Reply]:
        async with polite_agent(dialect) as agent, open_caller() as caller:
            asked = await caller.call(_request(agent.url, "ask"))
            return asked, await caller.call(_request(agent.url, "42", task_id=asked.task_id))

    asked, done = asyncio.run(story())
    assert (asked.text, asked.task_state) == ("I ask", "input-required")
    assert (done.text, done.task_state, done.task_id) == ("thank you", "completed", asked.task_id)


# How events make a task.

_WORKING = {"task": {"id": "t-1", "contextId": "c-1", "status": {"state": "TASK_STATE_WORKING"}}}
_AT_WORK = Progress("t-1", "working")


def _status(state: str, words: str = "", task_id: str = "t-1") -> Json:
    said = {"message": {"messageId": "m", "role": "ROLE_AGENT", "parts": [{"text": words}]}} if words else {}
    return {"statusUpdate": {"taskId": task_id, "contextId": "c-1", "status": {"state": state, **said}}}


def _piece(words: str, artifact_id: str = "a", **fields: Any) -> Json:
    artifact = {"artifactId": artifact_id, "parts": [{"text": words}], **fields.pop("artifact", {})}
    return {"artifactUpdate": {"taskId": "t-1", "contextId": "c-1", "artifact": artifact, **fields}}


def _snapshot(state: str, *words: str) -> Json:
    artifacts = [{"artifactId": said, "parts": [{"text": said}]} for said in words]
    return {"id": "t-1", "contextId": "c-1", "status": {"state": state}, "artifacts": artifacts}


_DONE = _status("TASK_STATE_COMPLETED", "done")
_ENDED = answers_rpc(result=_snapshot("TASK_STATE_COMPLETED", "at last"))


def test_every_report_of_the_agent_is_told(open_caller: OpenCaller) -> None:
    reports = [_status("TASK_STATE_SUBMITTED"), _status("TASK_STATE_WORKING", "on it"), _status("TASK_STATE_WORKING")]
    reply, told, _ = _roughly(open_caller, streams(_WORKING, *reports, _DONE))
    on_it = Progress("t-1", "working", ({"text": "on it"},))
    assert told == [_AT_WORK, Progress("t-1", "submitted"), on_it, _AT_WORK]
    assert reply == Reply("done", task_state="completed", task_id="t-1", context_id="c-1")


def test_a_piece_is_new_or_continues_or_replaces(open_caller: OpenCaller) -> None:
    pieces = [
        _piece("one", artifact={"metadata": {"a": 1, "b": 1}, "name": "numbers"}),
        _piece("two", append=True, artifact={"metadata": {"b": 2}}),
        _piece("other", "b"),
        _piece("another", "b"),
        _piece("never begun", "c", append=True, lastChunk=True),
    ]
    reply, told, _ = _roughly(open_caller, streams(_WORKING, *pieces, _DONE))
    assert isinstance(reply, Reply)
    artifacts, _ = _unfolded(reply)
    assert artifacts == [
        {
            "artifactId": "a",
            "name": "numbers",
            "metadata": {"a": 1, "b": 2},
            "parts": [{"text": "one"}, {"text": "two"}],
        },
        {"artifactId": "b", "parts": [{"text": "another"}]},
        {"artifactId": "c", "parts": [{"text": "never begun"}]},
    ]
    assert _chunks(told) == [
        ("one", False, False),
        ("two", True, False),
        ("other", False, False),
        ("another", False, False),
        ("never begun", False, True),
    ]


def test_what_a_whole_task_brings_is_told_once(open_caller: OpenCaller) -> None:
    began, grew = _snapshot("TASK_STATE_WORKING", "one"), _snapshot("TASK_STATE_COMPLETED", "one", "two")
    reply, told, _ = _roughly(open_caller, streams({"task": began}, {"task": grew}))
    assert isinstance(reply, Reply)
    assert (told[0], reply.text) == (_AT_WORK, "one\ntwo")
    assert _chunks(told) == [("one", False, False), ("two", False, True)]


def test_a_task_is_known_from_its_first_piece(open_caller: OpenCaller) -> None:
    _, told, _ = _roughly(open_caller, streams(_piece("one"), _DONE))
    assert told[0] == _AT_WORK


def test_events_of_0_3_without_a_kind_are_understood(open_caller: OpenCaller) -> None:
    async def story() -> Reply:
        events = [next(iter(event.values())) for event in (_piece("one"), _DONE)]
        offered = card(version="0.3.0", streaming=True)
        async with rough_agent(streams(*events), offered) as agent, open_caller() as caller:
            return await caller.call(_request(agent.url))

    assert asyncio.run(story()).text == "one\ndone"


def test_a_continued_task_as_it_was_before_is_no_answer(open_caller: OpenCaller) -> None:
    before = {"task": _snapshot("TASK_STATE_INPUT_REQUIRED")}
    reply, _, _ = _roughly(open_caller, streams(before, _DONE), task_id="t-1")
    assert isinstance(reply, Reply)
    assert (reply.text, reply.task_state) == ("done", "completed")


# Streams that end too early: the message is sent once, and the task asked after.

_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


async def _breaks(seen: Seen) -> AsyncIterator[bytes]:
    event = streamed(seen, result=_WORKING)
    yield _HEAD + b"%x\r\n%b\r\nff\r\ndata: {" % (len(event), event)


@pytest.mark.parametrize("stream", [_breaks, streams(_WORKING), streams(_WORKING, b"data: {")])
def test_a_stream_that_ends_early_is_followed_by_asking(open_caller: OpenCaller, stream: Answer) -> None:
    reply, told, agent = _roughly(open_caller, stream, answers("", 503), _ENDED)
    assert isinstance(reply, Reply)
    assert (reply.text, told[0]) == ("at last", _AT_WORK)
    assert _chunks(told) == [("at last", False, True)]
    assert _methods(agent) == ["SendStreamingMessage", "GetTask", "GetTask"]


_GARBAGE = streams(_WORKING, b"data: <html>\n\n")
_WRONG_ID = streams(_WORKING, b'data: {"jsonrpc": "2.0", "id": "other", "result": {}}\n\n')


async def _fails(seen: Seen) -> AsyncIterator[bytes]:
    yield _HEAD.replace(b"transfer-encoding: chunked\r\n", b"")
    yield streamed(seen, result=_WORKING)
    yield streamed(seen, error={"code": -32004, "message": "password=hunter2"})


FAILURES: dict[str, tuple[Answer, type[AgentError]]] = {
    "nothing": (streams(), BadReply),
    "only comments": (streams(b": hello\n\n"), BadReply),
    "broken before the first event": (sends(_HEAD + b"ff\r\ndata"), Disconnected),
    "garbage": (_GARBAGE, BadReply),
    "garbage at first": (streams(b"data: hello\n\n"), BadReply),
    "another request's id": (_WRONG_ID, BadReply),
    "another task": (streams(_WORKING, _status("TASK_STATE_COMPLETED", task_id="t-2")), BadReply),
    "an event nobody knows": (streams(_WORKING, {"hologram": {}}), BadReply),
    "an artifact that is none": (streams(_WORKING, {"artifactUpdate": {"taskId": "t-1"}}), BadReply),
    "an event without a task": (streams({"artifactUpdate": {"artifact": {"parts": []}}}), BadReply),
    "an error": (_fails, RpcFailed),
    "too much": (streams(_WORKING, *[_piece("x" * 10_000)] * 200), ReplyTooLarge),
    "an event without end": (streams(b"data: " + b"x" * 5 * MEGABYTE), ReplyTooLarge),
    "comments without end": (streams(*[b": " + b"x" * 10_000 + b"\n"] * 200), ReplyTooLarge),
    "a bomb": (
        streams(gzip.compress(b": " + bytes(50 * MEGABYTE)), head=b"content-encoding: gzip\r\n"),
        ReplyTooLarge,
    ),
    "not the gzip it claims": (streams(_WORKING, head=b"content-encoding: gzip\r\n"), BadReply),
    "HTML": (answers("<html>", kind="text/html"), BadReply),
    "a server error": (answers("oops", 500), HttpFailed),
    "a stream with status 500": (answers("data: {}\n\n", 500, "text/event-stream"), HttpFailed),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_stream_that_is_none_is_one_error_and_one_message(open_caller: OpenCaller, name: str) -> None:
    answer, expected = FAILURES[name]
    error, _, agent = _roughly(open_caller, answer)
    assert type(error) is expected
    assert "hunter2" not in str(error)
    assert _methods(agent) == ["SendStreamingMessage"]


def test_an_agent_that_began_and_then_refuses_may_have_acted(open_caller: OpenCaller) -> None:
    for answer in ([_fails], [streams(_WORKING), answers_rpc(error={"code": -32001, "message": "unknown"})]):
        error, _, _ = _roughly(open_caller, *answer)
        assert isinstance(error, RpcFailed)
        assert error.acted is None


def test_the_deadline_holds_for_a_stream_without_end(open_caller: OpenCaller) -> None:
    error, _, _ = _roughly(open_caller, _trickles, timeout=0.2)
    assert isinstance(error, TimedOut)
    assert error.task_id == "t-1"


async def _trickles(seen: Seen) -> AsyncIterator[bytes]:
    yield _HEAD.replace(b"transfer-encoding: chunked\r\n", b"") + streamed(seen, result=_WORKING)
    while True:
        yield b": still here\n\n"
        await asyncio.sleep(0.01)


def test_a_call_that_is_cancelled_hangs_up(open_caller: OpenCaller) -> None:
    async def story() -> None:
        async with rough_agent(_trickles, card(streaming=True)) as agent, open_caller() as caller:
            known = asyncio.Event()
            call = asyncio.create_task(caller.call(_request(agent.url), lambda piece: known.set()))
            await known.wait()
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            await asyncio.wait_for(agent.left.wait(), timeout=5)

    asyncio.run(story())


# Agents that do not stream after all.


def test_a_whole_answer_instead_of_a_stream_is_taken(open_caller: OpenCaller) -> None:
    task = {"task": _snapshot("TASK_STATE_COMPLETED", "at once")}
    reply, told, agent = _roughly(open_caller, answers_rpc(result=task))
    assert isinstance(reply, Reply)
    assert (reply.text, _chunks(told)) == ("at once", [("at once", False, True)])
    assert _methods(agent) == ["SendStreamingMessage"]


def test_a_task_at_work_instead_of_a_stream_is_asked_after(open_caller: OpenCaller) -> None:
    reply, told, agent = _roughly(open_caller, answers_rpc(result=_WORKING), _ENDED)
    assert isinstance(reply, Reply)
    assert (reply.text, told[0]) == ("at last", _AT_WORK)
    assert _methods(agent) == ["SendStreamingMessage", "GetTask"]


@pytest.mark.parametrize("code", [-32004, -32601])
def test_an_agent_that_refuses_to_stream_is_sent_the_message(open_caller: OpenCaller, code: int) -> None:
    reply, _, agent = _roughly(open_caller, answers_rpc(error={"code": code, "message": "no"}), says("hi"))
    assert isinstance(reply, Reply)
    assert (reply.text, _methods(agent)) == ("hi", ["SendStreamingMessage", "SendMessage"])


def _waits(agent: RoughAgent) -> bool:
    return not agent.messages[0].rpc["params"]["configuration"]["returnImmediately"]


def test_an_agent_that_cannot_stream_tells_its_task_at_once(open_caller: OpenCaller) -> None:
    reply, told, agent = _roughly(open_caller, answers_rpc(result=_WORKING), _ENDED, streaming=False)
    assert isinstance(reply, Reply)
    assert (reply.text, told[0], _waits(agent)) == ("at last", _AT_WORK, False)
    assert _methods(agent) == ["SendMessage", "GetTask"]


def test_what_changes_while_a_task_is_asked_after_is_told(open_caller: OpenCaller) -> None:
    polls = [answers_rpc(result=_snapshot("TASK_STATE_WORKING", *words)) for words in ([], ["one"], ["one"])]
    _, told, _ = _roughly(open_caller, answers_rpc(result=_WORKING), *polls, _ENDED, streaming=False)
    assert [piece for piece in told if isinstance(piece, Progress)] == [_AT_WORK]
    assert _chunks(told) == [("one", False, False), ("at last", False, True)]


def test_an_answer_to_a_waiting_task_is_waited_for(open_caller: OpenCaller) -> None:
    _, _, agent = _roughly(open_caller, says("hi"), streaming=False, task_id="t-1")
    assert _waits(agent)


def test_nobody_who_does_not_follow_is_streamed_to(open_caller: OpenCaller) -> None:
    reply, told, agent = _roughly(open_caller, answers_rpc(result=_WORKING), _ENDED, streams=False)
    assert isinstance(reply, Reply)
    assert (reply.text, told[0], _waits(agent)) == ("at last", _AT_WORK, True)
    assert _methods(agent) == ["SendMessage", "GetTask"]


# What a stream looks like on the wire.


def test_a_stream_is_asked_for_and_read_in_any_form(open_caller: OpenCaller) -> None:
    async def odd(seen: Seen) -> AsyncIterator[bytes]:
        yield _HEAD.replace(b"transfer-encoding: chunked\r\n", b"")
        event = streamed(seen, result=_status("TASK_STATE_COMPLETED", "přání 退款")).decode().strip()
        event = event.replace(', "', ',\r\ndata:"')
        for byte in f"\ufeff: hello\r\nevent: x\r\nid: 1\r\nretry: 5\r\n{event}\r\n\r\n".encode():
            yield bytes([byte])

    reply, _, agent = _roughly(open_caller, odd)
    assert isinstance(reply, Reply)
    assert reply.text == "přání 退款"
    assert agent.messages[0].headers["accept"] == "text/event-stream"
    assert agent.messages[0].headers["a2a-version"] == "1.0"


_lines = st.sampled_from([b"data: one", b"data:two", b"data", b": comment", b"id: 5", b"data: \xc3\xa9", b"", b""])


@given(
    lines=st.lists(st.tuples(_lines, st.sampled_from([b"\n", b"\r", b"\r\n"])), max_size=12),
    cuts=st.lists(st.integers(0, 100), max_size=6),
)
def test_events_are_the_same_however_their_bytes_come(lines: list[tuple[bytes, bytes]], cuts: list[int]) -> None:
    raw = b"".join(line + end for line, end in lines)
    bounds = [0, *sorted(min(cut, len(raw)) for cut in cuts), len(raw)]
    events, whole = Events(), Events()
    pieces = [raw[start:end] for start, end in pairwise(bounds)]
    assert [data for piece in pieces for data in events.feed(piece)] == list(whole.feed(raw))


def test_the_lines_of_an_event_are_joined() -> None:
    raw = b"data: one\ndata: two\n\n:\n\ndata\n\ndata:  three\r\rdata: never ended\n"
    assert list(Events().feed(raw)) == [b"one\ntwo", b" three"]


def test_a_file_is_read_from_a_stream() -> None:
    file = FilePart("bill.pdf", "application/pdf", bytes="UERG")
    part = {"raw": "UERG", "filename": "bill.pdf", "mediaType": "application/pdf"}
    piece = _piece("", artifact={"parts": [part]})
    reply, _, _ = _roughly(lambda: Caller(), streams(piece, _DONE))
    assert isinstance(reply, Reply)
    assert reply.files == (file,)
