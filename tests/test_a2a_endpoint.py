"""What is sent to a flow's A2A endpoint is answered as the specification says, however odd it is, and tells nothing
of what is inside."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from a2a.helpers import new_text_message
from a2a.server.agent_execution import AgentExecutor, RequestContext
from a2a.server.context import ServerCallContext
from a2a.server.events import Event, EventQueue
from a2a.server.request_handlers import DefaultRequestHandler
from a2a.server.tasks import InMemoryTaskStore
from a2a.types import GetTaskRequest, SubscribeToTaskRequest, Task, TaskState, TaskStatus, TaskStatusUpdateEvent
from a2a.utils.errors import TaskNotFoundError
from starlette.applications import Starlette

from graph.loader import load_flow
from server.a2a.cards import Cards
from server.a2a.endpoint import routes
from server.listening import listen, serving, url_of
from tests.background import Background

LIMIT = 100_000
SECRET = "s3cret-of-the-inside"
VERSION_1_0 = {"A2A-Version": "1.0"}
INSIDE = ("pydantic", "protobuf", "lf.a2a", "Traceback", "Failed to parse", "Input should", "orjson", SECRET)
PATHS = ("/a2a/call", "/", "/a2a/call/v0.3", "/v0.3")


class _Echo(AgentExecutor):
    async def execute(self, context: RequestContext, event_queue: EventQueue) -> None:
        await event_queue.enqueue_event(new_text_message(f"You said: {context.get_user_input()}"))

    async def cancel(self, context: RequestContext, event_queue: EventQueue) -> None:
        raise NotImplementedError


class _Handler(DefaultRequestHandler):
    """Echoes messages; what its tasks do is told by their ids."""

    def __init__(self, cards: Cards) -> None:
        super().__init__(_Echo(), InMemoryTaskStore(), cards.card("http://here"))
        self.seen: list[Mapping[str, Any]] = []

    async def on_get_task(self, params: GetTaskRequest, context: ServerCallContext) -> Task | None:
        self.seen.append(context.state)
        if params.id == "broken":
            raise RuntimeError(SECRET)
        if params.id == "none":
            raise TaskNotFoundError
        return _task(params.id)

    async def on_subscribe_to_task(
        self, params: SubscribeToTaskRequest, context: ServerCallContext
    ) -> AsyncGenerator[Event]:
        if params.id == "none":
            raise TaskNotFoundError
        yield _task(params.id)
        if params.id == "breaks":
            raise RuntimeError(SECRET)
        if params.id == "idle":
            await asyncio.Event().wait()
        done = TaskStatus(state=TaskState.TASK_STATE_COMPLETED)
        yield TaskStatusUpdateEvent(task_id=params.id, context_id="c", status=done)


def _task(name: str) -> Task:
    return Task(id=name, context_id="c", status=TaskStatus(state=TaskState.TASK_STATE_WORKING))


@dataclass
class Site:
    """A served flow, and how to talk to it."""

    url: str
    handler: _Handler
    stopping: asyncio.Event
    http: httpx.Client

    def post(self, document: Any, path: str = "/a2a/call", **more: Any) -> dict[str, Any]:
        """Send a document and return the JSON-RPC answer, which never tells of the inside."""
        return self.send(json.dumps(document).encode(), path, **more)

    def send(self, body: Any, path: str = "/a2a/call", **more: Any) -> dict[str, Any]:
        headers = {"content-type": "application/json", **more.pop("headers", {})}
        answer = self.http.post(self.url + path, content=body, headers=headers, **more)
        assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json"), answer.text
        assert not [word for word in INSIDE if word in answer.text]
        document: dict[str, Any] = answer.json()
        assert document["jsonrpc"] == "2.0"
        return document

    def lines(self, document: Any, **headers: str) -> list[dict[str, Any]]:
        """Send a document and return the events of the answering stream."""
        headers = {"content-type": "application/json", **headers}
        with self.http.stream("POST", f"{self.url}/a2a/call", json=document, headers=headers) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            assert answer.headers["x-accel-buffering"] == "no"
            assert answer.headers["cache-control"] == "no-store"
            text = "".join(answer.iter_text())
        assert not [word for word in INSIDE if word in text]
        return [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line.startswith("data: ")]


@pytest.fixture
def site(background: Background) -> Iterator[Site]:
    """The call flow at its own path and at the root, with HTTP+JSON."""
    cards = Cards(load_flow("call"), "1", rest=True)
    handler = _Handler(cards)
    stack = AsyncExitStack()

    async def enter() -> tuple[str, asyncio.Event]:
        stopping = asyncio.Event()
        served = [
            route
            for path in ("/a2a/call", "")
            for route in routes(handler, cards, path=path, max_body_bytes=LIMIT, stopping=stopping)
        ]
        listener = stack.enter_context(listen("the endpoint", "127.0.0.1", 0))
        await stack.enter_async_context(serving(Starlette(routes=served), listener, grace=5))
        return url_of(listener), stopping

    async def leave() -> None:
        await stack.aclose()
        await handler.aclose()

    url, stopping = background.run(enter())
    with httpx.Client(timeout=20) as http:
        yield Site(url, handler, stopping, http)
    background.run(leave())


def sending(text: str = "hello", **more: Any) -> dict[str, Any]:
    """A message, as 1.0 writes it."""
    message = {"messageId": "m1", "role": "ROLE_USER", "parts": [{"text": text}], **more}
    return {"jsonrpc": "2.0", "id": 1, "method": "SendMessage", "params": {"message": message}}


def sending_03(text: str = "hello", **more: Any) -> dict[str, Any]:
    """A message, as 0.3 writes it."""
    part = {"kind": "text", "text": text}
    message = {"kind": "message", "messageId": "m1", "role": "user", "parts": [part], **more}
    return {"jsonrpc": "2.0", "id": 1, "method": "message/send", "params": {"message": message}}


def asking(method: str, name: str, number: Any = 1) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": number, "method": method, "params": {"id": name}}


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = {"a": value}
    return value


def code(answer: dict[str, Any]) -> int:
    """The code of an error that says in words what is wrong."""
    assert answer["error"]["message"]
    return int(answer["error"]["code"])


@pytest.mark.parametrize("path", PATHS)
def test_both_versions_are_spoken_at_every_address(site: Site, path: str) -> None:
    new = site.post(sending(), path, headers=VERSION_1_0)
    old = site.post(sending_03(), path)

    assert new["result"]["message"]["parts"] == [{"text": "You said: hello"}]
    assert old["result"]["parts"] == [{"kind": "text", "text": "You said: hello"}]
    assert "error" not in site.post(sending_03(), path, headers={"A2A-Version": "0.3"})


@pytest.mark.parametrize("number", [7, 0, -1, "seven", "", None])
def test_the_id_comes_back_as_it_was_sent(site: Site, number: Any) -> None:
    assert site.post(asking("GetTask", "t", number), headers=VERSION_1_0)["id"] == number
    assert site.post(asking("GetTask", "none", number), headers=VERSION_1_0)["id"] == number
    assert site.post(asking("tasks/get", "none", number))["id"] == number


@pytest.mark.parametrize("number", [True, 1.5, [1], {"a": 1}, 10**30])
def test_an_id_that_is_none(site: Site, number: Any) -> None:
    answer = site.post(asking("GetTask", "t", number), headers=VERSION_1_0)

    assert (code(answer), answer["id"]) == (-32600, None)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"headers": {"A2A-Version": "1.0"}}, "1.0"),
        ({"headers": {"A2A-Version": "1.0.7"}}, "1.0"),
        ({"params": {"A2A-Version": "1.0"}}, "1.0"),
        ({"params": {"a2a-version": "1.0"}}, "1.0"),
        ({"headers": {"A2A-Version": "1.0"}, "params": {"A2A-Version": "0.3"}}, "1.0"),
        ({"headers": {"A2A-Version": ""}, "params": {"A2A-Version": "1.0"}}, "1.0"),
        ({}, "0.3"),
        ({"headers": {"A2A-Version": ""}}, "0.3"),
        ({"params": {"A2A-Version": "0.3.0"}}, "0.3"),
    ],
)
def test_the_version_is_said_in_the_header_or_else_the_query(site: Site, said: dict[str, Any], expected: str) -> None:
    method = {"1.0": "GetTask", "0.3": "tasks/get"}[expected]

    answer = site.post(asking(method, "t"), **said)

    assert answer["result"]["id"] == "t"
    assert site.handler.seen[-1]["headers"]["A2A-Version"] == expected
    assert site.handler.seen[-1]["base_url"] == site.url


@pytest.mark.parametrize("version", ["99", "99.0", "1.1", "0.2", "0.4", "1", "latest", "1.0, 0.3", "9" * 5000])
@pytest.mark.parametrize("method", ["GetTask", "tasks/get", "nothing"])
def test_a_version_that_is_not_spoken(site: Site, version: str, method: str) -> None:
    answer = site.post(asking(method, "t"), headers={"A2A-Version": version})

    assert code(answer) == -32009
    assert answer["error"]["data"][0]["reason"] == "VERSION_NOT_SUPPORTED"


def test_methods_of_one_version_are_not_those_of_the_other(site: Site) -> None:
    assert code(site.post(asking("GetTask", "t"))) == -32009  # no header means 0.3
    assert code(site.post(asking("tasks/get", "t"), headers=VERSION_1_0)) == -32601


@pytest.mark.parametrize("headers", [VERSION_1_0, {}])
@pytest.mark.parametrize("kind", ["text/plain", "text/plain; charset=json", "application/x-www-form-urlencoded", ""])
def test_what_is_not_said_to_be_json_is_not_read(site: Site, headers: dict[str, str], kind: str) -> None:
    answer = site.post(sending(), headers={**headers, "content-type": kind})

    assert code(answer) == -32005
    if headers:
        assert answer["error"]["data"] == [
            {
                "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                "reason": "CONTENT_TYPE_NOT_SUPPORTED",
                "domain": "a2a-protocol.org",
                "metadata": {},
            }
        ]


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "Application/JSON", "application/a2a+json"])
def test_what_is_said_to_be_json_is_read(site: Site, kind: str) -> None:
    assert "result" in site.post(sending(), headers={**VERSION_1_0, "content-type": kind})


@pytest.mark.parametrize("headers", [VERSION_1_0, {}])
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"jsonrpc": "2.0", "method": "message/send", "params": {"foo": "bar"}',
        b'{"id": NaN}',
        b'{"id": "\\ud800"}',
        b'{"id": "\xff"}',
        b"[" * LIMIT,
        b'{"a":' * 10_000,
    ],
)
def test_broken_json(site: Site, headers: dict[str, str], body: bytes) -> None:
    answer = site.send(body, headers=headers)

    assert (code(answer), answer["id"]) == (-32700, None)


@pytest.mark.parametrize(
    "document",
    [
        [],
        [sending(), sending()],
        "hello",
        7,
        None,
        {},
        {"jsonrpc": "1.0", "id": 1, "method": "GetTask"},
        {"id": 1, "method": "GetTask"},
        {"jsonrpc": "2.0", "id": 1},
        {"jsonrpc": "2.0", "id": 1, "method": ""},
        {"jsonrpc": "2.0", "id": 1, "method": ["GetTask"]},
        {**sending(), "params": nested(40)},
    ],
)
def test_what_is_no_request(site: Site, document: Any) -> None:
    assert code(site.post(document, headers=VERSION_1_0)) == -32600
    assert code(site.post(document)) == -32600


def test_an_unknown_method(site: Site) -> None:
    for headers in (VERSION_1_0, {}):
        assert code(site.post(asking("message/ssend", "t"), headers=headers)) == -32601


@pytest.mark.parametrize(
    ("params", "where"),
    [
        ([], "params"),
        ("x", "params"),
        ({"message": "x"}, "params.message"),
        ({"message": {"parts": "hello"}}, "params.message.parts"),
        ({"message": {"parts": [None]}}, "params.message.parts"),
        ({"message": {"parts": [{"text": 1}]}}, "params.message.parts.text"),
        ({"message": {"parts": [{"text": "a", "url": "b"}]}}, "params.message.parts"),
        ({"configuration": {"historyLength": "many"}}, "params.configuration.historyLength"),
        ({"tenant": 5}, "params.tenant"),
    ],
)
def test_parameters_of_the_wrong_kind(site: Site, params: Any, where: str) -> None:
    answer = site.post({**sending(), "params": params}, headers=VERSION_1_0)

    assert (code(answer), answer["id"]) == (-32602, 1)
    assert answer["error"]["message"].startswith(f"{where}: ")
    assert answer["error"]["data"][0]["reason"] == "INVALID_PARAMS"


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"": "not_a_dict"}, "params.message: it is missing"),
        ({"message": {"parts": "invalid"}}, "params.message.messageId: it is missing"),
        (sending_03(parts="x")["params"], "params.message.parts: it is not"),
        (sending_03(parts=[{"kind": "video"}])["params"], "params.message.parts.0: it is not"),
        (sending_03(parts=[{"type": "odd", "text": "x"}])["params"], "params.message.parts.0.kind: it is missing"),
        (sending_03(parts=[{"kind": "text", "text": 3}])["params"], "params.message.parts.0: it is not"),
        (sending_03(parts=[{"kind": "file", "file": {"bytes": "abc"}}])["params"], "params.message.parts: a part"),
        (sending_03(role="bot")["params"], "params.message.role: it is not 'agent' or 'user'"),
        ([], "params: it is not"),
    ],
)
def test_parameters_of_the_wrong_kind_in_0_3(site: Site, params: Any, said: str) -> None:
    for method in ("message/send", "message/stream"):
        answer = site.post({**sending_03(), "method": method, "params": params})

        assert (code(answer), answer["id"]) == (-32602, 1)
        assert answer["error"]["message"].startswith(said)
        assert "data" not in answer["error"]


def test_wrong_parameters_are_named_before_a_missing_id(site: Site) -> None:
    nameless = {name: value for name, value in sending_03().items() if name != "id"}

    assert code(site.post(nameless)) == -32600
    assert code(site.post({**nameless, "params": {}})) == -32602


def test_what_is_missing_in_1_0_is_named(site: Site) -> None:
    answer = site.post({**sending(), "params": {"message": {"parts": [{"text": "x"}]}}}, headers=VERSION_1_0)

    assert code(answer) == -32602
    assert answer["error"]["message"] == "message.messageId, message.role: missing or empty"
    info, wrong = answer["error"]["data"]
    assert info["metadata"] == {}
    assert {"message.role", "message.message_id"} <= {each["field"] for each in wrong["fieldViolations"]}


@pytest.mark.parametrize(
    ("method", "params", "said"),
    [
        ("SendMessage", sending(role="user")["params"], "params.message.role: 'user' is not one of its values; send"),
        ("SendMessage", sending(role=7)["params"], "params.message.role: 7 is not"),
        ("SendMessage", sending(role="<b>")["params"], "params.message.role: it is not"),
        ("ListTasks", {"status": "failed"}, "params.status: 'failed' is not"),
        ("ListTasks", {"status": 99}, "params.status: 99 is not"),
    ],
)
def test_a_value_that_its_enum_does_not_have(site: Site, method: str, params: Any, said: str) -> None:
    answer = site.post({**asking(method, "t"), "params": params}, headers=VERSION_1_0)

    assert code(answer) == -32602
    assert answer["error"]["message"].startswith(said)
    allowed = {"SendMessage": "send ROLE_USER or ROLE_AGENT", "ListTasks": "TASK_STATE_FAILED"}[method]
    assert allowed in answer["error"]["message"]
    assert "UNSPECIFIED" not in answer["error"]["message"]


def test_an_enum_is_written_by_name_or_number(site: Site) -> None:
    for role in ("ROLE_USER", 1):
        assert "result" in site.post(sending(role=role), headers=VERSION_1_0)
    for status in ("TASK_STATE_WORKING", 2, None):
        listing = {"jsonrpc": "2.0", "id": 1, "method": "ListTasks", "params": {"status": status}}
        assert "result" in site.post(listing, headers=VERSION_1_0)


def test_unknown_fields_are_ignored(site: Site) -> None:
    for request, headers in ((sending(later="x"), VERSION_1_0), (sending_03(later="x"), {})):
        request["params"]["later"] = {"a": 1}
        assert "result" in site.post({**request, "later": 1}, headers=headers)


def test_parameters_may_be_left_out_where_there_are_none(site: Site) -> None:
    request = {"jsonrpc": "2.0", "id": 1, "method": "ListTasks"}

    assert site.post(request, headers=VERSION_1_0)["result"]["tasks"] == []
    assert site.post({**request, "params": None}, headers=VERSION_1_0)["result"]["nextPageToken"] == ""


def test_data_as_deep_as_the_protocol_carries_comes_through(site: Site) -> None:
    deepest = 36 - 5  # in an object, its params, the message, the list of parts, and the part
    assert "result" in site.post(sending(parts=[{"data": nested(deepest)}]), headers=VERSION_1_0)
    assert "result" in site.post(sending_03(parts=[{"kind": "data", "data": nested(deepest)}]))
    assert code(site.post(sending(parts=[{"data": nested(deepest + 1)}]), headers=VERSION_1_0)) == -32600


def test_a_request_that_is_too_long(site: Site) -> None:
    undeclared = (b"x" * 50_000 for _ in range(200))

    assert code(site.send(undeclared, headers=VERSION_1_0)) == -32600
    assert code(site.post(sending("x" * LIMIT), headers=VERSION_1_0)) == -32600
    assert code(site.post(sending_03("x" * LIMIT))) == -32600
    assert "result" in site.post(sending("x" * (LIMIT - 1_000)), headers=VERSION_1_0)


def test_thousands_of_parts_are_read_quickly(site: Site) -> None:
    began = time.monotonic()
    site.post(sending(parts=[{"text": "x"}] * 5_000), headers=VERSION_1_0)

    assert time.monotonic() - began < 2


def test_an_error_of_the_protocol_has_its_details_in_1_0(site: Site) -> None:
    answer = site.post(asking("GetTask", "none"), headers=VERSION_1_0)

    words = "task not found: 'none'; it never began, or its call was deleted or has expired"
    assert (code(answer), answer["error"]["message"]) == (-32001, words)
    assert answer["error"]["data"][0]["@type"] == "type.googleapis.com/google.rpc.ErrorInfo"
    assert answer["error"]["data"][0]["reason"] == "TASK_NOT_FOUND"
    assert site.post(asking("tasks/get", "none"))["error"] == {"code": -32001, "message": words}


def test_what_breaks_inside_stays_inside(site: Site) -> None:
    for method, headers in (("GetTask", VERSION_1_0), ("tasks/get", {})):
        answer = site.post(asking(method, "broken"), headers=headers)
        assert (code(answer), answer["error"]["message"], answer["id"]) == (-32603, "Internal error", 1)


def test_a_stream_answers_event_by_event(site: Site) -> None:
    new = site.lines(asking("SubscribeToTask", "t"), **VERSION_1_0)
    old = site.lines(asking("tasks/resubscribe", "t"))

    assert [[*event["result"]] for event in new] == [["task"], ["statusUpdate"]]
    assert [event["result"]["kind"] for event in old] == ["task", "status-update"]


def test_a_stream_that_cannot_begin_is_an_error(site: Site) -> None:
    assert code(site.post(asking("SubscribeToTask", "none"), headers=VERSION_1_0)) == -32001
    assert [code(event) for event in site.lines(asking("tasks/resubscribe", "none"))] == [-32001]


def test_a_stream_that_breaks_ends_with_an_error(site: Site) -> None:
    for method, headers in (("SubscribeToTask", VERSION_1_0), ("tasks/resubscribe", {})):
        first, last = site.lines(asking(method, "breaks"), **headers)
        assert "result" in first
        assert (code(last), last["error"]["message"]) == (-32603, "Internal error")


@pytest.mark.parametrize(("method", "version"), [("SubscribeToTask", "1.0"), ("tasks/resubscribe", "0.3")])
def test_a_stopping_service_ends_its_streams(site: Site, background: Background, method: str, version: str) -> None:
    headers = {"A2A-Version": version}
    with site.http.stream("POST", f"{site.url}/a2a/call", json=asking(method, "idle"), headers=headers) as answer:
        arriving = answer.iter_lines()
        assert next(arriving).startswith("data: ")
        background.loop.call_soon_threadsafe(site.stopping.set)
        began = time.monotonic()
        assert not [line for line in arriving if line.startswith("data")]

    assert time.monotonic() - began < 2


def test_the_extended_card_is_one_of_1_0(site: Site) -> None:
    new = site.post({"jsonrpc": "2.0", "id": 1, "method": "GetExtendedAgentCard"}, headers=VERSION_1_0)["result"]
    old = site.post({"jsonrpc": "2.0", "id": 1, "method": "agent/getAuthenticatedExtendedCard"})

    assert new["supportedInterfaces"][0]["url"] == f"{site.url}/a2a/call"
    assert new["capabilities"]["extensions"][0]["params"]["flow"] == "call"
    assert code(old) == -32007  # 0.3 shows it to authenticated clients only


def test_http_json_follows_the_same_rules(site: Site) -> None:
    rest = f"{site.url}/a2a/call/rest"
    message = sending()["params"]

    def told(answer: httpx.Response) -> tuple[int, str]:
        assert not [word for word in INSIDE if word in answer.text]
        return answer.status_code, answer.json()["error"]["details"][0]["reason"]

    sent = site.http.post(f"{rest}/message:send", json=message, headers=VERSION_1_0)
    assert sent.headers["content-type"] == "application/json"
    assert sent.json()["message"]["parts"] == [{"text": "You said: hello"}]
    assert site.http.get(f"{rest}/tasks/t?A2A-Version=1.0").json()["id"] == "t"
    assert site.http.get(f"{rest}/extendedAgentCard", headers=VERSION_1_0).json()["name"] == "call"
    assert told(site.http.get(f"{rest}/tasks/none", headers=VERSION_1_0)) == (404, "TASK_NOT_FOUND")
    assert told(site.http.get(f"{rest}/tasks/t")) == (400, "VERSION_NOT_SUPPORTED")
    assert told(site.http.get(f"{rest}/tasks/t", headers={"A2A-Version": "99"})) == (400, "VERSION_NOT_SUPPORTED")
    for body, kind, refused in (
        (b"{", "application/json", (400, "INVALID_REQUEST")),
        (b"[]", "application/json", (400, "INVALID_PARAMS")),
        (b'{"message": {"parts": 1}}', "application/json", (400, "INVALID_PARAMS")),
        (b"{}", "text/plain", (415, "CONTENT_TYPE_NOT_SUPPORTED")),
        (b'{"message": {"role": "user"}}', "application/json", (400, "INVALID_PARAMS")),
        (b'{"message": {}}', "application/json", (400, "INVALID_PARAMS")),
        (b" " * LIMIT + b"{}", "application/json", (413, "INVALID_REQUEST")),
    ):
        headers = {**VERSION_1_0, "content-type": kind}
        assert told(site.http.post(f"{rest}/message:send", content=body, headers=headers)) == refused


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("tasks?pageSize=abc", "pageSize: it is not of the kind"),
        ("tasks?statusTimestampAfter=x", "statusTimestampAfter: it is not of the kind"),
        ("tasks?status=failed", "status: 'failed' is not one of its values; send "),
        ("tasks?includeArtifacts=yes", "includeArtifacts: it is neither true nor false"),
        ("tasks?pageSize=500", "maximum page size"),
        ("tasks/t?historyLength=x", "historyLength: it is not of the kind"),
        ("tasks/t/pushNotificationConfigs?pageSize=x", "pageSize: it is not of the kind"),
    ],
)
def test_what_a_query_of_http_json_cannot_be(site: Site, query: str, words: str) -> None:
    answer = site.http.get(f"{site.url}/a2a/call/rest/{query}", headers=VERSION_1_0)

    assert (answer.status_code, answer.json()["error"]["details"][0]["reason"]) == (400, "INVALID_PARAMS")
    assert answer.json()["error"]["message"].startswith(words)
    assert not [word for word in (*INSIDE, "invalid literal") if word in answer.text]


def test_http_json_tells_which_version_it_speaks(site: Site) -> None:
    for version in ({}, {"A2A-Version": "0.3"}):
        answer = site.http.get(f"{site.url}/a2a/call/rest/tasks/t", headers=version)
        assert answer.json()["error"]["message"] == "HTTP+JSON is spoken in version 1.0 only; send A2A-Version: 1.0"


def test_the_details_of_an_error_of_http_json_are_texts(site: Site) -> None:
    said = {"message": {"parts": [{"text": "x"}]}}

    answer = site.http.post(f"{site.url}/a2a/call/rest/message:send", json=said, headers=VERSION_1_0).json()

    info, wrong = answer["error"]["details"]
    assert info["metadata"] == {}
    assert "message.role" in {each["field"] for each in wrong["fieldViolations"]}
