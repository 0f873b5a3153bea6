"""Conversations over a socket: turn after turn, wrong frames among them, clients that leave, stall or come back."""

import json
import resource
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest
from fastapi import FastAPI, WebSocket
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from server.doors.websocket import MOST_WAITING, Conversation
from server.listening import listen, serving, url_of
from tests.background import Background
from tests.conftest import Service, StartService
from tests.listeners import CALL, Json, heard, is_whole_turn, names, said, socket_of, turn
from tests.polite_agents import polite_agent
from tests.puppet import Puppet

Store = dict[str, Any]


def test_a_call_on_one_socket(start: StartService, store: Store) -> None:
    service = start(**store)

    with socket_of(service, "SOCKET-1") as client:
        for number, (message, intent) in enumerate(CALL):
            events = turn(client, message, intent, request_id=f"r{number}")
            assert {event.pop("request_id") for event in events} == {f"r{number}"}
            assert is_whole_turn(events, service, "SOCKET-1"), events
        (refused,) = turn(client, "And one more thing", "greeting")

    assert events[-1]["is_complete"]
    assert (refused["event"], refused["type"], refused["status"]) == ("error", "call-complete", 409)


def test_what_an_agent_streams_is_passed_on_at_once(start: StartService, background: Background) -> None:
    stack = AsyncExitStack()
    agent = background.run(stack.enter_async_context(polite_agent("1.0")))
    service = start({"GREETING_AGENT_URL": agent.url}, checkpointer="memory")

    with socket_of(service, "SOCKET-2") as client:
        client.send(json.dumps(said("stream", "greeting")))
        assert names([received(client), received(client)]) == ["state_change"] * 2
        for words in ("one", "two", "three"):
            background.loop.call_soon_threadsafe(agent.go.release)
            chunk = received(client)
            assert (chunk["event"], chunk["artifact"]["parts"]) == ("message_chunk", [{"text": words}])
        assert names(heard(client)) == ["step", "turn"]
    background.run(stack.aclose())


def test_messages_sent_during_a_turn_wait_for_it(start: StartService, puppet: tuple[Puppet, str]) -> None:
    service = start({"FALLBACK_AGENT_URL": puppet[1]}, checkpointer="memory")
    words = [f"slow 0.0{number}" for number in range(1, 6)]

    with socket_of(service, "SOCKET-3") as client:
        for message in words:
            client.send(json.dumps(said(message, "unknown", request_id=message)))
        turns = [heard(client) for _ in words]

    assert [[event["request_id"] for event in events] for events in turns] == [
        [message] * len(events) for message, events in zip(words, turns, strict=True)
    ]
    assert [events[-1]["step"] for events in turns] == [1, 2, 3, 4, 5]


def test_more_messages_than_may_wait(start: StartService, puppet: tuple[Puppet, str]) -> None:
    service = start({"FALLBACK_AGENT_URL": puppet[1]}, checkpointer="memory")

    with socket_of(service, "SOCKET-4") as client:
        client.send(json.dumps(said("slow 0.5", "unknown", request_id="first")))
        assert received(client)["event"] == "state_change"
        for number in range(MOST_WAITING + 1):
            client.send(json.dumps(said("well?", "unknown", request_id=f"{number}")))
        refused = received(client)
        ends = [heard(client)[-1] for _ in range(MOST_WAITING + 1)]

    assert (refused["event"], refused["type"], refused["status"]) == ("error", "too-many-messages", 429)
    assert refused["request_id"] == f"{MOST_WAITING}"
    assert [end["request_id"] for end in ends] == ["first", *map(str, range(MOST_WAITING))]
    assert {end["event"] for end in ends} == {"turn"}


WRONG: list[tuple[str | bytes, str, str | None]] = [
    ("", "bad-input", None),
    ("{", "bad-input", None),
    ("[]", "bad-input", None),
    ("null", "bad-input", None),
    ("[" * 100_000, "bad-input", None),
    (b"{}", "bad-input", None),
    (json.dumps({"request_id": "r"}), "bad-input", "r"),
    (json.dumps({**said("Hello"), "request_id": 7}), "bad-input", None),
    (json.dumps({**said("Hello"), "request_id": "r" * 201}), "bad-input", None),
    (json.dumps(said("Hello", call_identify_id="ANOTHER", request_id="r")), "bad-input", "r"),
    (json.dumps(said("Bye", "closing", request_id="r")), "intent-not-legal", "r"),
    (json.dumps(said("x" * 1_000_001, request_id="r")), "body-too-large", "r"),
]


def test_a_wrong_frame_is_told_and_the_socket_stays_open(start: StartService) -> None:
    service = start(checkpointer="memory")

    with socket_of(service, "SOCKET-5") as client:
        for frame, kind, request_id in WRONG:
            client.send(frame)
            told = received(client)
            assert (told["event"], told["type"], told.get("request_id")) == ("error", kind, request_id), told
            assert {"title", "status", "detail"} < set(told)
        assert service.http.get("/session/SOCKET-5").status_code == 404
        assert turn(client, *CALL[0], call_identify_id="SOCKET-5")[-1]["status"] == "success"


def test_a_frame_longer_than_the_server_reads_closes_the_socket(start: StartService) -> None:
    service = start(checkpointer="memory")

    with socket_of(service, "SOCKET-6") as client:
        client.send("x" * (16 * 2**20 + 1))
        with pytest.raises(ConnectionClosed) as closed:
            client.recv(timeout=10)

    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1009
    assert service.turn("SOCKET-6", *CALL[0]).status_code == 200


def test_a_client_that_leaves_does_not_stop_the_turn(
    start: StartService, store: Store, puppet: tuple[Puppet, str]
) -> None:
    service = start({"GREETING_AGENT_URL": puppet[1]}, **store)

    with socket_of(service, "SOCKET-7") as client:
        client.send(json.dumps(said("slow 0.3", "greeting")))
        seen = [received(client)]
        client.send(json.dumps(said("never begun", "verify_identity")))
    with socket_of(service, "SOCKET-7", f"?last_event_id={seen[0]['id']}") as client:
        seen += heard(client)
        events = turn(client, *CALL[1])

    assert [step["input_message"] for step in steps(service, "SOCKET-7")] == ["slow 0.3", CALL[1][0]]
    assert (names(seen), seen[-1]["step"]) == (["state_change", "step", "turn"], 1)
    assert is_whole_turn(events, service, "SOCKET-7")


def test_a_conversation_cut_after_any_event_goes_on_at_another_replica(start: StartService, valkey_url: str) -> None:
    where = {"redis_url": valkey_url, "tenant": "cut-socket"}
    one, other = start(**where), start(**where)
    with socket_of(one, "SOCKET-8") as client:
        events = turn(client, *CALL[0]) + turn(client, *CALL[1])

    for position, event in enumerate(events[:-1], 1):
        with socket_of(other, "SOCKET-8", additional_headers={"last-event-id": event["id"]}) as client:
            assert [received(client) for _ in events[position:]] == events[position:]
    with socket_of(other, "SOCKET-8", f"?last_event_id={events[-1]['id']}") as client:
        assert is_whole_turn(turn(client, *CALL[2]), one, "SOCKET-8")


def test_going_on_after_an_event_that_is_kept_no_more(start: StartService) -> None:
    service = start(checkpointer="memory")

    for seen, kind in [("1-1", "events-gone"), ("yesterday", "bad-input")]:
        with socket_of(service, f"SOCKET-9-{kind}", f"?last_event_id={seen}") as client:
            assert (received(client)["type"], turn(client, *CALL[0])[-1]["event"]) == (kind, "turn")


def test_a_page_of_another_site_cannot_open_a_socket(start: StartService) -> None:
    service = start(checkpointer="memory")

    for origin in ("http://elsewhere.example", "null", "http://127.0.0.1:1", "http://["):
        with pytest.raises(InvalidStatus) as refused:
            socket_of(service, "SOCKET-10", origin=origin)
        assert refused.value.response.status_code == 403
        assert json.loads(refused.value.response.body)["type"] == "foreign-page"
    with socket_of(service, "SOCKET-10", origin=service.url) as client:
        assert turn(client, *CALL[0])[-1]["status"] == "success"


@pytest.mark.parametrize("call", ["x" * 201, "a%00b", "%20", "a\nb"])
def test_a_name_that_no_call_can_have(start: StartService, call: str) -> None:
    service = start(checkpointer="memory")

    with connect(f"{service.url.replace('http', 'ws', 1)}/ws/{call.replace(chr(10), '%0A')}") as client:
        told = received(client)
        with pytest.raises(ConnectionClosed) as closed:
            client.recv(timeout=10)

    assert (told["event"], told["type"]) == ("error", "bad-input")
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1008, "the path does not name a call")


def test_a_service_that_stops_finishes_the_turn_and_takes_no_other(
    start: StartService, puppet: tuple[Puppet, str], background: Background
) -> None:
    service = start({"FALLBACK_AGENT_URL": puppet[1]}, checkpointer="memory")

    with socket_of(service, "SOCKET-11") as client, socket_of(service, "SOCKET-12") as idle:
        client.send(json.dumps(said("slow 0.3", "unknown")))
        client.send(json.dumps(said("never begun", "unknown")))
        first = received(client)
        background.loop.call_soon_threadsafe(service.runtime.stopping.set)
        rest = heard(client)
        codes = [closing_code(client), closing_code(idle)]

    assert names([first, *rest]) == ["state_change", "step", "turn"]
    assert codes == [1012, 1012]
    assert len(steps(service, "SOCKET-11")) == 1


@dataclass
class HastyDoor:
    """A second door to a service, where clients that do not read are left after half a second."""

    service: Service
    url: str = ""
    left: threading.Event = field(default_factory=threading.Event)

    async def talk(self, websocket: WebSocket, call: str) -> None:
        await websocket.accept()
        await Conversation(websocket, call, patience=0.5).hold()
        self.left.set()


@pytest.fixture
def hasty(start: StartService, puppet: tuple[Puppet, str], background: Background) -> Iterator[HastyDoor]:
    door = HastyDoor(start({"FALLBACK_AGENT_URL": puppet[1]}, checkpointer="memory"))
    app, stack = FastAPI(), AsyncExitStack()
    app.state.runtime = door.service.runtime
    app.add_api_websocket_route("/ws/{call}", door.talk)

    async def enter() -> str:
        listener = stack.enter_context(listen("a hasty door", "127.0.0.1", 0))
        await stack.enter_async_context(serving(app, listener, grace=1))
        return url_of(listener)

    door.url = background.run(enter())
    yield door
    background.run(stack.aclose())


def test_a_client_that_does_not_read_is_left_and_its_turn_goes_on(hasty: HastyDoor) -> None:
    host, port = hasty.url.removeprefix("http://").split(":")
    narrow = socket.socket()
    narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    narrow.connect((host, int(port)))
    url, sent = f"ws://{host}:{port}/ws/STALLED", 0

    with connect(url, sock=narrow, compression=None, max_queue=1, close_timeout=0.1) as client:
        while not hasty.left.is_set() and sent < 200:
            client.send(json.dumps(said("x" * 30_000, "unknown")))
            sent += 1
            while len(steps(hasty.service, "STALLED")) < sent and not hasty.left.is_set():
                time.sleep(0.01)

    assert hasty.left.is_set()
    assert len(steps(hasty.service, "STALLED")) == sent - 1  # the last was waiting, the one before was being told


def test_idle_sockets_are_cheap(start: StartService) -> None:
    service = start(checkpointer="memory")
    before = peak_bytes()

    with ExitStack() as stack:
        for number in range(200):
            stack.enter_context(shaken_hands(service, f"IDLE-{number}"))
        with socket_of(service, "SOCKET-13") as client:
            assert is_whole_turn(turn(client, *CALL[0]), service, "SOCKET-13")
        grown = peak_bytes() - before

    assert grown / 200 < 100_000


# Clients


def received(client: ClientConnection) -> Json:
    told: Json = json.loads(client.recv(timeout=20))
    return told


def closing_code(client: ClientConnection) -> int | None:
    with pytest.raises(ConnectionClosed) as closed:
        client.recv(timeout=10)
    return closed.value.rcvd.code if closed.value.rcvd else None


def steps(service: Service, call: str) -> list[Json]:
    found: list[Json] = service.http.get(f"/session/{call}/steps").json()
    return found


def shaken_hands(service: Service, call: str) -> socket.socket:
    """Open a socket that costs its client nothing, for the memory measured is that of both."""
    host, port = service.url.removeprefix("http://").split(":")
    client = socket.create_connection((host, int(port)))
    asked = ("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==")
    head = "\r\n".join([f"GET /ws/{call} HTTP/1.1", "Host: localhost", "Sec-WebSocket-Version: 13", *asked, "", ""])
    client.sendall(head.encode())
    assert client.recv(1000).startswith(b"HTTP/1.1 101 ")
    return client


def peak_bytes() -> int:
    """The most memory this process has had."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
