"""Bad A2A messages get the error of the protocol and say what to do; odd ones get a right answer; nothing is lost."""

import json
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal
from urllib.parse import quote

import pytest

from tests.a2a_client import Client, RpcError, state_of
from tests.conftest import Service, StartService
from tests.puppet import Puppet

Version = Literal["1.0", "0.3"]
INVALID, UNSUPPORTED, NOT_FOUND = -32602, -32004, -32001
INSIDE = ("Traceback", "pydantic", "protobuf", "lf.a2a", "Input should", "Error(", "server.", "site-packages")
TEXT = {"text": "Hello"}
JSON = "application/json"


@pytest.fixture(scope="module")
def service(start_for_module: StartService) -> Service:
    return start_for_module(checkpointer="memory")


@pytest.fixture(params=["1.0", "0.3"])
def version(request: pytest.FixtureRequest) -> Version:
    chosen: Version = request.param
    return chosen


@pytest.fixture
def client(service: Service, version: Version) -> Client:
    return Client(service.http, version)


def refusal(client: Client, *, method: str = "SendMessage", **sent: Any) -> RpcError:
    """Check that the request is refused in words for the client, a message streamed or not, and return the error."""
    params = client.params(**sent) if method == "SendMessage" else sent
    error = _error(client, method, params)
    if method == "SendMessage":
        streamed = _error(client, "SendStreamingMessage", params)
        assert (streamed.code, streamed.message) == (error.code, error.message)
    return error


def _error(client: Client, method: str, params: Any) -> RpcError:
    streams = method in ("SendStreamingMessage", "SubscribeToTask")
    with pytest.raises(RpcError) as refused:
        next(client.events(method, params)) if streams else client.call(method, params)
    error = refused.value
    assert not any(word in f"{error.message} {error.data}" for word in INSIDE), error
    assert error.code != -32603, error
    return error


def fresh() -> str:
    return uuid.uuid4().hex


@pytest.mark.parametrize(
    ("body", "kind", "code"),
    [
        (b'{"jsonrpc": "2.0", "id": 1, "method": <script>}', JSON, -32700),
        (b'[{"jsonrpc": "2.0", "id": 1, "method": "GetTask"}]', JSON, -32600),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "<script>"}', JSON, -32601),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "GetTask"}', "text/plain", -32005),
    ],
)
def test_what_is_no_request(client: Client, body: bytes, kind: str, code: int) -> None:
    answer = client.http.post(
        client.path, content=body, headers={"content-type": kind, "A2A-Version": client.version}
    )

    assert (answer.status_code, answer.json()["error"]["code"], "script" in answer.text) == (200, code, False)


@pytest.mark.parametrize(
    "context",
    [
        *("📞👩‍👩‍👧", "שלום العربية", "e\u0301 ü ﬁ", "звонок №1", "null", "%2F"),
        *("a.b.1.0123456789abcdef", "a:b,c{d}*?[e]", " spaced ", "...", "x" * 200, "😀" * 200),
    ],
)
def test_contexts_of_any_text(client: Client, service: Service, context: str) -> None:
    task = client.send("Hello", context=context)
    found = client.get(task["id"])
    later = client.send("1234", task=task["id"])

    assert (task["contextId"], found["contextId"], later["id"]) == (context, context, task["id"])
    session = f"/session/{quote(context, safe='')}"
    assert service.http.get(session).json()["call_identify_id"] == context
    assert service.http.delete(session).status_code == 200
    assert refusal(client, method="GetTask", id=task["id"]).code == NOT_FOUND


@pytest.mark.parametrize("context", ["a/b", "a\x00b", "a\nb", "\x7f", ".", "..", "   ", "x" * 201, "😀" * 201])
def test_contexts_that_cannot_be(client: Client, context: str) -> None:
    error = refusal(client, text="Hello", context=context)

    assert error.code == INVALID
    assert "contextId" in error.message
    assert any(word in error.message for word in ("give it", "leave out", "send text", "at most"))


@pytest.mark.parametrize("where", ["contextId", "taskId", "messageId"])
def test_a_lone_surrogate(client: Client, where: str) -> None:
    method = "SendMessage" if client.version == "1.0" else "message/send"
    params = client.params("Hello", message={where: "a\ud800"})
    request = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})

    answer = client.http.post(
        client.path, content=request, headers={"content-type": JSON, "A2A-Version": client.version}
    )

    assert answer.status_code == 200
    assert answer.json()["error"]["code"] in (INVALID, -32700)
    assert not any(word in answer.text for word in INSIDE)


def test_the_same_text_written_otherwise_is_another_context(client: Client) -> None:
    name = fresh()

    composed = client.send("Hello", context=f"é{name}")
    decomposed = client.send("Hello", context=f"e\u0301{name}")

    assert composed["id"] != decomposed["id"]


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ({"role": "ROLE_AGENT"}, "ROLE_USER"),
        ({"role": "user"}, "message.role: 'user' is not one of its values; send ROLE_USER"),
        ({"parts": []}, "parts"),
        ({"messageId": ""}, "message.messageId: missing"),
        ({"messageId": None}, "message.messageId: missing"),
        ({"parts": [{}]}, "content"),
        ({"parts": [{"video": {"uri": "x"}}]}, "content"),
        ({"parts": [{"text": 5}]}, "parts"),
        ({"parts": [TEXT, {"raw": "!"}]}, "message.parts.1: its bytes are not base64"),
        ({"parts": "Hello"}, "parts"),
        ({"parts": [TEXT] * 10_000}, "1,000"),
        ({"contextId": 5}, "contextId"),
        ({"metadata": "x"}, "metadata"),
        ({"metadata": {"intent": 5}}, "intent"),
        ({"metadata": {"account_id": "a\nb"}}, "account_id"),
        ({"metadata": {"eci": ""}}, "eci"),
        ({"parts": [TEXT, {"data": {"account_id": ["A"]}}]}, "account_id"),
        ({"contextId": "one", "metadata": {"call_identify_id": "other"}}, "call_identify_id"),
        ({"parts": [{"text": "x" * 32_001}]}, "32,000"),
    ],
    ids=lambda value: repr(value)[:50],
)
def test_messages_that_cannot_be(service: Service, message: dict[str, Any], words: str) -> None:
    error = refusal(Client(service.http), text="Hello", message=message)

    assert error.code == INVALID
    assert words in f"{error.message} {error.data}"


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ({"role": "agent"}, "role"),
        ({"parts": []}, "message.parts: missing or empty"),
        ({"messageId": None}, "messageId"),
        ({"parts": [{"type": "text", "text": "x"}]}, "parts"),
        ({"parts": [{"kind": "video", "uri": "x"}]}, "parts"),
        ({"parts": [{"kind": "text"}]}, "parts"),
        ({"parts": [{"kind": "file", "file": {}}]}, "parts"),
        ({"parts": [{"kind": "file", "file": {"bytes": "!"}}]}, "message.parts.0: its bytes are not base64"),
        ({"parts": [{"kind": "text", "text": "x"}] * 10_000}, "1,000"),
        ({"metadata": {"intent": 5}}, "intent"),
    ],
    ids=lambda value: repr(value)[:50],
)
def test_messages_that_cannot_be_in_0_3(service: Service, message: dict[str, Any], words: str) -> None:
    error = refusal(Client(service.http, "0.3"), text="Hello", message=message)

    assert error.code == INVALID
    assert words in f"{error.message} {error.data}"


def test_a_message_of_ten_megabytes(client: Client) -> None:
    error = refusal(client, text="x" * 10_000_000)

    assert (error.code, "1,000,000 bytes" in error.message) == (-32600, True)


def test_an_intent_that_is_not_legal_now(client: Client) -> None:
    error = refusal(client, text="pay me", metadata={"intent": "process_refund"})

    assert (error.code, error.facts["type"], error.facts["stage"]) == (INVALID, "intent-not-legal", "greeting")
    assert "send one of greeting, welcome, unknown" in error.message
    assert json.loads(error.facts["legal_intents"]) == ["greeting", "welcome", "unknown"]


def test_a_task_of_another_context(client: Client) -> None:
    task = client.send("Hello")

    error = refusal(client, text="Hello", task=task["id"], context=fresh())

    assert (error.code, "leave out contextId" in error.message) == (INVALID, True)


@pytest.mark.parametrize(
    "name", ["made-up", "a.1.b", "..", ".", "x" * 5_000, "a.²", "a.-1.0123456789abcdef", "📞.1.😀"]
)
@pytest.mark.parametrize("method", ["SendMessage", "GetTask", "CancelTask", "SubscribeToTask"])
def test_tasks_that_were_never_ours(client: Client, name: str, method: str) -> None:
    sent = {"text": "Hello", "task": name} if method == "SendMessage" else {"id": name}

    error = refusal(client, method=method, **sent)
    assert (error.code, repr(name[:300]) in error.message or name in error.message) == (NOT_FOUND, True)


def test_task_ids_that_are_almost_ours(client: Client) -> None:
    task: str = client.send("Hello")["id"]
    call, run, tag = task.rsplit(".", 2)

    almost = [task[:-1], task + "0", f"{call}.2.{tag}", f"{call}.01.{tag}", f"{call}.{run}.{tag[::-1]}", task.upper()]
    for name in [*almost, f" {task}", f"{fresh()}.{run}.{tag}"]:
        assert refusal(client, method="GetTask", id=name).code == NOT_FOUND
        assert refusal(client, text="Hello", task=name).code == NOT_FOUND


def test_a_call_that_is_over(client: Client) -> None:
    context = fresh()
    for intent in ("greeting", "verify_identity", "balance_inquiry", "check_balance", "closing"):
        task = client.send("1234", context=context, metadata={"intent": intent})

    by_task = refusal(client, text="Hello", task=task["id"])
    by_context = refusal(client, text="Hello", context=context)

    with pytest.raises(RpcError, match=f"the task '{task['id']}' has ended and cannot be canceled"):
        client.cancel(task["id"])
    assert state_of(task) == "completed"
    assert (by_task.code, by_context.code) == (UNSUPPORTED, UNSUPPORTED)
    assert by_context.facts["type"] == "call-complete"
    assert client.get(task["id"]) == task


@pytest.mark.parametrize("store", ["valkey", "langgraph-redis"], indirect=True)
def test_another_tenants_task(start: StartService, store: dict[str, Any], version: Version) -> None:
    a, b = (Client(start(**{**store, "tenant": f"{store['tenant']}-{name}"}).http, version) for name in "ab")
    task = a.send("Hello", context="same name")

    for method in ("GetTask", "CancelTask", "SubscribeToTask"):
        assert refusal(b, method=method, id=task["id"]).code == NOT_FOUND
    assert refusal(b, text="Hello", task=task["id"]).code == NOT_FOUND
    own = b.send("Hello", context="same name")
    assert own["id"] != task["id"]
    if version == "1.0":
        assert [listed["id"] for listed in b.list()["tasks"]] == [own["id"]]
    assert state_of(a.get(task["id"])) == "input-required"


def test_a_tenant_that_is_not_here(service: Service) -> None:
    client = Client(service.http)
    task = client.send("Hello")

    assert client.call("SendMessage", {**client.params("Hello"), "tenant": "default"})
    for method, params in (("SendMessage", client.params("Hello")), ("GetTask", {"id": task["id"]})):
        with pytest.raises(RpcError) as refused:
            client.call(method, {**params, "tenant": "somebody"})
        assert refused.value.code in (INVALID, NOT_FOUND)
    rest, how = "/a2a/call/rest", {"A2A-Version": "1.0"}
    told = service.http.post(
        f"{rest}/message:send", json={**client.params("Hello"), "tenant": "somebody"}, headers=how
    )
    assert (told.status_code, told.json()["error"]["details"][0]["reason"]) == (400, "INVALID_PARAMS")
    assert service.http.get(f"{rest}/tasks/{task['id']}?tenant=somebody", headers=how).status_code == 404
    assert service.http.get(f"{rest}/tasks?tenant=somebody", headers=how).json()["tasks"] == []
    assert service.http.get(f"{rest}/tasks/{task['id']}?tenant=default", headers=how).status_code == 200
    assert client.call("ListTasks", {"tenant": "somebody"})["tasks"] == []


def test_two_messages_at_once_are_answered_in_turn(
    start: StartService, puppet: tuple[Puppet, str], version: Version
) -> None:
    client = Client(start(env={"FALLBACK_AGENT_URL": puppet[1]}, checkpointer="memory").http, version)
    context = fresh()

    with ThreadPoolExecutor(4) as pool:
        sent = [
            pool.submit(client.send, f"slow 0.0{n}", context=context, metadata={"intent": "unknown"})
            for n in range(1, 5)
        ]
        tasks = [job.result() for job in sent]

    assert len({task["id"] for task in tasks}) == 1
    whole = client.get(tasks[0]["id"])
    assert len([said for said in whole["history"] if said["role"] in ("ROLE_USER", "user")]) == 4


def test_a_message_to_a_call_that_stays_busy(
    start: StartService, puppet: tuple[Puppet, str], version: Version
) -> None:
    service = start(env={"GREETING_AGENT_URL": puppet[1]}, checkpointer="memory", busy_wait_seconds=0.1)
    client = Client(service.http, version)
    task = client.send("slow 1", metadata={"intent": "greeting"}, returnImmediately=True)

    error = refusal(client, text="me too", task=task["id"])

    assert (error.code, error.facts["type"]) == (UNSUPPORTED, "turn-in-flight")
